"""Writes what a driver has to say of its trials into Optuna's own tables, with one statement for each table.

Optuna writes a parameter, an attribute or a score by two or three statements each, which was the most of what a driver did
between two trials: eighty statements a trial. This module knows Optuna's schema, and is the only one that does. Whatever it
writes is what Optuna itself would have written, after the same checks; all else is read and written by Optuna.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage, RDBStorage, _CachedStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Table, UniqueConstraint, bindparam, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

Row = dict[str, Any]


class Write(Protocol):
    """Something to be written to a trial."""

    @property
    def trial_id(self) -> int:
        """The trial, as the storage names it."""

    def apply(self, storage: BaseStorage) -> None:
        """Write it by itself, into any storage."""

    def rows(self) -> list[tuple[Any, Row]]:
        """Give the rows that stand for it in Optuna's tables, each with Optuna's model of its table."""


@dataclass(frozen=True)
class ParamWrite:
    """The value of a parameter, as Optuna stores it."""

    trial_id: int
    name: str
    value: float
    distribution: BaseDistribution

    def apply(self, storage: BaseStorage) -> None:
        storage.set_trial_param(self.trial_id, self.name, self.value, self.distribution)

    def rows(self) -> list[tuple[Any, Row]]:
        named = {"trial_id": self.trial_id, "param_name": self.name, "param_value": self.value}
        return [(models.TrialParamModel, {**named, "distribution_json": distribution_to_json(self.distribution)})]


@dataclass(frozen=True)
class StepWrite:
    """The score after an epoch."""

    trial_id: int
    step: int
    value: float

    def apply(self, storage: BaseStorage) -> None:
        storage.set_trial_intermediate_value(self.trial_id, self.step, self.value)

    def rows(self) -> list[tuple[Any, Row]]:
        value, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(self.value)
        row = {"trial_id": self.trial_id, "step": self.step, "intermediate_value": value, "intermediate_value_type": kind}
        return [(models.TrialIntermediateValueModel, row)]


@dataclass(frozen=True)
class UserAttrWrite:
    """An attribute of ours."""

    trial_id: int
    key: str
    value: Any

    def apply(self, storage: BaseStorage) -> None:
        storage.set_trial_user_attr(self.trial_id, self.key, self.value)

    def rows(self) -> list[tuple[Any, Row]]:
        return [(models.TrialUserAttributeModel, _attribute(self.trial_id, self.key, self.value))]


@dataclass(frozen=True)
class SystemAttrWrite:
    """An attribute of Optuna's."""

    trial_id: int
    key: str
    value: Any

    def apply(self, storage: BaseStorage) -> None:
        storage.set_trial_system_attr(self.trial_id, self.key, self.value)

    def rows(self) -> list[tuple[Any, Row]]:
        return [(models.TrialSystemAttributeModel, _attribute(self.trial_id, self.key, self.value))]


@dataclass(frozen=True)
class EndWrite:
    """The end of a trial, and what it came to."""

    trial_id: int
    state: TrialState
    values: tuple[float, ...] | None
    when: datetime

    def apply(self, storage: BaseStorage) -> None:
        storage.set_trial_state_values(self.trial_id, self.state, self.values)

    def rows(self) -> list[tuple[Any, Row]]:
        rows: list[tuple[Any, Row]] = []
        for objective, value in enumerate(self.values or ()):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            row = {"trial_id": self.trial_id, "objective": objective, "value": stored, "value_type": kind}
            rows.append((models.TrialValueModel, row))
        when = self.when.astimezone(UTC).replace(tzinfo=None)
        return [*rows, (models.TrialModel, {"of_trial": self.trial_id, "state": self.state, "datetime_complete": when})]


def write_piece(storage: _CachedStorage, study_id: int, writes: Sequence[Write]) -> None:
    """Write to trials of a study in one transaction.

    Raises:
        KeyError: There is no such trial.
        UpdateFinishedTrialError: One of them has ended; nothing was written.
        ValueError: A parameter was of another kind before; nothing was written.
        SQLAlchemyError: The database failed.
    """
    tables: dict[Any, dict[tuple[Any, ...], Row]] = {}
    for write in writes:
        for model, row in write.rows():
            tables.setdefault(model, {})[tuple(row[name] for name in _named_by(model))] = row  # the last one stands
    searched = {write.name: write.distribution for write in writes if isinstance(write, ParamWrite)}
    remembered = storage._studies[study_id].param_distribution if searched else {}
    with storage._backend.engine.begin() as connection:
        _hold(connection, {write.trial_id for write in writes})
        first = {name: remembered.get(name) or _first(connection, study_id, name) or kind for name, kind in searched.items()}
        for name, distribution in searched.items():
            check_distribution_compatibility(first[name], distribution)
        for model, rows in tables.items():
            connection.execute(_statement(connection.dialect.name, model), [*rows.values()])
    remembered.update(first)


