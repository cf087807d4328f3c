"""Refuses names of folders that are probably not classes: parts, storage, masks, identifiers and other levels of a path.

Training on such classes runs and gives high scores, because patients or sources are easily told apart. A user who gives the
layout or the classes has decided, so that nothing is refused.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dicom_export import TABLE_OF_LABELS, describe_export
from automl_cxr.data.dicom_tags import Headers
from automl_cxr.data.files import enter_lone_folders, visible_folders
from automl_cxr.data.layout_rows import PART_OF_NAME, ImageRow
from automl_cxr.data.layouts import LAYOUTS, SELF_CONTAINED
from automl_cxr.data.readers.table_search import propose_table
from automl_cxr.errors import DataError

MAX_CLASSES = 200
MIN_MEAN_IMAGES = 5  # of a class
_MIN_CLASSES_FOR_MEAN = 4  # fewer classes may have few images, as in a first try
_SMALL_CLASS, _USUAL_CLASS = 5, 10  # a folder with fewer images beside classes with more is rarely a class
_FOLDER_LAYOUTS = ("folders", "split-folders", "class-splits", "radiography")
_SHOWN = 4
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
_IDENTIFIER = re.compile(rf"(?:{'|'.join(_IDENTIFIER_WORDS)})[-_ ]?\d+|\d{{3,}}|[0-9a-f]{{8,}}|[0-9a-f-]{{32,}}|[\d.]{{9,}}")
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
    is_folders = layout in _FOLDER_LAYOUTS
    reason = _implausible_names(classes) if is_folders else ""
    reason = reason or _implausible_counts(rows, classes, is_folders=is_folders)
    nested = _nested_sets(root) if layout in ("folders", "class-splits") else ""
    if nested:
        reason = f"folders that contain data sets of their own ({nested})"
    level = _deeper_classes(rows) if layout == "folders" else ()
    if level:
        reason = reason or (f"names of folders that each contain the folders {_listed(level)}, which may be the classes")
    if not reason:
        return
    ways = []
    if nested:
        ways.append(f"one of them, by naming its folder, such as {shlex.quote(str(root / nested.partition(':')[0]))}")
    export = describe_export(headers.values(), len(rows)) if is_folders and not nested else ""
    if is_folders:
        table = "" if nested else propose_table(root)
        if table:
            ways.append(f"the table that lists the images, with {table}")
        elif export:
            ways.append(f"a table of the labels, {TABLE_OF_LABELS}")
        if len(classes) == 1 and len({row.image.split("/")[1] for row in rows if row.image.count("/") > 1}) > 1:
            ways.append(f"the folders in it, by naming {shlex.quote(str(root / classes[0]))}")
        if level:
            ways.append(f"the folders {_listed(level)}, with --label-regex {shlex.quote('^[^/]+/([^/]+)/')}")
        if len(classes) > 1:
            ways.append(f"these folders, with --layout {layout}")
    elif layout != "names":
        ways.append("another column of the table, with --label-column NAME")
    if len(classes) > 1:
        ways.append("some of them, with --classes A,B")
    count = "1 class" if len(classes) == 1 else f"{len(classes)} classes"
    raise DataError(
        f"Classes must be findings with several images each; received {_listed(classes)} ({count}) in '{shown}', "
        f"which are {reason}{f'; found {export}' if export else ''}. "
        f"Use {'; or '.join(ways) or 'the folder of the class folders'}."
    )


def _nested_sets(root: Path) -> str:
    """Return the subfolders that are recognised as data sets with tables, with their layouts."""
    options = DataOptions()
    found = []
    for subfolder in visible_folders(root)[:_MAX_SEARCHED]:
        folder = enter_lone_folders(subfolder)
        layout = next((one.name for one in LAYOUTS if one.name in SELF_CONTAINED and one.recognises(folder, options)), None)
        if layout is not None:
            found.append(f"{folder.relative_to(root).as_posix()}: {layout}")
    return ", ".join(found)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(sorted(names)[:_SHOWN])
    return f"{shown}, ..." if len(names) > _SHOWN else shown


def _implausible_names(classes: Sequence[str]) -> str:
    """Return what the names of the classes probably are; empty if they may be classes."""
    folded = [name.strip().casefold() for name in classes]
    masks = [name for name in folded if re.search(r"(?<![a-z])(mask|masks)(?![a-z])|masks?$", name)]
    if masks:
        return f"partly masks ({_listed(masks)})"
    parts = [name for name in folded if name in PART_OF_NAME]
    if parts:
        return f"partly names of parts ({_listed(parts)})"
    stored = [name for name in classes if _is_storage(name)]
    if stored:
        return f"partly names of storage folders ({_listed(stored)})"
    if all(_IDENTIFIER.fullmatch(name) for name in folded):
        return "numbers or identifiers, as of patients or storage folders"
    if len(folded) > _MAX_NUMBERED and all(name.isdecimal() for name in folded):
        return "numbers"
    return ""


def _is_storage(name: str) -> bool:
    words = [word.casefold() for word in re.findall(r"[A-Z]*[a-z]+|[A-Z]+", name)]
    joined = "".join(words)
    if joined in _STORAGE or (len(words) > 1 and words[-1] in _STORAGE):
        return True
    return len(words) > 1 and words[0] in PART_OF_NAME  # train_images, test_batch_preview


def _implausible_counts(rows: Sequence[ImageRow], classes: Sequence[str], *, is_folders: bool) -> str:
    if len(classes) > MAX_CLASSES:
        return f"more than {MAX_CLASSES}"
    counts = Counter(row.label for row in rows)
    numbers = [counts[name] for name in classes]
    n_names = len({name.casefold() for name in classes})  # other spellings of a class have a message of their own
    if n_names >= _MIN_CLASSES_FOR_MEAN and sum(numbers) < MIN_MEAN_IMAGES * n_names:
        return f"too many for {sum(numbers)} images: fewer than {MIN_MEAN_IMAGES} images for a class on average"
    small = [name for name in classes if counts[name] < _SMALL_CLASS]
    if is_folders and len(classes) - len(small) >= 2 and small and median(numbers) >= _USUAL_CLASS:
        return f"partly folders with few images ({', '.join(f'{name} {counts[name]}' for name in small[:_SHOWN])})"
    return ""


def _deeper_classes(rows: Sequence[ImageRow]) -> tuple[str, ...]:
    """Return the names of the folders below the class folders, if they are the same in several of them."""
    inside: Mapping[str, set[str]] = defaultdict(set)
    for row in rows:
        _, *below = row.image.split("/")[:-1]
        if not below:
            return ()
        inside[below[0]].add(row.label)
    n_labels = len({row.label for row in rows})
    are_shared = len(inside) > 1 and all(len(labels) > 1 for labels in inside.values()) and n_labels > 1
    names = tuple(sorted(inside))
    is_deeper = are_shared and not _implausible_names(names) and len(names) <= MAX_CLASSES
    return names if is_deeper else ()
