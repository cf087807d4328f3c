import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.fold_average import average_networks
from automl_cxr.model.inference import load_model
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.passes import predict_probabilities

TRANSFER = {
    "family": "transfer", "backbone": "squeezenet", "cut": "1", "weights": "none", "image_size": 48, "dense_units": 4,
    "augmentation": 0.5, "otsu": True, "resizer": 1.0, "precision": "mixed",
}  # fmt: skip
PIXELS = LabelledPart(np.random.default_rng(0).integers(0, 256, (6, 48, 48), dtype=np.uint8), np.arange(6), np.zeros(6, int))


@pytest.mark.long
def test_the_mean_of_networks_can_be_saved_and_loaded(tmp_path):
    configs = [TrialConfig.from_values({**TRANSFER, "seed": seed}) for seed in (1, 2)]
    networks = [build_model(config, 3, steps_per_epoch=4) for config in configs]
    probabilities = [predict_probabilities(network, PIXELS) for network in networks]
    model = average_networks(networks)
    assert model.count_params() == sum(network.count_params() for network in networks)
    model.save(tmp_path / "model.keras")
    loaded = load_model(str(tmp_path / "model.keras"))
    assert predict_probabilities(loaded, PIXELS) == pytest.approx(np.mean(probabilities, axis=0), abs=1e-6)
    assert not np.allclose(probabilities[0], probabilities[1])
    assert [layer.name for layer in loaded.layers if layer.weights] == ["fold_1", "fold_2"]
    assert loaded.outputs[0].dtype == "float32"
