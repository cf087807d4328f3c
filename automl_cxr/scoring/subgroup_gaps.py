"""Tests whether a model scores differently in the groups of a column, beyond chance and beyond their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.scoring.group_metrics import GroupComparison
from automl_cxr.scoring.metric_table import CLASS_METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import ResampleScorer
from automl_cxr.scoring.subgroups import Grouping

N_PERMUTATIONS = 2000
ALPHA = 0.02
"""Level of a disparity after the correction. It is below 0.05, because each report tests about 24 gaps without a hypothesis."""
_BLOCK_BYTES = 2**22  # of the weights of a group
_MIN_UNITS = 20  # with the same findings; rarer combinations are joined by the number of findings
_TIE = 1e-9
_SCREENING, _SCREENED = 199, 0.2
"""Permutations of a first test, and its p-value above which no further permutations are made: they cannot make it small."""


@dataclass(frozen=True, eq=False)
class Gap:
    """The distance between the worst and the best group of a column in one metric.

    Attributes:
        column: See ``Grouping``.
        metric: Name of the metric.
        worst: Name of the worst compared group.
        best: Name of the best compared group.
        gap: Distance of their scores, 0 or more.
        expected: Score that each compared group has on average if predictions depend on the labels only, not on the group.
        p_value: Probability that a group deviates from its expected score as far as observed if predictions depend on the
            labels only.
    """

    column: str
    metric: str
    worst: str
    best: str
    gap: float
    expected: Mapping[str, float]
    p_value: float


def gaps_between_groups(
    predictions: Predictions,
    grouping: Grouping,
    comparison: GroupComparison,
    metrics: Sequence[str],
    *,
    normal_class: int | None = None,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> list[Gap]:
    """Compare the groups of a column by a permutation test for each metric.

    The groups are exchanged among units with the same labels, where a unit is all images of a patient in a group. Therefore
    each group keeps its numbers of patients of each class, and a difference of scores that follows from another mix of the
    classes, such as a lower precision of a rarer class, is not a disparity. The statistic is the largest deviation of a group
    from its mean over all permutations, in standard deviations, so that a small group is not the worst one by chance alone.

    A metric with a p-value above 0.2 in the first 199 permutations keeps this p-value, which saves most of the time where there
    is no gap. The probability of smaller p-values is not increased by this (Besag and Clifford 1991).

    Findings: metrics of one finding keep the label of this finding. Other metrics keep the combination of all labels, where
    combinations of fewer than 20 units are joined by their number of findings, so that this test is approximate.

    Args:
        predictions: Labelled predictions; those of findings with thresholds.
        grouping: The groups of the same images.
        comparison: Result of ``plan_comparison`` for them.
        metrics: Names of the metrics to test.
        normal_class: Index of the class without a finding, or None.
        n_permutations: Number of permutations; the smallest possible p-value is 1 / (n_permutations + 1).
        seed: Seed of the permutations.

    Returns:
        A gap for each metric that is defined in two compared groups or more.
    """
    numbers = [grouping.groups.index(name) for name in comparison.compared]
    if len(numbers) < 2:
        return []
    rows = np.flatnonzero(np.isin(grouping.of_image, numbers))
    part, group = predictions.take(rows), np.searchsorted(sorted(numbers), grouping.of_image[rows])
    units = _Units(part.patients, group)
    by_strata: dict[int, list[str]] = {}
    for name in metrics:
        if name in comparison.metrics:
            by_strata.setdefault(_finding_of(name, part), []).append(name)
    found: dict[str, Gap] = {}
    for finding, names in by_strata.items():
        strata, tested = _strata(part, units, finding), names
        for n in sorted({min(_SCREENING, n_permutations), n_permutations}):
            scorer = ResampleScorer(
                part.labels,
                part.probabilities[np.newaxis],
                [comparison.metrics[name] for name in tested],
                normal_class,
                thresholds=None if part.thresholds is None else part.thresholds[np.newaxis],
                n_weights=(n + 1) * len(numbers),
            )
            scores = _score_permutations(scorer, units, strata, len(numbers), n, seed)
            gaps = {name: _gap(grouping.column, comparison, name, scores[name]) for name in tested}
            found |= {name: gap for name, gap in gaps.items() if gap is not None}
            tested = [name for name in tested if name in found and found[name].p_value <= _SCREENED]
            if not tested:
                break
    return [found[name] for name in metrics if name in found]


class _Units:
    """The units whose groups are exchanged: all images of a patient in a group.

    Attributes:
        of_image: Index of the unit of each image, int64 (n,).
        group: Group of each unit, int64 (n_units,).
    """

    def __init__(self, patients: Sequence[str], group: np.ndarray) -> None:
        numbers: dict[tuple[str, int], int] = {}
        keys = zip(patients, group.tolist(), strict=True)
        self.of_image = np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)
        self.group = np.array([number for _, number in numbers], np.int64)


def _finding_of(metric: str, part: Predictions) -> int:
    """Return the index of the finding of a metric ``<kind>_<finding>``; -1 for other metrics and for metrics of classes."""
    if not part.is_multilabel:
        return -1
    names = {f"{kind}_{finding}": number for kind in CLASS_METRICS for number, finding in enumerate(part.classes)}
    return names.get(metric, -1)


def _strata(part: Predictions, units: _Units, finding: int) -> np.ndarray:
    """Number the units by their labels, int64 (n_units,)."""
    labels = part.labels if part.labels.ndim == 1 or finding < 0 else part.labels[:, finding]
    of_unit: list[set[object]] = [set() for _ in units.group]
    for unit, label in zip(units.of_image.tolist(), labels.tolist(), strict=True):
        of_unit[unit].add(tuple(label) if isinstance(label, list) else label)
    keys: list[object] = [frozenset(one) for one in of_unit]
    if labels.ndim == 2:
        counts = Counter(keys)
        keys = [key if counts[key] >= _MIN_UNITS else _n_findings(one) for key, one in zip(keys, of_unit, strict=True)]
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _n_findings(patterns: set[object]) -> int:
    return max(sum(code == 1 for code in pattern) for pattern in patterns)  # type: ignore[attr-defined]


def _score_permutations(
    scorer: ResampleScorer, units: _Units, strata: np.ndarray, n_groups: int, n_permutations: int, seed: int
) -> dict[str, np.ndarray]:
    """Score each group in the observed arrangement and in permutations, (n_groups, 1 + n_permutations) by metric."""
    blocks = list(_permutations(units, strata, n_permutations, seed))
    of_groups = [
        scorer.score((arrangement == number).astype(np.float32)[units.of_image] for arrangement in blocks)
        for number in range(n_groups)
    ]
    return {name: np.stack([scores[name][0] for scores in of_groups]) for name in of_groups[0]}


def _permutations(units: _Units, strata: np.ndarray, n_permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the group of each unit, (n_units, n_block), first the observed one."""
    rng = np.random.default_rng(seed)
    yield units.group[:, np.newaxis]
    in_order = units.group[np.argsort(strata, kind="stable")]
    size = max(1, _BLOCK_BYTES // (4 * len(units.of_image)))
    for start in range(0, n_permutations, size):
        n_block = min(size, n_permutations - start)
        order = np.argsort(strata + rng.random((n_block, len(strata))), axis=1)  # shuffled within each stratum
        arrangement = np.empty((n_block, len(strata)), np.int64)
        np.put_along_axis(arrangement, order, np.broadcast_to(in_order, order.shape), axis=1)
        yield arrangement.T


def _gap(column: str, comparison: GroupComparison, metric: str, scores: np.ndarray) -> Gap | None:
    """Compute the gap and its p-value from the scores of each group, the observed one first, (n_groups, n)."""
    observed = scores[:, 0]
    defined = np.flatnonzero(~np.isnan(observed))
    if defined.size < 2:
        return None
    scores = scores[defined]
    expected, deviation = np.nanmean(scores, axis=1), np.nanstd(scores, axis=1)
    distances = np.abs(scores - expected[:, None]) / np.where(deviation > 0, deviation, np.inf)[:, None]
    statistic = np.nan_to_num(distances).max(axis=0)
    p_value = float(np.mean(statistic >= statistic[0] - _TIE))
    is_maximised = comparison.metrics[metric].direction == "maximize"
    ranked = defined[np.argsort(observed[defined] if is_maximised else -observed[defined], kind="stable")]
    names = comparison.compared
    return Gap(
        column,
        metric,
        worst=names[ranked[0]],
        best=names[ranked[-1]],
        gap=float(abs(observed[ranked[0]] - observed[ranked[-1]])),
        expected={names[number]: float(value) for number, value in zip(defined, expected, strict=True)},
        p_value=p_value,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for the number of tests (Holm 1979): the probability of any false claim is then at most the level."""
    order, adjusted, largest = np.argsort(p_values, kind="stable"), [1.0] * len(p_values), 0.0
    for rank, number in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[number]))
        adjusted[number] = largest
    return adjusted
