"""What is sent to an experiment tracker about a finished trial, read from the record of its study."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.records import TrialRecord
from automl_cxr.study.store import StudyStore

_FILES = ("config.json", "history.csv")
_NOT_CURVES = ("epoch", "fold")


@dataclass(frozen=True, kw_only=True)
class TrackedTrial:
    """A finished trial.

    Attributes:
        study: Name of its study.
        number: Its number.
        params: Hyperparameters that were searched, and the seed.
        curves: Step (epoch or fold, from 1) and values of each step, in ascending order. Values are finite.
        scores: Final values: the objectives, number of parameters, seconds.
        tags: Texts that describe the trial: its state, the reason of a failure, the data, the versions.
        files: Files of the trial that are small enough to send: its configuration and its learning curves.
    """

    study: str
    number: int
    params: Mapping[str, int | float | str | bool]
    curves: Sequence[tuple[int, Mapping[str, float]]]
    scores: Mapping[str, float]
    tags: Mapping[str, str]
    files: Sequence[Path]

    @property
    def name(self) -> str:
        """Name of the run in a tracker."""
        return f"{self.study}-{self.number:05d}"


def read_tracked_trial(store: StudyStore, record: TrialRecord) -> TrackedTrial:
    """Read what is sent about a finished trial.

    Raises:
        OSError: A file cannot be read.
    """
    spec, folder = store.spec, store.trial_folder(record.number)
    objectives = dict(zip(spec.objectives, record.values, strict=False)) if record.values else {spec.objective: record.score}
    numbers: dict[str, object] = {**objectives, "n_parameters": record.n_parameters, "seconds": record.seconds}
    facts = {
        "study": store.name,
        "trial": record.number,
        "state": record.state,
        "error": record.error,
        "refusal": record.refusal,
        "data": spec.data,
        "data_digest": spec.data_digest,
        **{f"version.{name}": version for name, version in spec.versions.items()},
    }
    return TrackedTrial(
        study=store.name,
        number=record.number,
        params={**record.params, **({} if record.seed is None else {"trial_seed": record.seed})},
        curves=_read_curves(folder / "history.csv", record),
        scores=_finite(numbers),
        tags={name: str(value) for name, value in facts.items() if value is not None},
        files=[folder / name for name in _FILES if (folder / name).is_file()],
    )


def _read_curves(history: Path, record: TrialRecord) -> list[tuple[int, dict[str, float]]]:
    """Return the values of each epoch of history.csv; without this file, the scores that the trial reported."""
    if record.folds is None and history.is_file():
        with history.open(newline="", encoding="utf-8") as file:
            return [(int(row["epoch"]), _finite(row)) for row in csv.DictReader(file)]
    return [(step, _finite({"score": score})) for step, score in sorted(record.scores.items())]


def _finite(values: Mapping[str, object]) -> dict[str, float]:
    """Return the values that are finite numbers; trackers refuse or hide others."""
    numbers = {}
    for name, value in values.items():
        try:
            number = float(value)  # type: ignore[arg-type]  # a TypeError is expected
        except (TypeError, ValueError):
            continue
        if math.isfinite(number) and name not in _NOT_CURVES:
            numbers[name] = number
    return numbers
