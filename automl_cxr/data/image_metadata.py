"""The metadata of a study's images, such as sex and age, as image_metadata.csv beside its specification.

The first column names the image, as in the split; a value that is not known is empty. The file has a row for each image of all
parts, and no labels. Studies of earlier versions have no such file.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from automl_cxr.csv_io import format_rows, read_rows
from automl_cxr.errors import DataError
from automl_cxr.io import write_text

METADATA_FILE = "image_metadata.csv"


def save_image_metadata(metadata: pd.DataFrame, folder: Path) -> None:
    """Write the metadata of a data set into the folder of a study; nothing if no value is known.

    Args:
        metadata: Texts, with the images as index (``Dataset.metadata``).
        folder: Folder of the study.

    Raises:
        OSError: The file cannot be written.
    """
    if metadata.columns.empty:
        return
    rows = zip(metadata.index, *(metadata[name] for name in metadata.columns), strict=True)
    write_text(folder / METADATA_FILE, format_rows([["image", *metadata.columns], *rows]))


def load_image_metadata(folder: Path) -> pd.DataFrame:
    """Read the metadata of a study.

    Args:
        folder: Folder of the study.

    Returns:
        Texts, with the images as index; without a column if the study has none.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / METADATA_FILE
    if not path.is_file():
        return pd.DataFrame()
    header, rows = read_rows(path)
    if header[:1] != ["image"] or len(set(header)) < len(header):
        raise DataError(
            f"The metadata of a study must have the column image first, and others once; '{path}' has {', '.join(header)}. "
            "Delete the file: the next search writes it again."
        )
    columns = {name: [row[place] for row in rows] for place, name in enumerate(header)}
    return pd.DataFrame({name: columns[name] for name in header[1:]}, index=columns["image"], dtype=object)
