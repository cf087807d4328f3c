"""Reads the records of the ensembles in the folder of a study. No model is loaded."""

from __future__ import annotations

import json
from typing import Any

from automl_cxr.results.classifier import ENSEMBLE_FILE
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_info import list_ensembles


def read_ensembles(store: StudyStore) -> dict[str, dict[str, Any]]:
    """Return the record of each ensemble of a study by the name of its folder; damaged ones are skipped."""
    records = {}
    for name in list_ensembles(store.folder):
        try:
            record = json.loads((store.folder / "ensembles" / name / ENSEMBLE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and {"method", "objective", "members", "methods", "metrics"} <= record.keys():
            records[name] = record
    return records
