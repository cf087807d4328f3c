"""An audit as sections of a page, with pictures of what it found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.audit.record import Audit, Duplicate
from automl_cxr.data.decode import decode_image, fit_square
from automl_cxr.errors import UnreadableImageError
from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Table, Text

_PAIRS_SHOWN = 24
_ROWS_SHOWN = 100
_SIDE = 200  # pixels of a picture
_GAP = 4


def audit_sections(audit: Audit) -> list[Section]:
    """Lay an audit out: what it warns of, shortcuts, burnt-in text, duplicates with pictures, patients, files.

    Pictures are read from the data's folder; where they are gone, the tables stand alone.
    """
    return [
        Section("Audit of the data", _summarise(audit)),
        Section("Shortcuts: what tells the classes besides anatomy", _show_traits(audit)),
        Section("Suspected burnt-in text and markers", _show_lettering(audit)),
        Section("Duplicates", _show_duplicates(audit)),
        Section("Patients in more than one part", _show_patients(audit)),
        Section("Files", _show_files(audit)),
    ]


def _summarise(audit: Audit) -> list[Part]:
    counts = ", ".join(f"{n:,} {name}" for name, n in zip(audit.classes, audit.n_images, strict=True))
    patients = "patients unknown" if audit.n_patients is None else f"{audit.n_patients:,} patients"
    parts = "".join(f", {n:,} {part}" for part, n in audit.parts.items())
    told: list[Part] = [Text(f"{audit.root}: {sum(audit.n_images):,} images ({counts}), {patients}{parts}.")]
    told += [Text(warning, is_warning=True) for warning in audit.warnings]
    told += [Text(audit.baseline)] if audit.baseline else []
    return [*told, *map(Text, audit.notes)]


def _show_traits(audit: Audit) -> list[Part]:
    if audit.traits.empty:
        return []
    caption = (
        "Median by class. macro_f1: what a small tree reaches from this trait alone, by patients that it did not learn from. "
        "share: right answers between the two classes that it tells apart best, each class counting alike; chance is 0.5."
    )
    return [Table(audit.traits, caption)]


def _show_lettering(audit: Audit) -> list[Part]:
    caption = "Share of each class's images with small, bright, sharp structures there: letters, side markers, but devices too."
    examples = [(image, f"{place.place.replace('_', ' ')}: {image}") for place in audit.lettering for image in place.examples]
    pictures = [picture for image, told in examples for picture in _picture(audit, [image], told)]
    return [Table(audit.burnt_in_text, caption), *([Pictures(pictures)] if pictures else [])]


def _show_duplicates(audit: Audit) -> list[Part]:
    found = sorted(audit.found_duplicates, key=lambda one: (not one.is_conflict, not one.crosses_parts))
    if not found:
        return [Text("No picture was found twice, neither resized, compressed, brightened nor mirrored.")]
    pictures = [
        picture for one in found[:_PAIRS_SHOWN] for picture in _picture(audit, [one.of, one.image], _describe_pair(one))
    ]
    table = pd.DataFrame([vars(one) for one in found[:_ROWS_SHOWN]])
    what = "image shows" if len(found) == 1 else "images show"
    listed = f"; {_ROWS_SHOWN} are listed" if len(found) > _ROWS_SHOWN else ""
    caption = (
        f"{len(found):,} {what} the same picture as another one, {len(audit.conflicts)} of them with another label, "
        f"{len(audit.across_parts)} in another part{listed}."
    )
    return [
        Table(table, caption),
        *([Pictures(pictures)] if pictures else []),
    ]


def _describe_pair(one: Duplicate) -> str:
    ends = [
        f"{image} ({', '.join(word for word in (label, part) if word)})"
        for image, label, part in ((one.of, one.of_label, one.of_part), (one.image, one.label, one.part))
    ]
    return f"{one.kind}, {one.correlation:.3f}: {' and '.join(ends)}"


def _show_patients(audit: Audit) -> list[Part]:
    table = audit.patients_across_parts
    if table.empty:
        return []
    return [Table(table.head(_ROWS_SHOWN), f"{len(table):,} patients, of whom at most {_ROWS_SHOWN} are listed.")]


def _show_files(audit: Audit) -> list[Part]:
    told: list[Part] = [Table(audit.file_formats, "Images of each class by file format.")]
    if audit.unreadable:
        rows = list(audit.unreadable.items())[:_ROWS_SHOWN]
        table = pd.DataFrame(rows, columns=["image", "reason"])
        told.append(Table(table, f"{len(audit.unreadable):,} files cannot be read, of which at most {_ROWS_SHOWN} are listed."))
    return told


def _picture(audit: Audit, images: Sequence[str], caption: str) -> list[Picture]:
    """Put images side by side; none where one of them cannot be read any more."""
    try:
        squares = [fit_square(decode_image(Path(audit.root) / image), _SIDE, "pad") for image in images]
    except UnreadableImageError:
        return []
    gap = np.full((_SIDE, _GAP), 255, np.uint8)
    beside = [part for square in squares for part in (gap, square)][1:]
    return [Picture(np.concatenate(beside, axis=1), caption)]
