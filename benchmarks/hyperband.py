"""Compare Hyperband with random search at the same total number of epochs, on frozen features of real radiographs.

    python benchmarks/hyperband.py                             # 10 minutes on two cores
    python benchmarks/hyperband.py DIR --weights FOLDER        # other data

The space is search_spaces/head.toml (dense layers, units, dropout, learning rate) with the published budget of 70 epochs
and factor 3. The units are divided by 16, because an epoch of the full heads takes seconds on a CPU. The published result
is not the default, so neither search starts with it. The features are the outputs of two layers of a SqueezeNet with
ImageNet weights, averaged over the image and computed once. For each seed the images are split by patient into training,
validation and test part. Both searches use the engine (samplers kt-hyperband, and random without a pruner) with one worker
each. The validation macro-F1 selects epochs and trials, and the test part is scored once for the selected trial of each
search.

A logistic regression on the same features is the baseline.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from feature_head import HeadObjective, Part, predict
from measure import machine_facts
from overhead_tools import FirstTrials
from radiographs import default_radiographs, default_weights, existing_folder

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.split import split_dataset
from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.parameters import Int
from automl_cxr.engine.registry import build_proposer
from automl_cxr.engine.space import Space
from automl_cxr.scoring.metrics import score_macro_f1
from automl_cxr.study.spaces import load_space

EPOCHS = 70
UNITS_DIVISOR = 16
_LAYERS = ("fire5_concat", "fire9_concat")
_PROCESSES = 2


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        trials: Number of trials.
        epochs: Number of epochs of all trials.
        valid: Validation macro-F1 of the best trial.
        test: Test macro-F1 of the same trial.
    """

    trials: int
    epochs: int
    valid: float
    test: float


# ---------------------------------------------------------------------------------------------------------------- features


def compute_features(data: str, weights: str, image_size: int, file: Path) -> None:
    """Write the pooled features (n, 768) of all images, their ids and labels to an npz file.

    Args:
        data: Folder of radiographs.
        weights: Folder of pretrained weights.
        image_size: Height and width of images, in pixels.
        file: File to write.
    """
    import keras

    from automl_cxr.architectures import find_backbone
    from automl_cxr.model.backbone_builder import build_backbone
    from automl_cxr.model.backbones import preprocess

    dataset = load_dataset(data)
    decoded = decode_dataset(dataset.root, tuple(dataset.table["image"]), image_size)
    squeezenet = build_backbone("squeezenet", image_size, weights="imagenet", weights_folder=weights)
    pixels = keras.Input((image_size, image_size, 1))
    layers = keras.Model(squeezenet.input, [squeezenet.get_layer(name).output for name in _LAYERS])
    maps = layers(preprocess(keras.layers.Concatenate()([pixels] * 3), find_backbone("squeezenet")))
    pooled = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(output) for output in maps])
    features = keras.Model(pixels, pooled).predict(decoded.open()[..., None].astype("float32"), batch_size=32, verbose=0)
    labels = dataset.table.set_index("image")["label"].loc[list(decoded.ids)]
    np.savez(file, features=features, ids=decoded.ids, labels=[dataset.classes.index(label) for label in labels])


def split_features(data: str, file: Path, seed: int) -> tuple[Part, Part, Part]:
    """Split by patient into training (70 %), validation and test part; standardise features by the training part."""
    with np.load(file) as stored:
        features, ids, labels = stored["features"], list(stored["ids"]), stored["labels"]
    split = split_dataset(load_dataset(data), ids, seed=seed)
    rows = {image: row for row, image in enumerate(ids)}
    train, valid, test = ([rows[image] for image in images] for images in (split.train, split.valid, split.test))
    standard = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6)
    return Part(standard[train], labels[train]), Part(standard[valid], labels[valid]), Part(standard[test], labels[test])


# ---------------------------------------------------------------------------------------------------------------- searches


