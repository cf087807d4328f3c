import keras
import numpy as np
import pytest

from automl_cxr.model import inference
from automl_cxr.model.inference import predict_batches, predict_images, prediction_batch_size


@pytest.mark.parametrize(("size", "on_gpu"), [(112, 256), (224, 256), (448, 64), (2048, 32)])
def test_more_images_are_predicted_together_on_a_gpu(size, on_gpu, monkeypatch):
    monkeypatch.setattr(inference, "has_gpu", lambda: False)
    assert prediction_batch_size(size) == 32
    monkeypatch.setattr(inference, "has_gpu", lambda: True)
    assert prediction_batch_size(size) == on_gpu


def test_every_row_is_predicted_once_in_batches_of_one_size():
    pixels = keras.Input((2, 2, 1))
    model = keras.Model(pixels, keras.layers.Flatten()(pixels))
    images = np.random.default_rng(0).integers(0, 256, (11, 2, 2), dtype=np.uint8)
    sizes = []

    def batch(positions):
        sizes.append(len(positions))
        return images[positions][..., np.newaxis]

    assert predict_batches(model, batch, 11, batch_size=4).tolist() == images.reshape(11, 4).tolist()
    assert sizes == [4, 4, 4]
    assert predict_images(model, images, batch_size=20).tolist() == images.reshape(11, 4).tolist()
