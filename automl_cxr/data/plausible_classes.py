"""Refuses names of folders that are probably not classes: parts, storage, masks, identifiers and other levels of a path.

Training on such classes runs and gives high scores, because patients or sources are easily told apart. A user who gives the
layout or the classes has decided, so that nothing is refused.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dicom_export import TABLE_OF_LABELS, describe_export
from automl_cxr.data.dicom_tags import Headers
from automl_cxr.data.files import enter_lone_folders, holds_images, visible_folders
from automl_cxr.data.layout_rows import PART_OF_NAME, ImageRow
from automl_cxr.data.layouts import LAYOUTS, SELF_CONTAINED, recognised_above
from automl_cxr.data.projections import UNKNOWN, projection_of
from automl_cxr.data.readers.table_proposals import describe_unused_tables, propose_table
from automl_cxr.errors import DataError

MAX_CLASSES = 200
MIN_MEAN_IMAGES = 5  # of a class
_MIN_CLASSES_FOR_MEAN = 4  # fewer classes may have few images, as in a first try
_SMALL_CLASS, _USUAL_CLASS = 5, 10  # a folder with fewer images beside classes with more is rarely a class
_FOLDER_LAYOUTS = ("folders", "split-folders", "class-splits", "radiography")
_SHOWN = 4
_TABLE = "the table that lists the images"
_GENERAL_WAYS = (
    "a table of the images, with --labels FILE",
    "labels in the names of the files, with --label-regex REGEX",
)
_MAX_LISTED = 12  # classes in a proposed option
_MAX_SEARCHED = 20  # folders of classes that are searched for data sets

_STORAGE = frozenset((
    "images", "image", "imgs", "img", "png", "pngs", "jpg", "jpgs", "jpeg", "dicom", "dicoms", "dcm", "files", "data",
    "cxr", "cxrpng", "xray", "xrays", "radiographs", "pictures", "photos", "raw", "original", "originals", "processed",
    "resized", "preprocessed", "cropped", "augmented", "dataset", "volumes", "annotations", "annotation", "labels", "bbox",
    "segmentation", "segmentations", "thumbnails", "thumbs", "preview", "previews", "figures", "plots", "results", "output",
    "outputs", "logs", "checkpoints", "samples", "misc", "tmp", "temp", "backup", "archive", "docs", "frontal", "lateral",
))  # fmt: skip
_IDENTIFIER_WORDS = (
    "patient", "pat", "pt", "p", "pid", "subject", "subj", "sub", "person", "case", "study", "series", "session", "ses", "scan",
    "s", "st", "se", "pa", "im", "img", "image", "images", "batch", "shard", "part", "folder", "dir", "chunk", "id", "mrn",
)  # fmt: skip
_IDENTIFIER = re.compile(
    rf"(?:{'|'.join(_IDENTIFIER_WORDS)})[-_ ]?\d+|(?:sub|ses)-[a-z]*\d+|\d{{3,}}|[0-9a-f]{{8,}}|[0-9a-f-]{{32,}}|[\d.]{{9,}}"
)
_MIN_IDENTIFIERS, _MOST = 4, 0.75  # identifiers among other names, such as the folder of a table among those of patients
_SEXES = frozenset({"male", "female", "m", "f"})
_MAX_NUMBERED = 10  # classes that are numbers of one or two digits


def check_plausible(
    root: Path, layout: str, rows: Sequence[ImageRow], headers: Headers, options: DataOptions, shown: Path | str
) -> None:
    """Refuse classes that are probably something else.

    Args:
        root: The data folder that was read.
        layout: Name of the layout.
        rows: All images with their labels.
        headers: Headers of the DICOM files, also of those that are left out.
        options: The choices of the user.
        shown: The path that the user gave, for messages.

    Raises:
        DataError: The classes are not plausible.
    """
    if options.classes is not None or options.layout is not None:
        return
    classes = sorted({row.label for row in rows})
    if len(classes) == 1 and options.class_map:
        return  # joined to one class, which the choice of classes refuses
    is_folders = layout in _FOLDER_LAYOUTS
    nested = _nested_sets(root) if layout in ("folders", "class-splits") else {}
    level = _deeper_classes(rows) if layout == "folders" else ()
    doubt = _Doubt("folders that contain data sets of their own", nested) if nested else None
    doubt = doubt or (_doubtful_names(classes) if is_folders else None)
    doubt = doubt or _doubtful_counts(rows, classes, is_folders=is_folders)
    if level:
        doubt = doubt or _Doubt(f"names of folders that contain the folders {_listed(level)}, which may be the classes")
    if doubt is None:
        return
    others = [] if nested else _other_classes(classes, doubt)
    ways = [f"the others, with --classes {shlex.quote(','.join(others))}"] if others else []
    export = describe_export(headers.values(), len(rows)) if is_folders and not nested else ""
    if is_folders:
        ways += _ways_to_labels(root, rows, classes, nested, level, is_export=bool(export))
        ways = ways or [
            "a table of the images, with --labels FILE",
            "labels in the names of the files, with --label-regex REGEX",
        ]
        ways += [f"these folders, with --layout {layout}"] if len(classes) > 1 else []
    elif layout != "names":
        ways.append("another column of the table, with --label-column NAME")
    ways += ["some of them, with --classes A,B"] if len(classes) > 1 and not others else []
    count = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    has_table = nested or any(way.startswith(_TABLE) for way in ways)
    unused = describe_unused_tables(root) if is_folders and not has_table else ""
    raise DataError(
        f"Classes must be findings with several images each; received {_listed(classes)} ({count}) in '{shown}', "
        f"which {'is' if len(classes) == 1 else 'are'} {doubt.describe()}{f'; found {export}' if export else ''}. "
        f"Use {'; or '.join(ways)}.{unused}"
    )


@dataclass(frozen=True)
class _Doubt:
    """Why classes are not plausible.

    Attributes:
        reason: What they probably are.
        names: The classes that it applies to, with an explanation of each; empty if it applies to all.
    """

    reason: str
    names: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        """Return the reason with the names, for a message."""
        shown = [f"{name}{explanation}" for name, explanation in self.names.items()]
        listed = ", ".join([*shown[:_SHOWN], *(["..."] if len(shown) > _SHOWN else [])])
        return f"{self.reason} ({listed})" if listed else self.reason


def _other_classes(classes: Sequence[str], doubt: _Doubt) -> list[str]:
    """Return the classes that may be classes, if they are several and can be named in an option."""
    others = [name for name in classes if name not in doubt.names]
    is_choice = doubt.names and 1 < len(others) < len(classes) and len(others) <= _MAX_LISTED
    return others if is_choice and not any("," in name for name in others) else []


def _ways_to_labels(
    root: Path,
    rows: Sequence[ImageRow],
    classes: Sequence[str],
    nested: Mapping[str, str],
    level: Sequence[str],
    *,
    is_export: bool,
) -> Iterator[str]:
    """Yield where the labels may be, if they are not the names of the folders, with the options that use them."""
    if nested:
        folder = shlex.quote(str(root / next(iter(nested))))
        if len(nested) > 1 or len(classes) == 1:
            yield f"one of them, by naming its folder, such as {folder}"
        else:
            more = f"--images {shlex.quote(str(root))} if its table also lists the other images"
            yield f"the data set in it, by naming its folder, {folder}, with {more}"
        return
    above = recognised_above(root)
    if above is not None:
        yield f"the folder above, by naming {shlex.quote(str(above.folder))} (layout {above.layout})"
    table = propose_table(root)
    if table:
        yield f"{_TABLE}, with {table}"
    elif is_export:
        yield f"a table of the labels, {TABLE_OF_LABELS}"
    if len(classes) == 1 and len({row.image.split("/")[1] for row in rows if row.image.count("/") > 1}) > 1:
        yield f"the folders in it, by naming {shlex.quote(str(root / rows[0].image.partition('/')[0]))}"
    if level:
        yield f"the folders {_listed(level)}, with --label-regex {shlex.quote('^[^/]+/([^/]+)/')}"


def _nested_sets(root: Path) -> dict[str, str]:
    """Return the subfolders that are recognised as data sets with tables and images, with their layouts."""
    options = DataOptions()
    found = {}
    for subfolder in visible_folders(root)[:_MAX_SEARCHED]:
        folder = enter_lone_folders(subfolder)
        layout = next((one.name for one in LAYOUTS if one.name in SELF_CONTAINED and one.recognises(folder, options)), None)
        if layout is not None and (layout == "arrays" or holds_images(folder)):
            found[folder.relative_to(root).as_posix()] = f": {layout}"
    return found


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _doubtful_names(classes: Sequence[str]) -> _Doubt | None:
    """Return what the names of the classes probably are; None if they may be classes."""
    if len(classes) == 1:
        return _Doubt("the only folder with images")
    tests = {
        "partly masks": _is_mask,
        "partly names of parts": lambda name: name.strip().casefold() in PART_OF_NAME,
        "partly names of storage folders": _is_storage,
    }
    for reason, applies in tests.items():
        names = [name for name in classes if applies(name)]
        if names:
            return _Doubt(reason, dict.fromkeys(names, ""))
    identifiers = [name for name in classes if _is_identifier(name)]
    if len(identifiers) == len(classes) or len(identifiers) >= max(_MIN_IDENTIFIERS, _MOST * len(classes)):
        return _Doubt("numbers or identifiers, as of patients or storage folders")
    if len(classes) > _MAX_NUMBERED and all(name.strip().isdecimal() for name in classes):
        return _Doubt("numbers")
    return None


def _is_mask(name: str) -> bool:
    return re.search(r"(?<![a-z])(mask|masks)(?![a-z])|masks?$", name.strip().casefold()) is not None


def _is_storage(name: str) -> bool:
    words = [word.casefold() for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+", name)]
    if not words:
        return False
    ends = {words[0], words[-1]}  # train_images, dicom-images-test
    return "".join(words) in _STORAGE or (len(words) > 1 and (words[-1] in _STORAGE or not ends.isdisjoint(PART_OF_NAME)))


def _is_identifier(name: str) -> bool:
    return _IDENTIFIER.fullmatch(name.strip().casefold()) is not None


def _doubtful_counts(rows: Sequence[ImageRow], classes: Sequence[str], *, is_folders: bool) -> _Doubt | None:
    if len(classes) > MAX_CLASSES:
        return _Doubt(f"more than {MAX_CLASSES}")
    counts = Counter(row.label for row in rows)
    numbers = [counts[name] for name in classes]
    n_names = len({name.casefold() for name in classes})  # other spellings of a class have a message of their own
    if n_names >= _MIN_CLASSES_FOR_MEAN and sum(numbers) < MIN_MEAN_IMAGES * n_names:
        return _Doubt(f"too many for {sum(numbers)} images: fewer than {MIN_MEAN_IMAGES} images for a class on average")
    small = [name for name in classes if counts[name] < _SMALL_CLASS]
    if is_folders and len(classes) - len(small) >= 2 and small and median(numbers) >= _USUAL_CLASS:
        return _Doubt("partly folders with few images", {name: f" {counts[name]}" for name in small})
    return None


def _deeper_classes(rows: Sequence[ImageRow]) -> tuple[str, ...]:
    """Return the names of folders that are in several class folders and contain at least half of all images.

    The outer folders are then probably sources, such as hospitals, and the inner ones classes. Inner folders that are views,
    parts, identifiers or sexes subdivide a class.
    """
    outer: Mapping[str, set[str]] = defaultdict(set)
    n_images: Counter[str] = Counter()
    for row in rows:
        _, *below = row.image.split("/")[:-1]
        if below:
            outer[below[0]].add(row.label)
            n_images[below[0]] += 1
    names = tuple(sorted(name for name, labels in outer.items() if len(labels) > 1 and not _subdivides(name)))
    is_most = 2 * sum(n_images[name] for name in names) >= len(rows)
    return names if 1 < len(names) <= MAX_CLASSES and is_most else ()


def _subdivides(name: str) -> bool:
    if projection_of(name) != UNKNOWN or name.strip().casefold() in (_SEXES | PART_OF_NAME.keys()):
        return True
    return _is_identifier(name) or _is_storage(name) or _is_mask(name) or name.isdecimal()