def head_space() -> Space:
    """Return the published space with fewer units and without defaults."""

    def narrow(parameter: Int) -> Int:
        low, high, step = (value // UNITS_DIVISOR for value in (parameter.low, parameter.high, parameter.step))
        return dataclasses.replace(parameter, low=low, high=high, step=step)

    parameters = [dataclasses.replace(parameter, default=None) for parameter in load_space("head").parameters]
    return Space(
        "head", {}, tuple(narrow(parameter) if parameter.name == "dense_units" else parameter for parameter in parameters)
    )


def search(sampler: str, parts: tuple[Part, Part, Part], seed: int, n_trials: int | None = None) -> SearchResult:
    """Run a search and score its best trial on the test part.

    Args:
        sampler: Name of the sampler.
        parts: Training, validation and test part.
        seed: Random seed.
        n_trials: Number of trials; None until the sampler ends.
    """
    import optuna

    train, valid, test = parts
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    objective = HeadObjective(train, valid, seed=seed, epochs=EPOCHS)
    proposer = build_proposer(study, head_space(), sampler=sampler, pruner="none", epochs=EPOCHS, seed=seed)
    run_inline(objective, FirstTrials(proposer, -1 if n_trials is None else n_trials))
    best = study.best_trial
    probabilities = predict(objective.checkpoints[best.number].best_parameters, test.features)
    return SearchResult(len(study.trials), objective.n_epochs, best.value, score_macro_f1(test.labels, probabilities))


def score_baseline(parts: tuple[Part, Part, Part]) -> SearchResult:
    """Score a logistic regression with default settings."""
    from sklearn.linear_model import LogisticRegression

    train, valid, test = parts
    model = LogisticRegression(max_iter=1_000).fit(train.features, train.labels)
    scores = [score_macro_f1(part.labels, model.predict_proba(part.features)) for part in (valid, test)]
    return SearchResult(1, 0, *scores)


def run_seed(seed: int, *, data: str, features: Path) -> dict[str, SearchResult]:
    """Run both searches and the baseline on one split."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        parts = split_features(data, features, seed)
        hyperband = search("kt-hyperband", parts, seed)
        n_trials = math.ceil(hyperband.epochs / EPOCHS)  # rounded up, so random search has at least as many epochs
        return {
            "Hyperband": hyperband,
            "random": search("random", parts, seed, n_trials),
            "logistic regression": score_baseline(parts),
        }


# ------------------------------------------------------------------------------------------------------------------ tables


def print_scores(runs: list[dict[str, SearchResult]]) -> None:
    """Print a table of the scores of each method, and a table of paired differences."""
    print(
        "| macro-F1 | trials | epochs | validation: mean (sd) | each seed | test: mean (sd) | each seed |\n"
        + "| --- " * 7
        + "|"
    )
    for method in runs[0]:
        results = [run[method] for run in runs]
        cells = " | ".join(_mean_and_each([getattr(result, part) for result in results]) for part in ("valid", "test"))
        print(f"| {method} | {results[0].trials} | {results[0].epochs} | {cells} |")
    print("\n| Hyperband minus | validation: mean (sd) | each seed | test: mean (sd) | each seed |\n" + "| --- " * 5 + "|")
    for other in list(runs[0])[1:]:
        differences = [
            [getattr(run["Hyperband"], part) - getattr(run[other], part) for run in runs] for part in ("valid", "test")
        ]
        print(f"| {other} | {_mean_and_each(differences[0])} | {_mean_and_each(differences[1])} |")


def _mean_and_each(scores: list[float]) -> str:
    spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    return f"{np.mean(scores):.3f} ({spread:.3f}) | {', '.join(f'{score:.3f}' for score in scores)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data",
        nargs="?",
        type=existing_folder,
        default=default_radiographs(),
        help="folder of radiographs with patients; by default data/covid3 in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument(
        "--weights",
        type=existing_folder,
        default=default_weights(),
        help="folder of pretrained weights; by default weights in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of splits; each method searches once per split")
    parser.add_argument("--image-size", type=int, default=224, help="height and width of images, in pixels")
    arguments = parser.parse_args()
    started = time.perf_counter()
    print(machine_facts() + "\n", flush=True)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(_PROCESSES, mp_context=spawn) as pool:
        file = Path(folder) / "features.npz"
        compute_features(arguments.data, arguments.weights, arguments.image_size, file)
        print(f"Features computed after {time.perf_counter() - started:.0f} s.", flush=True)
        runs = list(pool.map(partial(run_seed, data=arguments.data, features=file), range(arguments.seeds)))
    print(f"Searches finished after {time.perf_counter() - started:.0f} s.\n", flush=True)
    print_scores(runs)


if __name__ == "__main__":
    main()
