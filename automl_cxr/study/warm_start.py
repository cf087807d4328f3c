"""Begins a study with what an earlier one found: its best configurations are tried first, its scores teach the sampler.

The order is: the space's preset (trial 0 as ever), then the earlier study's best, then what the sampler proposes.

What is taken over is decided once and written to warm_start.json before the study exists in the storage, so that it holds
whatever becomes of the earlier study. The configurations are WAITING trials of the new one, each marked with the trial that it
comes from: a start that was killed between two of them is completed by the next search, and a study that goes on enqueues
none twice. The scores stay in the file (see ``engine/warm_start_view.py``): they were made elsewhere and are no results of this
study.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.config import TrialConfig
from automl_cxr.engine.registry import LEARNING_SAMPLERS
from automl_cxr.engine.space import Float, Space, Value
from automl_cxr.engine.warm_start_view import WarmStartPoint
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.io import write_text
from automl_cxr.records import SplitRecord, TrialRecord
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore, explained_disk_errors, read_record

_FILE = "warm_start.json"
_MARK = "warm_start"  # on an enqueued trial: the number of the trial that it comes from, or
_PRESET = "preset"

# Scores are told where they mean the same: between other settings all old ones could lie above, or below, all new ones.
_DECIDE_SCORES = (
    "objectives",
    "requirements",
    "folds",
    "data_digest",
    "classes",
    "normal_class",
    "image_size",
    "fit",
    "batch_size",
    "epochs",
)


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What a study takes over from an earlier one, as warm_start.json.

    Attributes:
        study: Name of the earlier study.
        enqueued: Values to try, by number of the earlier study's trial, best first.
        told: Values and scores of its trials that are trials of this study too, by number.
        notes: Sentences for the user.
    """

    study: str
    enqueued: Mapping[int, Mapping[str, Value]]
    told: Mapping[int, WarmStartPoint]
    notes: tuple[str, ...]

    @classmethod
    def from_json(cls, text: str) -> WarmStart:
        values = json.loads(text)
        return cls(
            study=values["study"],
            enqueued={int(number): point for number, point in values["enqueued"].items()},
            told={int(number): WarmStartPoint(**prior) for number, prior in values["told"].items()},
            notes=tuple(values["notes"]),
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)


def plan_warm_start(earlier: StudyStore, spec: StudySpec, split: SplitRecord) -> WarmStart:
    """Decide what a new study takes over.

    Args:
        earlier: The earlier study.
        spec: The new one.
        split: Its split, to see whether the earlier study saw what is sealed now.

    Raises:
        StudyError: The earlier study has no complete trial.
        UsageError: None of its configurations has a value in the new space.
    """
    ranked = earlier.ranked()
    if not ranked:
        raise StudyError(f"A warm start needs complete trials; study '{earlier.name}' has none yet. Continue it first.")
    past = earlier.spec
    enqueued, problems = _best_points(ranked, past.space, spec)
    if not enqueued:
        why = f" ({'; '.join(problems)})" if problems else ""
        raise UsageError(
            f"A warm start needs configurations with values in space {spec.space_name}, other than its preset; "
            f"study '{earlier.name}' has none{why}. Leave --warm-start out."
        )
    differing = [name for name in _DECIDE_SCORES if getattr(past, name) != getattr(spec, name)]
    told = {} if differing else _same_trials(ranked, past, spec)
    notes = [
        f"Warm start from '{earlier.name}': after the space's preset, its best {len(enqueued)} configurations are tried first."
    ]
    if problems:
        notes.append(f"Not taken over from '{earlier.name}', and left to the sampler: {'; '.join(problems)}.")
    notes.append(_tell_scores(earlier.name, spec, differing, told))
    n_seen = len({*earlier.split.train.images, *earlier.split.valid.images} & set(split.test))
    if n_seen and past.data_digest == spec.data_digest:
        notes.append(
            f"{n_seen} images of the sealed test part served '{earlier.name}' to train and to choose, so test scores will be "
            f"too good. The split is the same with the same fractions and --seed {past.seed}."
        )
    return WarmStart(study=earlier.name, enqueued=enqueued, told=told, notes=tuple(notes))


