import contextlib
import dataclasses
import functools
import hashlib
import http.server
import socket
import threading
import time

import h5py
import keras
import numpy as np
import pytest
from keras.src.applications import densenet, efficientnet_v2, inception_v3, mobilenet_v2, resnet, vgg16, xception

from automl_cxr.architectures import BACKBONES, find_backbone
from automl_cxr.errors import ImpossibleModelError, TrialError
from automl_cxr.model import weights as weights_module
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import build_full_network
from automl_cxr.model.weights import digest_weights, find_weights, load_pretrained


@pytest.fixture(autouse=True)
def isolated_weight_folders(tmp_path_factory, monkeypatch):
    monkeypatch.delenv("AUTOML_CXR_WEIGHTS", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))


def build(name, seed=0, size=None):
    keras.utils.set_random_seed(seed)
    return build_backbone(name, size or find_backbone(name).smallest_image)


@functools.cache
def source_of(name):
    """Return a network whose weights the tests write to files. It must not be changed."""
    return build(name, seed=1)


def layers_of(model):
    return [(layer.name, layer.get_weights()) for layer in model.layers]


def write_keras_2(path, layers, *, group=None, pieces=1):
    """Write layers in the format of Keras 1 and 2, with the layer names divided among ``pieces`` attributes."""
    with h5py.File(path, "w") as file:
        root = file.create_group(group) if group else file
        names = np.array([name.encode() for name, _ in layers])
        for number, piece in enumerate(np.array_split(names, pieces)):
            root.attrs["layer_names" if pieces == 1 else f"layer_names{number}"] = piece
        for name, arrays in layers:
            layer = root.create_group(name)
            layer.attrs["weight_names"] = [f"{name}/weight_{number}:0".encode() for number in range(len(arrays))]
            for number, array in enumerate(arrays):
                layer[f"{name}/weight_{number}:0"] = array


def same(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def error_of(model, weights, folder=None, error=TrialError, name="squeezenet"):
    before = model.get_weights()
    with pytest.raises(error) as caught:
        load_pretrained(model, find_backbone(name), str(weights), folder)
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    return str(caught.value)


def test_weights_none_change_nothing():
    model = build("squeezenet", seed=1)
    load_pretrained(model, find_backbone("squeezenet"), "none", None)
    assert digest_weights(find_backbone("squeezenet"), "none", None) == ""
    assert same(model, build("squeezenet", seed=1))


@pytest.mark.long
@pytest.mark.parametrize("name", ["vgg16", "mobilenetv2"])
def test_a_file_in_the_format_of_keras_is_found_in_the_folder(name, tmp_path):
    source = source_of(name)
    path = tmp_path / find_backbone(name).weights_file
    write_keras_2(path, layers_of(source))
    build(name, seed=3).load_weights(path)  # Keras can load the file too
    model = build(name, seed=2)
    assert not same(model, source)
    load_pretrained(model, find_backbone(name), "imagenet", tmp_path)
    assert digest_weights(find_backbone(name), "imagenet", tmp_path) == sha256(path)
    assert same(model, source)


def test_weights_of_the_whole_network_are_loaded_before_the_cut(tmp_path):
    source = source_of("squeezenet")
    write_keras_2(tmp_path / "squeezenet_v1.1_imagenet_notop.h5", layers_of(source))
    cut = build_backbone("squeezenet", 31, cut="3", weights="imagenet", weights_folder=tmp_path)
    for name, arrays in layers_of(cut):
        expected = source.get_layer(name).get_weights() if arrays else []
        assert all(np.array_equal(a, b) for a, b in zip(arrays, expected, strict=True))


def test_the_folder_is_searched_before_the_environment_variable_and_the_cache(tmp_path, monkeypatch):
    row = find_backbone("squeezenet")
    for location in ("keras/models", "variable", "folder"):
        (tmp_path / location).mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("AUTOML_CXR_WEIGHTS", str(tmp_path / "variable"))
    for location in ("keras/models", "variable", "folder"):
        (tmp_path / location / row.weights_file).write_bytes(b"")
        assert find_weights(row, "imagenet", tmp_path / "folder") == tmp_path / location / row.weights_file


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("inceptionv3", "a.weights.h5"),
        ("efficientnetv2b0", "a.keras"),
        ("squeezenet", "a.weights.h5"),
        ("squeezenet", "a.keras"),
    ],
)
def test_files_of_keras_3_can_be_loaded(name, file_name, tmp_path):
    source = source_of(name)  # the unnamed layers of the two InceptionV3 networks have different names
    (source.save_weights if file_name.endswith("h5") else source.save)(tmp_path / file_name)
    model = build(name, seed=2)
    load_pretrained(model, find_backbone(name), str(tmp_path / file_name))
    assert digest_weights(find_backbone(name), str(tmp_path / file_name)) == sha256(tmp_path / file_name)
    assert same(model, source)


