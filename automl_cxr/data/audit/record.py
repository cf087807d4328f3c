"""The result of an audit: a frozen record with JSON conversion, tables and warnings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from automl_cxr.data.audit.duplicate_results import Duplicate, SharedPatient
from automl_cxr.data.audit.shortcut_results import FindingShortcut, Shortcut
from automl_cxr.data.audit.statistic_results import FindingDifference, Lettering, StatisticDifference
from automl_cxr.data.audit.warnings import (
    join_names,
    warn_of_duplicates,
    warn_of_lettering,
    warn_of_metadata,
    warn_of_patients,
    warn_of_shortcut,
)
from automl_cxr.tasks import MULTICLASS, MULTILABEL
from automl_cxr.text_records import build_record, parse_json


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
        metadata_shortcut: The metadata baseline; None if no metadata are known, or as for ``shortcut``.
        metadata_columns: Columns of metadata that it uses.
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
    metadata_shortcut: Shortcut | FindingShortcut | None = None
    metadata_columns: tuple[str, ...] = ()

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
        for shortcut in (audit.shortcut, audit.metadata_shortcut):
            if isinstance(shortcut, FindingShortcut):
                by_class += [shortcut.aucs, shortcut.lows, shortcut.highs]
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
        return self._by_finding(self.shortcut)

    @property
    def metadata_by_finding(self) -> pd.DataFrame:
        """The ROC AUC of the metadata baseline for each finding, with its interval; empty for classes."""
        return self._by_finding(self.metadata_shortcut)

    def _by_finding(self, shortcut: Shortcut | FindingShortcut | None) -> pd.DataFrame:
        columns = ["finding", "images", "auc", "low", "high"]
        if not isinstance(shortcut, FindingShortcut):
            return pd.DataFrame(columns=columns)
        scores = (shortcut.aucs, shortcut.lows, shortcut.highs)
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
    def metadata_baseline(self) -> str:
        """The metadata baseline in a sentence; empty if there is none."""
        found = self.metadata_shortcut
        if found is None:
            return ""
        return (
            f"Metadata baseline: a logistic regression on {join_names(self.metadata_columns)}, without the image, reaches "
            f"{found.title} {found.score:.3f} ({found.low:.3f} to {found.high:.3f}; chance {found.chance:.3f})."
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Reasons why scores on these data may be optimistic, one sentence each."""
        return (
            *warn_of_shortcut(self.shortcut, self.differences, self.classes),
            *warn_of_metadata(self.metadata_shortcut, self.metadata_columns, self.classes),
            *warn_of_lettering(self.lettering, self.classes, self.n_images, is_multilabel=self.is_multilabel),
            *warn_of_duplicates(self.found_duplicates, is_multilabel=self.is_multilabel),
            *warn_of_patients(self.shared_patients),
        )


def _to_table(records: Sequence[Any], kind: Any) -> pd.DataFrame:
    columns = [field.name for field in dataclasses.fields(kind)]
    return pd.DataFrame([[getattr(one, name) for name in columns] for one in records], columns=columns)
