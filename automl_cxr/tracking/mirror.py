"""Sends finished trials to experiment trackers, in a thread that neither slows nor stops a search.

The storage of the study remains the record. What could not be sent is sent by a later search with the same trackers, or by
`automl-cxr track`. The numbers of the trials that were sent are stored in the folder of the study.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from automl_cxr.engine.protocol import Report
from automl_cxr.records import TrialRecord
from automl_cxr.storage.passwords import without_password, without_password_of
from automl_cxr.study.listener import Listener
from automl_cxr.study.store import StudyStore
from automl_cxr.tracking.tracked_trial import read_tracked_trial
from automl_cxr.tracking.trackers import Tracker, open_tracker

_FOLDER = "tracking"
_SECONDS_AT_END = 30.0  # that a search waits for the trials that are not sent yet


@dataclass
class Destination:
    """A tracker and the trials of a study that it has.

    Attributes:
        target: The target, such as "mlflow:sqlite:///mlflow.db".
        tracker: The tracker.
        sent: Numbers of the trials that were sent.
        failures: The reason why each other trial could not be sent.
    """

    target: str
    tracker: Tracker
    _file: Path
    sent: set[int] = field(default_factory=set)
    failures: dict[int, str] = field(default_factory=dict)

    @classmethod
    def open(cls, store: StudyStore, target: str) -> Destination:
        """Open a tracker. Errors as in ``open_tracker``."""
        file = store.folder / _FOLDER / f"{hashlib.sha256(target.encode()).hexdigest()[:16]}.txt"
        sent = {int(line) for line in file.read_text().split() if line.isdigit()} if file.is_file() else set()
        return cls(target, open_tracker(target), file, sent)

    def send(self, store: StudyStore, record: TrialRecord) -> None:
        """Send a trial unless the tracker has it. An error is stored in ``failures``."""
        if record.number in self.sent:
            return
        try:
            self.tracker.send(read_tracked_trial(store, record))
            self._file.parent.mkdir(exist_ok=True)
            with self._file.open("a") as file:
                file.write(f"{record.number}\n")
        except Exception as error:  # noqa: BLE001 - trackers raise many types, none of which may stop a search
            self.failures[record.number] = without_password_of(self.target, f"{type(error).__name__}: {error}")
        else:
            self.sent.add(record.number)
            self.failures.pop(record.number, None)

    def describe(self, n_unsent: int) -> str:
        """Return one sentence about the trials that the tracker has, and about those that it lacks."""
        sentence = f"{without_password(self.target)}: {len(self.sent)} trials tracked"
        if not n_unsent:
            return f"{sentence}."
        reason = f" ({next(iter(self.failures.values()))})" if self.failures else ""
        return f"{sentence}, {n_unsent} not{reason}."


def mirror_study(store: StudyStore, targets: Sequence[str]) -> tuple[list[str], bool]:
    """Send all finished trials of a study that the trackers do not have. After an error nothing more is sent to a tracker.

    Returns:
        A sentence about each tracker, and whether all of them have all trials.

    Raises:
        UnknownNameError: There is no such tracker.
        UsageError: A library is not installed.
    """
    destinations = [Destination.open(store, target) for target in targets]
    finished = [record for record in store.records() if record.state.is_finished]
    n_unsent = []
    for destination in destinations:
        for record in finished:
            destination.send(store, record)
            if destination.failures:
                break
        n_unsent.append(len({record.number for record in finished} - destination.sent))
    sentences = [destination.describe(number) for destination, number in zip(destinations, n_unsent, strict=True)]
    return sentences, not any(n_unsent)


class TrialMirror:
    """Sends each trial that ends to trackers, and first those that they lack. Use it as a context manager.

    Args:
        store: The study.
        targets: Targets as for ``open_tracker``.

    Raises:
        UnknownNameError: There is no such tracker.
        UsageError: A library is not installed.
    """

    def __init__(self, store: StudyStore, targets: Sequence[str]) -> None:
        self._store = store
        self._destinations = [Destination.open(store, target) for target in targets]
        self._queue: queue.SimpleQueue[TrialRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)
        self._numbers: set[int] = set()

    def __enter__(self) -> TrialMirror:
        for record in self._store.records():
            if record.state.is_finished:
                self.send(record)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._queue.put(None)
        self._thread.join(0.0 if kind is KeyboardInterrupt else _SECONDS_AT_END)

    def send(self, record: TrialRecord) -> None:
        """Queue a finished trial, and return at once."""
        self._numbers.add(record.number)
        self._queue.put(record)

    def describe(self) -> list[str]:
        """Return a sentence about each tracker."""
        return [one.describe(len(self._numbers - one.sent)) for one in self._destinations]

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            for destination in self._destinations:
                destination.send(self._store, record)


class MirroringListener:
    """A listener that passes all events on, and sends each trial that ends to a mirror."""

    def __init__(self, listener: Listener, mirror: TrialMirror) -> None:
        self._listener = listener
        self._mirror = mirror

    def on_begin(self, number: int, *, resumed: bool) -> None:
        self._listener.on_begin(number, resumed=resumed)

    def on_epoch(self, number: int, report: Report) -> None:
        self._listener.on_epoch(number, report)

    def on_failure(self, number: int, reason: str) -> None:
        self._listener.on_failure(number, reason)

    def on_lost(self, number: int) -> None:
        self._listener.on_lost(number)

    def on_end(self, record: TrialRecord) -> None:
        self._listener.on_end(record)
        self._mirror.send(record)

    def on_storage_away(self, reason: str) -> None:
        self._listener.on_storage_away(reason)

    def on_lock_timeout(self, message: str) -> None:
        self._listener.on_lock_timeout(message)