def signed_trials(database: RDBStorage, trial_ids: Collection[int], name: str, value: str) -> set[int]:
    """Tell which of some trials are RUNNING and have a user attribute of that value."""
    named = {"trial_ids": [*trial_ids], "name": name, "value_json": json.dumps(value)}
    with database.engine.connect() as connection:
        return set(connection.scalars(_SIGNED, named))


def has_later_trials(database: RDBStorage, study_id: int, trial_id: int) -> bool:
    """Tell whether a study has a trial that was begun after another one."""
    with database.engine.connect() as connection:
        return connection.scalar(_LATER, {"study_id": study_id, "trial_id": trial_id}) is not None


# --------------------------------------------------------------------------------------------------------- Optuna's schema

# Each is made once: to make one takes longer than to run it.
_TRIALS = models.TrialModel.__table__.c
_PARAMS = models.TrialParamModel.__table__.c
_ATTRS = models.TrialUserAttributeModel.__table__.c
_AMONG = _TRIALS.trial_id.in_(bindparam("trial_ids", expanding=True))
_STATES = select(_TRIALS.trial_id, _TRIALS.number, _TRIALS.state).where(_AMONG).order_by(_TRIALS.trial_id).with_for_update()
_SIGNED = (
    select(_TRIALS.trial_id)
    .join(models.TrialUserAttributeModel.__table__, _ATTRS.trial_id == _TRIALS.trial_id)
    .where(_AMONG, _TRIALS.state == TrialState.RUNNING)
    .where(_ATTRS.key == bindparam("name"), _ATTRS.value_json == bindparam("value_json"))
)
_LATER = (
    select(_TRIALS.trial_id).where(_TRIALS.study_id == bindparam("study_id"), _TRIALS.trial_id > bindparam("trial_id")).limit(1)
)
_PARAM = (
    select(_PARAMS.distribution_json)
    .join(models.TrialModel.__table__, _PARAMS.trial_id == _TRIALS.trial_id)
    .where(_TRIALS.study_id == bindparam("study_id"), _PARAMS.param_name == bindparam("name"))
    .limit(1)
)


def _attribute(trial_id: int, key: str, value: Any) -> Row:
    return {"trial_id": trial_id, "key": key, "value_json": json.dumps(value)}


def _hold(connection: Connection, trial_ids: Collection[int]) -> None:
    """Keep others from writing to some trials until the transaction ends, and refuse those that have ended."""
    if connection.dialect.name == "sqlite":  # which locks no rows; from here on it has one writer
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    found = connection.execute(_STATES, {"trial_ids": [*trial_ids]}).all()
    if len(found) < len(trial_ids):
        raise KeyError(models.NOT_FOUND_MSG)
    for _, number, state in found:
        if state.is_finished():
            raise UpdateFinishedTrialError(f"Trial {number} has already ended ({state.name}) and takes nothing any more.")


def _first(connection: Connection, study_id: int, name: str) -> BaseDistribution | None:
    """Read of what kind a parameter is in the trials that have it."""
    stored = connection.scalar(_PARAM, {"study_id": study_id, "name": name})
    return None if stored is None else json_to_distribution(stored)


@functools.cache
def _named_by(model: Any) -> list[str]:
    """Name what a row of a table is found by."""
    if model is models.TrialModel:
        return ["of_trial"]
    return next(rule for rule in model.__table__.constraints if isinstance(rule, UniqueConstraint)).columns.keys()


@functools.cache
def _statement(dialect: str, model: Any) -> Any:
    """Give the statement that writes rows of a table, over those that stand there already."""
    table: Table = model.__table__
    if model is models.TrialModel:
        return update(table).where(_TRIALS.trial_id == bindparam("of_trial"))
    values = [column.name for column in table.columns if column.name not in _named_by(model) and not column.primary_key]
    if dialect in {"mysql", "mariadb"}:
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update({name: insert.inserted[name] for name in values})
    upsert = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    return upsert.on_conflict_do_update(index_elements=_named_by(model), set_={name: upsert.excluded[name] for name in values})
