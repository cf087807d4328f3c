from pathlib import Path

import keras
import numpy as np
import pytest

from automl_cxr.architectures import find_backbone
from automl_cxr.errors import TrialError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.keras_weight_files import assign_weights
from automl_cxr.model.torch_densenet import colour_layers, grey_layers
from automl_cxr.model.weights import load_pretrained


def torch_densenet121(torch):
    """Build torchvision's DenseNet121 with CheXNet's classifier and torchvision's module names."""
    nn = torch.nn

    def dense_layer(channels):
        return nn.ModuleDict(
            {
                "norm1": nn.BatchNorm2d(channels),
                "conv1": nn.Conv2d(channels, 128, 1, bias=False),
                "norm2": nn.BatchNorm2d(128),
                "conv2": nn.Conv2d(128, 32, 3, padding=1, bias=False),
            }
        )

    features, channels = nn.ModuleDict(), 64
    features["conv0"], features["norm0"] = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64)
    for block, n_layers in enumerate((6, 12, 24, 16), start=1):
        dense = {f"denselayer{n}": dense_layer(channels + 32 * (n - 1)) for n in range(1, n_layers + 1)}
        features[f"denseblock{block}"] = nn.ModuleDict(dense)
        channels += 32 * n_layers
        if block < 4:
            transition = {"norm": nn.BatchNorm2d(channels), "conv": nn.Conv2d(channels, channels // 2, 1, bias=False)}
            features[f"transition{block}"] = nn.ModuleDict(transition)
            channels //= 2
    features["norm5"] = nn.BatchNorm2d(channels)
    return nn.ModuleDict({"features": features, "classifier": nn.Sequential(nn.Linear(channels, 14), nn.Sigmoid())})


def torch_features(torch, features, images):
    relu, pool = torch.nn.functional.relu, torch.nn.functional
    x = pool.max_pool2d(relu(features["norm0"](features["conv0"](images))), 3, stride=2, padding=1)
    for block in range(1, 5):
        for layer in features[f"denseblock{block}"].values():
            new = layer["conv1"](relu(layer["norm1"](x)))
            x = torch.cat([x, layer["conv2"](relu(layer["norm2"](new)))], 1)
        if block < 4:
            transition = features[f"transition{block}"]
            x = pool.avg_pool2d(transition["conv"](relu(transition["norm"](x))), 2, stride=2)
    return relu(features["norm5"](x))


@pytest.mark.parametrize(("zipped", "is_old"), [(False, True), (True, False)])
def test_a_pytorch_checkpoint_computes_the_same_in_keras(zipped, is_old, tmp_path):
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which automl_cxr does not need")
    torch.manual_seed(0)
    network = torch_densenet121(torch)
    images = np.random.default_rng(0).normal(0, 1, (2, 224, 224, 3)).astype(np.float32)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.2, 1.0)
        elif "conv1" in name:
            parameter.data *= 0.01  # variances of 1e-5, where the epsilons of PyTorch and Keras matter
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():  # one pass in training mode, to set the moving statistics
        torch_features(torch, network.train()["features"], torch.from_numpy(images[:, ::2, ::2].transpose(0, 3, 1, 2)))
    network.eval()
    with torch.no_grad():
        expected = torch_features(torch, network["features"], torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = expected.numpy().transpose(0, 2, 3, 1)
    state = {f"module.densenet121.{name}": tensor for name, tensor in network.state_dict().items()}
    if is_old:  # before PyTorch 0.4
        state = {
            name.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2"): v
            for name, v in state.items()
            if not name.endswith("num_batches_tracked")
        }
        assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in state
    path = tmp_path / "model.pth.tar"
    torch.save({"epoch": 5, "state_dict": state, "best_loss": 0.1}, path, _use_new_zipfile_serialization=zipped)
    model = build_backbone("densenet121", 224, weights="chexnet", weights_folder=tmp_path)
    received = keras.ops.convert_to_numpy(model(images, training=False))
    assert received.shape == expected.shape == (2, 7, 7, 1024)
    assert 0.1 < expected.std() < 10
    assert received == pytest.approx(expected, abs=1e-4)


def state_of(model):
    """Convert the weights of a Keras DenseNet121 to a PyTorch state dict."""
    kinds = {"0_bn": "norm1", "1_conv": "conv1", "1_bn": "norm2", "2_conv": "conv2"}
    ends = {"conv1_conv": "conv0", "conv1_bn": "norm0", "bn": "norm5"}
    state = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        stage, *rest = layer.name.split("_", 2)
        if layer.name in ends:
            name = ends[layer.name]
        elif stage.startswith("pool"):
            name = f"transition{int(stage[4:]) - 1}.{'norm' if rest[0] == 'bn' else 'conv'}"
        else:
            name = f"denseblock{int(stage[4:]) - 1}.denselayer{rest[0].removeprefix('block')}.{kinds[rest[1]]}"
        if len(layer.weights) == 1:
            state[f"features.{name}.weight"] = layer.get_weights()[0].transpose(3, 2, 0, 1)
        else:
            for part, array in zip(("weight", "bias", "running_mean", "running_var"), layer.get_weights(), strict=True):
                state[f"features.{name}.{part}"] = array
    return state


@pytest.mark.slow
def test_layers_are_named_and_transposed_as_in_keras():
    model = build_backbone("densenet121", 32)
    state = state_of(model)
    state |= {"classifier.0.weight": np.zeros((14, 1024)), "features.norm0.num_batches_tracked": np.array(1)}
    layers = {layer.name: layer.arrays for layer in colour_layers(state)}
    assert set(layers) == {layer.name for layer in model.layers if layer.weights}
    for name, arrays in layers.items():
        expected = model.get_layer(name).get_weights()
        assert [array.shape for array in arrays] == [array.shape for array in expected]
        assert all(np.allclose(a, b, atol=2e-8, rtol=1e-6) for a, b in zip(arrays, expected, strict=True)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.norm0.running_var": None}, "'conv1_bn' has no running_var"),
        ({"features.conv9.weight": np.ones((1, 1, 1, 1))}, "received the tensor 'features.conv9.weight'"),
        ({"features.conv0.weight": np.ones((64, 3, 5, 5))}, "takes (7, 7, 3, 64); received (5, 5, 3, 64)"),
        ({"features.conv0.weight": np.ones(3)}, "takes (7, 7, 3, 64); received (3)"),
        ({"features.conv0.weight": None}, "layer 'conv1_conv' takes (7, 7, 3, 64); the file has no such layer"),
        ({"features.conv0.bias": np.ones(64)}, "takes (7, 7, 3, 64); received"),
        ({"features.denseblock4.denselayer17.conv2.weight": np.ones((32, 128, 3, 3))}, "'conv5_block17_2_conv' of (3, 3, 128"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(change, message, tmp_path, monkeypatch):
    model = build_backbone("densenet121", 32)
    state = {name: array for name, array in (state_of(model) | change).items() if array is not None}
    (tmp_path / "model.pth.tar").write_bytes(b"")
    monkeypatch.setattr("automl_cxr.model.weights.read_torch_checkpoint", lambda _: state)
    with pytest.raises(TrialError) as caught:
        load_pretrained(model, find_backbone("densenet121"), "chexnet", tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def with_grey_input(state):
    """Return the state dict of a network that takes one channel, as TorchXRayVision's."""
    return state | {"features.conv0.weight": state["features.conv0.weight"].sum(axis=1, keepdims=True)}


@pytest.mark.long
def test_a_network_for_grey_images_computes_the_same_on_three_equal_channels():
    colour = build_backbone("densenet121", 32)
    grey = build_backbone("densenet121xrv", 32)
    state = with_grey_input(state_of(colour))
    assign_weights(grey, grey_layers(state), Path("model.pth"), by_order=False)
    pixels = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 1)).astype(np.float32).repeat(3, axis=-1)
    received, expected = (keras.ops.convert_to_numpy(model(pixels, training=False)) for model in (grey, colour))
    assert expected.std() > 1e-3
    assert received == pytest.approx(expected, rel=1e-3, abs=1e-4)


@pytest.mark.slow
def test_networks_for_grey_and_for_colour_images_are_not_mixed_up():
    state = state_of(build_backbone("densenet121", 32))
    with pytest.raises(TrialError, match="use backbone densenet121xrv"):
        colour_layers(with_grey_input(state))
    with pytest.raises(TrialError, match="Use backbone densenet121 for colour images"):
        grey_layers(state)
