"""The result of an audit: a frozen record with JSON conversion, tables and warnings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from automl_cxr.tasks import MULTICLASS, MULTILABEL
from automl_cxr.text_records import build_record, parse_json

_MIN_SKILL = 0.25  # of the lower end of the interval, as a share of the distance from chance to 1
_MIN_IMAGES_OF_FINDING = 20  # whose rates of burnt-in text are compared, because rare findings have few images
_MIN_RATE_DIFFERENCE = 0.25  # between the rates of burnt-in text in two classes


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An image that shows the same picture as another one.

    Attributes:
        image: Id of the image.
        of: Id of the other image; three copies of a picture are two duplicates.
        kind: "identical" pixels, "near" or "mirrored".
        correlation: Correlation of the fine structure, at most 1.
        label: Class of the image; of several findings, those that are present.
        of_label: The same of the other image.
        part: "train", "valid", "test", or "" where no split is given.
        of_part: Part of the other image.
        patient: Patient of the image; the image id where patients are unknown.
        of_patient: Patient of the other image.
        conflicting: The findings that are present in one of the images and absent in the other; None for classes.
    """

    image: str
    of: str
    kind: str
    correlation: float
    label: str
    of_label: str
    part: str
    of_part: str
    patient: str
    of_patient: str
    conflicting: tuple[str, ...] | None = None

    @property
    def is_conflict(self) -> bool:
        """Whether the labels of the two images contradict each other."""
        return self.label != self.of_label if self.conflicting is None else bool(self.conflicting)

    @property
    def crosses_parts(self) -> bool:
        """Whether the two images are in different parts."""
        return self.part != self.of_part


@dataclass(frozen=True, kw_only=True)
class SharedPatient:
    """A patient with images in more than one part."""

    patient: str
    parts: tuple[str, ...]
    n_images: int


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


