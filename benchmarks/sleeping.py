"""An objective whose trials only sleep and write the files of a trial.

It has its own module, because worker processes import it by name.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.engine.protocol import Proposal, Report, Run
from automl_cxr.study.objective import staging_folder


def score_of(proposal: Proposal, epoch: int) -> float:
    """Return a score that depends on the proposal and increases with the epochs."""
    return 0.9 - float(proposal.values.get("dropout", 0.2)) * 0.5 - 0.3 / epoch - (proposal.number % 97) / 1000


@dataclass(frozen=True)
class Sleep:
    """An objective that sleeps before the first epoch. A batch sleeps as long as one trial.

    Attributes:
        trials: Folder of the study's trials.
        driver: Name of the driver.
        seconds: Time to sleep in seconds.
        epochs: Number of epochs.
    """

    trials: Path
    driver: str
    seconds: float
    epochs: int = 1

    def can_batch(self, _proposal: Proposal) -> bool:
        return True

    def __call__(self, proposal: Proposal) -> Run:
        return self._run(proposal, self.seconds)

    def run_batch(self, proposals: Sequence[Proposal]) -> list[Run]:
        return [self._run(proposal, self.seconds if position == 0 else 0.0) for position, proposal in enumerate(proposals)]

    def _run(self, proposal: Proposal, seconds: float) -> Run:
        folder = staging_folder(self.trials, proposal.number, self.driver)
        folder.mkdir(exist_ok=True)
        time.sleep(seconds)
        for epoch in range(1, self.epochs + 1):
            yield Report(epoch, score_of(proposal, epoch))
        facts = {"score": score_of(proposal, self.epochs), "best_epoch": self.epochs, "epochs": self.epochs}
        return {**facts, "cut_short": False, "n_parameters": 1, "seconds": self.seconds}
