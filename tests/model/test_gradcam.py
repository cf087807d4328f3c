"""Grad-CAM against known class activation maps, and its gradients against finite differences."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.model.activations import Activations
from automl_cxr.model.build import build_model
from automl_cxr.model.feature_maps import convolution_and_pooling_layers
from automl_cxr.model.fold_average import average_networks, networks_within
from automl_cxr.model.gradcam import GradCam, heat_map, resample
from automl_cxr.model.gradients import gradients
from automl_cxr.model.graph import tensors_at

PLAIN = TrialConfig(
    family="scratch", image_size=32, layers="conv4k3 pool2 conv6k3", n_dense=0, dropout=0.0, pooling="average", seed=3
)
FUSED = TrialConfig(family="fused", image_size=80, filters=4, taps="1+2+5", n_dense=0)
TRANSFER = TrialConfig(
    family="transfer", backbone="squeezenet", weights="none", image_size=48, dense_units=5, pooling="average"
)
CONCAT = dataclasses.replace(
    PLAIN, family="concat", backbone="squeezenet", weights="none", cut="3", second_backbone="scratch", projection=0
)
PIXELS = np.random.default_rng(0).integers(0, 256, size=(3, 80, 80)).astype(np.uint8)
CLASSES = np.array([0, 2, 1])


def built(config):
    """Build a network with larger weights of the head, because the scores of a new network hardly differ."""
    network = build_model(config, 3, steps_per_epoch=2)
    rng = np.random.default_rng(1)
    head = network.get_layer("probabilities")
    head.set_weights([rng.normal(0, 0.02, weight.shape) for weight in head.get_weights()])
    return network


def pixels_for(network):
    side = network.input_shape[1]
    return PIXELS[:, :side, :side]


def class_activation_map(network, layer, rows):
    """Zhou et al. 2016: the feature maps of a layer times rows of the output layer's kernel."""
    maps = keras.Model(network.input, tensors_at(network, [layer])[0]).predict_on_batch(pixels_for(network)[..., np.newaxis])
    return np.einsum("nhwc,cn->nhw", maps, network.get_layer("probabilities").get_weights()[0][rows][:, CLASSES])


def test_global_average_pooling_gives_the_class_activation_map():
    network = built(PLAIN)
    gradcam = GradCam(network)
    assert gradcam.places == ("block2_conv1",)
    (evidence,) = gradcam.evidence(pixels_for(network), CLASSES)
    assert evidence.shape == (3, 16, 16)
    assert evidence == pytest.approx(class_activation_map(network, "block2_conv1", slice(None)), rel=1e-4, abs=1e-4)


def test_the_score_of_a_finding_is_that_before_the_sigmoid():
    network, of_findings = built(PLAIN), build_model(dataclasses.replace(PLAIN, task="multilabel"), 3, steps_per_epoch=2)
    of_findings.set_weights(network.get_weights())
    pixels = pixels_for(network)
    for evidence, of_finding in zip(
        GradCam(network).evidence(pixels, CLASSES), GradCam(of_findings).evidence(pixels, CLASSES), strict=True
    ):
        np.testing.assert_array_equal(evidence, of_finding)


def test_branches_of_two_resolutions_have_the_weights_of_the_head():
    network = built(CONCAT)
    gradcam = GradCam(network)
    assert gradcam.places == ("backbone/fire4_concat", "second_backbone_scratch_branch/block2_conv1")
    first, second = gradcam.evidence(pixels_for(network), CLASSES)
    assert first.shape[1:] != second.shape[1:]
    n_first = 256
    assert first == pytest.approx(class_activation_map(network, gradcam.places[0], slice(n_first)), rel=1e-3, abs=1e-4)
    assert second == pytest.approx(class_activation_map(network, gradcam.places[1], slice(n_first, None)), rel=1e-3, abs=1e-4)
    # The sum of the evidence of both branches is the score, so no branch is scaled.
    probabilities = network.predict_on_batch(pixels_for(network)[..., np.newaxis])
    bias = network.get_layer("probabilities").get_weights()[1]
    sums = [sum(one.mean(axis=(1, 2)) for one in gradcam.evidence(pixels_for(network), np.full(3, k))) for k in range(3)]
    scores = np.stack(sums, axis=1) + bias
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    assert powers / powers.sum(axis=1, keepdims=True) == pytest.approx(probabilities, abs=1e-3)
    joined = heat_map([first, second])
    assert joined.shape == (3, 56, 56)
    assert joined.min() == 0
    assert not np.allclose(joined, heat_map([first]))


@pytest.mark.parametrize(
    ("config", "layer"), [(TRANSFER, "fire5_concat"), (TRANSFER, None), (dataclasses.replace(PLAIN, pooling="flatten"), None)]
)
def test_channel_weights_equal_finite_differences_of_the_score(config, layer):
    network = built(config)
    gradcam = GradCam(network, layer)
    pixels = keras.ops.convert_to_tensor(pixels_for(network)[:1, ..., np.newaxis].astype(np.float32))
    unshifted = np.zeros((1, *gradcam._shapes[0]), np.float32)

    def score(shifts):
        scores, maps = gradcam._shifted([pixels, *shifts], training=False)
        return keras.ops.sum(scores[:, 2]), [maps]

    (maps,), (slopes,) = gradients(score, [unshifted])
    weights, differences = slopes.sum(axis=(0, 1, 2)), []
    for channel in range(min(6, len(weights))):
        step = unshifted.copy()
        step[..., channel] = 0.02 * np.abs(maps).max()
        above, below = (float(score([keras.ops.convert_to_tensor(sign * step)])[0]) for sign in (1, -1))
        differences.append((above - below) / (2 * step.max()))
    assert weights[: len(differences)] == pytest.approx(
        np.array(differences), rel=0.05, abs=0.05 * float(np.abs(weights).max())
    )


