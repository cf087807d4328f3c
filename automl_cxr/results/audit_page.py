"""A data audit as sections of an HTML page, with pictures of its findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.audit.duplicate_results import Duplicate
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.audit.warnings import join_names
from automl_cxr.data.decode import decode_image, fit_square
from automl_cxr.errors import UnreadableImageError
from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Table, Text

_MAX_PAIRS = 24
_MAX_ROWS = 100
_SIDE = 200  # height and width of a picture, in pixels
_GAP = 4  # pixels between two pictures


def audit_sections(audit: Audit) -> list[Section]:
    """Return the sections of an audit: warnings, shortcuts, burnt-in text, duplicates with pictures, patients and files.

    Pictures are read from ``audit.root``. Images that cannot be read are not shown.
    """
    return [
        Section("Audit of the data", _summarise(audit)),
        Section("Shortcuts: differences between the classes besides anatomy", _show_traits(audit)),
        Section("Suspected burnt-in text and markers", _show_lettering(audit)),
        Section("Duplicates", _show_duplicates(audit)),
        Section("Patients in more than one part", _show_patients(audit)),
        Section("Files", _show_files(audit)),
    ]


def _of_each(audit: Audit) -> str:
    return "with each finding" if audit.is_multilabel else "of each class"


def _summarise(audit: Audit) -> list[Part]:
    counts = ", ".join(f"{n:,} {name}" for name, n in zip(audit.classes, audit.n_images, strict=True))
    patients = "patients unknown" if audit.n_patients is None else f"{audit.n_patients:,} patients"
    parts = "".join(f", {n:,} {part}" for part, n in audit.parts.items())
    texts: list[Part] = [Text(f"{audit.root}: {audit.n_all:,} images ({counts}), {patients}{parts}.")]
    texts += [Text(warning, is_warning=True) for warning in audit.warnings]
    texts += [Text(sentence) for sentence in (audit.baseline, audit.metadata_baseline) if sentence]
    return [*texts, *map(Text, audit.notes)]


def _show_traits(audit: Audit) -> list[Part]:
    if audit.statistics.empty:
        return []
    if audit.is_multilabel:
        return _show_traits_of_findings(audit)
    caption = (
        "Median of each property by class. macro_f1: macro-F1 of a small decision tree on this property only, evaluated on "
        "patients not used for training. share: balanced accuracy for the two classes that the property separates best; "
        "0.5 is chance level."
    )
    return [Table(audit.statistics, caption)]


def _show_traits_of_findings(audit: Audit) -> list[Part]:
    of_forest = (
        "ROC AUC of the shortcut baseline for each finding, with its 95 % interval: a random forest on all properties, "
        "evaluated on patients not used for training. 0.5 is chance level. images: number of images with the finding."
    )
    of_statistics = (
        "ROC AUC of each property alone for each finding; at least 0.5, because it does not count whether larger or smaller "
        "values are those of images with the finding."
    )
    of_metadata = (
        f"ROC AUC of the metadata baseline for each finding: a logistic regression on {join_names(audit.metadata_columns)}, "
        "evaluated on patients not used for training."
    )
    tables = [Table(audit.shortcut_by_finding, of_forest)] if audit.shortcut is not None else []
    tables += [Table(audit.metadata_by_finding, of_metadata)] if audit.metadata_shortcut is not None else []
    return [*tables, Table(audit.statistics, of_statistics)]


def _show_lettering(audit: Audit) -> list[Part]:
    caption = (
        f"Share of the images {_of_each(audit)} with small, bright, sharp structures in this region: letters, side markers or "
        "medical devices."
    )
    examples = [(image, f"{place.place.replace('_', ' ')}: {image}") for place in audit.lettering for image in place.examples]
    pictures = [picture for image, title in examples for picture in _picture(audit, [image], title)]
    return [Table(audit.burnt_in_text, caption), *([Pictures(pictures)] if pictures else [])]


def _show_duplicates(audit: Audit) -> list[Part]:
    found = sorted(audit.found_duplicates, key=lambda one: (not one.is_conflict, not one.crosses_parts))
    if not found:
        return [Text("No duplicates were found, including resized, compressed, brightened and mirrored copies.")]
    pictures = [picture for one in found[:_MAX_PAIRS] for picture in _picture(audit, [one.of, one.image], _describe_pair(one))]
    table = audit.tabulate(found[:_MAX_ROWS])
    are = "image is a duplicate" if len(found) == 1 else "images are duplicates"
    listed = f"; the first {_MAX_ROWS} are listed" if len(found) > _MAX_ROWS else ""
    labels = "contradicting labels" if audit.is_multilabel else "another label"
    caption = (
        f"{len(found):,} {are} of another image: {len(audit.conflicts)} with {labels}, {len(audit.across_parts)} in "
        f"another part{listed}."
    )
    return [
        Table(table, caption),
        *([Pictures(pictures)] if pictures else []),
    ]


def _describe_pair(one: Duplicate) -> str:
    images = [
        f"{image} ({', '.join(word for word in (label, part) if word)})"
        for image, label, part in ((one.of, one.of_label, one.of_part), (one.image, one.label, one.part))
    ]
    return f"{one.kind}, {one.correlation:.3f}: {' and '.join(images)}"


def _show_patients(audit: Audit) -> list[Part]:
    table = audit.patients_across_parts
    if table.empty:
        return []
    caption = f"{len(table):,} patients have images in more than one part; at most {_MAX_ROWS} are listed."
    return [Table(table.head(_MAX_ROWS), caption)]


def _show_files(audit: Audit) -> list[Part]:
    parts: list[Part] = [
        Table(
            audit.file_formats,
            f"Number of images {_of_each(audit)} by file format.",
        )
    ]
    if audit.unreadable:
        rows = list(audit.unreadable.items())[:_MAX_ROWS]
        table = pd.DataFrame(rows, columns=["image", "reason"])
        parts.append(Table(table, f"{len(audit.unreadable):,} files cannot be read; at most {_MAX_ROWS} are listed."))
    return parts


def _picture(audit: Audit, images: Sequence[str], caption: str) -> list[Picture]:
    """Return one picture of images side by side, or an empty list if one of them cannot be read."""
    try:
        squares = [fit_square(decode_image(Path(audit.root) / image), _SIDE, "pad") for image in images]
    except UnreadableImageError:
        return []
    gap = np.full((_SIDE, _GAP), 255, np.uint8)
    beside = [part for square in squares for part in (gap, square)][1:]
    return [Picture(np.concatenate(beside, axis=1), caption)]
