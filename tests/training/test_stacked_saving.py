import zipfile

import keras
import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.model.head import classifier_head
from automl_cxr.model.inference import load_model
from automl_cxr.training.stacked_saving import StackedModelSaver


def test_a_copied_file_equals_the_file_that_keras_writes(tmp_path):
    pixels = keras.Input((6, 6, 1))
    inner = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3)], name="backbone")
    vector = keras.layers.Flatten(name="vector")(inner(pixels))
    base = keras.Model(pixels, vector)
    saver = StackedModelSaver(base.layers)
    for units in (300, 5):
        config = TrialConfig(n_dense=2, dense_units=units, dropout=0.3, seed=units)
        model = keras.Model(pixels, classifier_head(vector, config, 3))
        model.compile()
        saver.save(model, tmp_path / f"{units}.keras")
    model.save(tmp_path / "expected.keras")
    expected, copied = (load_model(str(tmp_path / name)) for name in ("expected.keras", "5.keras"))
    assert copied.get_config() == expected.get_config()
    for one, other in zip(copied.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    assert abs((tmp_path / "5.keras").stat().st_size - (tmp_path / "expected.keras").stat().st_size) < 20_000
    with zipfile.ZipFile(tmp_path / "5.keras") as one, zipfile.ZipFile(tmp_path / "expected.keras") as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