@pytest.mark.slow
def test_the_last_feature_maps_of_each_family_are_found():
    assert GradCam(built(FUSED)).places == ("conv1", "conv2", "conv5")
    assert GradCam(built(TRANSFER)).places == ("backbone/fire9_concat",)
    normalised = dataclasses.replace(PLAIN, layers="conv4k3l bn relu pool2 drop0.2")
    assert GradCam(built(normalised)).places == ("block1_relu1",)
    assert GradCam(built(TRANSFER), "fire2_concat").places == ("backbone/fire2_concat",)
    projected = GradCam(built(dataclasses.replace(CONCAT, projection=4)))
    assert projected.places == ("backbone_projection", "second_backbone_projection")


def test_an_unknown_layer_is_refused_with_a_suggestion():
    network = built(dataclasses.replace(CONCAT, second_backbone="squeezenet", second_weights="none", second_cut="3"))
    with pytest.raises(UnknownNameError, match="Did you mean 'fire4_concat'"):
        GradCam(network, "fire4_conact")
    with pytest.raises(UnknownNameError, match="Did you mean 'second_backbone/fire3_concat'"):
        GradCam(network, "second_backbone/fire3_concta")
    with pytest.raises(UnknownNameError):
        GradCam(network, "probabilities")  # has no feature maps
    with pytest.raises(UsageError, match="'fire2_concat' is any of backbone/fire2_concat, second_backbone/fire2_concat"):
        GradCam(network, "fire2_concat")
    assert GradCam(network, "second_backbone/fire2_concat").places == ("second_backbone/fire2_concat",)


def test_the_networks_of_folds_are_found_in_a_saved_average(tmp_path):
    networks = [built(dataclasses.replace(PLAIN, seed=seed)) for seed in (1, 2)]
    average_networks(networks).save(tmp_path / "model.keras")
    found = networks_within(keras.models.load_model(tmp_path / "model.keras"))
    assert len(found) == 2
    for network, loaded in zip(networks, found, strict=True):
        (before,), (after,) = (GradCam(one).evidence(pixels_for(one), CLASSES) for one in (network, loaded))
        assert after == pytest.approx(before, abs=1e-4)
    assert networks_within(networks[0]) == [networks[0]]


def test_activations_has_every_convolution_and_pool():
    network = built(CONCAT)
    names = [layer.name for layer in convolution_and_pooling_layers(network)]
    assert {
        "backbone/conv1",
        "second_backbone_scratch_branch/block1_conv1",
        "second_backbone_scratch_branch/block1_pool",
    } <= set(names)
    maps = dict(Activations(network).of(pixels_for(network)[:1]))
    assert list(maps) == names
    assert maps["second_backbone_scratch_branch/block1_pool"].shape == (1, 16, 16, 4)
    assert maps["second_backbone_scratch_branch/block1_conv1"].min() >= 0


def test_resampling_interpolates_linearly():
    maps = np.array([[[0.0, 1.0], [2.0, 3.0]]])
    same = resample(maps, np.array([0.25, 0.75]), np.array([0.25, 0.75]))
    assert same == pytest.approx(maps)
    assert resample(maps, np.array([0.5]), np.array([0.5])) == pytest.approx(1.5)
    assert resample(maps, np.array([0.0, 1.0]), np.array([0.0])).ravel() == pytest.approx([0, 2])  # constant towards the edges
    assert resample(maps, np.array([-0.01, 1.01]), np.array([0.5])).ravel() == pytest.approx([0, 0])


SCRIPT = """
import json, keras, numpy as np
from automl_cxr.config import TrialConfig
from automl_cxr.model.build import build_model
from automl_cxr.model.gradcam import GradCam
network = build_model(TrialConfig(**{config}), 3, steps_per_epoch=2)
rng = np.random.default_rng(0)
network.set_weights([np.abs(rng.normal(0.05, 0.05, weight.shape)) for weight in network.get_weights()])
images = rng.integers(0, 256, (2, 48, 48)).astype(np.uint8)
print(json.dumps([one.tolist() for one in GradCam(network).evidence(images, np.array([0, 2]))]))
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_other_backends_compute_the_same_evidence(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"needs {backend}")
    config = {**dataclasses.asdict(CONCAT), "image_size": 48}

    def evidence_on(backend):
        environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", SCRIPT.format(config=repr(config))]
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        return [np.array(one) for one in json.loads(out.splitlines()[-1])]

    for evidence, expected in zip(evidence_on(backend), evidence_on("tensorflow"), strict=True):
        assert evidence == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("mirrored", [False, True])
def test_names_of_operations_of_a_loaded_network_do_not_collide(tmp_path, mirrored):
    probe = TrialConfig(
        family="probe",
        image_size=48,
        weights="none",
        probe_layers="squeezenet@2+squeezenet@4",
        probe_pooling="average+deviation",
        probe_kernel="rbf",
        probe_mirrored=mirrored,
    )
    build_model(probe, 3, steps_per_epoch=1).save(tmp_path / "probe.keras")
    build_model(PLAIN, 3, steps_per_epoch=1)  # restarts the automatic names, as in a process that loads several networks
    loaded = keras.models.load_model(tmp_path / "probe.keras")
    assert all(np.isfinite(maps).all() for maps in GradCam(loaded).evidence(pixels_for(loaded), CLASSES))