@dataclass(frozen=True, kw_only=True, repr=False)
class Audit:
    """The result of an audit.

    Attributes:
        root: Folder that the image ids are relative to.
        classes: Names of the classes or findings.
        n_images: Readable images of each class, or with each finding.
        n_patients: Number of patients, or None where they are unknown.
        parts: Images of each part; empty where no split is given.
        found_duplicates: Images that show the same picture as another one.
        shared_patients: Patients with images in more than one part.
        differences: Differences of each image statistic between classes, the largest first; empty for findings.
        formats: Images of each file format, by class.
        lettering: Suspected burnt-in text, by corner and anywhere.
        shortcut: The shortcut baseline; None where a class has fewer than two patients.
        unreadable: Image id to reason.
        notes: Limits of the audit, and other notes on the data.
        task: "multiclass", or "multilabel" for several findings of an image.
        finding_differences: For findings, the differences of each image statistic, the largest first.
        n_readable: For findings, number of readable images.
    """

    root: str
    classes: tuple[str, ...]
    n_images: tuple[int, ...]
    n_patients: int | None
    parts: Mapping[str, int]
    found_duplicates: tuple[Duplicate, ...]
    shared_patients: tuple[SharedPatient, ...]
    differences: tuple[StatisticDifference, ...]
    formats: Mapping[str, Mapping[str, int]]
    lettering: tuple[Lettering, ...]
    shortcut: Shortcut | FindingShortcut | None
    unreadable: Mapping[str, str]
    notes: tuple[str, ...]
    task: str = MULTICLASS
    finding_differences: tuple[FindingDifference, ...] = ()
    n_readable: int = 0

    def __repr__(self) -> str:
        """Summarise the audit in some lines, for notebooks."""
        head = f"Audit of {self.root}: {self.n_all:,} images, {len(self.found_duplicates)} duplicates"
        return "\n".join([head, *([self.baseline] if self.baseline else []), *self.warnings])

    @classmethod
    def from_json(cls, text: str) -> Audit:
        """Restore an audit from ``to_json``.

        Raises:
            ValueError: The text is not such a record, or lists other numbers of classes.
        """
        audit: Audit = build_record(cls, parse_json(text))
        by_class: list[Sequence[object]] = [audit.n_images]
        by_class += [*(one.by_class for one in audit.differences), *(one.rates for one in audit.lettering)]
        by_class += [values for one in audit.finding_differences for values in (one.medians, one.aucs)]
        if isinstance(audit.shortcut, FindingShortcut):
            by_class += [audit.shortcut.aucs, audit.shortcut.lows, audit.shortcut.highs]
        if {len(audit.classes)} != set(map(len, by_class)):
            raise ValueError(f"a list by class must have {len(audit.classes)} values")
        return audit

    def to_json(self) -> str:
        """Convert the audit to JSON text."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.task == MULTILABEL

    @property
    def n_all(self) -> int:
        """Number of readable images."""
        return self.n_readable if self.is_multilabel else sum(self.n_images)

    @property
    def duplicates(self) -> pd.DataFrame:
        """One row for each image that shows the same picture as another one."""
        return self.tabulate(self.found_duplicates)

    @property
    def conflicts(self) -> pd.DataFrame:
        """The duplicates with labels that contradict each other."""
        return self.tabulate([one for one in self.found_duplicates if one.is_conflict])

    @property
    def across_parts(self) -> pd.DataFrame:
        """The duplicates in two parts."""
        return self.tabulate([one for one in self.found_duplicates if one.crosses_parts])

    def tabulate(self, duplicates: Sequence[Duplicate]) -> pd.DataFrame:
        """Return a table with one row for each duplicate."""
        table = _to_table(duplicates, Duplicate)
        conflicting = table.pop("conflicting")
        return table.assign(conflicting=conflicting.map(", ".join)) if self.is_multilabel else table

    @property
    def patients_across_parts(self) -> pd.DataFrame:
        """Patients with images in more than one part."""
        table = _to_table(self.shared_patients, SharedPatient)
        return table.assign(parts=table["parts"].map(", ".join))

    @property
    def statistics(self) -> pd.DataFrame:
        """Medians by class of each image statistic, and how well it alone separates the classes; the best first.

        For findings, the ROC AUC of each image statistic for each of them.
        """
        if self.is_multilabel:
            return pd.DataFrame(
                [
                    {"statistic": one.trait, **dict(zip(self.classes, one.aucs, strict=True))}
                    for one in self.finding_differences
                ],
                columns=["statistic", *self.classes],
            )
        return pd.DataFrame(
            [
                {
                    "statistic": one.trait,
                    **dict(zip(self.classes, one.by_class, strict=True)),
                    "macro_f1": one.macro_f1,
                    "separates": " from ".join(one.told),
                    "share": one.told_share,
                }
                for one in self.differences
            ],
            columns=["statistic", *self.classes, "macro_f1", "separates", "share"],
        )

    @property
    def burnt_in_text(self) -> pd.DataFrame:
        """Share of each class's images with suspected burnt-in text, by corner."""
        rows = [{"place": one.place, **dict(zip(self.classes, one.rates, strict=True))} for one in self.lettering]
        return pd.DataFrame(rows, columns=["place", *self.classes])

    @property
    def file_formats(self) -> pd.DataFrame:
        """Images of each class by file format."""
        rows = [{"class": name, **self.formats[name]} for name in self.classes]
        return pd.DataFrame(rows).fillna(0).astype({name: int for counts in self.formats.values() for name in counts})

    @property
    def shortcut_by_finding(self) -> pd.DataFrame:
        """The ROC AUC of the shortcut baseline for each finding, with its interval; empty for classes."""
        columns = ["finding", "images", "auc", "low", "high"]
        if not isinstance(self.shortcut, FindingShortcut):
            return pd.DataFrame(columns=columns)
        scores = (self.shortcut.aucs, self.shortcut.lows, self.shortcut.highs)
        return pd.DataFrame(zip(self.classes, self.n_images, *scores, strict=True), columns=columns)

    @property
    def baseline(self) -> str:
        """The shortcut baseline in a sentence; empty if there is none."""
        if self.shortcut is None:
            return ""
        shortcut = self.shortcut
        return (
            f"Shortcut baseline: a random forest on image size, file format, brightness, borders and corners reaches "
            f"{shortcut.title} {shortcut.score:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}; chance "
            f"{shortcut.chance:.3f})."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons why scores on these data may be optimistic, one sentence each."""
        return (*self._warn_of_shortcut(), *self._warn_of_lettering(), *self._warn_of_copies(), *self._warn_of_patients())

    def _warn_of_shortcut(self) -> list[str]:
        if self.shortcut is None or not self.shortcut.is_warning:
            return []
        if isinstance(self.shortcut, FindingShortcut):
            return [self._describe_finding_shortcut(self.shortcut)]
        shortcut = self.shortcut
        best = max(self.differences, key=lambda one: one.told_share, default=None)
        alone = ""
        if best is not None:
            pair = " from ".join(best.told)
            alone = f"; {best.trait} alone separates {pair} with a balanced accuracy of {best.told_share:.1%}"
        warning = (
            "The data contain a shortcut: a random forest on non-anatomical image statistics reaches macro-F1 "
            f"{shortcut.macro_f1:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}, chance {shortcut.chance:.3f}){alone}. "
            "A classifier may learn the same shortcut, and its score may not hold for images from other sources."
        )
        return [warning]

    def _describe_finding_shortcut(self, shortcut: FindingShortcut) -> str:
        aucs = {
            name: auc
            for number, (name, auc) in enumerate(zip(self.classes, shortcut.aucs, strict=True))
            if auc is not None and shortcut.is_warning_for(number)
        }
        listed = ", ".join(f"'{name}' {aucs[name]:.3f}" for name in sorted(aucs, key=lambda name: -aucs[name]))
        return (
            "The data contain a shortcut: a random forest on non-anatomical image statistics reaches a mean ROC AUC of "
            f"{shortcut.macro_auc:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}, chance {shortcut.chance:.3f})"
            f"{f'; of single findings, {listed}' if listed else ''}. A classifier may learn the same shortcut, and its score "
            "may not hold for images from other sources."
        )

    def _warn_of_lettering(self) -> list[str]:
        warnings = []
        enough = _MIN_IMAGES_OF_FINDING if self.is_multilabel else 0
        for one in self.lettering:
            rates = {name: rate for name, rate, n in zip(self.classes, one.rates, self.n_images, strict=True) if n >= enough}
            low, high = min(rates.values(), default=0.0), max(rates.values(), default=0.0)
            if high - low >= _MIN_RATE_DIFFERENCE and one.place != "anywhere":
                highest_class, lowest_class = max(rates, key=rates.__getitem__), min(rates, key=rates.__getitem__)
                corner = one.place.replace("_", " ")
                warnings.append(
                    f"Burnt-in text or markers are suspected at the {corner} of {high:.0%} of the images of {highest_class}, "
                    f"but of {low:.0%} of {lowest_class}."
                )
        return warnings

    def _warn_of_copies(self) -> list[str]:
        n_crossing = sum(one.crosses_parts for one in self.found_duplicates)
        n_conflicts = sum(one.is_conflict for one in self.found_duplicates)
        warnings = []
        if n_crossing:
            verb = _images_show(n_crossing)
            warnings.append(f"{n_crossing} {verb} the same picture as one in another part: scores may be optimistic.")
        if n_conflicts:
            other = "one with contradicting labels" if self.is_multilabel else "one of another class"
            warnings.append(f"{n_conflicts} {_images_show(n_conflicts)} the same picture as {other}.")
        return warnings

    def _warn_of_patients(self) -> list[str]:
        if not self.shared_patients:
            return []
        n_patients, n_images = len(self.shared_patients), sum(one.n_images for one in self.shared_patients)
        return [f"{n_patients} patients ({n_images} images) are in more than one part: scores may be optimistic."]


def _images_show(n: int) -> str:
    return "image shows" if n == 1 else "images show"


def _to_table(records: Sequence[Any], kind: Any) -> pd.DataFrame:
    columns = [field.name for field in dataclasses.fields(kind)]
    return pd.DataFrame([[getattr(one, name) for name in columns] for one in records], columns=columns)
