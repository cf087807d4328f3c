"""Writes what a reader of a model has to know, as Mitchell et al. 2019 ("Model Cards for Model Reporting") propose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from automl_cxr.results.classifier import ENSEMBLE_FILE
from automl_cxr.study.store import write_atomically

CARD_FILE = "model_card.md"
_USE = (
    "For research on classifying chest radiographs of the kind named below. Not a medical device: no clinical decision may "
    "rest on it. Good figures on a public collection are no evidence of clinical value; other hospitals, machines, projections "
    "and patients than those of the data were not tried."
)


def record_test_opening(folder: Path, test: Mapping[str, Any]) -> None:
    """Add the figures of the test part to an ensemble's record and card.

    Args:
        folder: The ensemble's.
        test: ``n_images``, ``n_patients``, ``n_opened`` and ``metrics``, rows of ``metric``, ``score``, ``low`` and ``high``.

    Raises:
        OSError: The folder cannot be written.
    """
    record = json.loads((folder / ENSEMBLE_FILE).read_text(encoding="utf-8")) | {"test": test}
    write_record(folder, record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write an ensemble's record and the card that says the same for people.

    Raises:
        OSError: The folder cannot be written.
    """
    plain = _without_nan(record)
    write_atomically(folder / ENSEMBLE_FILE, json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False))
    write_atomically(folder / CARD_FILE, model_card(plain))


def model_card(record: Mapping[str, Any]) -> str:
    """Write an ensemble's record as Markdown.

    Args:
        record: What its JSON file holds.
    """
    sections = {
        "Intended use": [_USE],
        "Data": _data(record),
        "Members": _members(record),
        "How they are combined": _combination(record),
        "On the images that it was fitted on": _validation(record),
        "On the test part": _test(record),
        "Versions": [", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items()) or "Not known."],
    }
    lines = [f"# An ensemble of {len(record['members'])} classifiers of chest radiographs"]
    for title, told in sections.items():
        lines += ["", f"## {title}", "", *told]
    return "\n".join(lines) + "\n"


def _data(record: Mapping[str, Any]) -> list[str]:
    normal = record.get("normal_class")
    told = [
        f"- Classes: {', '.join(record['classes'])}",
        f"- Class without a finding: {normal or 'not named'}",
        f"- Fitted on {record['n_images']:,} images of {record['n_patients']:,} patients",
    ]
    if record.get("study") is None:
        return [*told, "- The members are other programs' models: what they were trained on is not known here."]
    split = record["split"]
    sizes = ", ".join(f"{split[part]:,} {part}" for part in ("train", "valid", "test"))
    folds = f"; {split['folds']} folds of the training images" if split["folds"] else ""
    return [
        f"- Study: {record['study']}",
        f"- Collection: {record['data']} (digest {record['data_digest'][:16]})",
        f"- Split by patient, seed {split['seed']}: {sizes} images{folds} (digest {record['split_digest'][:16]})",
        *told,
        *(f"- {line}" for line in [record.get("shortcut_baseline")] if line),
        *(f"- **Warning**: {warning}" for warning in record.get("warnings", ())),
    ]


def _members(record: Mapping[str, Any]) -> list[str]:
    rows = [
        [
            row["name"],
            row.get("network", "of another program"),
            f"{row['image_size']} pixels, {row['fit']}" if "image_size" in row else "",
            f"{row['weight']:.4f}",
            _figure(row["score"]),
            row.get("sha256", row["predictions_sha256"])[:16],
        ]
        for row in record["members"]
    ]
    return _table(["member", "network", "image", "weight", record["objective"], "SHA-256 of model or table"], rows)


def _combination(record: Mapping[str, Any]) -> list[str]:
    rule = record["rule"]
    calibration = record["calibration"]
    kind = "logistic regression on log-probabilities" if rule["kind"] == "stacking" else "weighted average of probabilities"
    told = [f"- A {kind}, found by `{record['method']}` for {record['objective']}; the shares stand above."]
    if record["recommended"] != record["method"]:
        told.append(f"- `{record['recommended']}` is simpler and could not be told apart from it out of fold.")
    before, after = (_figure(calibration[name]) for name in ("error_before", "error_after"))
    if rule.get("temperature", 1) != 1:
        told.append(f"- Temperature {rule['temperature']:.3f}; expected calibration error out of fold {before}, then {after}.")
    else:
        told.append(f"- No temperature; expected calibration error out of fold {before}.")
    return told


def _validation(record: Mapping[str, Any]) -> list[str]:
    n_folds = record["n_folds"]
    how = (
        f"Out of fold: the weights were fitted on {n_folds - 1} of {n_folds} groups of patients and judged on the other, "
        "before any temperature. The members were still chosen by these images: somewhat too good."
        if n_folds
        else "The weights were fitted on the same images, for want of patients: too good."
    )
    return [how, "", *_metrics(record["metrics"])]


def _test(record: Mapping[str, Any]) -> list[str]:
    test = record.get("test")
    if test is None:
        return ["Not opened for this ensemble."]
    times = "once" if test["n_opened"] == 1 else f"{test['n_opened']} times; choosing by it makes its figures too good"
    return [
        f"{test['n_images']:,} images of {test['n_patients']:,} patients. The study has opened it {times}.",
        "",
        *_metrics(test["metrics"]),
    ]


def _metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    cells = [[row["metric"], _figure(row["score"]), f"{_figure(row['low'])} to {_figure(row['high'])}"] for row in rows]
    return _table(["metric", "score", "95 % by patient"], cells)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |" for line in lines]


def _figure(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _without_nan(value: Any) -> Any:
    """Put null where a figure is not defined: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and value != value else value