def with_head(backbone):
    x = keras.layers.Dense(14, name="predictions")(keras.layers.GlobalAveragePooling2D()(backbone.output))
    return keras.Model(backbone.input, x)


@pytest.mark.long
def test_the_classifier_of_a_file_is_ignored(tmp_path):
    source = source_of("squeezenet")
    whole = with_head(source)
    nested = keras.Sequential([keras.Input(source.input_shape[1:]), source, keras.layers.Flatten(), keras.layers.Dense(3)])
    write_keras_2(tmp_path / "a.h5", layers_of(whole))
    write_keras_2(tmp_path / "b.h5", layers_of(whole), group="model_weights", pieces=3)
    whole.save(tmp_path / "c.keras")
    whole.save_weights(tmp_path / "d.weights.h5")
    nested.save(tmp_path / "e.keras")
    for name in ("a.h5", "b.h5", "c.keras", "d.weights.h5", "e.keras"):
        model = build("squeezenet", seed=2)
        load_pretrained(model, find_backbone("squeezenet"), name, tmp_path)
        assert same(model, source), name


@pytest.mark.long
def test_layers_with_other_names_are_matched_by_order(tmp_path):
    source = source_of("densenet121")
    layers = [(f"layer_{number}", arrays) for number, (_, arrays) in enumerate(layers_of(source)) if arrays]
    write_keras_2(tmp_path / "chexnet.h5", [*layers, ("predictions", [np.zeros((1024, 14)), np.zeros(14)])])
    model = build("densenet121", seed=2)
    load_pretrained(model, find_backbone("densenet121"), "chexnet", tmp_path)
    assert same(model, source)


@pytest.mark.long
def test_names_with_slashes_of_old_keras_are_matched(tmp_path):
    source = source_of("densenet121")
    layers = [(name.replace("conv1_", "conv1/"), arrays) for name, arrays in layers_of(source)]
    write_keras_2(tmp_path / "brucechou1983_CheXNet_Keras_0.3.0_weights.h5", layers[::-1])
    model = build("densenet121", seed=2)
    load_pretrained(model, find_backbone("densenet121"), "chexnet", tmp_path)
    assert same(model, source)


def test_a_resnet_is_not_matched_by_order(tmp_path):
    # Files of Keras before 2.2.5 have res2a_branch2c before res2a_branch1, two kernels of the same shape.
    model = build("resnet50")
    write_keras_2(tmp_path / "a.h5", [(f"res_{name}", arrays) for name, arrays in layers_of(model)])
    with pytest.raises(TrialError, match=r"layer 'conv1_conv' takes .*; the file has no such layer"):
        load_pretrained(model, find_backbone("resnet50"), str(tmp_path / "a.h5"))


