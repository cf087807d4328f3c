"""Compare the score of the best of many classifiers with its score on new patients, before and after corrections.

    python benchmarks/selection_bias.py                       # 200 resplits: validation part of 182 images
    python benchmarks/selection_bias.py --folds 5             # out-of-fold scores of 546 images

The classifiers of one resplit are nearest centroids, ridge regressions and logistic regressions on random channels of one or
two layers of an EfficientNet-Lite0 with ImageNet weights, averaged over the image and computed once. Many of them are nearly
equal and some are worse, as in a search. Each resplit divides the patients into a training part (40 % of the images), a part
that selects the best classifier (20 %), and the rest, on which the selected classifier is scored as the truth. With --folds,
the first two parts together are divided into folds, the out-of-fold scores select, and the selected classifier is fitted on
all of them.

The errors are: score minus truth, in points of 100. "bootstrap" is bootstrap bias-corrected cross-validation as published
(Tsamardinos, Greasidou and Borboudakis 2018): the mean score of the choices on bootstrap samples of the patients, on the
patients that were not drawn.
"""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from measure import machine_facts
from radiographs import default_radiographs, existing_folder

from automl_cxr.data.patient_folds import assign_patients, patient_folds
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import ResampleScorer, number_patients
from automl_cxr.scoring.selection_bias import corrected_score

_BACKBONE, _IMAGE_SIZE = "efficientnetlite0", 224
_SHARES = [0.4, 0.2, 0.4]  # training, selection, truth
_KINDS, _KIND_SHARES = ("ridge", "centroid", "logistic"), (0.65, 0.25, 0.1)
_METRICS = ("macro_f1", "accuracy")
_N_BOOTSTRAPS = 250


@dataclass(frozen=True)
class Images:
    """The pooled outputs of layers for all radiographs, by layer, with labels (n,) and patients."""

    layers: Mapping[str, np.ndarray]
    labels: np.ndarray
    patients: np.ndarray
    classes: tuple[str, ...]


# ---------------------------------------------------------------------------------------------------------------- features


def read_images(data: str) -> Images:
    """Compute the pooled outputs of all splice points of the backbone, or read them from the feature cache."""
    from automl_cxr.architectures import find_backbone
    from automl_cxr.data.cache import decode_dataset
    from automl_cxr.data.dataset import load_dataset
    from automl_cxr.model.freezing import BACKBONE
    from automl_cxr.model.transfer import backbone_on_pixels
    from automl_cxr.training.frozen_features import pooled_features

    dataset = load_dataset(data)
    decoded = decode_dataset(dataset.root, tuple(dataset.table["image"]), _IMAGE_SIZE)
    points = [f"{BACKBONE}/{point}" for point in find_backbone(_BACKBONE).splice_points]
    layers = pooled_features(backbone_on_pixels(_BACKBONE, _IMAGE_SIZE), points, decoded.open(), label=_BACKBONE)
    table = dataset.table.set_index("image").loc[list(decoded.ids)]
    labels = np.array([dataset.classes.index(label) for label in table["label"]])
    arrays = {name: np.asarray(values) for name, values in layers.items()}
    return Images(arrays, labels, table["patient_id"].to_numpy(str), dataset.classes)


# ------------------------------------------------------------------------------------------------------------- classifiers


