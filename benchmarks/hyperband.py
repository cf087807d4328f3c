"""Compare Hyperband with random search of the same total epochs, on frozen features of real radiographs.

    python benchmarks/hyperband.py DIR --weights FOLDER        # ten minutes on two cores

The space is the published one of four dimensions (search_spaces/head.toml: dense layers, units, dropout, learning rate), with
budget 70 and factor 3 as published; units are divided by 16, since the full heads take seconds an epoch on a CPU, and the
published winner is no default, so that neither search begins with it. The features are two taps of a SqueezeNet with ImageNet
weights, averaged over the image and computed once. For each seed the patients are split anew into training, validation and a
part set aside; both searches go through the engine (kt-hyperband, and random without a pruner) with one worker each. Macro-F1
on the validation part decides everything, and the part set aside is scored once, for what each search chose.

A logistic regression on the same features stands beside them as the floor.
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

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.split import split_dataset
from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.registry import build_proposer
from automl_cxr.engine.space import Int, Space
from automl_cxr.scoring.metrics import score_macro_f1
from automl_cxr.study.spaces import load_space

EPOCHS = 70
UNITS_DIVISOR = 16
_TAPS = ("fire5_concat", "fire9_concat")
_PROCESSES = 2


@dataclasses.dataclass(frozen=True)
class Searched:
    """What a search came to: trials and epochs in all, and the macro-F1 of its best on validation and on what was set aside."""

    trials: int
    epochs: int
    valid: float
    test: float


# -------------------------------------------------------------------------------------------------------------- the features


def compute_features(data: str, weights: str, image_size: int, file: Path) -> None:
    """Write the pooled features of all images, their ids and labels to an npz file."""
    import keras

    from automl_cxr.architectures import find_backbone
    from automl_cxr.model.backbone_builder import build_backbone
    from automl_cxr.model.backbones import preprocess

    dataset = load_dataset(data)
    decoded = decode_dataset(dataset.root, tuple(dataset.table["image"]), image_size)
    squeezenet = build_backbone("squeezenet", image_size, weights="imagenet", weights_folder=weights)
    pixels = keras.Input((image_size, image_size, 1))
    taps = keras.Model(squeezenet.input, [squeezenet.get_layer(name).output for name in _TAPS])
    maps = taps(preprocess(keras.layers.Concatenate()([pixels] * 3), find_backbone("squeezenet")))
    pooled = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(tap) for tap in maps])
    features = keras.Model(pixels, pooled).predict(decoded.open()[..., None].astype("float32"), batch_size=32, verbose=0)
    labels = dataset.table.set_index("image")["label"].loc[list(decoded.ids)]
    np.savez(file, features=features, ids=decoded.ids, labels=[dataset.classes.index(label) for label in labels])


def split_features(data: str, file: Path, seed: int) -> tuple[Part, Part, Part]:
    """Split by patient into training (70 %), validation and a part set aside, features standardised by the training part's."""
    with np.load(file) as stored:
        features, ids, labels = stored["features"], list(stored["ids"]), stored["labels"]
    split = split_dataset(load_dataset(data), ids, seed=seed)
    rows = {image: row for row, image in enumerate(ids)}
    train, valid, test = ([rows[image] for image in images] for images in (split.train, split.valid, split.test))
    standard = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6)
    return Part(standard[train], labels[train]), Part(standard[valid], labels[valid]), Part(standard[test], labels[test])


# -------------------------------------------------------------------------------------------------------------- the searches


def head_space() -> Space:
    """Take the published space, narrower and without defaults."""

    def narrow(parameter: Int) -> Int:
        low, high, step = (value // UNITS_DIVISOR for value in (parameter.low, parameter.high, parameter.step))
        return dataclasses.replace(parameter, low=low, high=high, step=step)

    searched = [dataclasses.replace(parameter, default=None) for parameter in load_space("head").parameters]
    return Space("head", {}, tuple(narrow(known) if known.name == "dense_units" else known for known in searched))


def search(sampler: str, parts: tuple[Part, Part, Part], seed: int, n_trials: int | None = None) -> Searched:
    """Search until the sampler is over or has had its trials, and score its choice on the part set aside."""
    import optuna

    train, valid, test = parts
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    objective = HeadObjective(train, valid, seed=seed, epochs=EPOCHS)
    proposer = build_proposer(study, head_space(), sampler=sampler, pruner="none", epochs=EPOCHS, seed=seed)
    run_inline(objective, FirstTrials(proposer, -1 if n_trials is None else n_trials))
    best = study.best_trial
    probabilities = predict(objective.checkpoints[best.number].best_parameters, test.features)
    return Searched(len(study.trials), objective.n_epochs, best.value, score_macro_f1(test.labels, probabilities))


def floor(parts: tuple[Part, Part, Part]) -> Searched:
    """Score a logistic regression as it comes."""
    from sklearn.linear_model import LogisticRegression

    train, valid, test = parts
    model = LogisticRegression(max_iter=1_000).fit(train.features, train.labels)
    scores = [score_macro_f1(part.labels, model.predict_proba(part.features)) for part in (valid, test)]
    return Searched(1, 0, *scores)


def run_seed(seed: int, *, data: str, features: Path) -> dict[str, Searched]:
    """Run both searches and the floor on one split."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        parts = split_features(data, features, seed)
        hyperband = search("kt-hyperband", parts, seed)
        n_trials = math.ceil(hyperband.epochs / EPOCHS)  # rounded up: random search gets no fewer epochs
        return {"Hyperband": hyperband, "random": search("random", parts, seed, n_trials), "logistic regression": floor(parts)}


# ----------------------------------------------------------------------------------------------------------------- the table


def print_scores(runs: list[dict[str, Searched]]) -> None:
    """Print a table of each method's scores, and one of the paired differences."""
    print(
        "| macro-F1 | trials | epochs | validation: mean (sd) | each seed | set aside: mean (sd) | each seed |\n"
        + "| --- " * 7
        + "|"
    )
    for method in runs[0]:
        found = [run[method] for run in runs]
        cells = " | ".join(_mean_and_each([getattr(one, part) for one in found]) for part in ("valid", "test"))
        print(f"| {method} | {found[0].trials} | {found[0].epochs} | {cells} |")
    print("\n| Hyperband less | validation: mean (sd) | each seed | set aside: mean (sd) | each seed |\n" + "| --- " * 5 + "|")
    for other in list(runs[0])[1:]:
        less = [[getattr(run["Hyperband"], part) - getattr(run[other], part) for run in runs] for part in ("valid", "test")]
        print(f"| {other} | {_mean_and_each(less[0])} | {_mean_and_each(less[1])} |")


def _mean_and_each(scores: list[float]) -> str:
    spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
    return f"{np.mean(scores):.3f} ({spread:.3f}) | {', '.join(f'{score:.3f}' for score in scores)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of radiographs with patients")
    parser.add_argument("--weights", required=True, help="folder of pretrained weights")
    parser.add_argument("--seeds", type=int, default=5, help="splits, and searches by each method")
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    arguments = parser.parse_args()
    started = time.perf_counter()
    print(machine_facts() + "\n", flush=True)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(_PROCESSES, mp_context=spawn) as pool:
        file = Path(folder) / "features.npz"
        compute_features(arguments.data, arguments.weights, arguments.image_size, file)
        print(f"Features after {time.perf_counter() - started:.0f} s.", flush=True)
        runs = list(pool.map(partial(run_seed, data=arguments.data, features=file), range(arguments.seeds)))
    print(f"Searches after {time.perf_counter() - started:.0f} s.\n", flush=True)
    print_scores(runs)


if __name__ == "__main__":
    main()
