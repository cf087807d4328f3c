"""Progress messages of a search: the status, and a line for each event; ``progress_views`` shows them."""

from __future__ import annotations

import time
from collections import Counter
from typing import TextIO

from automl_cxr.engine.protocol import Report
from automl_cxr.records import SplitRecord, TrialRecord, TrialState
from automl_cxr.storage.retrying_storage import PATIENCE_SECONDS
from automl_cxr.study.budget import Budget
from automl_cxr.study.prepare import PreparedStudy
from automl_cxr.study.progress_views import open_view
from automl_cxr.study.store import StudyStore


class SearchProgress:
    """A search listener that prints the trials done, running, pruned and failed, the best score and the time left.

    Use it as a context manager around the search.

    Args:
        store: The study.
        budget: The budget of the search.
        stream: Output stream. [default: in a notebook one output of the cell, else stderr]
        deadline: ``time.monotonic()`` at which the trials should have ended. [default: after the wall time of the budget]
    """

    def __init__(
        self, store: StudyStore, budget: Budget, *, stream: TextIO | None = None, deadline: float | None = None
    ) -> None:
        self._store = store
        self._budget = budget
        self._objective = store.spec.objective
        self._step = "fold" if store.spec.folds else "epoch"
        self._counts = Counter(record.state for record in store.records() if record.state.is_finished)
        eligible = store.eligible()
        self._best: TrialRecord | None = eligible[0] if eligible else None
        self._running: dict[int, Report | None] = {}
        self._start = self._last_end = time.monotonic()
        self._n_ended = 0
        if deadline is None and budget.seconds is not None:
            deadline = self._start + budget.seconds
        self._deadline = deadline
        self._view = open_view(stream, self._status, self._share)

    def __enter__(self) -> SearchProgress:
        self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.stop()

    def print_study(self, prepared: PreparedStudy) -> None:
        """Print the study, its images and split, and the assumptions that were made."""
        spec, split = prepared.store.spec, prepared.store.split
        split_by = ("by patient" if split.grouped else "by image") + ("" if split.origin == "made" else f" ({split.origin})")
        self._view.note(
            f"Study '{spec.name}' ({'new' if prepared.is_new else 'continued'}): space {spec.space_name}, "
            f"{', '.join(spec.classes)}; {spec.image_size} pixels; {_count_images(split)} "
            f"and {len(split.test)} sealed test images, split {split_by}."
        )
        for note in prepared.notes:
            self._view.note(note)

    def print_note(self, text: str) -> None:
        """Print a sentence on a line of its own."""
        self._view.note(text)

    def on_begin(self, number: int, *, resumed: bool) -> None:
        self._running[number] = None
        if resumed:
            self._view.event(f"trial {number} was interrupted and is run again")
        elif self._view.is_live:
            self._view.refresh()
        else:
            self._view.event(f"trial {number} starts")

    def on_epoch(self, number: int, report: Report) -> None:
        self._running[number] = report
        self._view.refresh()

    def on_failure(self, number: int, reason: str) -> None:
        self._running.pop(number, None)
        self._view.event(f"trial {number} failed and is run again, because the error may be temporary: {reason}")

    def on_lost(self, number: int) -> None:
        self._running.pop(number, None)
        self._view.event(
            f"trial {number} is stopped: another search requeued it, because the heartbeat of this search had stopped"
        )

    def on_end(self, record: TrialRecord) -> None:
        self._running.pop(record.number, None)
        self._counts[record.state] += 1
        self._n_ended += 1
        self._last_end = time.monotonic()
        if record.state is TrialState.COMPLETE and record.is_feasible and self._is_best(record):
            self._best = record
        self._view.event(f"{_describe(record, self._objective)} | {self._summary()}")

    def on_storage_away(self, reason: str) -> None:
        self._view.event(f"the storage does not respond ({reason}); retrying for up to {format_seconds(PATIENCE_SECONDS)}")

    def on_lock_timeout(self, message: str) -> None:
        self._view.event(message)

    def _is_best(self, record: TrialRecord) -> bool:
        return self._best is None or self._store.is_better(record.score, self._best.score)  # type: ignore[arg-type]

    def _summary(self) -> str:
        n_done = sum(self._counts.values())
        total = "" if self._budget.n_trials is None else f"/{self._budget.n_trials}"
        parts = [f"{n_done}{total} done", f"{self._counts[TrialState.PRUNED]} pruned"]
        if self._counts[TrialState.FAILED]:
            parts.append(f"{self._counts[TrialState.FAILED]} failed")
        if self._best is not None:
            parts.append(f"best {self._best.score:.4f} (trial {self._best.number})")
        parts.append(self._time_left(n_done))
        return ", ".join(part for part in parts if part)

    def _time_left(self, n_done: int) -> str:
        """Estimate the remaining time: the minimum of the wall time left and the estimated time of the remaining trials."""
        now = time.monotonic()
        limits = []
        if self._deadline is not None:
            limits.append(self._deadline - now)
        if self._budget.n_trials is not None and self._n_ended:
            seconds_per_trial = (self._last_end - self._start) / self._n_ended
            limits.append((self._budget.n_trials - n_done) * seconds_per_trial - (now - self._last_end))
        return f"about {format_seconds(max(0.0, min(limits)))} left" if limits and self._running else ""

    def _share(self) -> float | None:
        """Return the finished share of the search, by the limit that is nearest; None without such a limit."""
        now, shares = time.monotonic(), []
        if self._budget.n_trials is not None:
            shares.append(sum(self._counts.values()) / self._budget.n_trials)
        if self._deadline is not None and self._deadline > self._start:
            shares.append((now - self._start) / (self._deadline - self._start))
        return min(1.0, max(shares)) if shares else None

    def _status(self) -> str:
        running = ", ".join(
            f"{number}: starting" if report is None else f"{number}: {self._step} {report.epoch}, {report.score:.3f}"
            for number, report in sorted(self._running.items())
        )
        return f"{self._summary()} | running {len(self._running)} ({running or 'none'})"


def format_seconds(seconds: float) -> str:
    """Format a duration, such as "45 s", "12 min" or "3.4 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _count_images(split: SplitRecord) -> str:
    if split.folds:
        return f"{len(split.train.images)} images in {split.n_folds} folds"
    return f"{len(split.train.images)} training, {len(split.valid.images)} validation"


def _describe(record: TrialRecord, objective: str) -> str:
    match record.state:
        case TrialState.COMPLETE:
            violated = [name for name, violation in record.violations.items() if violation > 0]
            infeasible = f"; violates {', '.join(violated)}" if violated else ""
            return f"trial {record.number} complete: {objective} {record.score:.4f} ({_format_steps(record)}){infeasible}"
        case TrialState.PRUNED if record.refusal is not None:
            return f"trial {record.number} refused: {record.refusal}"
        case TrialState.PRUNED if not record.scores:
            return f"trial {record.number} stopped without a score"
        case TrialState.PRUNED:
            last = max(record.scores)
            step = "epoch" if record.folds is None else "fold"
            return f"trial {record.number} pruned at {step} {last}: {objective} {record.scores[last]:.4f}"
        case _:
            return f"trial {record.number} failed: {record.error}"


def _format_steps(record: TrialRecord) -> str:
    if record.folds is None:
        return f"epoch {record.best_epoch}"
    return "folds " + ", ".join(f"{score:.4f}" for _, score in sorted(record.scores.items()))
