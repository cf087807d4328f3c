"""The audit of a study's training and validation images, stored as audit.json.

The test part is sealed: its pixels and labels are not read. `automl-cxr data audit` audits all parts.
"""

from __future__ import annotations

from pathlib import Path

from automl_cxr.data.audit.record import Audit
from automl_cxr.data.cache import DecodedImages
from automl_cxr.data_audit import AuditedImages, audit_images
from automl_cxr.io import write_text
from automl_cxr.records import SplitRecord
from automl_cxr.study.store import StudyStore, read_record

_FILE = "audit.json"


def audit_study(folder: Path, root: Path, split: SplitRecord, decoded: DecodedImages) -> list[str]:
    """Audit the training and validation images of a new study, and write the audit to its folder. Never raises an error.

    Args:
        folder: Folder of the study.
        root: Folder to which image ids are relative.
        split: Split of the study.
        decoded: The images of ``split.train``, then those of ``split.valid``.

    Returns:
        Messages for the user: the findings, or the reason why there is no audit.
    """
    parts = ("train",) * len(split.train.images) + ("valid",) * len(split.valid.images)
    audited = AuditedImages(
        root=root,
        classes=split.classes,
        labels=split.train.labels + split.valid.labels,
        patients=split.train.patients + split.valid.patients,
        parts=parts,
        patients_known=split.grouped,
        decoded=decoded,
    )
    try:
        audit = audit_images(audited)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, audit.to_json())
    except Exception as error:  # noqa: BLE001 - an audit must not prevent the search
        return [f"The training and validation images could not be audited ({error}). Run `automl-cxr data audit` to try again."]
    return audit_messages(audit)


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
