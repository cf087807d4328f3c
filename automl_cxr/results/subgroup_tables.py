"""Tables of the scores of a model by groups of patients, and of the gaps between the groups."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from automl_cxr.scoring.group_metrics import MIN_PATIENTS, plan_comparison, with_fixed_decisions
from automl_cxr.scoring.group_scores import N_RESAMPLES, GroupScores, score_groups
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.subgroup_gaps import ALPHA, N_PERMUTATIONS, Gap, gaps_between_groups, holm
from automl_cxr.scoring.subgroups import Grouping, group_by_metadata, split_columns

TESTED = ("macro_f1", "macro_auc", "fnfr", "calibration_error")
"""Metrics in which the groups are compared, beside the objectives of the study."""
SMALL = "few patients"
INTERSECTED = ("sex", "age", "view")
"""Columns of which all pairs are intersected if no columns are chosen."""


@dataclass(frozen=True, eq=False)
class SubgroupAnalysis:
    """The scores of a model by groups of patients.

    Attributes:
        groups: One row for each group: column, group, images, patients, not_compared (the reason, or ""), and for each metric
            of ``metrics`` the score and the limits of its 95 % interval by patient (``_low``, ``_high``).
        gaps: One row for each column and tested metric: column, metric, worst and best (names of groups), worst_score,
            best_score, gap, p_value, adjusted_p (Holm, over all rows), and disparity (whether it is at most ``ALPHA``).
        scores: Every score in one row: column, group, images, patients, not_compared, metric, score, low, high, and expected,
            the score that the group has on average if predictions depend on the labels only.
        metrics: The metrics in which the groups are compared.
        notes: Sentences for the user.
    """

    groups: pd.DataFrame
    gaps: pd.DataFrame
    scores: pd.DataFrame
    metrics: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def disparities(self) -> list[str]:
        """A sentence for each gap that is larger than chance and the labels explain."""
        return [
            f"{row.metric} of {row.column} {row.worst} is {row.worst_score:.3f} and of {row.best} {row.best_score:.3f} "
            f"(adjusted p = {row.adjusted_p:.3g})."
            for row in self.gaps[self.gaps["disparity"]].itertuples()
        ]


def group_predictions(
    metadata: pd.DataFrame, ids: Sequence[str], by: Sequence[str] | None = None, *, intersections: bool = True
) -> list[Grouping]:
    """Divide images into groups by the columns of their metadata.

    Args:
        metadata: Texts, "" where unknown, with images as index.
        ids: The images.
        by: Names of columns, or of intersections of two, such as "sex&age"; None for all columns.
        intersections: Whether pairs of the columns are intersected, too: those of ``by``, or of ``INTERSECTED``.

    Returns:
        The groupings with two groups or more: of columns, then of intersections.

    Raises:
        UsageError: An intersection has more than two columns.
    """
    names = [split_columns(name) for name in (map(str, metadata.columns) if by is None else by)]
    singles, pairs = ([one for one in names if len(one) == n_columns] for n_columns in (1, 2))
    if intersections and not pairs:
        pairs = list(itertools.combinations([name for (name,) in singles if by is not None or name in INTERSECTED], 2))
    groupings = {columns: group_by_metadata(metadata, columns, ids) for columns in [*singles, *pairs]}
    return [
        grouping
        for columns, grouping in groupings.items()
        if all(len(group_by_metadata(metadata, [name], ids).groups) > 1 for name in columns)
    ]


def analyse_subgroups(
    predictions: Predictions,
    groupings: Sequence[Grouping],
    *,
    metrics: Sequence[str] = TESTED,
    normal_class: int | None = None,
    min_patients: int = MIN_PATIENTS,
    n_resamples: int = N_RESAMPLES,
    n_permutations: int = N_PERMUTATIONS,
    all_intervals: bool = True,
    seed: int = 0,
) -> SubgroupAnalysis:
    """Score a model in each group, and test the gaps between the groups.

    Args:
        predictions: Labelled predictions.
        groupings: Groups of the same images.
        metrics: Names of the metrics in which the groups are compared; those that are not defined are left out.
        normal_class: Index of the class without a finding, or None.
        min_patients: Number of patients below which a group is not compared.
        n_resamples: Number of bootstrap resamples of each interval; 0 for no intervals.
        n_permutations: Largest number of permutations of each test, and more if so many gaps are tested that fewer could not
            find any disparity.
        all_intervals: Whether all metrics over the classes or findings have an interval; otherwise only those of ``metrics``.
        seed: Seed of both.

    Raises:
        DataError: There is no image or a label is unknown.
    """
    predictions = with_fixed_decisions(predictions)
    groups: list[GroupScores] = []
    gaps: list[Gap] = []
    n_permutations = max(n_permutations, math.ceil(2 * len(groupings) * len(set(metrics)) / ALPHA))
    notes: list[str] = []
    for grouping in groupings:
        comparison = plan_comparison(predictions, grouping, normal_class=normal_class, min_patients=min_patients)
        with_intervals = [name for name in comparison.metrics if name in metrics or (all_intervals and name in METRICS)]
        groups += score_groups(
            predictions,
            grouping,
            comparison,
            normal_class=normal_class,
            with_intervals=with_intervals if n_resamples else (),
            n_resamples=n_resamples,
            seed=seed,
        )
        gaps += gaps_between_groups(
            predictions,
            grouping,
            comparison,
            [name for name in dict.fromkeys(metrics) if name in comparison.metrics],
            normal_class=normal_class,
            n_permutations=n_permutations,
            seed=seed,
        )
        if comparison.left_out:
            listed = ", ".join(comparison.left_out)
            notes.append(f"Means over the findings in the groups of {grouping.column} leave out: {listed}.")
    expected = {(gap.column, gap.metric, group): value for gap in gaps for group, value in gap.expected.items()}
    scores = pd.DataFrame([row for group in groups for row in _score_rows(group, expected)])
    shown = tuple(name for name in dict.fromkeys(metrics) if any(name in group.scores for group in groups))
    return SubgroupAnalysis(
        pd.DataFrame([_group_row(group, shown) for group in groups]),
        _gap_table(gaps, groups),
        scores,
        shown,
        tuple(notes),
    )


def _reason(group: GroupScores) -> str:
    """Return why a group is not compared; "" if it is."""
    if group.is_compared:
        return ""
    return SMALL if group.is_small else f"without {', '.join(group.missing)}"


def _head(group: GroupScores) -> dict[str, object]:
    return {
        "column": group.column,
        "group": group.group,
        "images": group.n_images,
        "patients": group.n_patients,
        "not_compared": _reason(group),
    }


def _group_row(group: GroupScores, metrics: Sequence[str]) -> dict[str, object]:
    row = _head(group)
    for name in metrics:
        row[name] = group.scores.get(name, float("nan"))
        interval = group.intervals.get(name)
        row[f"{name}_low"] = float("nan") if interval is None else interval.low
        row[f"{name}_high"] = float("nan") if interval is None else interval.high
    return row


def _score_rows(group: GroupScores, expected: dict[tuple[str, str, str], float]) -> list[dict[str, object]]:
    rows = []
    nothing = float("nan")
    shares = {f"share_{name}": share for name, share in group.shares.items()}
    for name, score in (shares | dict(group.scores)).items():
        interval = group.intervals.get(name)
        ends = (nothing, nothing) if interval is None else (interval.low, interval.high)
        rows.append(
            {
                **_head(group),
                "metric": name,
                "score": score,
                "low": ends[0],
                "high": ends[1],
                "expected": expected.get((group.column, name, group.group), nothing),
            }
        )
    return rows


def _gap_table(gaps: Sequence[Gap], groups: Sequence[GroupScores]) -> pd.DataFrame:
    scores = {(group.column, group.group): group.scores for group in groups}
    columns = (
        *("column", "metric", "worst", "worst_score", "best", "best_score", "gap", "p_value", "adjusted_p", "disparity"),
    )
    rows = [
        (
            *(gap.column, gap.metric, gap.worst, scores[gap.column, gap.worst][gap.metric]),
            *(gap.best, scores[gap.column, gap.best][gap.metric], gap.gap, gap.p_value, adjusted, adjusted <= ALPHA),
        )
        for gap, adjusted in zip(gaps, holm([gap.p_value for gap in gaps]), strict=True)
    ]
    return pd.DataFrame(rows, columns=list(columns))
