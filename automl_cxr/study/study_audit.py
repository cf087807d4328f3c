"""Stamps a study with an audit of its training and validation images, as audit.json.

Nothing of the test part is in it, neither pixels nor labels: it is sealed. `automl-cxr data audit` looks at all parts.
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
    """Audit what a new study may see and write it into its folder. A search never fails of it.

    Args:
        folder: The study's.
        root: Folder that image ids are relative to.
        split: Which image serves for what.
        decoded: The images of ``split.train``, then those of ``split.valid``.

    Returns:
        A line for the user: what was found, or why there is no audit.
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
    except Exception as error:  # noqa: BLE001 - whatever the audit stumbles over, the search is what was asked for
        return [f"The training and validation images could not be audited ({error}). `automl-cxr data audit` tries again."]
    return audit_messages(audit)


def load_audit(store: StudyStore) -> Audit | None:
    """Read the audit that a study was stamped with, or None where there was none.

    Raises:
        StudyError: Its file is damaged.
    """
    path = store.folder / _FILE
    return read_record(path, Audit.from_json) if path.is_file() else None


def audit_messages(audit: Audit) -> list[str]:
    """Say in a line what an audit found: the first warning, or else the baseline."""
    if not audit.warnings:
        return [audit.baseline] if audit.baseline else list(audit.notes)
    n_others = len(audit.warnings) - 1
    others = f" {n_others} more {'warning' if n_others == 1 else 'warnings'}: `automl-cxr data audit`." if n_others else ""
    return [f"{audit.warnings[0]}{others}"]