def _best_points(ranked: list[TrialRecord], past: Space, spec: StudySpec) -> tuple[dict[int, Mapping[str, Value]], list[str]]:
    """Choose the best configurations, each once, as far as they are points of the new space; and say what is lost of them."""
    space = spec.space
    preset = space.preset()
    seen = set() if preset is None else {space.key(preset)}
    points: dict[int, Mapping[str, Value]] = {}
    problems: dict[str, None] = {}
    for record in ranked:
        if len(points) == spec.warm_start_top:
            break
        point, lost = _project({**past.constants, **record.params}, record.params, space)
        if point and space.key(point) not in seen:
            seen.add(space.key(point))
            points[record.number] = point
            problems |= dict.fromkeys(lost)
        elif not point:
            problems |= dict.fromkeys(lost)
    return points, list(problems)


def _project(values: Mapping[str, Value], searched: Mapping[str, Value], space: Space) -> tuple[dict[str, Value], list[str]]:
    """Give the values that the space can take, and a word on each that it cannot."""
    point: dict[str, Value] = {}
    lost = []
    for parameter in space.parameters:
        if parameter.name not in values:
            continue
        value = values[parameter.name]
        if parameter.contains(value):
            point[parameter.name] = float(value) if isinstance(parameter, Float) else value
        else:
            lost.append(f"{parameter.name} = {_short(value)} is out of range")
    for name, value in searched.items():
        if name not in space.names:
            lost.append(f"{name} is not searched here")
        elif name in space.constants and space.constants[name] != value:
            lost.append(f"{name} is {_short(space.constants[name])} here")
    return point, lost


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _same_trials(ranked: list[TrialRecord], past: StudySpec, spec: StudySpec) -> dict[int, WarmStartPoint]:
    """Choose the trials whose whole configuration is a point of the new space."""
    space, told = spec.space, {}
    before = past.constants
    for record in sorted(ranked, key=lambda record: record.number):
        point, _ = _project({**before, **record.params}, {}, space)
        point = space.resolve(lambda parameter, point=point: point.get(parameter.name))  # type: ignore[misc]
        if None in point.values() or not record.is_feasible:
            continue
        had = TrialConfig.from_values({**before, **record.params})
        if had == TrialConfig.from_values({**spec.constants, **point}):
            told[record.number] = WarmStartPoint(point, record.values or [record.score])  # type: ignore[list-item]
    return told


def _tell_scores(earlier: str, spec: StudySpec, differing: list[str], told: Mapping[int, WarmStartPoint]) -> str:
    if differing:
        return (
            f"The scores of '{earlier}' are not told to the sampler: they were made with other settings "
            f"({', '.join(differing)}), so they do not compare."
        )
    if not told:
        return f"No score of '{earlier}' is told to the sampler: none of its trials is whole in space {spec.space_name}."
    if spec.sampler not in LEARNING_SAMPLERS:
        return f"The sampler {spec.sampler} takes no scores from elsewhere ({' and '.join(LEARNING_SAMPLERS)} do)."
    return f"The sampler learns from {len(told)} scores of '{earlier}'; they count nowhere else."


def save_warm_start(plan: WarmStart, folder: Path) -> None:
    """Write the plan to a study's folder, before the study exists in its storage.

    Raises:
        StudyError: It cannot be written.
    """
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, plan.to_json())


def enqueue_missing(store: StudyStore) -> None:
    """Enqueue the configurations of the plan that are not among the trials yet; call it under ``founding``."""
    plan = _read(store)
    if plan is None:
        return
    there = {trial.user_attrs.get(_MARK) for trial in store.study.get_trials(deepcopy=False)}
    preset = store.spec.space.preset()
    waiting: dict[Any, Mapping[str, Value]] = {**({} if preset is None else {_PRESET: preset}), **plan.enqueued}
    for source, point in waiting.items():
        if source not in there:
            store.study.enqueue_trial(dict(point), user_attrs={_MARK: source})


def read_warm_start_points(store: StudyStore) -> tuple[WarmStartPoint, ...]:
    """Read what the sampler may know from the earlier study; nothing where there is none.

    Raises:
        StudyError: The file is damaged or missing.
    """
    plan = _read(store)
    return () if plan is None else tuple(plan.told.values())


def _read(store: StudyStore) -> WarmStart | None:
    return None if store.spec.warm_start is None else read_record(store.folder / _FILE, WarmStart.from_json)
