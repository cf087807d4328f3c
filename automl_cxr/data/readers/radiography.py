"""The COVID-19 Radiography Database and similar data: each class folder contains folders of images and masks."""

from __future__ import annotations

from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import visible_folders
from automl_cxr.data.layout_rows import PART_OF_NAME, ImageRow, RawTable
from automl_cxr.data.readers.folders import keep_folder_split, walk_root
from automl_cxr.data.readers.metadata import join_metadata

_IMAGES = "images"
_MASK = "mask"  # in the name of a folder of masks: masks, "lung masks", "infection masks"


def recognises(root: Path, _options: DataOptions) -> bool:
    """Return whether at least two class folders contain a folder of images, and one of them a folder of masks."""
    return any(_are_class_folders(visible_folders(folder)) for folder in (root, *_part_folders(root)))


def _are_class_folders(folders: list[Path]) -> bool:
    inside = [[folder.name.casefold() for folder in visible_folders(folder)] for folder in folders]
    return sum(_IMAGES in names for names in inside) >= 2 and any(_is_mask_folder(name) for names in inside for name in names)


def _part_folders(root: Path) -> list[Path]:
    return [folder for folder in visible_folders(root) if folder.name.casefold() in PART_OF_NAME]


def _is_mask_folder(folder: str) -> bool:
    return _MASK in folder.casefold()


def read(root: Path, options: DataOptions) -> RawTable:
    """Read the images of each class folder, without the masks, which show only the outline of the lungs.

    Raises:
        DataError: The root is a file.
    """
    rows, ignored = [], {}
    n_masks = 0
    has_parts = not _are_class_folders(visible_folders(root))
    for path, reason in walk_root(root):
        *folders, _ = path.split("/")
        part = PART_OF_NAME.get(folders[0].casefold(), "") if has_parts and folders else ""
        label, kind = [*folders[has_parts:], "", ""][:2]
        if _is_mask_folder(kind):
            n_masks += 1
        elif reason:
            ignored[path] = reason
        elif kind.casefold() != _IMAGES:
            ignored[path] = "not in the images folder of a class folder"
        elif has_parts and not part:
            ignored[path] = "outside of the folders train, valid and test"
        else:
            rows.append(ImageRow(path, label, split=part))
    notes = (f"{n_masks} files in mask folders are not radiographs and are not used.",) if n_masks else ()
    joined = join_metadata(root, RawTable(tuple(rows), ignored, notes), options)
    return keep_folder_split(joined, rows) if has_parts else joined