def test_the_error_names_the_first_layer_that_does_not_fit(tmp_path):
    model, path = build("squeezenet"), tmp_path / "a.h5"
    layers = [(name, arrays) for name, arrays in layers_of(build("squeezenet", seed=1)) if arrays]

    def with_third(*arrays):
        write_keras_2(path, [*layers[:2], (layers[2][0], arrays), *layers[3:]])
        return error_of(model, path)

    kernel, bias = layers[2][1]
    expected = "layer 'fire2_expand1x1' takes (1, 1, 16, 64) and (64); received "
    assert expected + "(1, 1, 16, 32) and (64)" in with_third(kernel[..., :32], bias)
    assert expected + "(1, 1, 16, 64)." in with_third(kernel)
    assert "those of layer 'fire2_expand1x1' are not" in with_third(kernel * np.nan, bias)
    assert "are not weights" in with_third(kernel.astype("S4"), bias)
    write_keras_2(path, [*layers[:2], *layers[3:]])
    assert expected + "(3, 3, 16, 64) and (64), called 'fire2_expand3x3' in the file" in error_of(model, path)
    write_keras_2(path, layers[:-1])
    assert "layer 'fire9_expand3x3' takes (3, 3, 64, 256) and (256); the file has no such layer" in error_of(model, path)
    write_keras_2(path, [*layers, ("fire10_squeeze1x1", [np.zeros((1, 1, 512, 64)), np.zeros(64)])])
    assert "the network has no layer for 'fire10_squeeze1x1' of (1, 1, 512, 64) and (64)" in error_of(model, path)


@pytest.mark.slow
def test_a_keras_3_file_of_another_network_is_refused(tmp_path):
    build("mobilenetv2").save_weights(tmp_path / "a.weights.h5")
    assert "layer 'conv1' takes (3, 3, 3, 64) and (64); received (3, 3, 3, 32)" in error_of(
        build("squeezenet"), tmp_path / "a.weights.h5"
    )
    smaller = build_backbone("squeezenet", 31, cut="7")
    build("squeezenet").save_weights(tmp_path / "b.weights.h5")
    with pytest.raises(TrialError, match=r"the network has no layer for 'fire9_squeeze1x1' of "):
        load_pretrained(smaller, find_backbone("squeezenet"), str(tmp_path / "b.weights.h5"))


