"""The files of an ensemble: its record, model card, predictions and copies of the members' models."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from automl_cxr.ensemble.pipeline import Combination
from automl_cxr.io import atomic_write, sha256_of_file, write_text
from automl_cxr.results.classifier import ENSEMBLE_FILE, member_of_trial
from automl_cxr.results.model_card import model_card
from automl_cxr.scoring.intervals import bootstrap_intervals
from automl_cxr.scoring.metrics import METRICS, metrics_for
from automl_cxr.scoring.prediction_tables import PredictionTable
from automl_cxr.study.image_hashes import link_hashes
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore
from automl_cxr.text_records import parse_json_object

CARD_FILE = "model_card.md"
MEMBERS_FOLDER = "members"


def copy_members(store: StudyStore, trials: Sequence[int], folder: Path) -> list[dict[str, Any]]:
    """Copy the models of trials into the folder of an ensemble; return the record entries of the members."""
    (folder / MEMBERS_FOLDER).mkdir()
    rows = []
    for number in trials:
        member = member_of_trial(store, number)
        file = Path(MEMBERS_FOLDER) / f"{number:05d}.keras"
        with atomic_write(folder / file) as copy:
            copy.write(member.file.read_bytes())
        link_hashes(store.folder, folder / file)
        network = {"image_size": member.image_size, "fit": member.fit, "network": member.network}
        rows.append({"file": file.as_posix(), **network, "sha256": sha256_of_file(folder / file), **trial_row(store, number)})
    return rows


def trial_row(store: StudyStore, number: int) -> dict[str, Any]:
    """Return the record entry of a member trial whose model is not copied."""
    return {"trial": number, "predictions_sha256": sha256_of_file(store.trial_folder(number) / PREDICTIONS_FILE)}


def table_row(table: PredictionTable) -> dict[str, Any]:
    """Return the record entry of a member that is a prediction table of another program."""
    return {"table": str(table.path.absolute()), "predictions_sha256": sha256_of_file(table.path)}


def write_ensemble(folder: Path, combination: Combination, rows: Sequence[dict[str, Any]], context: Mapping[str, Any]) -> None:
    """Write the record, the model card and the predictions of an ensemble.

    Args:
        folder: Folder of the ensemble, which exists.
        combination: The fitted ensemble.
        rows: Record entries of the members, in order.
        context: Further entries of the record: study, data and versions.

    Raises:
        OSError: The folder cannot be written.
    """
    predictions = combination.predictions
    predictions.to_npz(folder / PREDICTIONS_FILE)
    shares = combination.combiner.shares.tolist()
    record = {
        **context,
        "method": combination.method,
        "recommended": combination.recommended,
        "objective": combination.objective.name,
        "task": predictions.task,
        "classes": predictions.classes,
        "thresholds": None if predictions.thresholds is None else predictions.thresholds.tolist(),
        "operating_points": [point.to_record() for point in combination.operating_points],
        "n_images": len(predictions),
        "n_patients": len(set(predictions.patients)),
        "rule": combination.combiner.to_record(),
        "members": [
            {"name": name, **row, "weight": share, "score": score}
            for name, row, share, score in zip(combination.names, rows, shares, combination.member_scores, strict=True)
        ],
        "methods": combination.methods_table(),
        "n_folds": 0 if combination.comparison is None else combination.comparison.n_folds,
        "metrics": _metric_rows(combination),
        "calibration": asdict(combination.calibration),
        "predictions_sha256": sha256_of_file(folder / PREDICTIONS_FILE),
    }
    _write_record(folder, record)


def record_test_opening(folder: Path, test: Mapping[str, Any]) -> None:
    """Add the scores on the test part to an ensemble's record and model card.

    Args:
        folder: Folder of the ensemble.
        test: ``n_images``, ``n_patients``, ``n_opened``, ``warnings`` and ``metrics``, rows of ``metric``, ``score``, ``low``
            and ``high``.

    Raises:
        OSError: The folder cannot be written.
    """
    record = parse_json_object((folder / ENSEMBLE_FILE).read_text(encoding="utf-8")) | {"test": test}
    _write_record(folder, record)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write an ensemble's record as JSON and as a model card."""
    plain = _without_nan(record)
    write_text(folder / ENSEMBLE_FILE, json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False))
    write_text(folder / CARD_FILE, model_card(plain))


def _metric_rows(combination: Combination) -> list[dict[str, Any]]:
    """Return a row for each metric with its interval by patient; out of fold if there are folds."""
    comparison = combination.comparison
    predictions = combination.predictions if comparison is None else comparison.methods[combination.method].predictions
    normal_class = combination.objective.normal_class
    rows = metrics_for(predictions.classes, normal_class=normal_class, task=predictions.task, thresholds=predictions.thresholds)
    defined = [name for name in METRICS if name in rows]
    intervals = bootstrap_intervals(predictions, defined, normal_class=normal_class)
    return [
        {
            "metric": name,
            "score": rows[name].function(predictions.labels, predictions.probabilities, normal_class),
            "low": intervals[name].low,
            "high": intervals[name].high,
        }
        for name in defined
    ]


def _without_nan(value: Any) -> Any:
    """Replace NaN by None, because JSON does not support NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
