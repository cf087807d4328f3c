"""The scores of an earlier study are used by samplers only."""

import numpy as np
import optuna
import pytest

from automl_cxr.engine import optuna_proposer
from automl_cxr.engine.registry import LEARNING_SAMPLERS, SAMPLERS, build_proposer
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.engine.warm_start_view import WarmStartPoint
from tests.engine.simulation import CONDITIONAL, Simulation, journal, open_study
from tests.engine.test_registry import NEEDS_TORCH

SQUARE = parse_space('[x]\ntype = "float"\nlow = 0.0\nhigh = 1.0\n[y]\ntype = "float"\nlow = 0.0\nhigh = 1.0', name="square")
EPOCHS = 9


def priors_around(x, n=30):
    points = [SQUARE.sample(np.random.default_rng(number)) for number in range(n)]
    return [WarmStartPoint(point, [1 - (point["x"] - x) ** 2]) for point in points]


def propose(proposer, n):
    return [proposer.propose().values["x"] for _ in range(n)]


@pytest.mark.parametrize("pruner", ["none", "hyperband"])
@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=NEEDS_TORCH)])
def test_a_learning_sampler_uses_the_earlier_scores_from_the_first_trial(sampler, pruner):
    study = open_study()
    proposer = build_proposer(study, SQUARE, sampler=sampler, pruner=pruner, epochs=EPOCHS, seed=3, priors=priors_around(0.9))
    assert float(np.median(propose(proposer, 8))) > 0.75
    assert [trial.number for trial in study.get_trials()] == list(range(8))
    assert not study.get_trials(states=[optuna.trial.TrialState.COMPLETE])


@pytest.mark.parametrize("sampler", [name for name in optuna_proposer.SAMPLERS if name not in (*LEARNING_SAMPLERS, "grid")])
def test_other_samplers_ignore_priors(sampler):
    def points(**settings):
        proposer = build_proposer(open_study(), SQUARE, sampler=sampler, pruner="none", epochs=1, seed=3, **settings)
        return [proposer.propose().values for _ in range(12)]

    assert points(priors=priors_around(0.9)) == points()


def test_priors_are_used_after_a_restart(tmp_path):
    rng = np.random.default_rng(1)
    points = [CONDITIONAL.sample(rng) for _ in range(20)]
    priors = [WarmStartPoint(point, [float(rng.random())]) for point in points]

    def proposals(name, restart):
        simulation = Simulation(EPOCHS)
        for n_trials in range(1, 12) if restart else [11]:
            study = open_study(journal(tmp_path / name))
            settings = {"pruner": "asha", "epochs": EPOCHS, "seed": 3, "priors": priors}
            simulation.run(build_proposer(study, CONDITIONAL, sampler="tpe", **settings), n_trials=n_trials)
        return simulation.proposals

    assert proposals("broken", True) == proposals("whole", False)


def test_learning_samplers_are_samplers():
    assert set(LEARNING_SAMPLERS) <= set(SAMPLERS)