@dataclass(frozen=True)
class Candidate:
    """A classifier: its kind, its columns of the features, and its strength of regularisation."""

    kind: str
    columns: tuple[tuple[str, np.ndarray], ...]
    c: float

    def features(self, images: Images) -> np.ndarray:
        return np.concatenate([images.layers[name][:, columns] for name, columns in self.columns], axis=1, dtype=np.float64)

    def predict(self, images: Images, fitted_rows: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Fit on some images, and return probabilities for others, (n, n_classes)."""
        every, labels, n_classes = self.features(images), images.labels[fitted_rows], len(images.classes)
        fitted, features = every[fitted_rows], every[rows]
        if self.kind == "logistic":
            from automl_cxr.training.logistic import fit_logistic

            weights, patients = np.ones(len(labels)), [""] * len(labels)  # patients matter only if C is chosen
            fit = fit_logistic(fitted, labels, weights, patients, seed=0, c=self.c / 10)
            return fit.predict(features)
        mean, scale = fitted.mean(axis=0), fitted.std(axis=0) + 1e-6
        fitted, features = (fitted - mean) / scale, (features - mean) / scale
        if self.kind == "ridge":
            penalty = len(labels) / (100 * self.c) * np.eye(fitted.shape[1])
            targets = np.eye(n_classes)[labels] - 1 / n_classes
            return _softmax(8 * features @ np.linalg.solve(fitted.T @ fitted + penalty, fitted.T @ targets))
        centres = np.stack([fitted[labels == number].mean(axis=0) for number in range(n_classes)])
        return _softmax(-((features[:, None] - centres) ** 2).mean(axis=2) / 2)


def _softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)


def draw_candidate(images: Images, rng: np.random.Generator) -> Candidate:
    """Draw a kind, one or two layers, 24 to 96 channels of each, and a strength."""
    names = list(images.layers)
    chosen = rng.choice(len(names), size=rng.integers(1, 3), replace=False)
    columns = []
    for name in (names[number] for number in chosen):
        n_channels = images.layers[name].shape[1]
        n_used = min(n_channels, int(rng.integers(24, 97)))
        columns.append((name, rng.choice(n_channels, size=n_used, replace=False)))
    return Candidate(str(rng.choice(_KINDS, p=_KIND_SHARES)), tuple(columns), float(10 ** rng.uniform(-3, 1)))


# ---------------------------------------------------------------------------------------------------------------- resplits


def run_resplit(seed: int, *, images: Images, n_candidates: int, n_folds: int) -> list[dict[str, object]]:
    """Train the classifiers of one resplit, and return the errors of each correction."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(seed)
    candidates = [draw_candidate(images, rng) for _ in range(n_candidates)]
    part = assign_patients(images.labels, images.patients.tolist(), _SHARES, seed=seed)
    train, selection, rest = (np.flatnonzero(part == number) for number in range(3))
    with threadpool_limits(1):
        if n_folds:
            train = selection = np.sort(np.concatenate([train, selection]))
            folds = patient_folds(images.labels[train], images.patients[train].tolist(), n_folds, seed=seed)
            judged = [_predict_out_of_fold(each, images, train, folds) for each in candidates]
            truth = [each.predict(images, train, rest) for each in candidates]
        else:
            both = [each.predict(images, train, np.concatenate([selection, rest])) for each in candidates]
            judged, truth = ([each[part] for each in both] for part in (slice(len(selection)), slice(len(selection), None)))
    counts = sorted({n_candidates, max(1, n_candidates // 10)}, reverse=True)
    return [
        row
        for n in counts
        for metric in _METRICS
        for row in _errors(images, selection, rest, judged[:n], truth[:n], metric=metric, seed=seed)
    ]


def _predict_out_of_fold(candidate: Candidate, images: Images, train: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
    """Predict each fold by a model of the other folds."""
    if folds is None:
        raise SystemExit("There are too few patients for the folds. Use fewer folds.")
    probabilities = np.empty((len(train), len(images.classes)), np.float32)
    for fold in range(folds.max() + 1):
        probabilities[folds == fold] = candidate.predict(images, train[folds != fold], train[folds == fold])
    return probabilities


def _errors(
    images: Images,
    selection: np.ndarray,
    rest: np.ndarray,
    judged: list[np.ndarray],
    truth: list[np.ndarray],
    *,
    metric: str,
    seed: int,
) -> list[dict[str, object]]:
    predictions = [_predictions(images, selection, probabilities) for probabilities in judged]
    corrected = corrected_score(predictions, metric=metric, seed=seed)
    true_score = METRICS[metric].function(images.labels[rest], truth[corrected.best], None)
    scores = {
        "none": corrected.raw,
        "bootstrap": bootstrap_corrected(predictions, metric, seed),
        "repeated folds": corrected.value,
    }
    covered = {"repeated folds": corrected.interval.low <= true_score <= corrected.interval.high}
    return [
        {
            "candidates": len(judged),
            "metric": metric,
            "correction": name,
            "error": score - true_score,
            "covered": covered.get(name),
        }
        for name, score in scores.items()
    ]


def _predictions(images: Images, rows: np.ndarray, probabilities: np.ndarray) -> Predictions:
    ids = tuple(str(row) for row in rows)
    return Predictions(ids, images.labels[rows], probabilities, images.classes, tuple(images.patients[rows].tolist()))


def bootstrap_corrected(candidates: list[Predictions], metric: str, seed: int) -> float:
    """Compute the published correction: choices on bootstrap samples of patients, scored on the other patients."""
    first = candidates[0]
    patient, n_patients = number_patients(first.patients)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(n_patients, size=(_N_BOOTSTRAPS, n_patients))
    times = np.stack([np.bincount(row, minlength=n_patients) for row in drawn], axis=1).astype(np.float32)[patient]
    stack = np.stack([candidate.probabilities for candidate in candidates])
    scorer = ResampleScorer(first.labels, stack, [METRICS[metric]], None)
    inside, outside = (scorer.score([weights])[metric] for weights in (times, (times == 0).astype(np.float32)))
    return float(outside[inside.argmax(axis=0), np.arange(_N_BOOTSTRAPS)].mean())


# ------------------------------------------------------------------------------------------------------------------- tables


def error_table(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Summarise the errors by number of candidates, metric and correction, in points of 100."""
    table = pd.DataFrame(rows)
    groups = table.groupby(["candidates", "metric", "correction"], sort=False)
    errors = groups["error"].agg(mean="mean", error_of_mean="sem", spread="std") * 100
    rmse = groups["error"].agg(lambda errors: 100 * np.sqrt((errors**2).mean()))
    covered = groups["covered"].agg(lambda cells: cells.astype(float).mean())
    return errors.assign(root_mean_square=rmse, covered=covered).reset_index()


def print_table(table: pd.DataFrame) -> None:
    print("| candidates | metric | correction | mean error | standard error | spread | RMS error | truth in interval |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in table.itertuples(index=False):
        covered = "" if np.isnan(row.covered) else f"{row.covered:.0%}"
        print(
            f"| {row.candidates} | {row.metric} | {row.correction} | {row.mean:+.2f} | {row.error_of_mean:.2f} "
            f"| {row.spread:.1f} | {row.root_mean_square:.1f} | {covered} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=existing_folder, default=default_radiographs(), help="radiographs with patients")
    parser.add_argument("--resplits", type=int, default=200)
    parser.add_argument("--candidates", type=int, default=200, help="classifiers in each resplit")
    parser.add_argument("--folds", type=int, default=0, help="select by out-of-fold scores with this number of folds")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    images = read_images(arguments.data)
    run = partial(run_resplit, images=images, n_candidates=arguments.candidates, n_folds=arguments.folds)
    # A fork of a process in which TensorFlow is loaded may deadlock.
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows = [row for resplit in pool.map(run, range(arguments.resplits)) for row in resplit]
    print_table(error_table(rows))
    print(f"\n{arguments.resplits} resplits. {machine_facts()}")


if __name__ == "__main__":
    main()
