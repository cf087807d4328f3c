import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.head import classifier_head
from automl_cxr.model.memory_estimate import measure_size

CONFIG = TrialConfig(n_dense=2, dense_units=8, dropout=0.3, seed=7)


def head(config, n_built_before=0):
    keras.utils.set_random_seed(n_built_before)
    vector = keras.Input((8,))
    for _ in range(n_built_before):
        keras.layers.Dense(4)(vector)
    return keras.Model(vector, classifier_head(vector, config, 8)).get_weights()


def test_initial_weights_do_not_depend_on_earlier_layers():
    for one, other in zip(head(CONFIG), head(CONFIG, n_built_before=3), strict=True):
        assert (one == other).all()


def test_layers_and_seeds_have_different_initial_weights():
    kernels = [*head(CONFIG)[::2], *head(TrialConfig(n_dense=2, dense_units=8, dropout=0.3, seed=8))[::2]]
    assert len({kernel.tobytes() for kernel in kernels}) == 6


def test_findings_are_independent_and_need_no_other_weights():
    vector = keras.Input((8,))
    values = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    classes, findings = (
        keras.Model(vector, classifier_head(vector, TrialConfig(task=task, n_dense=0, dropout=0.0, seed=7), 4))
        for task in ("multiclass", "multilabel")
    )
    for one, other in zip(classes.get_weights(), findings.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    logits = values @ findings.get_weights()[0]
    np.testing.assert_allclose(findings(values), 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_densenet121_with_14_findings_has_the_parameters_of_chexnet():
    chexnet = TrialConfig(task="multilabel", family="transfer", backbone="densenet121", n_dense=0, image_size=224)
    assert measure_size(chexnet, 14).parameters == 7_051_854


def test_a_network_for_one_finding_has_one_output():
    network = build_model(TrialConfig(task="multilabel", image_size=32, n_blocks=1, filters=4), 1, steps_per_epoch=1)
    assert network.output_shape == (None, 1)
