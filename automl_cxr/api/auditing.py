"""The function `audit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from automl_cxr.api.keywords import check_out, data_options, document_options
from automl_cxr.data.audit.cleaning import CHANGES_COLUMNS, clean_table
from automl_cxr.data.audit.record import Audit
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data_audit.audit import audit_dataset
from automl_cxr.errors import UsageError
from automl_cxr.notebook_bars import with_notebook_bar
from automl_cxr.results.tables import to_csv, to_plain_csv
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.options import SearchOptions


@document_options(SearchOptions, only=DataOptions.names())
@with_notebook_bar("reading images")
def audit(  # noqa: D417 - the keywords are the options of the data
    data: str | os.PathLike[str],
    *,
    fix: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
    **keywords: Any,
) -> Audit:
    """Search a data set for problems that make scores too optimistic: duplicates, leaks between parts, and shortcuts.

    Args:
        data: Folder or CSV table of images.
        {options}
        fix: CSV file for a cleaned table. ``NAME.changes.csv`` beside it lists each change with its reason.
        on_progress: Called with the number of images that are done and of all images, first of decoding, then of each step
            that reads images.

    Returns:
        The findings. ``duplicates``, ``conflicts``, ``across_parts``, ``patients_across_parts``, ``statistics`` and
        ``burnt_in_text`` are DataFrames, ``shortcut`` is the shortcut baseline, and ``warnings`` are strings.

    Raises:
        UnknownNameError: A keyword, layout or class does not exist.
        UsageError: The cleaned table cannot be written, or would replace the audited one, or the list of changes would replace
            another file.
        DataError: The data are unusable.
    """
    if fix is not None:
        check_out(fix, data, keywords, "fix")
        _check_changes_file(changes_file(Path(fix)))
    dataset = load_dataset(os.fspath(data), data_options(keywords))
    found = audit_dataset(dataset, on_progress=on_progress)
    if fix is not None:
        out = Path(fix).absolute()
        cleaned = clean_table(dataset, found, beside=out.parent)
        _write(out, to_plain_csv(cleaned.table))
        _write(changes_file(out), to_csv(cleaned.changes))
    return found


def changes_file(cleaned: Path) -> Path:
    """Return the path of the list of changes that belongs to a cleaned table."""
    return cleaned.with_suffix(".changes.csv")


def _check_changes_file(file: Path) -> None:
    """Raise UsageError if the list of changes, whose name the user did not choose, would replace another file."""
    if not file.exists():
        return
    with file.open(encoding="utf-8", errors="replace") as stream:
        header = stream.readline().rstrip("\n")
    if header != ",".join(CHANGES_COLUMNS):
        raise UsageError(f"The changes are listed in {file}, which is another file. Choose another --fix.")


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise UsageError(f"Cannot write {file} ({error.strerror or error}). Choose another --fix.") from error
