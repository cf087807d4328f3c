"""The score of the worst group of patients, as an objective or in a requirement, such as worst:sex:fnfr."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring.group_metrics import plan_comparison, with_fixed_decisions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.subgroups import group_by_metadata, split_columns

if TYPE_CHECKING:
    import pandas as pd

_PREFIX, _SEPARATOR = "worst", ":"


@dataclass(frozen=True)
class WorstGroup:
    """A metric in the worst group of a column.

    Attributes:
        column: Name of a column of metadata, or of an intersection such as "sex&age".
        metric: Name of a metric of all classes or findings, or of one of them.
    """

    column: str
    metric: str

    @classmethod
    def parse(cls, name: str) -> WorstGroup | None:
        """Parse the name of an objective; None if it is that of another metric or of a cost.

        Raises:
            UsageError: The column or the metric is missing.
        """
        if not name.startswith(f"{_PREFIX}{_SEPARATOR}"):
            return None
        _, column, metric = [*name.split(_SEPARATOR, 2), ""][:3]
        if not column or not metric:
            raise UsageError(f"The score of the worst group is written like worst:sex:macro_f1; received '{name}'.")
        return cls(column, metric)

    def score(self, predictions: Predictions, metadata: pd.DataFrame, *, normal_class: int | None) -> float:
        """Compute the score of the worst group among those that can be compared; NaN if there are fewer than two.

        Args:
            predictions: Labelled predictions.
            metadata: Texts, "" where unknown, with images as index.
            normal_class: Index of the class without a finding, or None.
        """
        predictions = with_fixed_decisions(predictions)
        grouping = group_by_metadata(metadata, self._columns(metadata), predictions.ids)
        comparison = plan_comparison(predictions, grouping, normal_class=normal_class)
        metric = comparison.metrics[self.metric]
        scores = []
        for name in comparison.compared:
            part = predictions.take(grouping.of_image == grouping.groups.index(name))
            scores.append(metric.function(part.labels, part.probabilities, normal_class))
        defined = [score for score in scores if not math.isnan(score)]
        if len(defined) < 2:
            return math.nan
        return min(defined) if metric.direction == "maximize" else max(defined)

    def check(self, images: Predictions, metadata: pd.DataFrame, *, normal_class: int | None) -> None:
        """Check that the groups exist and can be compared on the images that score trials.

        Args:
            images: These images with their labels; any probabilities.
            metadata: See ``score``.
            normal_class: See ``score``.

        Raises:
            UnknownNameError: There is no such column or metric.
            DataError: Fewer than two groups have enough patients, and images of all classes.
        """
        grouping = group_by_metadata(metadata, self._columns(metadata), images.ids)
        comparison = plan_comparison(images, grouping, normal_class=normal_class)
        if self.metric not in comparison.metrics:
            raise UnknownNameError("metric", self.metric, comparison.metrics)
        if len(comparison.compared) < 2:
            counts = ", ".join(f"{name} {n}" for name, n in comparison.n_patients.items())
            raise DataError(
                f"The worst group of {self.column} needs two groups with {comparison.min_patients} patients or more, and "
                f"images of each class, among the images that score trials; received patients of {counts or 'no group'}. Use "
                "--folds, or name another column."
            )

    def _columns(self, metadata: pd.DataFrame) -> tuple[str, ...]:
        columns = split_columns(self.column)
        for name in columns:
            if name not in metadata:
                raise UnknownNameError("column of subgroups", name, map(str, metadata.columns))
        return columns


def worst_group_scores(
    names: list[str], predictions: Predictions, metadata: pd.DataFrame, *, normal_class: int | None
) -> dict[str, float]:
    """Compute the score of the worst group for those of some objectives that are such scores, by name."""
    parsed = {name: WorstGroup.parse(name) for name in names}
    return {
        name: one.score(predictions, metadata, normal_class=normal_class) for name, one in parsed.items() if one is not None
    }
