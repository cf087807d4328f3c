"""Writes to a trial, as values that can be deferred, merged and ordered."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


class WriteKind(enum.IntEnum):
    """What a write changes, in the order in which the writes of one trial are applied.

    A driver may be killed between any two of them. The state is last, so that a trial is finished only with all its contents.
    """

    USER_ATTR = 0
    SYSTEM_ATTR = 1
    PARAM = 2
    INTERMEDIATE_VALUE = 3
    STATE = 4


@dataclass(frozen=True)
class TrialWrite:
    """A write to a trial.

    Attributes:
        number: Number of the trial.
        kind: What it changes.
        name: Name of the attribute or parameter, step of the intermediate value, None for the state. A later write of the same
            kind and name replaces an earlier one.
        value: Value of the attribute; (internal value, distribution) of the parameter; the intermediate value; (state, values
            or None, end as naive local time) for the state.
    """

    number: int
    kind: WriteKind
    name: Any
    value: Any
