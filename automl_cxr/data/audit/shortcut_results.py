"""Results of an audit: the scores of the shortcut baseline, for classes or for findings."""

from __future__ import annotations

from dataclasses import dataclass

_MIN_SKILL = 0.25  # of the lower end of the interval, as a share of the distance from chance to 1


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """The score of a random forest on non-anatomical statistics, which is a baseline for every classifier.

    Attributes:
        macro_f1: Out-of-fold macro-F1, with folds by patient.
        low: Lower end of the 95 % interval by patient.
        high: Upper end.
        chance: Macro-F1 of random guesses with the classes' frequencies.
        n_folds: Number of folds by patient.
    """

    macro_f1: float
    low: float
    high: float
    chance: float
    n_folds: int

    @property
    def metric(self) -> str:
        """Name of the metric of the score."""
        return "macro_f1"

    @property
    def title(self) -> str:
        """Name of the metric for sentences."""
        return "macro-F1"

    @property
    def score(self) -> float:
        """The score."""
        return self.macro_f1

    @property
    def is_warning(self) -> bool:
        """Whether the lower end is at least a quarter of the distance from chance to 1."""
        return _is_warning(self.low, self.chance)


@dataclass(frozen=True, kw_only=True)
class FindingShortcut:
    """The scores of a random forest on non-anatomical statistics for several findings.

    Attributes:
        macro_auc: Mean out-of-fold ROC AUC over the findings, with folds by patient.
        low: Lower end of the 95 % interval by patient.
        high: Upper end.
        aucs: ROC AUC of each finding; None where it is undefined.
        lows: Lower end of the interval of each finding.
        highs: Upper end.
        n_folds: Number of folds by patient.
        chance: ROC AUC of random guesses.
    """

    macro_auc: float
    low: float
    high: float
    aucs: tuple[float | None, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]
    n_folds: int
    chance: float = 0.5

    @property
    def metric(self) -> str:
        """Name of the metric of the score."""
        return "macro_auc"

    @property
    def title(self) -> str:
        """Name of the metric for sentences."""
        return "mean ROC AUC"

    @property
    def score(self) -> float:
        """The score."""
        return self.macro_auc

    @property
    def is_warning(self) -> bool:
        """Whether a lower end, of the mean or of a finding, is at least a quarter of the distance from chance to 1."""
        return _is_warning(self.low, self.chance) or any(self.is_warning_for(number) for number in range(len(self.lows)))

    def is_warning_for(self, number: int) -> bool:
        """Return whether the lower end of a finding is at least a quarter of the distance from chance to 1."""
        low = self.lows[number]
        return low is not None and _is_warning(low, self.chance)


def _is_warning(low: float, chance: float) -> bool:
    return low - chance >= _MIN_SKILL * (1 - chance)
