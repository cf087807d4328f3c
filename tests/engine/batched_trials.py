"""An objective that runs batches: it computes scores by a formula, one epoch of all running trials at a time."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from automl_cxr.engine.protocol import Proposal, Report


def _all(_proposal):
    return True


@dataclass(frozen=True)
class SimultaneousObjective:
    """An objective with the same scores for single trials and batches, and a log of the computed epochs.

    Attributes:
        score_of: Returns the score of a point after an epoch.
        epochs: Number of epochs of the study.
        log: A file with a line for each computation: its epoch and the numbers of its trials.
        batchable: Returns whether a trial can be batched.
        raising: Numbers of trials that raise an error at epoch 2.
        killing: Numbers of trials that kill their process at epoch 2, at the first attempt.
    """

    score_of: Callable[[dict, int], float]
    epochs: int
    log: Path
    batchable: Callable[[Proposal], bool] = _all
    raising: tuple[int, ...] = ()
    killing: tuple[int, ...] = ()

    def can_batch(self, proposal):
        return self.batchable(proposal)

    def __call__(self, proposal):
        return _Shared(self, [proposal]).run(proposal)

    def run_batch(self, proposals):
        assert len(proposals) > 1
        shared = _Shared(self, proposals)
        return [shared.run(proposal) for proposal in proposals]

    def computed(self):
        """Return the epoch and the numbers of the trials of each computation."""
        lines = [[int(number) for number in line.split()] for line in self.log.read_text().splitlines()]
        return [(line[0], line[1:]) for line in lines]


@dataclass
class _Shared:
    """The shared state of a batch: its running trials, and the scores that were computed and not read yet."""

    objective: SimultaneousObjective
    proposals: list[Proposal]
    running: dict[int, Proposal] = field(init=False)
    buffer: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self):
        self.running = {proposal.number: proposal for proposal in self.proposals}

    def run(self, proposal):
        number, score = proposal.number, 0.0
        try:
            first = 1 if proposal.parent is None else proposal.epochs // 3 + 1
            for epoch in range(first, (proposal.epochs or self.objective.epochs) + 1):
                if (number, epoch) not in self.buffer:
                    self._compute(epoch)
                score = self.buffer.pop((number, epoch))
                if epoch == 2 and number in self.objective.raising:
                    raise ValueError(f"trial {number} was made to fail")
                yield Report(epoch, score)
            return {"score": score, "cut_short": False, "pid": os.getpid()}
        finally:
            self.running.pop(number, None)

    def _compute(self, epoch):
        due = [p for p in self.running.values() if (p.epochs or self.objective.epochs) >= epoch]
        with self.objective.log.open("a") as file:
            file.write(" ".join(map(str, [epoch, *(p.number for p in due)])) + "\n")
        if epoch == 2 and any(p.number in self.objective.killing and p.attempts == 0 for p in due):
            os.kill(os.getpid(), signal.SIGKILL)
        for p in due:
            self.buffer[p.number, epoch] = self.objective.score_of(p.values, epoch)
