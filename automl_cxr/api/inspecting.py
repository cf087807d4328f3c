"""The function `inspect`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from automl_cxr.api.keywords import check_out, data_options, document_options
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.inspection import Inspection, inspect_data
from automl_cxr.data.normal_form import to_normal_form
from automl_cxr.errors import UsageError
from automl_cxr.notebook_bars import with_notebook_bar
from automl_cxr.results.tables import to_plain_csv
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.options import SearchOptions


@document_options(SearchOptions, only=DataOptions.names())
@with_notebook_bar("reading images")
def inspect(  # noqa: D417 - the keywords are the options of the data
    data: str | os.PathLike[str],
    *,
    save: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    **keywords: Any,
) -> Inspection:
    """Read a data set as a search does, and decode every image: classes, patients, parts, columns of tables, and problems.

    Args:
        data: Folder or table of images.
        {options}
        save: CSV file for the data set in the normal form: path, label (of several findings, a column for each), patient_id,
            split, view.
        on_progress: Called with the number of decoded images and of all images.

    Returns:
        The result, which Jupyter shows as tables. ``classes``, ``splits``, ``columns`` and ``examples`` are DataFrames, and
        ``notes`` are sentences.

    Raises:
        UnknownNameError: A keyword, layout, class, column or finding does not exist.
        UsageError: The table cannot be written, or the images are rows of arrays.
        DataError: The data are unusable.
    """
    if save is not None:
        check_out(save, data, keywords, "save")
    found = inspect_data(os.fspath(data), data_options(keywords), on_progress=on_progress)
    if save is not None:
        out = Path(save).absolute()
        table = to_normal_form(found.root, found.images, beside=out.parent, findings=found.findings)
        try:
            out.write_text(to_plain_csv(table), encoding="utf-8", newline="")
        except OSError as error:
            raise UsageError(f"Cannot write {out} ({error.strerror or error}). Choose another --save.") from error
    return found
