"""Writes of several trials in one transaction, with one SQL statement for each table of Optuna's database.

Optuna's public methods need a transaction of two or three statements for each parameter, attribute and intermediate value. A
batch of heads on frozen features writes an epoch of 16 trials every few milliseconds, so public calls make a search of such
heads much slower (``benchmarks/README.md``). This module is the only one that depends on Optuna's tables. It is used only if
the database has the schema revision ``SCHEMA_REVISION``; other databases get public calls. The rows are those that Optuna
would write, after the same checks.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, MutableMapping, Sequence
from datetime import UTC
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from sqlalchemy import Connection, Table, UniqueConstraint, bindparam, select, update
from sqlalchemy.dialects import mysql, postgresql, sqlite

from automl_cxr.storage.trial_writes import TrialWrite, WriteKind

SCHEMA_REVISION = "v3.2.0.a"
"""Revision of Optuna's database schema that this module is written for (Optuna 5.0)."""

_Row = dict[str, Any]


def supports_bulk_writes(storage: RDBStorage) -> bool:
    """Return whether a database has the schema revision of this module."""
    return storage.get_current_version() == SCHEMA_REVISION


def write_in_bulk(
    storage: RDBStorage,
    study_id: int,
    writes: Sequence[tuple[int, TrialWrite]],
    distributions: MutableMapping[str, BaseDistribution],
) -> None:
    """Write to trials of one study in one transaction.

    Args:
        storage: A database for which ``supports_bulk_writes`` is true.
        study_id: The study.
        writes: Writes, each with the storage's id of its trial.
        distributions: Distribution of each parameter of the study that the caller knows. Missing ones are read and added.

    Raises:
        KeyError: A trial does not exist.
        UpdateFinishedTrialError: A trial is finished; nothing is written.
        ValueError: A parameter has another kind of distribution in this study; nothing is written.
        sqlalchemy.exc.SQLAlchemyError: The database failed.
    """
    tables: dict[Any, dict[tuple[Any, ...], _Row]] = {}
    for trial_id, write in writes:
        for model, row in _rows_of(trial_id, write):
            tables.setdefault(model, {})[tuple(row[name] for name in _key_of(model))] = row
    suggested = {write.name: write.value[1] for _, write in writes if write.kind is WriteKind.PARAM}
    with storage.engine.begin() as connection:
        _lock_trials(connection, {trial_id for trial_id, _ in writes})
        first = {
            name: distributions.get(name) or _read_distribution(connection, study_id, name) or distribution
            for name, distribution in suggested.items()
        }
        for name, distribution in suggested.items():
            check_distribution_compatibility(first[name], distribution)
        for model, rows in tables.items():
            connection.execute(_statement(connection.dialect.name, model), [*rows.values()])
    distributions.update(first)


# --------------------------------------------------------------------------------------------------------- Optuna's schema


def _rows_of(trial_id: int, write: TrialWrite) -> list[tuple[Any, _Row]]:
    """Return the rows of a write, each with Optuna's model of its table."""
    match write.kind:
        case WriteKind.USER_ATTR | WriteKind.SYSTEM_ATTR:
            is_user = write.kind is WriteKind.USER_ATTR
            model = models.TrialUserAttributeModel if is_user else models.TrialSystemAttributeModel
            return [(model, {"trial_id": trial_id, "key": write.name, "value_json": json.dumps(write.value)})]
        case WriteKind.PARAM:
            value, distribution = write.value
            row = {"trial_id": trial_id, "param_name": write.name, "param_value": value}
            return [(models.TrialParamModel, row | {"distribution_json": distribution_to_json(distribution)})]
        case WriteKind.INTERMEDIATE_VALUE:
            stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(write.value)
            row = {"trial_id": trial_id, "step": write.name, "intermediate_value": stored, "intermediate_value_type": kind}
            return [(models.TrialIntermediateValueModel, row)]
        case WriteKind.STATE:
            state, values, end = write.value
            rows: list[tuple[Any, _Row]] = []
            for objective, value in enumerate(values or ()):
                final, value_type = models.TrialValueModel.value_to_stored_repr(value)
                row = {"trial_id": trial_id, "objective": objective, "value": final, "value_type": value_type}
                rows.append((models.TrialValueModel, row))
            end_in_utc = end.astimezone(UTC).replace(tzinfo=None)
            return [*rows, (models.TrialModel, {"of_trial": trial_id, "state": state, "datetime_complete": end_in_utc})]


# These statements are module constants, because building one takes longer than executing it.
_TRIALS = models.TrialModel.__table__.c
_PARAMS = models.TrialParamModel.__table__.c
_STATES = (
    select(_TRIALS.trial_id, _TRIALS.number, _TRIALS.state)
    .where(_TRIALS.trial_id.in_(bindparam("trial_ids", expanding=True)))
    .order_by(_TRIALS.trial_id)
    .with_for_update()
)
_DISTRIBUTION = (
    select(_PARAMS.distribution_json)
    .join(models.TrialModel.__table__, _PARAMS.trial_id == _TRIALS.trial_id)
    .where(_TRIALS.study_id == bindparam("study_id"), _PARAMS.param_name == bindparam("name"))
    .limit(1)
)


def _lock_trials(connection: Connection, trial_ids: Collection[int]) -> None:
    """Lock trials for writing until the transaction ends, and check that none of them is finished."""
    if connection.dialect.name == "sqlite":  # SQLite has no row locks; this locks the database for writing
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    found = connection.execute(_STATES, {"trial_ids": [*trial_ids]}).all()
    if len(found) < len(trial_ids):
        raise KeyError(models.NOT_FOUND_MSG)
    for _, number, state in found:
        if state.is_finished():
            raise UpdateFinishedTrialError(f"Trial {number} is finished ({state.name}) and cannot be updated.")


def _read_distribution(connection: Connection, study_id: int, name: str) -> BaseDistribution | None:
    """Read the distribution of a parameter from any trial of the study that has it."""
    stored = connection.scalar(_DISTRIBUTION, {"study_id": study_id, "name": name})
    return None if stored is None else json_to_distribution(stored)


@functools.cache
def _key_of(model: Any) -> list[str]:
    """Return the columns that identify a row of a table."""
    if model is models.TrialModel:
        return ["of_trial"]
    return next(rule for rule in model.__table__.constraints if isinstance(rule, UniqueConstraint)).columns.keys()


@functools.cache
def _statement(dialect: str, model: Any) -> Any:
    """Return the statement that inserts or replaces rows of a table."""
    table: Table = model.__table__
    if model is models.TrialModel:
        return update(table).where(_TRIALS.trial_id == bindparam("of_trial"))
    values = [column.name for column in table.columns if column.name not in _key_of(model) and not column.primary_key]
    if dialect in {"mysql", "mariadb"}:
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update({name: insert.inserted[name] for name in values})
    upsert = (postgresql if dialect == "postgresql" else sqlite).insert(table)
    return upsert.on_conflict_do_update(index_elements=_key_of(model), set_={name: upsert.excluded[name] for name in values})
