import dataclasses

import keras
import pytest

import automl_cxr
from automl_cxr.engine.protocol import BatchableObjective, Proposal
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.records import TrialState
from automl_cxr.study.objective import TrialObjective

HEAD_ONLY = {"backbone": "squeezenet", "cut": "1", "unfreeze": 0, "augmentation": 0.0}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / "squeezenet.weights.h5"
    build_backbone("squeezenet", 32).save_weights(file)
    keras.utils.clear_session()
    return str(file)


@pytest.mark.long
def test_a_search_trains_heads_in_batches(phantoms, weights, tmp_path):
    study = automl_cxr.search(
        "transfer",
        data=phantoms,
        fixed={**HEAD_ONLY, "weights": weights, "n_dense": 1},
        image_size=32,
        trials=3,
        epochs=2,
        sampler="random",
        pruner="none",
        executor="inline",
        batch_trials=3,
        runs=tmp_path,
    )
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    logs = [path.read_text() for path in tmp_path.glob("*/trials/*/train.log")]
    assert all("predictions of the whole network from pixels" in log for log in logs)
    assert study.verify().is_sound
    assert study.replay(1, tolerance=1e-4).is_same


def test_batching_depends_on_the_configuration_folds_and_fidelity(tmp_path):
    objective = TrialObjective(
        fixed={**HEAD_ONLY, "family": "transfer", "image_size": 32, "epochs": 2},
        study_seed=0,
        images=tmp_path,
        weights_folder=None,
        split=tmp_path,
        trials=tmp_path,
        checkpoints=tmp_path,
        driver="d",
        objectives=("macro_f1",),
        requirements=(),
        normal_class=None,
    )
    assert isinstance(objective, BatchableObjective)
    assert objective.can_batch(Proposal(0, {"n_dense": 2}))
    assert not objective.can_batch(Proposal(0, {"unfreeze": 2}))
    assert not objective.can_batch(Proposal(0, {}, halvings=1))
    assert not dataclasses.replace(objective, folds=5).can_batch(Proposal(0, {}))
    assert not dataclasses.replace(objective, fidelity="image_size").can_batch(Proposal(0, {}, epochs=1))


@pytest.mark.slow
def test_a_trial_records_the_precision_of_its_network(phantoms, tmp_path):
    study = automl_cxr.search("scratch", data=phantoms, image_size=32, trials=1, epochs=1, executor="inline", runs=tmp_path)
    assert study._store.facts(0)["precision"] == "float32"  # tests run on a CPU
    assert "32 pixels, float32" in next(tmp_path.glob("*/trials/*/train.log")).read_text()