@pytest.mark.slow
@pytest.mark.parametrize("file_name", ["a.h5", "a.weights.h5", "a.keras", "a.pth", "a.pth.tar"])
def test_a_damaged_file_is_refused_with_the_reason(file_name, tmp_path):
    path, name = tmp_path / file_name, "densenet121" if "pth" in file_name else "squeezenet"
    model = source_of(name)
    if file_name == "a.h5":
        write_keras_2(path, layers_of(model))
    elif file_name == "a.weights.h5":
        model.save_weights(path)
    elif file_name == "a.keras":
        model.save(path)
    else:
        path.write_bytes(b"x" * 9999)
    whole = path.read_bytes()
    for piece in (b"", whole[:7], whole[:2000], whole[: len(whole) // 2], whole[: len(whole) // 2] + b"\0" * 9):
        path.write_bytes(piece)
        message = error_of(model, path, name=name)
        assert str(path) in message


def test_a_file_with_links_is_refused(tmp_path):
    model, path = build("squeezenet"), tmp_path / "a.h5"
    layers = layers_of(model)
    write_keras_2(tmp_path / "other.h5", layers)
    write_keras_2(path, layers)
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/weight_0:0"]
        file["conv1/conv1/weight_0:0"] = h5py.ExternalLink(tmp_path / "other.h5", "conv1/conv1/weight_0:0")
    assert "is a link" in error_of(model, path)
    write_keras_2(path, layers)
    with h5py.File(path, "r+") as file:
        del file["conv1"]
        file["conv1"] = h5py.ExternalLink(tmp_path / "other.h5", "conv1")
    assert "is a link" in error_of(model, path)
    for link in (h5py.SoftLink("/conv1_copy"), h5py.ExternalLink(tmp_path / "other.h5", "/")):
        write_keras_2(path, layers, group="model_weights")
        with h5py.File(path, "r+") as file:
            file.move("model_weights", "conv1_copy")
            file["model_weights"] = link
        assert "'model_weights' is a link" in error_of(model, path)
    write_keras_2(path, layers)
    (tmp_path / "raw").write_bytes(b"secret" * 99999)
    with h5py.File(path, "r+") as file:
        del file["conv1/conv1/weight_0:0"]
        group = file["conv1/conv1"]
        group.create_dataset("weight_0:0", (3, 3, 3, 64), "f4", external=[(tmp_path / "raw", 0, 6912)])
    assert "is not an array in this file" in error_of(model, path)


def test_a_small_file_with_huge_arrays_is_refused(tmp_path):
    model, path = build("squeezenet"), tmp_path / "a.h5"
    write_keras_2(path, layers_of(model)[:1])
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = [b"big"]
        file.create_group("big").attrs["weight_names"] = [b"w"]
        file["big"].create_dataset("w", (10**6, 10**6), "f4", chunks=(1000, 1000))
        file["big"].create_dataset("packed", (8, 8), "f4", chunks=(8, 8), compression="gzip", data=np.zeros((8, 8)))
    assert "the arrays are larger than the network with a classifier, or than the file" in error_of(model, path)
    with h5py.File(path, "r+") as file:
        file["big"].attrs["weight_names"] = [b"packed"]
    assert "'packed' is compressed or filtered" in error_of(model, path)


def test_a_file_larger_than_the_network_and_a_classifier_is_refused(tmp_path):
    model, path = build("squeezenet"), tmp_path / "a.h5"
    write_keras_2(path, layers_of(model))
    with h5py.File(path, "r+") as file:
        file.attrs["layer_names"] = [*file.attrs["layer_names"], b"big"]
        file.create_group("big").attrs["weight_names"] = [b"w"]
        file["big"].create_dataset("w", (2**27, 2), "f4", fill_time="never")[-1] = 0  # a sparse file
    assert path.stat().st_size > 2**30
    assert "with 'w' of (134217728, 2), the arrays are larger than the network with a classifier" in error_of(model, path)


def test_an_array_with_several_names_is_refused(tmp_path):
    model, path = build("squeezenet"), tmp_path / "a.h5"
    layers = layers_of(model)

    def reason_with(layer_names, weight_names, *, second_group=False):
        write_keras_2(path, layers)
        with h5py.File(path, "r+") as file:
            file.create_group("big").attrs["weight_names"] = weight_names
            file["big"].create_dataset("w", (20, 20), "f4", data=np.ones((20, 20)))
            if second_group:
                file["big/big"] = file["big"]
            file.attrs["layer_names"] = [*file.attrs["layer_names"], *layer_names]
        return error_of(model, path)

    assert "it lists 'big' 3 times" in reason_with([b"big"] * 3, [b"w"])
    assert "it lists 'w' 2 times" in reason_with([b"big"], [b"w", b"w"])
    assert "'./w' is an array with a second name" in reason_with([b"big"], [b"w", b"./w"])
    assert "'big' is a group with a second name" in reason_with([b"big"], [b"w"], second_group=True)


def test_code_in_a_keras_file_is_not_run(tmp_path):
    x = keras.Input((4,))
    keras.Model(x, keras.layers.Lambda(lambda value: value + 1, output_shape=(4,))(x)).save(tmp_path / "a.keras")
    with pytest.raises(TrialError, match="is damaged, or is not a Keras model") as caught:
        load_pretrained(build("squeezenet"), find_backbone("squeezenet"), str(tmp_path / "a.keras"))
    assert "Lambda" in str(caught.value.__cause__)


@pytest.mark.slow
def test_unknown_weights_are_refused(tmp_path):
    model = build("squeezenet")
    assert "the file 'imagnet' does not exist. Did you mean 'imagenet'?" in error_of(model, "imagnet")
    assert "Correct the path." in error_of(model, tmp_path / "nothing.h5")
    (tmp_path / "a.txt").write_text("x")
    assert "must end in one of .h5" in error_of(model, tmp_path / "a.txt")
    assert "CheXNet is a DenseNet121; received backbone 'squeezenet'" in error_of(model, "chexnet", error=ImpossibleModelError)
    (tmp_path / "a.pth").write_bytes(b"x")
    assert "PyTorch checkpoints can be read for densenet121" in error_of(model, tmp_path / "a.pth", error=ImpossibleModelError)
    message = error_of(source_of("densenet121"), "chexnet", tmp_path, name="densenet121")
    assert str(tmp_path) in message
    assert "model.pth.tar" in message
    assert "https://github.com/arnoweng/CheXNet" in message


def test_missing_squeezenet_weights_are_reported_with_their_source(tmp_path):
    message = error_of(build("squeezenet"), "imagenet", tmp_path)
    assert "squeezenet_v1.1_imagenet_notop.h5" in message
    assert "https://github.com/DeepCognition/keras-squeezenet" in message
    assert "--weights or AUTOML_CXR_WEIGHTS" in message


@contextlib.contextmanager
def unresponsive_server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/x.h5"


@contextlib.contextmanager
def responding_server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/x.h5"
        finally:
            server.shutdown()


def row_at(url):
    row = find_backbone("mobilenetv2")
    return dataclasses.replace(row, weights_source=url)


def test_an_unreachable_server_is_reported_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "_TIMEOUT", 0.5)
    started = time.monotonic()
    with unresponsive_server() as url, pytest.raises(TrialError) as caught:
        find_weights(row_at(url), "imagenet", tmp_path)
    assert time.monotonic() - started < 5
    message = str(caught.value)
    assert "\n" not in message
    for part in (row_at(url).weights_file, str(tmp_path), "not reachable", url, "--weights", "AUTOML_CXR_WEIGHTS"):
        assert part in message


def test_a_download_goes_to_the_cache_of_keras_once_and_has_a_timeout(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    path = tmp_path / "models" / find_backbone("mobilenetv2").weights_file
    calls = []

    def build(_, image_size, *, weights):
        calls.append((image_size, weights, socket.getdefaulttimeout()))
        print("Downloading data")
        path.write_bytes(b"x")

    with responding_server() as url:
        monkeypatch.setattr(weights_module, "build_full_network", build)
        row = row_at(url)
        assert find_weights(row, "imagenet") == path
        assert find_weights(row, "imagenet") == path
    assert calls == [(224, "imagenet", weights_module._TIMEOUT)]
    assert socket.getdefaulttimeout() is None
    assert capsys.readouterr().out == ""


def test_a_failed_download_is_reported_in_one_line(tmp_path, monkeypatch):
    def build(*_, **__):
        raise Exception("URL fetch failure on x:\n 503")  # noqa: TRY002 - Keras raises it

    monkeypatch.setattr(weights_module, "build_full_network", build)
    with (
        responding_server() as url,
        pytest.raises(TrialError, match=r"could not download it \(URL fetch failure on x: 503\)"),
    ):
        find_weights(row_at(url), "imagenet", tmp_path)


def test_file_names_and_addresses_are_those_of_keras():
    published = [
        *(module.WEIGHTS_PATH_NO_TOP for module in (vgg16, inception_v3, xception)),
        densenet.DENSENET121_WEIGHT_PATH_NO_TOP,
    ]
    registered = [BACKBONES[name].weights_source for name in ("vgg16", "inceptionv3", "xception", "densenet121")]
    assert registered == published
    for name, folder in {
        **dict.fromkeys(["resnet50", "resnet152", "resnet50v2", "resnet101v2"], resnet.BASE_WEIGHTS_PATH),
        "mobilenetv2": mobilenet_v2.BASE_WEIGHT_PATH,
        "efficientnetv2b0": efficientnet_v2.BASE_WEIGHTS_PATH,
    }.items():
        assert BACKBONES[name].weights_source == folder + BACKBONES[name].weights_file


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name, row in BACKBONES.items() if row.has_download and name not in ("resnet152", "resnet101v2")]
)
def test_keras_downloads_the_file_of_the_registry(name, monkeypatch):
    requested = []

    def get_file(file_name, url, **_):
        requested.append((file_name, url))
        raise InterruptedError

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    row = find_backbone(name)
    with pytest.raises(InterruptedError):
        build_full_network(row, 224, weights="imagenet")
    assert requested == [(row.weights_file, row.weights_source)]


def test_squeezenet_with_its_real_weights(test_data):
    path = test_data / "weights" / "squeezenet_v1.1_imagenet_notop.h5"
    if not path.is_file():
        pytest.skip(f"needs {path}")
    model = build("squeezenet")
    load_pretrained(model, find_backbone("squeezenet"), "imagenet", path.parent)
    with h5py.File(path) as file:
        for layer in model.layers:
            group = file[layer.name.replace("_", "/", 1)] if layer.weights else None
            for number, weight in enumerate(layer.get_weights()):
                assert np.array_equal(weight, group[group.attrs["weight_names"][number]])
    assert build_backbone("squeezenet", 64, cut="8", weights="imagenet", weights_folder=path.parent).count_params() == 722_496
