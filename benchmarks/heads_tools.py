"""One search of heads.py with one tool, in a separate process: ``python heads_tools.py TOOL INPUTS N_TRIALS SEED``.

INPUTS is the folder that heads.py prepares. The last printed line is JSON: the validation macro-F1 of the best epoch of
each trial, the seconds of the search (without importing Keras), and the peak memory of the process in bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

EPOCHS, BATCH = 20, 32
UNITS, DROPOUT, LEARNING_RATE, GAMMA = (32, 1024), (0.0, 0.6), (1e-4, 1e-2), (0.5, 5.0)  # as in search_spaces/transfer.toml
FIXED = {"backbone": "squeezenet", "unfreeze": 0, "augmentation": 0.0, "patience": EPOCHS}
AUTOML_CXR, FEATURES, PIXELS = "automl-cxr", "KerasTuner on precomputed features", "KerasTuner, backbone in each trial"


# ------------------------------------------------------------------------------------------------------------ automl-cxr


def search_by_automl_cxr(inputs: Path, n_trials: int, seed: int) -> list[float]:
    """Search as ``automl-cxr search --space transfer --sampler random --executor inline`` does."""
    import automl_cxr

    settings = json.loads((inputs / "inputs.json").read_text())
    with tempfile.TemporaryDirectory() as runs:
        study = automl_cxr.search(
            "transfer",
            data=settings["data"],
            name=f"heads-{seed}",
            trials=n_trials,
            epochs=EPOCHS,
            image_size=settings["image_size"],
            batch_size=BATCH,
            fixed=FIXED,
            weights_folder=settings["weights"],
            sampler="random",
            pruner="none",
            executor="inline",
            batch_trials=n_trials,
            seed=seed,
            runs=runs,
        )
        return [trial.score for trial in study.trials if trial.score is not None]


# ------------------------------------------------------------------------------------------------------------ KerasTuner


def search_features(inputs: Path, n_trials: int, seed: int) -> list[float]:
    """Search with KerasTuner's RandomSearch over heads on precomputed features."""
    import keras

    parts = [np.load(inputs / f"{name}_features.npy") for name in ("train", "valid")]
    return _search_by_kerastuner(lambda: keras.Input(parts[0].shape[1:]), lambda x: x, parts, inputs, n_trials, seed)


def search_pixels(inputs: Path, n_trials: int, seed: int) -> list[float]:
    """Search with KerasTuner's RandomSearch over networks that contain the frozen backbone."""
    import keras

    settings = json.loads((inputs / "inputs.json").read_text())
    parts = [np.load(inputs / f"{name}_pixels.npy", mmap_mode="r")[..., np.newaxis] for name in ("train", "valid")]
    return _search_by_kerastuner(
        lambda: keras.Input(parts[0].shape[1:]), lambda x: frozen_vector(x, settings["weights"]), parts, inputs, n_trials, seed
    )


def frozen_vector(pixels: Any, weights: str) -> Any:
    """Return the pooled output of a frozen SqueezeNet, (batch, n_features), for a tensor of raw pixels."""
    import keras

    from automl_cxr.architectures import find_backbone
    from automl_cxr.model.backbone_builder import build_backbone
    from automl_cxr.model.backbones import preprocess
    from automl_cxr.model.preprocessing import repeat_grey

    backbone = build_backbone("squeezenet", pixels.shape[1], weights="imagenet", weights_folder=weights)
    backbone.trainable = False
    x = preprocess(repeat_grey(pixels, 3), find_backbone("squeezenet"))
    return keras.layers.GlobalAveragePooling2D()(backbone(x))


def _search_by_kerastuner(
    make_input: Callable[[], Any],
    add_backbone: Callable[[Any], Any],
    parts: list[np.ndarray],
    inputs: Path,
    n_trials: int,
    seed: int,
) -> list[float]:
    import keras
    import keras_tuner

    train_labels, valid_labels = (np.load(inputs / f"{name}_labels.npy") for name in ("train", "valid"))
    n_classes = int(train_labels.max()) + 1
    n_steps = EPOCHS * -(-len(train_labels) // BATCH)

    def build(choices: keras_tuner.HyperParameters) -> keras.Model:
        keras.utils.clear_session()
        n_dense = choices.Int("n_dense", 0, 2)
        dropout = choices.Float("dropout", *DROPOUT)
        network_input = make_input()
        x = add_backbone(network_input)
        if n_dense > 0:
            units = choices.Int("dense_units", *UNITS, sampling="log")
            for _ in range(n_dense):
                x = keras.layers.Dropout(dropout)(keras.layers.Dense(units, activation="relu")(x))
        else:
            x = keras.layers.Dropout(dropout)(x)
        model = keras.Model(network_input, keras.layers.Dense(n_classes, activation="softmax")(x))
        loss: Any = keras.losses.CategoricalCrossentropy()
        if choices.Choice("loss", ["ce", "focal"]) == "focal":
            loss = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=choices.Float("focal_gamma", *GAMMA))
        rate = keras.optimizers.schedules.CosineDecay(choices.Float("learning_rate", *LEARNING_RATE, sampling="log"), n_steps)
        model.compile(keras.optimizers.Adam(rate), loss, metrics=[keras.metrics.F1Score(average="macro", name="macro_f1")])
        return model

    with tempfile.TemporaryDirectory() as folder:
        objective = keras_tuner.Objective("val_macro_f1", "max")
        tuner = keras_tuner.RandomSearch(
            build, objective=objective, max_trials=n_trials, seed=seed, directory=folder, project_name="search"
        )
        counts = np.bincount(train_labels)
        tuner.search(
            parts[0],
            np.eye(n_classes, dtype="float32")[train_labels],
            validation_data=(parts[1], np.eye(n_classes, dtype="float32")[valid_labels]),
            class_weight=dict(enumerate(len(train_labels) / (n_classes * counts))),
            epochs=EPOCHS,
            batch_size=BATCH,
            verbose=0,
        )
        return [trial.score for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]


TOOLS: dict[str, Callable[[Path, int, int], list[float]]] = {
    AUTOML_CXR: search_by_automl_cxr,
    FEATURES: search_features,
    PIXELS: search_pixels,
}


def main() -> None:
    tool, inputs, n_trials, seed = sys.argv[1:]
    import keras  # noqa: F401 - loaded before the measurement starts, for all tools

    started = time.perf_counter()
    scores = TOOLS[tool](Path(inputs), int(n_trials), int(seed))
    seconds = time.perf_counter() - started
    peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"scores": scores, "seconds": seconds, "peak_memory": peak_memory}))


if __name__ == "__main__":
    main()
