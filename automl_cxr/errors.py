"""Everything that this package raises on purpose.

    AutomlCxrError                     the one class that a program around this package has to catch
      UsageError           ValueError  the words were wrong: change the call (exit code 2)
        UnknownNameError               a name that nothing here has; the message proposes the nearest
        SpaceError                     a search space that cannot be read or contradicts itself
        StudyMismatchError             an existing study was made with other settings
      DataError            ValueError  the data cannot be used as they are (exit code 1)
        UnreadableImageError           one file is not an image that can be decoded
      ExportError          RuntimeError  networks cannot be written in a format, or would not say the same there (exit code 1)
      FeatureCacheError    RuntimeError  features cannot be kept on disk; networks are trained from pixels instead
      StudyError           RuntimeError  a study has not got what was asked of it (exit code 1)
      TrialError           RuntimeError  one trial failed; the search goes on (recorded on the trial)
        NonFiniteLossError             the loss became NaN or infinite
        ImpossibleModelError           the configuration describes no network that can be built
        OutOfMemoryError               training needs more memory than there is
        DiskFullError                  there is no room for a trial's files
        WorkerDiedError                the process that ran the trial is gone
        UndividedError                 no part of a network can be computed once; it is trained from pixels instead
        TrialTimeoutError              the trial took longer than it may
        InfeasibleError                the network breaks a requirement or cannot fit in memory; it is not trained

A message says the rule, what was received, and the way out, on one line. A TrialError's class decides whether its trial is
run again: ``retry`` is its policy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


class AutomlCxrError(Exception):
    """Root of the tree. ``exit_code`` is what the command line ends with."""

    exit_code = 1


class UsageError(AutomlCxrError, ValueError):
    """Raised for an impossible value or combination; the caller changes the call."""

    exit_code = 2


class UnknownNameError(UsageError):
    """Raised for a name that does not exist; the caller corrects the spelling."""

    def __init__(self, kind: str, received: str, known: Iterable[str]) -> None:
        known = sorted(known)
        nearest = difflib.get_close_matches(received, known, n=1, cutoff=0.5)
        way_out = f"Did you mean '{nearest[0]}'?" if nearest else f"Known: {', '.join(known) or 'none'}."
        super().__init__(f"Unknown {kind} '{received}'. {way_out}")


class SpaceError(UsageError):
    """Raised for a search space that cannot be read; the caller corrects the TOML."""


class StudyMismatchError(UsageError):
    """Raised when a study exists with other settings; the caller names another study or repeats the settings."""


class DataError(AutomlCxrError, ValueError):
    """Raised when a data set cannot serve; the caller corrects the folder or table."""


class UnreadableImageError(DataError):
    """Raised for one undecodable file; the caller leaves the file out and reports the reason."""


class ExportError(AutomlCxrError, RuntimeError):
    """Raised when a file of a format cannot be made of networks; the caller takes another format, or other members."""


class FeatureCacheError(AutomlCxrError, RuntimeError):
    """Raised when features find no room or cannot be written; the caller makes room, or trains from pixels."""


class StudyError(AutomlCxrError, RuntimeError):
    """Raised when a study lacks what was asked of it (no such study, no finished trial, a removed model)."""


@dataclass(frozen=True)
class RetryPolicy:
    """What becomes of a trial that failed.

    Attributes:
        times: How often it is run again, from its last checkpoint, before it counts as failed.
        halves_batch: Whether each repetition computes its batches in twice as many parts.
    """

    times: int = 0
    halves_batch: bool = False


class TrialError(AutomlCxrError, RuntimeError):
    """Raised inside a trial; the engine runs it again or records the reason, and goes on. The same numbers fail again."""

    retry: ClassVar[RetryPolicy] = RetryPolicy()


class NonFiniteLossError(TrialError):
    """Raised when the training loss is NaN or infinite; retrying with the same numbers cannot help."""


class ImpossibleModelError(TrialError):
    """Raised before building when the configuration describes no network; retrying cannot help."""


class OutOfMemoryError(TrialError):
    """Raised when training does not fit into memory; half a batch at a time may, with nearly the same gradient steps."""

    retry = RetryPolicy(times=1, halves_batch=True)


class DiskFullError(TrialError):
    """Raised when a trial's files cannot be written; the study makes what room it may, so a second time can help."""

    retry = RetryPolicy(times=1)


class WorkerDiedError(TrialError):
    """Raised for a trial whose process is gone; it may have been the victim of another, but not each time."""

    retry = RetryPolicy(times=2)


class UndividedError(TrialError):
    """Raised when no frozen part of a network can be computed once for all epochs; the caller trains it from pixels."""


class TrialTimeoutError(TrialError):
    """Raised for a trial that took longer than it may; it would again."""


class InfeasibleError(TrialError):
    """Raised before training when it is known that the trial cannot count; retrying cannot help.

    The engine ends the trial as REFUSED, not as failed, and writes the violations on it, from which samplers learn.

    Attributes:
        stopped_by: "constraint" or "memory".
        violations: How far each constraint is broken by its name: above 0 where it is, else at most 0.
        facts: What else is to stand on the trial.
    """

    def __init__(self, message: str, *, stopped_by: str, violations: Mapping[str, float], facts: Mapping[str, object]) -> None:
        super().__init__(message)
        self.stopped_by = stopped_by
        self.violations = violations
        self.facts = facts
