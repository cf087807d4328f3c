"""Reads the records of the ensembles in the folder of a study. No model is loaded."""

from __future__ import annotations

from typing import Any

from automl_cxr.results.classifier import ENSEMBLE_FILE
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_info import list_ensembles
from automl_cxr.text_records import parse_json_object


def read_ensembles(store: StudyStore) -> dict[str, dict[str, Any]]:
    """Return the record of each ensemble of a study by the name of its folder; damaged ones are skipped."""
    records = {}
    for name in list_ensembles(store.folder):
        try:
            record = parse_json_object((store.folder / "ensembles" / name / ENSEMBLE_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict) and {"method", "objective", "members", "methods", "metrics"} <= record.keys():
            records[name] = record
    return records
