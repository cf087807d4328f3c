"""Warm start: a new study starts with the best configurations of an earlier study, and its sampler uses their scores.

The order of trials is: the preset of the space (trial 0, as in every study), the best configurations of the earlier study, then
the proposals of the sampler.

The plan is created once and written to warm_start.json before the study is created in the storage. Therefore it does not depend
on later changes of the earlier study. The configurations are enqueued as WAITING trials, each marked with the number of its
source trial. If the process is killed while it enqueues them, the next search enqueues the missing ones; none is enqueued
twice. The scores remain in the file (see ``engine/warm_start_view.py``), because they are not results of this study.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.config import TrialConfig
from automl_cxr.engine.parameters import Float, Value
from automl_cxr.engine.registry import LEARNING_SAMPLERS
from automl_cxr.engine.space import Space
from automl_cxr.engine.warm_start_view import WarmStartPoint
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.io import write_text
from automl_cxr.records import TrialRecord
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore, explained_disk_errors, read_record
from automl_cxr.text_records import build_record, parse_json

_FILE = "warm_start.json"
_SOURCE = "warm_start"  # attribute of an enqueued trial: the number of its source trial, or _PRESET
_PRESET = "preset"

# Scores of the earlier study are used only if these settings are equal. Otherwise the scores are not comparable.
_SETTINGS_THAT_AFFECT_SCORES = (
    "task",
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
    """The plan of a warm start, stored as warm_start.json.

    Attributes:
        study: Name of the earlier study.
        enqueued: Hyperparameter values to run first, by number of the source trial, best first.
        told: Values and scores for the sampler: source trials whose configurations are in the new space, by number.
        notes: Messages for the user.
    """

    study: str
    enqueued: Mapping[int, Mapping[str, Value]]
    told: Mapping[int, WarmStartPoint]
    notes: tuple[str, ...]

    @classmethod
    def from_json(cls, text: str) -> WarmStart:
        """Restore a plan from ``to_json``.

        Raises:
            ValueError: The text is not such a record.
        """
        plan: WarmStart = build_record(cls, parse_json(text))
        return plan

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)


def plan_warm_start(earlier: StudyStore, spec: StudySpec) -> WarmStart:
    """Plan the warm start of a new study. ``source_overlap.check_sources`` compares the images of both studies.

    Args:
        earlier: The earlier study.
        spec: Specification of the new study.

    Raises:
        StudyError: The earlier study has no COMPLETE trial.
        UsageError: None of its configurations contains a value in the new space.
    """
    ranked = earlier.ranked()
    if not ranked:
        raise StudyError(f"A warm start needs complete trials; study '{earlier.name}' has none yet. Continue this study first.")
    earlier_spec = earlier.spec
    enqueued, problems = _best_points(ranked, earlier_spec.space, spec)
    if not enqueued:
        reasons = f" ({'; '.join(problems)})" if problems else ""
        raise UsageError(
            f"A warm start needs configurations with values in space {spec.space_name}, other than its preset; "
            f"study '{earlier.name}' has none{reasons}. Omit --warm-start."
        )
    differing = [name for name in _SETTINGS_THAT_AFFECT_SCORES if getattr(earlier_spec, name) != getattr(spec, name)]
    scored = {} if differing else _same_trials(ranked, earlier_spec, spec)
    notes = [f"Warm start from '{earlier.name}': its best {len(enqueued)} configurations run first, after the space's preset."]
    if problems:
        notes.append(f"Some values of '{earlier.name}' cannot be used in this space: {'; '.join(problems)}.")
    notes.append(_describe_scores(earlier.name, spec, differing, scored))
    return WarmStart(study=earlier.name, enqueued=enqueued, told=scored, notes=tuple(notes))


def _best_points(
    ranked: list[TrialRecord], earlier: Space, spec: StudySpec
) -> tuple[dict[int, Mapping[str, Value]], list[str]]:
    """Return the best distinct configurations, restricted to the new space, and messages about the values outside it."""
    space = spec.space
    preset = space.preset()
    keys = set() if preset is None else {space.key(preset)}
    points: dict[int, Mapping[str, Value]] = {}
    problems: dict[str, None] = {}
    for record in ranked:
        if len(points) == spec.warm_start_top:
            break
        point, mismatches = _project({**earlier.constants, **record.params}, record.params, space)
        if point and space.key(point) not in keys:
            keys.add(space.key(point))
            points[record.number] = point
            problems |= dict.fromkeys(mismatches)
        elif not point:
            problems |= dict.fromkeys(mismatches)
    return points, list(problems)


def _project(values: Mapping[str, Value], searched: Mapping[str, Value], space: Space) -> tuple[dict[str, Value], list[str]]:
    """Return the values that are in the space, and a message about each value that is not."""
    point: dict[str, Value] = {}
    mismatches = []
    for parameter in space.parameters:
        if parameter.name not in values:
            continue
        value = values[parameter.name]
        if parameter.contains(value):
            point[parameter.name] = float(value) if isinstance(parameter, Float) else value
        else:
            mismatches.append(f"{parameter.name} = {_short(value)} is out of range")
    for name, value in searched.items():
        if name not in space.names:
            mismatches.append(f"{name} is not in the space")
        elif name in space.constants and space.constants[name] != value:
            mismatches.append(f"{name} is fixed to {_short(space.constants[name])}")
    return point, mismatches


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _same_trials(ranked: list[TrialRecord], earlier: StudySpec, spec: StudySpec) -> dict[int, WarmStartPoint]:
    """Return the trials whose complete configuration is in the new space."""
    space, points = spec.space, {}
    constants = earlier.constants
    for record in sorted(ranked, key=lambda record: record.number):
        point, _ = _project({**constants, **record.params}, {}, space)
        point = space.resolve(lambda parameter, point=point: point.get(parameter.name))  # type: ignore[misc]
        if None in point.values() or not record.is_feasible:
            continue
        config = TrialConfig.from_values({**constants, **record.params})
        if config == TrialConfig.from_values({**spec.constants, **point}):
            scores = tuple(record.values) or (record.score,)
            points[record.number] = WarmStartPoint(point, scores)  # type: ignore[arg-type]
    return points


def _describe_scores(earlier: str, spec: StudySpec, differing: list[str], scored: Mapping[int, WarmStartPoint]) -> str:
    if differing:
        return (
            f"The sampler does not use the scores of '{earlier}', because they are not comparable "
            f"(different settings: {', '.join(differing)})."
        )
    if not scored:
        return f"The sampler uses no score of '{earlier}': no complete configuration of it is in space {spec.space_name}."
    if spec.sampler not in LEARNING_SAMPLERS:
        return f"The sampler {spec.sampler} cannot use scores of another study ({' and '.join(LEARNING_SAMPLERS)} can)."
    return f"The sampler uses {len(scored)} scores of '{earlier}'. They do not appear in the results of this study."


def save_warm_start(plan: WarmStart, folder: Path) -> None:
    """Write the plan to a study's folder, before the study is created in the storage.

    Raises:
        StudyError: The folder cannot be written.
    """
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / _FILE, plan.to_json())


def enqueue_missing(store: StudyStore) -> None:
    """Enqueue the configurations of the plan that are not among the trials yet. The caller holds the lock ``creation_lock``."""
    plan = _read(store)
    if plan is None:
        return
    sources = {trial.user_attrs.get(_SOURCE) for trial in store.study.get_trials(deepcopy=False)}
    preset = store.spec.space.preset()
    waiting: dict[Any, Mapping[str, Value]] = {**({} if preset is None else {_PRESET: preset}), **plan.enqueued}
    for source, point in waiting.items():
        if source not in sources:
            store.study.enqueue_trial(dict(point), user_attrs={_SOURCE: source})


def read_warm_start_points(store: StudyStore) -> tuple[WarmStartPoint, ...]:
    """Return the points of the earlier study for the sampler; an empty tuple if there is no warm start.

    Raises:
        StudyError: The file is damaged or missing.
    """
    plan = _read(store)
    return () if plan is None else tuple(plan.told.values())


def _read(store: StudyStore) -> WarmStart | None:
    return None if store.spec.warm_start is None else read_record(store.folder / _FILE, WarmStart.from_json)
