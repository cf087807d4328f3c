"""The interface for progress messages: a listener receives the events of a search."""

from __future__ import annotations

from typing import Protocol

from automl_cxr.engine.protocol import Report
from automl_cxr.records import TrialRecord


class Listener(Protocol):
    """Receives the events of a search, for progress messages. Its methods are called in the thread of the search."""

    def on_begin(self, number: int, *, resumed: bool) -> None:
        """Called when a trial starts or is run again."""

    def on_epoch(self, number: int, report: Report) -> None:
        """Called when a trial reports an epoch or fold."""

    def on_failure(self, number: int, reason: str) -> None:
        """Called when a trial failed and will be run again, because the error may be temporary."""

    def on_lost(self, number: int) -> None:
        """Called when another driver has requeued a trial of this search, because this driver's heartbeat had stopped."""

    def on_end(self, record: TrialRecord) -> None:
        """Called when a trial has ended and is recorded."""

    def on_storage_away(self, reason: str) -> None:
        """Called when the storage does not respond and the search waits."""

    def on_lock_timeout(self, message: str) -> None:
        """Called when the lock of the study was replaced, because its holder did not release it in time."""
