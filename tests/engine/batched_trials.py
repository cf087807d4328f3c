"""An objective whose trials run together: it scores by a formula, an epoch of all that are left at once."""

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
    """Runs trials alone or together, with the same scores, and leaves a line in a log for each epoch that it computes.

    Attributes:
        score_of: Gives the score of values after an epoch.
        epochs: The study's.
        log: A line for each computation: its epoch, and the numbers of its trials.
        gathering: Tells which trials run with others.
        raising: Numbers of trials that raise an error of their own at epoch 2.
        killing: Numbers of trials that kill their process at epoch 2, at the first attempt.
    """

    score_of: Callable[[dict, int], float]
    epochs: int
    log: Path
    gathering: Callable[[Proposal], bool] = _all
    raising: tuple[int, ...] = ()
    killing: tuple[int, ...] = ()

    def can_batch(self, proposal):
        return self.gathering(proposal)

    def __call__(self, proposal):
        return _Shared(self, [proposal]).run(proposal)

    def run_batch(self, proposals):
        assert len(proposals) > 1
        shared = _Shared(self, proposals)
        return [shared.run(proposal) for proposal in proposals]

    def computed(self):
        """Give what was computed: an epoch and the numbers of its trials at a time."""
        lines = [[int(word) for word in line.split()] for line in self.log.read_text().splitlines()]
        return [(line[0], line[1:]) for line in lines]


@dataclass
class _Shared:
    """What the trials of a batch have in common: who is left, and the scores that were computed and not yet taken."""

    objective: SimultaneousObjective
    proposals: list[Proposal]
    left: dict[int, Proposal] = field(init=False)
    buffer: dict[tuple[int, int], float] = field(default_factory=dict)

    def __post_init__(self):
        self.left = {proposal.number: proposal for proposal in self.proposals}

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
            self.left.pop(number, None)

    def _compute(self, epoch):
        due = [p for p in self.left.values() if (p.epochs or self.objective.epochs) >= epoch]
        with self.objective.log.open("a") as file:
            file.write(" ".join(map(str, [epoch, *(p.number for p in due)])) + "\n")
        if epoch == 2 and any(p.number in self.objective.killing and p.attempts == 0 for p in due):
            os.kill(os.getpid(), signal.SIGKILL)
        for p in due:
            self.buffer[p.number, epoch] = self.objective.score_of(p.values, epoch)
