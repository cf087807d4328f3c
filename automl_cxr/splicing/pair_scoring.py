"""Scores of every pair of cuts, and of every single cut, on the validation part."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.records import SplitRecord
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.splicing.finding_heads import fit_finding_heads
from automl_cxr.splicing.ranking import Ranking
from automl_cxr.splicing.ridge_head import CutFeatures, RidgeHead, TrainingImages, fit_ridge_head

OnPair = Callable[[int, int], None]
Pair = tuple[str | None, str | None]
"""Cut of the first and of the second branch; None for a missing branch."""


@dataclass(frozen=True)
class PairScore:
    """The result of a ridge head on one or two cuts.

    Attributes:
        head: The head.
        predictions: Predictions for the validation part.
        left_out: Leave-one-patient-out score on the training part.
    """

    head: RidgeHead
    predictions: Predictions
    left_out: float


def list_pairs(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], *, same: bool) -> list[Pair]:
    """Return all single cuts and all pairs of cuts. For a network spliced with itself, each pair is listed once."""
    single_cuts: list[Pair] = [(cut, None) for cut in first]
    if same:
        cuts = list(first)
        return [*single_cuts, *((one, other) for index, one in enumerate(cuts) for other in cuts[index + 1 :])]
    return [*single_cuts, *((None, cut) for cut in second), *((one, other) for one in first for other in second)]


def score_pairs(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    split: SplitRecord,
    *,
    same: bool,
    ranking: Ranking | None = None,
    on_pair: OnPair | None = None,
) -> dict[Pair, PairScore]:
    """Fit a ridge head to each single cut and to each pair of cuts, and score it on the validation part.

    Args:
        first: Pooled features by cut of the first branch, (n, d), of the training images and then the validation images.
        second: The same for the second branch.
        split: Labels and patients of the images.
        same: Whether both branches are the same network.
        ranking: Metric of the scores. [default: macro-F1]
        on_pair: Called with the number of fits and the number of all fits: one for each head, or for each of its findings.

    Raises:
        DataError: All training images belong to one patient (not for findings).
    """
    pairs = list_pairs(first, second, same=same)
    fit_heads = _fit_finding_heads if split.is_multilabel else _fit_class_heads
    with threadpool_limits(1):  # for such small matrices, several threads are slower on a busy machine
        heads = fit_heads(first, second, split, pairs, on_pair or (lambda n_done, n_all: None))
    labels, valid_labels = np.asarray(split.train.labels, np.int64), np.asarray(split.valid.labels, np.int64)
    scores = {}
    for pair, head in zip(pairs, heads, strict=True):
        predictions = Predictions(split.valid.images, valid_labels, head.valid, split.classes, split.valid.patients)
        trained = Predictions(split.train.images, labels, head.left_out, split.classes, split.train.patients)
        scores[pair] = PairScore(head, predictions, (ranking or Ranking()).score(trained))
    return scores


def _fit_class_heads(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    split: SplitRecord,
    pairs: Sequence[Pair],
    on_pair: OnPair,
) -> list[RidgeHead]:
    images = TrainingImages(np.asarray(split.train.labels, np.int64), split.train.patients, len(split.classes))
    n_train = len(split.train.images)
    prepared = [
        {cut: CutFeatures(features[:n_train], features[n_train:], images) for cut, features in branch.items()}
        for branch in (first, second)
    ]
    heads = []
    for n_done, pair in enumerate(pairs, start=1):
        cuts = [branch[cut] for cut, branch in zip(pair, prepared, strict=True) if cut is not None]
        heads.append(fit_ridge_head(cuts, images))
        on_pair(n_done, len(pairs))
    return heads


def _fit_finding_heads(
    first: Mapping[str, np.ndarray],
    second: Mapping[str, np.ndarray],
    split: SplitRecord,
    pairs: Sequence[Pair],
    on_pair: OnPair,
) -> list[RidgeHead]:
    n_train, n_fits = len(split.train.images), len(pairs) * len(split.classes)
    cuts = {
        (number, cut): (features[:n_train], features[n_train:])
        for number, branch in enumerate((first, second))
        for cut, features in branch.items()
    }
    combinations = [[(number, cut) for number, cut in enumerate(pair) if cut is not None] for pair in pairs]
    counter = itertools.count(1)
    return fit_finding_heads(
        cuts,
        combinations,
        np.asarray(split.train.labels, np.int64),
        split.train.patients,
        on_fit=lambda: on_pair(next(counter), n_fits),
    )
