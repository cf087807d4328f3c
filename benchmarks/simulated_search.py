"""Searches on a simulated clock: trials report recorded or predicted learning curves, and nothing is trained.

Used by ``lcbench.py`` and ``recorded_curves.py``. The trials run through the engine of automl-cxr, one at a time. A search ends
when its trials have used a budget of training time.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd

from automl_cxr.engine.inline_execution import run_inline
from automl_cxr.engine.protocol import Decision, Facts, Pause, Proposal, Proposer, Report, TrialEnd
from automl_cxr.engine.registry import build_proposer
from automl_cxr.engine.space import Space

METHODS: Mapping[str, tuple[str, str]] = {
    "random": ("random", "none"),
    "random+asha": ("random", "asha"),
    "tpe": ("tpe", "none"),
    "tpe+asha": ("tpe", "asha"),
    "tpe+hyperband": ("tpe", "hyperband"),
    "tpe+median": ("tpe", "median"),
    "kt-hyperband": ("kt-hyperband", "none"),
    "gp": ("gp", "none"),  # needs automl-cxr[gp]
}
DEFAULT_METHODS = tuple(name for name in METHODS if name != "gp")
CHECKPOINTS = (0.125, 0.25, 0.5, 1.0)  # shares of the budget at which the regret is given


class Curves(Protocol):
    """Learning curves of all configurations of a space."""

    epochs: int

    def curve(self, values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Return the score after each epoch, and the seconds from the start until its end, both float (epochs,)."""
        ...


@dataclasses.dataclass
class Replay:
    """An objective that reports a learning curve, and advances a simulated clock.

    Attributes:
        curves: The learning curves.
        seconds: Training time of all trials so far.
        incumbents: Seconds and best score of COMPLETE trials, at each improvement.
    """

    curves: Curves
    seconds: float = 0.0
    incumbents: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    _reached: dict[int, int] = dataclasses.field(default_factory=dict)

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        scores, seconds = self.curves.curve(proposal.values)
        first = 0 if proposal.parent is None else self._reached[proposal.parent]
        last = proposal.epochs or self.curves.epochs
        self._reached[proposal.number] = last
        for epoch in range(first, last):
            self.seconds += float(seconds[epoch] - (seconds[epoch - 1] if epoch else 0.0))
            yield Report(epoch + 1, float(scores[epoch]))
        best = float(scores[:last].max())
        if last == self.curves.epochs and best > max((score for _, score in self.incumbents), default=-math.inf):
            self.incumbents.append((self.seconds, best))
        return {"score": best}

    def best_until(self, seconds: float) -> float:
        """Return the best score of the COMPLETE trials at a time; -inf if there is none."""
        return max((score for when, score in self.incumbents if when <= seconds), default=-math.inf)


@dataclasses.dataclass
class WithinTime:
    """A proposer that ends when the simulated clock has reached the budget. A running trial is stopped."""

    proposer: Proposer
    replay: Replay
    budget: float

    def propose(self) -> Proposal | Pause:
        return Pause.OVER if self.replay.seconds >= self.budget else self.proposer.propose()

    def observe(self, number: int, report: Report) -> Decision:
        decision = self.proposer.observe(number, report)
        return Decision.STOP if self.replay.seconds >= self.budget else decision

    def finish(self, number: int, ending: TrialEnd) -> None:
        self.proposer.finish(number, ending)


def replay_search(method: str, curves: Curves, space: Space, *, budget: float, seed: int) -> Replay:
    """Run a search on the simulated clock until its trials have used ``budget`` seconds of training time."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler, pruner = METHODS[method]
    study = optuna.create_study(direction="maximize")
    proposer = build_proposer(study, space, sampler=sampler, pruner=pruner, epochs=curves.epochs, seed=seed)
    replay = Replay(curves)
    run_inline(replay, WithinTime(proposer, replay, budget))
    return replay


def compare_methods(
    task: str,
    curves: Curves,
    space: Space,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    full_trials: float,
    reference: Sequence[tuple[np.ndarray, np.ndarray]],
) -> list[dict[str, Any]]:
    """Run all searches on one task.

    The regret of a search is the difference between the best score that is known for the task and the best score of its
    COMPLETE trials, divided by the difference between the best and the median score of ``reference``: 0 is the best known
    configuration and 1 is the median random configuration, also before the first COMPLETE trial.

    Args:
        task: Name of the task.
        curves: Its learning curves.
        space: The space without defaults, so that no search starts with a good point.
        methods: Names in ``METHODS``.
        seeds: Seeds of the searches of each method.
        full_trials: The budget, in full trials of median time.
        reference: Curves of random configurations.

    Returns:
        One row for each method, seed and share of the budget.
    """
    best_scores = np.array([scores.max() for scores, _ in reference])
    budget = full_trials * float(np.median([seconds[-1] for _, seconds in reference]))
    rows = [
        {"task": task, "method": method, "seed": seed, "share": share, "score": replay.best_until(share * budget)}
        for method in methods
        for seed in seeds
        for replay in [replay_search(method, curves, space, budget=budget, seed=seed)]
        for share in CHECKPOINTS
    ]
    best = max(best_scores.max(), *(row["score"] for row in rows))
    median = float(np.median(best_scores))
    return [{**row, "regret": min(1.0, (best - row["score"]) / (best - median))} for row in rows]


def summarise(rows: pd.DataFrame, *, unit: str) -> pd.DataFrame:
    """Return the mean regret of each method at each share of the budget, with a 95 % bootstrap interval.

    Args:
        rows: The rows of ``compare_methods``.
        unit: Column whose values are resampled: "task", or "seed" if there is one task.
    """

    def describe(regrets: pd.Series) -> str:
        rng = np.random.default_rng(0)
        means = regrets.groupby(level=unit).mean().to_numpy()
        resampled = rng.choice(means, (2000, len(means))).mean(axis=1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return f"{means.mean():.3f} ({low:.3f} to {high:.3f})"

    return rows.set_index(unit).groupby(["method", "share"])["regret"].apply(describe).unstack("share")
