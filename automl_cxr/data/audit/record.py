"""What an audit found: a frozen record that is JSON both ways, and tables for people."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

_SKILL_OF_A_SHORTCUT = 0.25  # share of the way from chance to 1, by the interval's lower end
_RATES_APART = 0.25  # of burnt-in text in two classes


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An image that shows the same picture as another one.

    Attributes:
        image: Id of the image.
        of: Id of the other; three copies of a picture are two duplicates.
        kind: "identical" pixels, "near" or "mirrored".
        correlation: Of the fine structure, at most 1.
        label: Its class.
        of_label: The other's class.
        part: "train", "valid", "test", or "" where no split is given.
        of_part: The other's.
        patient: Whose it is; the image itself where patients are unknown.
        of_patient: Whose the other is.
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
        """Whether one picture has two labels."""
        return self.label != self.of_label

    @property
    def crosses_parts(self) -> bool:
        """Whether one picture is learnt from and judged by."""
        return self.part != self.of_part


@dataclass(frozen=True, kw_only=True)
class SharedPatient:
    """A patient with images in more than one part."""

    patient: str
    parts: tuple[str, ...]
    n_images: int


@dataclass(frozen=True, kw_only=True)
class StatisticDifference:
    """How a trait differs between classes.

    Attributes:
        trait: Its name, as in ``traits.measure_image_statistics``.
        by_class: Its median in each class; of file formats the most frequent.
        macro_f1: What a small tree reaches from this trait alone, by patients that it did not learn from.
        told: The two classes that it tells apart best.
        told_share: Share of those two classes' images that it gets right, each class counting alike; chance is 0.5.
    """

    trait: str
    by_class: tuple[float | str, ...]
    macro_f1: float
    told: tuple[str, str]
    told_share: float


@dataclass(frozen=True, kw_only=True)
class Lettering:
    """Suspected burnt-in text at a place.

    Attributes:
        place: A corner, or "anywhere".
        rates: Share of each class's images.
        examples: Images to look at, of the class with the highest rate.
    """

    place: str
    rates: tuple[float, ...]
    examples: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """What a random forest reaches from traits that are not anatomy: the line that a classifier has to beat.

    Attributes:
        macro_f1: By patients that it did not learn from.
        low: Lower end of the 95 % interval by patient.
        high: Upper end.
        chance: What guessing by the classes' shares reaches.
        n_folds: Folds by patient.
    """

    macro_f1: float
    low: float
    high: float
    chance: float
    n_folds: int

    @property
    def is_warning(self) -> bool:
        """Whether even the lower end lies a quarter of the way from chance to 1, or more."""
        return self.low - self.chance >= _SKILL_OF_A_SHORTCUT * (1 - self.chance)


@dataclass(frozen=True, kw_only=True, repr=False)
class Audit:
    """What an audit found.

    Attributes:
        root: Folder that the image ids are relative to.
        classes: Class names.
        n_images: Readable images of each class.
        n_patients: Patients, or None where they are unknown.
        parts: Images of each part; empty where no split is given.
        found_duplicates: Images that show the same picture as another one.
        shared_patients: Patients with images in more than one part.
        differences: How each trait differs between classes, the most telling first.
        formats: Images of each file format, by class.
        lettering: Suspected burnt-in text, by corner and anywhere.
        shortcut: The baseline; None where a class has less than two patients.
        unreadable: Image to reason.
        notes: What could not be audited, and what else there is to know.
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
        """Say it in lines, as a notebook shows it."""
        head = f"Audit of {self.root}: {sum(self.n_images):,} images, {len(self.found_duplicates)} duplicates"
        return "\n".join([head, *([self.baseline] if self.baseline else []), *self.warnings])

    @classmethod
    def from_json(cls, text: str) -> Audit:
        values = json.loads(text)
        kinds: dict[str, Any] = {
            "found_duplicates": Duplicate,
            "shared_patients": SharedPatient,
            "differences": StatisticDifference,
            "lettering": Lettering,
        }
        for name, kind in kinds.items():
            values[name] = tuple(kind(**_with_tuples(one)) for one in values[name])
        if values["shortcut"] is not None:
            values["shortcut"] = Shortcut(**values["shortcut"])
        return cls(**_with_tuples(values))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, indent=1)

    @property
    def duplicates(self) -> pd.DataFrame:
        """One row for each image that shows the same picture as another one."""
        return _to_table(self.found_duplicates, Duplicate)

    @property
    def conflicts(self) -> pd.DataFrame:
        """The duplicates of two labels."""
        return _to_table([one for one in self.found_duplicates if one.is_conflict], Duplicate)

    @property
    def across_parts(self) -> pd.DataFrame:
        """The duplicates of two parts."""
        return _to_table([one for one in self.found_duplicates if one.crosses_parts], Duplicate)

    @property
    def patients_across_parts(self) -> pd.DataFrame:
        """Patients with images in more than one part."""
        table = _to_table(self.shared_patients, SharedPatient)
        return table.assign(parts=table["parts"].map(", ".join))

    @property
    def traits(self) -> pd.DataFrame:
        """Medians by class of each trait, and how well it alone tells the classes; the most telling first."""
        return pd.DataFrame(
            [
                {
                    "trait": one.trait,
                    **dict(zip(self.classes, one.by_class, strict=True)),
                    "macro_f1": one.macro_f1,
                    "tells": " from ".join(one.told),
                    "share": one.told_share,
                }
                for one in self.differences
            ],
            columns=["trait", *self.classes, "macro_f1", "tells", "share"],
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
        """The shortcut baseline in a sentence; empty where there is none."""
        if self.shortcut is None:
            return ""
        line = self.shortcut
        return (
            f"Shortcut baseline: from size, file, brightness, borders and corners alone a random forest reaches macro-F1 "
            f"{line.macro_f1:.3f} ({line.low:.3f} to {line.high:.3f}; chance {line.chance:.3f})."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What may make scores on these data mean less than they seem to, a sentence each."""
        return (*self._warn_of_shortcut(), *self._warn_of_lettering(), *self._warn_of_copies(), *self._warn_of_patients())

    def _warn_of_shortcut(self) -> list[str]:
        if self.shortcut is None or not self.shortcut.is_warning:
            return []
        line = self.shortcut
        best = max(self.differences, key=lambda one: one.told_share, default=None)
        alone = ""
        if best is not None:
            pair = " from ".join(best.told)
            alone = f"; {best.trait} alone tells {pair} in {best.told_share:.1%} (both classes counting alike)"
        told = (
            f"A shortcut is in the data: without looking at anatomy a random forest reaches macro-F1 {line.macro_f1:.3f} "
            f"({line.low:.3f} to {line.high:.3f}, chance {line.chance:.3f}){alone}. A classifier may have learnt the same, and "
            "its score may not hold for images from elsewhere."
        )
        return [told]

    def _warn_of_lettering(self) -> list[str]:
        told = []
        for one in self.lettering:
            low, high = min(one.rates), max(one.rates)
            if high - low >= _RATES_APART and one.place != "anywhere":
                often, seldom = self.classes[one.rates.index(high)], self.classes[one.rates.index(low)]
                place = one.place.replace("_", " ")
                told.append(
                    f"Burnt-in text or markers are suspected at the {place} of {high:.0%} of the images of {often}, "
                    f"but of {low:.0%} of {seldom}."
                )
        return told

    def _warn_of_copies(self) -> list[str]:
        n_crossing = sum(one.crosses_parts for one in self.found_duplicates)
        n_conflicts = sum(one.is_conflict for one in self.found_duplicates)
        told = []
        if n_crossing:
            told.append(f"{n_crossing} {_images(n_crossing)} the same picture as one in another part: scores may be too good.")
        if n_conflicts:
            told.append(f"{n_conflicts} {_images(n_conflicts)} the same picture as one of another class.")
        return told

    def _warn_of_patients(self) -> list[str]:
        if not self.shared_patients:
            return []
        n_patients, n_images = len(self.shared_patients), sum(one.n_images for one in self.shared_patients)
        return [f"{n_patients} patients ({n_images} images) stand in more than one part: scores may be too good."]


def _images(n: int) -> str:
    return "image shows" if n == 1 else "images show"


def _with_tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _to_table(records: Sequence[Any], kind: Any) -> pd.DataFrame:
    columns = [field.name for field in dataclasses.fields(kind)]
    return pd.DataFrame([[getattr(one, name) for name in columns] for one in records], columns=columns)
