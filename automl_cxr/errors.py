"""The exceptions of this package.

    AutomlCxrError                       root; catch it to handle all errors of this package
      UsageError           ValueError    an argument is invalid: correct the call (exit code 2)
        UnknownNameError                 a name does not exist: correct the spelling
        SpaceError                       a search space is invalid: correct its TOML
        StudyMismatchError               a study has other settings: repeat them, or choose another study name
      DataError            ValueError    a data set cannot be used: correct the folder or table (exit code 1)
        UnreadableImageError             an image cannot be decoded: skip the file and report the reason
          ImageMemoryError               there is not enough memory to decode an image now: try again later
      ExportError          RuntimeError  a model cannot be exported: choose another format or other members (exit code 1)
      FeatureCacheError    RuntimeError  features cannot be cached: train from pixels, or free disk space
      StudyError           RuntimeError  a study does not contain the requested item (exit code 1)
      TrialError           RuntimeError  one trial failed: record it and continue the search
        NonFiniteLossError               the loss is NaN or infinite
        ImpossibleModelError             no network can be built for the configuration
        OutOfMemoryError                 training needs more memory than is available
        DiskFullError                    the files of a trial do not fit on the disk
        WorkerDiedError                  the worker process of a trial has ended
        NotCacheableError                   a network has no frozen part whose features can be cached: train from pixels
        TrialTimeoutError                a trial exceeded its time limit
        InfeasibleError                  a network violates a constraint: record it without training

A message states the rule, the received value and the remedy, on one line. The class attribute ``TrialError.retry`` defines
whether the trial is run again.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


class AutomlCxrError(Exception):
    """Root of all exceptions of this package. ``exit_code`` is the exit code of the command line."""

    exit_code = 1


class UsageError(AutomlCxrError, ValueError):
    """Raised for an invalid argument or combination of arguments. Correct the call."""

    exit_code = 2


class UnknownNameError(UsageError):
    """Raised for a name that does not exist. Correct the spelling; the message suggests the most similar name.

    Args:
        kind: Kind of the name, such as "metric".
        received: The name that does not exist.
        known: The existing names.
        hint: A sentence about a likely mistake.
    """

    def __init__(self, kind: str, received: str, known: Iterable[str], *, hint: str = "") -> None:
        self.kind, self.received = kind, received
        known = sorted(known)
        nearest = difflib.get_close_matches(received, known, n=1, cutoff=0.5)
        remedy = f"Did you mean '{nearest[0]}'?" if nearest else f"Known: {', '.join(known) or 'none'}."
        super().__init__(" ".join(filter(None, (f"Unknown {kind} '{received}'.", remedy, hint))))


class SpaceError(UsageError):
    """Raised for a search space that cannot be parsed or is inconsistent. Correct its TOML."""


class StudyMismatchError(UsageError):
    """Raised if a study exists with other settings. Repeat its settings, or choose another study name."""


class DataError(AutomlCxrError, ValueError):
    """Raised if a data set cannot be used. Correct the folder or table."""


class UnreadableImageError(DataError):
    """Raised for an image that cannot be decoded. Skip the file and report the reason."""


class ImageMemoryError(UnreadableImageError):
    """Raised for an image for which there is not enough free memory. Try again later, or on a machine with more memory."""


class ExportError(AutomlCxrError, RuntimeError):
    """Raised if networks cannot be exported to a format, or if the exported file computes other values.

    Choose another format or other members.
    """


class FeatureCacheError(AutomlCxrError, RuntimeError):
    """Raised if features cannot be written to the cache. Train from pixels, or free disk space."""


class StudyError(AutomlCxrError, RuntimeError):
    """Raised if a study does not contain the requested item (no such study, no finished trial, a removed model).

    Choose another item, or continue the search.
    """


@dataclass(frozen=True)
class RetryPolicy:
    """The retry policy of a failed trial.

    Attributes:
        times: Number of times that the trial is run again, from its last checkpoint, before it is recorded as failed.
        halves_batch: Whether each retry doubles the number of parts in which a batch is computed (gradient accumulation).
    """

    times: int = 0
    halves_batch: bool = False


class TrialError(AutomlCxrError, RuntimeError):
    """Raised inside a trial. Run the trial again according to ``retry``, or record the reason, and continue the search.

    By default a trial is not run again, because the same configuration fails again.
    """

    retry: ClassVar[RetryPolicy] = RetryPolicy()


class NonFiniteLossError(TrialError):
    """Raised if the training loss is NaN or infinite. Do not retry: the same configuration fails again."""


class ImpossibleModelError(TrialError):
    """Raised if no network can be built for a configuration. Do not retry."""


class OutOfMemoryError(TrialError):
    """Raised if training does not fit in memory. Retry with half a batch at a time.

    The gradient steps are nearly the same.
    """

    retry = RetryPolicy(times=1, halves_batch=True)


class DiskFullError(TrialError):
    """Raised if the files of a trial do not fit on the disk. Remove models and checkpoints that are not needed, then retry."""

    retry = RetryPolicy(times=1)


class WorkerDiedError(TrialError):
    """Raised for a trial whose worker process has ended. Retry twice.

    Another trial on the same worker may have caused it, but probably not every time.
    """

    retry = RetryPolicy(times=2)


class NotCacheableError(TrialError):
    """Raised if a network has no frozen part whose features can be computed once for all epochs. Train it from pixels."""


class TrialTimeoutError(TrialError):
    """Raised for a trial that exceeded its time limit. Do not retry: it would exceed the limit again."""


class InfeasibleError(TrialError):
    """Raised before training if a network is known to violate a constraint or not to fit in memory. Do not retry.

    Record the trial as REFUSED instead of failed, with its violations, from which samplers learn.

    Attributes:
        stopped_by: "constraint" or "memory".
        violations: Violation of each constraint by name: above 0 if it is violated, otherwise at most 0.
        facts: Additional values to record on the trial.
    """

    def __init__(self, message: str, *, stopped_by: str, violations: Mapping[str, float], facts: Mapping[str, object]) -> None:
        super().__init__(message)
        self.stopped_by = stopped_by
        self.violations = violations
        self.facts = facts
