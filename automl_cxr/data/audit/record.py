"""The result of an audit: a frozen record with JSON conversion, tables and warnings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from automl_cxr.text_records import build_record, parse_json

_MIN_SKILL = 0.25  # of the lower end of the interval, as a share of the distance from chance to 1
_MIN_RATE_DIFFERENCE = 0.25  # between the rates of burnt-in text in two classes


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An image that shows the same picture as another one.

    Attributes:
        image: Id of the image.
        of: Id of the other image; three copies of a picture are two duplicates.
        kind: "identical" pixels, "near" or "mirrored".
        correlation: Correlation of the fine structure, at most 1.
        label: Class of the image.
        of_label: Class of the other image.
        part: "train", "valid", "test", or "" where no split is given.
        of_part: Part of the other image.
        patient: Patient of the image; the image id where patients are unknown.
        of_patient: Patient of the other image.
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

    @property
    def is_conflict(self) -> bool:
        """Whether the two images have different labels."""
        return self.label != self.of_label

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
class Lettering:
    """Suspected burnt-in text in one corner or in any.

    Attributes:
        place: A corner, or "anywhere".
        rates: Share of each class's images.
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
    def is_warning(self) -> bool:
        """Whether the lower end is at least a quarter of the distance from chance to 1."""
        return self.low - self.chance >= _MIN_SKILL * (1 - self.chance)


@dataclass(frozen=True, kw_only=True, repr=False)
class Audit:
    """The result of an audit.

    Attributes:
        root: Folder that the image ids are relative to.
        classes: Class names.
        n_images: Readable images of each class.
        n_patients: Number of patients, or None where they are unknown.
        parts: Images of each part; empty where no split is given.
        found_duplicates: Images that show the same picture as another one.
        shared_patients: Patients with images in more than one part.
        differences: Differences of each image statistic between classes, the largest first.
        formats: Images of each file format, by class.
        lettering: Suspected burnt-in text, by corner and anywhere.
        shortcut: The shortcut baseline; None where a class has fewer than two patients.
        unreadable: Image id to reason.
        notes: Limits of the audit, and other notes on the data.
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
    shortcut: Shortcut | None
    unreadable: Mapping[str, str]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """Summarise the audit in some lines, for notebooks."""
        head = f"Audit of {self.root}: {sum(self.n_images):,} images, {len(self.found_duplicates)} duplicates"
        return "\n".join([head, *([self.baseline] if self.baseline else []), *self.warnings])

    @classmethod
    def from_json(cls, text: str) -> Audit:
        """Restore an audit from ``to_json``.

        Raises:
            ValueError: The text is not such a record, or lists other numbers of classes.
        """
        audit: Audit = build_record(cls, parse_json(text))
        by_class = [audit.n_images, *(one.by_class for one in audit.differences), *(one.rates for one in audit.lettering)]
        if {len(audit.classes)} != set(map(len, by_class)):
            raise ValueError(f"a list by class must have {len(audit.classes)} values")
        return audit

    def to_json(self) -> str:
        """Convert the audit to JSON text."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)

    @property
    def duplicates(self) -> pd.DataFrame:
        """One row for each image that shows the same picture as another one."""
        return _to_table(self.found_duplicates, Duplicate)

    @property
    def conflicts(self) -> pd.DataFrame:
        """The duplicates with two labels."""
        return _to_table([one for one in self.found_duplicates if one.is_conflict], Duplicate)

    @property
    def across_parts(self) -> pd.DataFrame:
        """The duplicates in two parts."""
        return _to_table([one for one in self.found_duplicates if one.crosses_parts], Duplicate)

    @property
    def patients_across_parts(self) -> pd.DataFrame:
        """Patients with images in more than one part."""
        table = _to_table(self.shared_patients, SharedPatient)
        return table.assign(parts=table["parts"].map(", ".join))

    @property
    def statistics(self) -> pd.DataFrame:
        """Medians by class of each image statistic, and how well it alone separates the classes; the best first."""
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
    def baseline(self) -> str:
        """The shortcut baseline in a sentence; empty if there is none."""
        if self.shortcut is None:
            return ""
        shortcut = self.shortcut
        return (
            f"Shortcut baseline: a random forest on image size, file format, brightness, borders and corners reaches macro-F1 "
            f"{shortcut.macro_f1:.3f} ({shortcut.low:.3f} to {shortcut.high:.3f}; chance {shortcut.chance:.3f})."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons why scores on these data may be optimistic, one sentence each."""
        return (*self._warn_of_shortcut(), *self._warn_of_lettering(), *self._warn_of_copies(), *self._warn_of_patients())

    def _warn_of_shortcut(self) -> list[str]:
        if self.shortcut is None or not self.shortcut.is_warning:
            return []
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

    def _warn_of_lettering(self) -> list[str]:
        warnings = []
        for one in self.lettering:
            low, high = min(one.rates), max(one.rates)
            if high - low >= _MIN_RATE_DIFFERENCE and one.place != "anywhere":
                highest_class, lowest_class = self.classes[one.rates.index(high)], self.classes[one.rates.index(low)]
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
            warnings.append(f"{n_conflicts} {_images_show(n_conflicts)} the same picture as one of another class.")
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
