import keras

from automl_cxr.config import TrialConfig
from automl_cxr.model.head import classifier_head

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
