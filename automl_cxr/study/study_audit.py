"""The audit of a study's training and validation images, stored as audit.json.

The test part is sealed: its pixels and labels are not read. `automl-cxr data audit` audits all parts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from automl_cxr.data.audit.record import Audit
from automl_cxr.data.cache import DecodedImages
from automl_cxr.data_audit.audit import AuditedImages, audit_images
from automl_cxr.io import write_text
from automl_cxr.records import SplitRecord
from automl_cxr.study.store import StudyStore, read_record

_FILE = "audit.json"


def audit_split(
    root: Path,
    split: SplitRecord,
    decoded: DecodedImages,
    *,
    metadata: pd.DataFrame,
    on_progress: Callable[[int, int], None] | None = None,
) -> Audit | str:
    """Audit the training and validation images of a new study. Never raises an error.

    Args:
        root: Folder to which image ids are relative.
        split: Split of the study.
        decoded: The images of ``split.train``, then those of ``split.valid``.
        metadata: Metadata of all images (``Dataset.metadata``); those of the test part are not used.
        on_progress: Called with (images that are done, all images) of each step that reads images.

    Returns:
        The audit, or a message for the user with the reason why there is none.
    """
    pooled = split.train.joined(split.valid)
    audited = AuditedImages(
        root=root,
        classes=split.classes,
        labels=pooled.labels,
        patients=pooled.patients,
        parts=("train",) * len(split.train.images) + ("valid",) * len(split.valid.images),
        patients_known=split.grouped,
        decoded=decoded,
        metadata=metadata,
    )
    try:
        return audit_images(audited, on_progress=on_progress)
    except Exception as error:  # noqa: BLE001 - an audit must not prevent the search
        return _explain_missing(error)


def save_audit(audit: Audit, folder: Path) -> list[str]:
    """Write an audit to the folder of a study; return its messages for the user. Never raises an error."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, audit.to_json())
    except Exception as error:  # noqa: BLE001 - as above
        return [_explain_missing(error)]
    return audit_messages(audit)


def _explain_missing(error: Exception) -> str:
    return f"The training and validation images could not be audited ({error}). Run `automl-cxr data audit` to try again."


def load_audit(store: StudyStore) -> Audit | None:
    """Return the audit of a study, or None if it has none.

    Raises:
        StudyError: The file is damaged.
    """
    path = store.folder / _FILE
    return read_record(path, Audit.from_json) if path.is_file() else None


def audit_messages(audit: Audit) -> list[str]:
    """Return a one-line summary of an audit: its first warning, or its baseline if there are no warnings."""
    if not audit.warnings:
        return [audit.baseline] if audit.baseline else list(audit.notes)
    n_others = len(audit.warnings) - 1
    others = f" {n_others} more {'warning' if n_others == 1 else 'warnings'}: `automl-cxr data audit`." if n_others else ""
    return [f"{audit.warnings[0]}{others}"]
