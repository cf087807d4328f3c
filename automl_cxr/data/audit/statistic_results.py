"""Results of an audit: differences of image statistics between classes or findings, and burnt-in text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StatisticDifference:
    """The differences of an image statistic between classes. The field names are keys in saved audits.

    Attributes:
        trait: Name of the statistic, a column of ``image_statistics.measure_image_statistics``.
        by_class: Its median in each class; for file formats the most frequent one.
        macro_f1: Out-of-fold macro-F1 of a small tree on this statistic alone.
        told: The two classes that the tree separates best.
        told_share: Share of the images of these two classes that the tree predicts correctly, as the mean of the two classes;
            chance is 0.5.
    """

    trait: str
    by_class: tuple[float | str, ...]
    macro_f1: float
    told: tuple[str, str]
    told_share: float


@dataclass(frozen=True, kw_only=True)
class FindingDifference:
    """The differences of an image statistic between images with and without each finding.

    Attributes:
        trait: Name of the statistic, a column of ``image_statistics.measure_image_statistics``.
        medians: Its median over the images with each finding; for file formats the most frequent one; None without images.
        aucs: ROC AUC of the statistic for each finding, at least 0.5, because its sign does not count; None where it is
            undefined, and for file formats.
    """

    trait: str
    medians: tuple[float | str | None, ...]
    aucs: tuple[float | None, ...]

    @property
    def largest(self) -> float:
        """The largest ROC AUC; 0.5 if none is defined."""
        return max((auc for auc in self.aucs if auc is not None), default=0.5)


@dataclass(frozen=True, kw_only=True)
class Lettering:
    """Suspected burnt-in text in one corner or in any.

    Attributes:
        place: A corner, or "anywhere".
        rates: Share of each class's images, or of the images with each finding.
        examples: Example images, of the class with the highest rate.
    """

    place: str
    rates: tuple[float, ...]
    examples: tuple[str, ...]
