"""Class names of the chest radiographs in MedMNIST, whose archives (.npz) contain numbers only.

The names are those of the package medmnist (``medmnist.INFO``). An archive is recognised by the name that MedMNIST gives it,
such as pneumoniamnist.npz or chestmnist_224.npz.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Lines = list[list[str]]

CLASS_NAMES = {
    "pneumoniamnist": ("normal", "pneumonia"),
    "chestmnist": (
        *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
        *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
    ),
}


def name_classes(archive: str, labels: Mapping[str, Lines]) -> dict[str, Lines]:
    """Return the lines of arrays of labels with the names of their classes, if the archive is known.

    Args:
        archive: Name of the archive without its suffix.
        labels: Lines of each array of labels, as ``archives.label_lines`` returns them.
    """
    names = CLASS_NAMES.get(re.sub(r"_\d+$", "", archive.casefold()), ())
    return {array: _name_lines(lines, names) for array, lines in labels.items()}


def _name_lines(lines: Lines, names: tuple[str, ...]) -> Lines:
    header, *rows = lines
    if len(header) == len(names):
        return [list(names), *rows]
    name_of = {str(number): name for number, name in enumerate(names)}
    if len(header) == 1 and {row[0] for row in rows} <= name_of.keys():
        return [header, *([name_of[row[0]]] for row in rows)]
    return lines
