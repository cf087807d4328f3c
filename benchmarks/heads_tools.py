"""One search of heads.py, by one tool, in a process of its own: ``python heads_tools.py TOOL MATERIAL N_TRIALS SEED``.

MATERIAL is the folder that ``heads.py`` prepares. The last line that it prints is JSON: the macro-F1 of every trial's best
epoch on the validation part, the seconds of the search alone (Keras loaded, data opened), and the most memory of the process.
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
UNITS, DROPOUT, LEARNING_RATE, GAMMA = (32, 1024), (0.0, 0.6), (1e-4, 1e-2), (0.5, 5.0)  # those of search_spaces/transfer.toml
FIXED = {"backbone": "squeezenet", "unfreeze": 0, "augmentation": 0.0, "patience": EPOCHS}
OURS, FEATURES, PIXELS = "automl-cxr", "KerasTuner on features", "KerasTuner, backbone inside"


# ------------------------------------------------------------------------------------------------------------------ ours


def search_by_automl_cxr(material: Path, n_trials: int, seed: int) -> list[float]:
    """Search as ``automl-cxr search --space transfer --sampler random --executor inline`` does."""
    import automl_cxr

    told = json.loads((material / "told.json").read_text())
    with tempfile.TemporaryDirectory() as runs:
        study = automl_cxr.search(
            "transfer",
            data=told["data"],
            name=f"heads-{seed}",
            trials=n_trials,
            epochs=EPOCHS,
            image_size=told["image_size"],
            batch_size=BATCH,
            fixed=FIXED,
            weights_folder=told["weights"],
            sampler="random",
            pruner="none",
            executor="inline",
            batch_trials=n_trials,
            seed=seed,
            runs=runs,
        )
        return [trial.score for trial in study.trials if trial.score is not None]


# ----------------------------------------------------------------------------------------------------------------- peers


def search_features(material: Path, n_trials: int, seed: int) -> list[float]:
    """Search with KerasTuner's RandomSearch over heads on features that were computed before."""
    import keras

    parts = [np.load(material / f"{name}_features.npy") for name in ("train", "valid")]
    return _search_by_kerastuner(lambda: keras.Input(parts[0].shape[1:]), lambda x: x, parts, material, n_trials, seed)


def search_pixels(material: Path, n_trials: int, seed: int) -> list[float]:
    """Search with KerasTuner's RandomSearch over whole networks, the frozen backbone in each."""
    import keras

    told = json.loads((material / "told.json").read_text())
    parts = [np.load(material / f"{name}_pixels.npy", mmap_mode="r")[..., np.newaxis] for name in ("train", "valid")]
    return _search_by_kerastuner(
        lambda: keras.Input(parts[0].shape[1:]), lambda x: frozen_vector(x, told["weights"]), parts, material, n_trials, seed
    )


def frozen_vector(pixels: Any, weights: str) -> Any:
    """Put a frozen SqueezeNet and average pooling on raw pixels."""
    import keras

    from automl_cxr.model.backbone_builder import build_backbone
    from automl_cxr.model.backbones import find_backbone
    from automl_cxr.model.preprocessing import repeat_grey

    backbone = build_backbone("squeezenet", pixels.shape[1], weights="imagenet", weights_folder=weights)
    backbone.trainable = False
    x = find_backbone("squeezenet").preprocess(repeat_grey(pixels, 3))
    return keras.layers.GlobalAveragePooling2D()(backbone(x))


def _search_by_kerastuner(
    make_input: Callable[[], Any],
    grow: Callable[[Any], Any],
    parts: list[np.ndarray],
    material: Path,
    n_trials: int,
    seed: int,
) -> list[float]:
    import keras
    import keras_tuner

    train_labels, valid_labels = (np.load(material / f"{name}_labels.npy") for name in ("train", "valid"))
    n_classes = int(train_labels.max()) + 1
    n_steps = EPOCHS * -(-len(train_labels) // BATCH)

    def build(choices: keras_tuner.HyperParameters) -> keras.Model:
        keras.utils.clear_session()
        n_dense = choices.Int("n_dense", 0, 2)
        dropout = choices.Float("dropout", *DROPOUT)
        entry = make_input()
        x = grow(entry)
        if n_dense > 0:
            units = choices.Int("dense_units", *UNITS, sampling="log")
            for _ in range(n_dense):
                x = keras.layers.Dropout(dropout)(keras.layers.Dense(units, activation="relu")(x))
        else:
            x = keras.layers.Dropout(dropout)(x)
        model = keras.Model(entry, keras.layers.Dense(n_classes, activation="softmax")(x))
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
    OURS: search_by_automl_cxr,
    FEATURES: search_features,
    PIXELS: search_pixels,
}


def main() -> None:
    tool, material, n_trials, seed = sys.argv[1:]
    import keras  # noqa: F401 - loaded before the clock starts, for all alike

    started = time.perf_counter()
    scores = TOOLS[tool](Path(material), int(n_trials), int(seed))
    seconds = time.perf_counter() - started
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"scores": scores, "seconds": seconds, "most_memory": most}))


if __name__ == "__main__":
    main()
