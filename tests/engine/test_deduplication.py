import pytest

from automl_cxr.engine.protocol import Outcome, TrialEnd
from automl_cxr.engine.registry import build_proposer
from automl_cxr.engine.space_toml import parse_space
from tests.engine.simulation import open_study

SPACE = parse_space(
    """
[layers]
type = "choice"
values = ["vector", "maps"]
[pooling]
type = "choice"
values = ["average", "deviation"]
[kernel]
type = "choice"
values = ["linear", "rbf"]
""",
    name="small",
)
N_CONFIGURATIONS = 6  # of 8 points: the pooling of a vector has no effect


def effective(point):
    return {name: value for name, value in point.items() if name != "pooling" or point["layers"] == "maps"}


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "grid", "kt-random", "kt-grid"])
def test_a_configuration_that_differs_only_in_a_value_without_effect_is_not_proposed_again(sampler):
    study, proposed = open_study(), []
    for n_trials in (3, N_CONFIGURATIONS - 3):  # the second proposer reads the trials of the first one
        proposer = build_proposer(study, SPACE, sampler=sampler, pruner="none", epochs=1, seed=0, effective=effective)
        for _ in range(n_trials):
            proposal = proposer.propose()
            proposer.finish(proposal.number, TrialEnd(Outcome.FINISHED, facts={"score": 0.5}))
            proposed.append(proposal.values)
    assert len({tuple(effective(values).items()) for values in proposed}) == len(proposed) == N_CONFIGURATIONS
    assert all(values.keys() == {"layers", "pooling", "kernel"} for values in proposed), "recorded with all values"
