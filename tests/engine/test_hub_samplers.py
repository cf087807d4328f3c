"""Samplers of a small registry, in the form of OptunaHub's."""

import optuna
import pytest

from automl_cxr.engine.protocol import Outcome, TrialEnd
from automl_cxr.engine.registry import build_proposer, check_proposer, default_batch_trials
from automl_cxr.errors import StudyError, UnknownNameError, UsageError
from tests.engine.simulation import CONDITIONAL, Simulation, open_study

pytest.importorskip("optunahub")

EPOCHS = 9
CLIMBER = """
import optunahub

class ClimbingSampler(optunahub.samplers.SimpleBaseSampler):
    '''Propose the largest dropout so far plus 0.01, which is a state in memory.'''

    def __init__(self, search_space=None, seed=None):
        super().__init__(search_space, seed)
        self._n_ended = 0

    def sample_relative(self, study, trial, search_space):
        assert "rate" in search_space and "shift" not in search_space, "only the unconditional parameters"
        return {"dropout": 0.3 + 0.01 * self._n_ended, "rate": 99.0}

    def after_trial(self, study, trial, state, values):
        self._n_ended += 1
"""
RANDOM = "class {}(optuna.samplers.RandomSampler):\n    {}\n"
PACKAGES = {
    "climber": "from .sampler import ClimbingSampler\n__all__ = ['ClimbingSampler']",
    "undeclared": "import optuna\nfrom optuna.samplers import TPESampler\n" + RANDOM.format("Own", "pass"),
    "two": "import optuna\n" + RANDOM.format("A", "pass") + RANDOM.format("B", "pass"),
    "none": "import optuna",
    "library": "import a_missing_library",
    "broken": "raise RuntimeError('two\\nlines.')",
    "demanding": "import optuna\n" + RANDOM.format("Own", "def __init__(self, studies): pass"),
    "failing": "import optuna\n" + RANDOM.format("Own", "def sample_independent(self, *_): raise KeyError('numbers only')"),
}


@pytest.fixture
def registry(tmp_path, monkeypatch):
    samplers = tmp_path / "registry" / "package" / "samplers"
    for name, code in PACKAGES.items():
        (samplers / name).mkdir(parents=True)
        (samplers / name / "__init__.py").write_text(code)
    (samplers / "climber" / "sampler.py").write_text(CLIMBER)
    monkeypatch.setenv("AUTOML_CXR_HUB", str(tmp_path / "registry"))


def make(name, study=None):
    study = study or open_study()
    return study, build_proposer(study, CONDITIONAL, sampler=name, pruner="none", epochs=EPOCHS, seed=3)


def test_a_sampler_keeps_its_state_for_all_trials_of_a_search(registry):
    study, proposer = make("hub:climber")
    Simulation(EPOCHS).run(proposer, n_trials=4)
    dropouts = [trial.params["dropout"] for trial in study.get_trials()]
    assert dropouts == pytest.approx([0.25, 0.31, 0.32, 0.33]), "the preset, then the numbers of ended trials"
    assert all(trial.params["rate"] <= 0.1 for trial in study.get_trials()), "a value outside the space is drawn again"
    for trial in study.get_trials():
        CONDITIONAL.check(trial.params)


def test_a_continued_study_loads_the_sampler_again(registry):
    study, proposer = make("hub:climber")
    Simulation(EPOCHS).run(proposer, n_trials=3)
    Simulation(EPOCHS).run(make("hub:climber", study)[1], n_trials=2)
    assert [trial.params["dropout"] for trial in study.get_trials()[3:]] == pytest.approx([0.3, 0.31])


def test_one_of_several_classes_is_chosen_by_its_name(registry):
    _, proposer = make("hub:two:B")
    Simulation(EPOCHS).run(proposer, n_trials=3)
    with pytest.raises(UsageError, match=r"must have one sampler; received A, B\. Add its name, such as hub:two:A"):
        make("hub:two")
    with pytest.raises(UnknownNameError, match="Unknown class of sampler 'hub:two' 'C'"):
        make("hub:two:C")


def test_a_sampler_of_the_hub_learns_and_may_support_several_objectives(registry):
    assert default_batch_trials("hub:climber", n_trials=16) == 2
    check_proposer(CONDITIONAL, sampler="hub:undeclared", pruner="none", n_objectives=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("climbr", "Did you mean 'climber'"),
        ("none", "must have one sampler; received none. Use another sampler"),
        ("library", r"needs libraries that can be imported; received ModuleNotFoundError: No module named 'a_missing_library'"),
        ("broken", "must be importable; received RuntimeError: two lines. Use"),
        ("demanding", "as its only arguments; received TypeError: .*'studies'"),
    ],
)
def test_a_sampler_that_cannot_be_loaded_is_refused_before_the_search(registry, name, message):
    with pytest.raises(UsageError, match=message):
        check_proposer(CONDITIONAL, sampler=f"hub:{name}", pruner="none")


def test_an_error_of_a_sampler_names_the_sampler_and_the_way_out(registry):
    study, proposer = make("hub:failing")
    proposer.finish(proposer.propose().number, TrialEnd(Outcome.FINISHED, facts={"score": 0.5}))
    with pytest.raises(StudyError, match=r"Sampler 'hub:failing' must support .*KeyError: 'numbers only'.* --sampler tpe"):
        proposer.propose()
    _, other = make("random", study)
    assert other.resume(1).values, "the study continues with another sampler"
    assert [trial.state for trial in study.get_trials()] == [optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING]


def test_the_missing_folder_is_named(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_HUB", str(tmp_path))
    with pytest.raises(UsageError, match=r"must name a copy of OptunaHub's registry, with the folder package/samplers"):
        check_proposer(CONDITIONAL, sampler="hub:climber", pruner="none")
    monkeypatch.delenv("AUTOML_CXR_HUB")
    with pytest.raises(UsageError, match=r"AUTOML_CXR_HUB names; received no such variable"):
        check_proposer(CONDITIONAL, sampler="hub:climber", pruner="none")
