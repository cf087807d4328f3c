"""Scores of every pair of cuts, and of every single cut, on the validation part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from automl_cxr.records import SplitRecord
from automl_cxr.scoring.metrics import score_macro_f1
from automl_cxr.scoring.predictions import Predictions
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
        left_out: Leave-one-patient-out macro-F1 on the training part.
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
    on_pair: OnPair | None = None,
) -> dict[Pair, PairScore]:
    """Fit a ridge head to each single cut and to each pair of cuts.

    Args:
        first: Pooled features by cut of the first branch, (n, d), of the training images and then the validation images.
        second: The same for the second branch.
        split: Labels and patients of the images.
        same: Whether both branches are the same network.
        on_pair: Called with the number of fitted heads and the number of all heads.

    Raises:
        DataError: All training images belong to one patient.
    """
    images = TrainingImages(np.asarray(split.train.labels, np.int64), split.train.patients, len(split.classes))
    valid_labels = np.asarray(split.valid.labels, np.int64)
    n_train = len(split.train.images)
    prepared = [
        {cut: CutFeatures(features[:n_train], features[n_train:], images) for cut, features in branch.items()}
        for branch in (first, second)
    ]
    pairs = list_pairs(first, second, same=same)
    scores = {}
    with threadpool_limits(1):  # for such small matrices, several threads are slower on a busy machine
        for n_done, pair in enumerate(pairs, start=1):
            head = fit_ridge_head(list(_cuts_of(pair, prepared)), images)
            predictions = Predictions(split.valid.images, valid_labels, head.valid, split.classes, split.valid.patients)
            scores[pair] = PairScore(head, predictions, score_macro_f1(images.labels, head.left_out))
            if on_pair is not None:
                on_pair(n_done, len(pairs))
    return scores


def _cuts_of(pair: Pair, prepared: list[dict[str, CutFeatures]]) -> Iterator[CutFeatures]:
    for cut, branch in zip(pair, prepared, strict=True):
        if cut is not None:
            yield branch[cut]
