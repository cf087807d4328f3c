"""A search without training: concurrent trials, one epoch of each at a time, with scores from a formula."""

from collections.abc import Callable
from dataclasses import dataclass, field

import optuna

from automl_cxr.engine.protocol import Decision, Outcome, Pause, Proposal, Report, TrialEnd
from automl_cxr.engine.space_toml import parse_space

CONDITIONAL = parse_space(
    """
family = "scratch"
[dropout]
type = "float"
low = 0.0
high = 0.5
default = 0.25
[rate]
type = "float"
low = 1e-5
high = 1e-1
log = true
default = 1e-3
[units]
type = "int"
low = 3
high = 96
log = true
default = 32
[batch_norm]
type = "choice"
values = [true, false]
default = true
[mix]
type = "choice"
values = [0, 0.5, "auto"]
default = 0
[shift]
type = "float"
low = 0.0
high = 0.3
step = 0.1
default = 0.1
when = { family = ["scratch"], batch_norm = [true] }
[never]
type = "int"
low = 1
high = 3
when = { family = ["fused"] }
[gamma]
type = "float"
low = 0.5
high = 5.0
when = { mix = [0.5, "auto"], batch_norm = [false] }
[depth]
type = "int"
low = 2
high = 8
step = 2
default = 4
[width]
type = "int"
low = 8
high = 16
step = 4
default = 8
when = { depth = [4, 6, 8] }
""",
    name="conditional",
)

FINITE = parse_space(
    """
[batch_norm]
type = "choice"
values = [true, false]
default = false
[depth]
type = "int"
low = 1
high = 3
default = 2
[shift]
type = "float"
low = 0.0
high = 0.3
step = 0.1
default = 0.1
when = { batch_norm = [true] }
""",
    name="finite",
)
N_FINITE = 3 * 4 + 3


def score_of(values, epoch):
    """Return a score below 1 that grows with the epochs and depends on every parameter that may be active."""
    penalty = values.get("dropout", 0.1) + values.get("gamma", 1.0) / 20 + 0.1 * values["depth"] / 8 + values.get("shift", 0.2)
    return 0.95 - penalty / 2 - 0.3 / epoch + (0.05 if values["batch_norm"] else 0.0)


@dataclass
class Simulation:
    """Runs the trials of a proposer and records their outcomes.

    Attributes:
        epochs: Number of epochs of the study.
        concurrency: Number of concurrent trials.
        fails: Returns whether a trial fails at its first epoch.
        sign: -1 if lower scores are better.
    """

    epochs: int
    concurrency: int = 1
    fails: Callable[[Proposal], bool] = lambda _: False
    sign: int = 1
    proposals: list[Proposal] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)

    def run(self, proposer, *, n_trials, resumed=()):
        """Run until ``n_trials`` trials have ended or the proposer has no further trial; return its last pause."""
        running = [[proposal, self._first_epoch(proposal)] for proposal in resumed]
        self.proposals += resumed
        pause = None
        while True:
            while len(running) < self.concurrency and len(self.proposals) < n_trials and pause is not Pause.OVER:
                pause = proposer.propose()
                if not isinstance(pause, Proposal):
                    break
                self.proposals.append(pause)
                running.append([pause, self._first_epoch(pause)])
            if not running:
                return pause
            for entry in list(running):
                if self._advance(proposer, *entry):
                    running.remove(entry)
                else:
                    entry[1] += 1

    def _first_epoch(self, proposal):
        rungs = {earlier.number: earlier.epochs for earlier in self.proposals}
        return 1 if proposal.parent is None else rungs[proposal.parent] + 1

    def _advance(self, proposer, proposal, epoch):
        """Run one epoch; return whether the trial has ended."""
        score = self.sign * score_of(proposal.values, epoch)
        if self.fails(proposal):
            return self._end(proposer, proposal, TrialEnd(Outcome.FAILED, error="ValueError: made to fail"))
        if proposer.observe(proposal.number, Report(epoch, score)) is Decision.STOP:
            return self._end(proposer, proposal, TrialEnd(Outcome.STOPPED))
        if epoch == (proposal.epochs or self.epochs):
            return self._end(proposer, proposal, TrialEnd(Outcome.FINISHED, facts={"score": score, "best_epoch": epoch}))
        return False

    def _end(self, proposer, proposal, ending):
        self.outcomes[proposal.number] = ending.outcome
        proposer.finish(proposal.number, ending)
        return True


def open_study(storage=None, direction="maximize"):
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(storage=storage, study_name="s", direction=direction, load_if_exists=True)


def journal(path):
    """Open a journal storage in a file."""
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
