"""Pruners for cross-validated trials, with given scores."""

import numpy as np
import optuna
import pytest

from automl_cxr.engine.optuna_proposer import make_pruner
from automl_cxr.engine.protocol import Decision, Outcome, Report, TrialEnd
from automl_cxr.engine.registry import SAMPLERS, build_proposer
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import UnknownNameError, UsageError
from tests.engine.simulation import open_study

SPACE = parse_space('[dropout]\ntype = "float"\nlow = 0.0\nhigh = 0.5', name="one")
FOLDS = (0.70, 0.85, 0.60, 0.90, 0.75)  # scores of a typical trial; they differ more between folds than between trials


class Search:
    """Runs trials with given fold scores until the proposer stops them."""

    def __init__(self, pruner, *, sign=1, sampler="random", folds=5):
        self.study = open_study(direction="maximize" if sign == 1 else "minimize")
        self.sign = sign
        self.proposer = build_proposer(self.study, SPACE, sampler=sampler, pruner=pruner, epochs=30, folds=folds, seed=1)

    def run(self, scores):
        """Run a trial; return the number of its last fold."""
        proposal = self.proposer.propose()
        for fold, score in enumerate(scores, start=1):
            if self.proposer.observe(proposal.number, Report(fold, self.sign * score)) is Decision.STOP:
                self.proposer.finish(proposal.number, TrialEnd(Outcome.STOPPED))
                return fold
        score = self.sign * sum(scores) / len(scores)
        self.proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts={"score": score}))
        return len(scores)

    def run_typical(self, n_trials=6):
        for number in range(n_trials):
            assert self.run([score + 0.01 * number for score in FOLDS]) == len(FOLDS), "the first trials are never stopped"
        return self


def shifted(*by):
    return [score + shift for score, shift in zip(FOLDS, by, strict=True)]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("pruner", "fold"), [("wilcoxon", 3), ("median", 2), ("none", 5)])
def test_a_clearly_worse_trial_is_stopped_early(pruner, fold, sign):
    search = Search(pruner, sign=sign).run_typical()
    assert search.run([score - 0.05 for score in FOLDS]) == fold
    state = optuna.trial.TrialState.PRUNED if fold < 5 else optuna.trial.TrialState.COMPLETE
    assert search.study.get_trials()[-1].state is state


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("pruner", ["wilcoxon", "median"])
def test_a_better_trial_is_never_stopped(pruner, sign):
    search = Search(pruner, sign=sign).run_typical()
    for better in range(6, 11):
        gains = np.roll([0.05, 0.0, 0.01, 0.03, -0.02], better)  # above the best trial on average and on most folds
        assert search.run(shifted(*(0.05 + 0.04 * (better - 6) + gains))) == len(FOLDS)


@pytest.mark.parametrize("pruner", ["wilcoxon", "median"])
def test_a_difficult_fold_stops_no_trial(pruner):
    """Fold scores a little above those of the best trial: a fold with a low score has low scores in all trials."""
    search = Search(pruner).run_typical()
    assert search.run(shifted(0.06, 0.06, 0.06, 0.06, 0.06)) == len(FOLDS)


def test_an_easy_fold_does_not_save_a_trial_from_the_median():
    """Optuna's MedianPruner compares the best score so far, which is that of the easy second fold."""
    search = Search("median").run_typical()
    assert search.run(shifted(0.04, 0.04, -0.2, -0.2, -0.2)) == 3
    optuna_pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    assert not optuna_pruner.prune(search.study, search.study.get_trials()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(("folds", "stopped_at"), [(2, 2), (3, 2), (4, 2), (5, 3), (6, 3), (8, 4), (10, 4)])
def test_half_of_the_folds_are_enough_for_wilcoxon_and_it_never_stops_at_the_last(folds, stopped_at):
    search = Search("wilcoxon", folds=folds)
    for _ in range(6):
        search.run([0.8] * folds)
    assert search.run([0.5 + 0.01 * fold for fold in range(folds)]) == stopped_at
    assert search.study.get_trials()[-1].state is (
        optuna.trial.TrialState.PRUNED if stopped_at < folds else optuna.trial.TrialState.COMPLETE
    )


@pytest.mark.parametrize("pruner", ["wilcoxon", "median"])
def test_ties_neither_warn_nor_stop_a_trial(pruner):
    search = Search(pruner)
    for _ in range(9):
        assert search.run([0.8] * len(FOLDS)) == len(FOLDS)


def test_a_repeated_trial_is_compared_on_the_folds_it_reports():
    search = Search("wilcoxon").run_typical()
    proposal = search.proposer.propose()
    scores = [score - 0.05 for score in FOLDS]
    for fold in (1, 2):
        assert search.proposer.observe(proposal.number, Report(fold, scores[fold - 1])) is Decision.CONTINUE
    restarted = build_proposer(search.study, SPACE, sampler="random", pruner="wilcoxon", epochs=30, folds=5, seed=1)
    restarted.resume(proposal.number)
    decisions = [restarted.observe(proposal.number, Report(fold, scores[fold - 1])) for fold in (1, 2, 3)]
    assert decisions == [Decision.CONTINUE, Decision.CONTINUE, Decision.STOP]


def test_pruners_for_epochs_and_for_folds_are_distinguished():
    with pytest.raises(UsageError, match=r"received --pruner hyperband with --folds 5\. Use one of wilcoxon, median, none"):
        make_pruner("hyperband", epochs=30, folds=5)
    with pytest.raises(UsageError, match="received no --folds"):
        make_pruner("wilcoxon", epochs=30, folds=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'wilcoxon'"):
        make_pruner("wilcoxn", epochs=30, folds=5)
    with pytest.raises(UsageError, match="trials that report epochs, not folds"):
        Search("none", sampler="kt-hyperband")
    assert "kt-hyperband" in SAMPLERS
