"""Encoders in ONNX files: their features, saved models, exports and errors."""

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from automl_cxr.architectures import find_backbone
from automl_cxr.config import TrialConfig
from automl_cxr.encoder_files import find_encoder, resolve_encoder
from automl_cxr.errors import ExportError, ImpossibleModelError, TrialError, UsageError
from automl_cxr.model.backbone_builder import build_backbone
from automl_cxr.model.backbones import preprocess
from automl_cxr.model.build import build_model
from automl_cxr.model.ensemble_model import MemberWeighting, combine_networks
from automl_cxr.model.export_formats import write_ensemble
from automl_cxr.model.gradcam import GradCam
from automl_cxr.model.inference import load_model
from automl_cxr.model.memory_estimate import measure_size
from automl_cxr.model.transfer import backbone_on_pixels
from tests.onnx_files import BIAS, KERNEL, SCALING, expected_maps, write_encoder

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 16, 16)).astype(np.uint8)
PIXELS = IMAGES[..., None].astype(np.float32)


def features(file):
    return np.asarray(backbone_on_pixels(f"onnx:{file}", 16).predict_on_batch(PIXELS))


def config(file, **values):
    name = f"onnx:{file}"
    named = {"probe_layers": f"{name}@features"} if values["family"] == "probe" else {"backbone": name}
    return TrialConfig.from_values({"image_size": 16, "n_dense": 0, **named, **values})


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_feature_maps_equal_those_of_the_same_convolution_in_numpy(layout, tmp_path):
    file = write_encoder(tmp_path / "a.onnx", layout=layout, output="maps")
    maps = features(file)  # the output has the order of the axes of the graph's output
    expected = expected_maps(IMAGES)
    assert (maps if layout == "NCHW" else maps.transpose(0, 2, 3, 1)) == pytest.approx(expected, abs=1e-5)


def test_a_vector_is_a_feature_map_with_one_position(tmp_path):
    vector = features(write_encoder(tmp_path / "a.onnx", output="vector"))
    assert vector.shape == (5, 1, 1, 4)
    assert vector[:, 0, 0] == pytest.approx(expected_maps(IMAGES).mean(axis=(1, 2)), abs=1e-5)


def test_tokens_are_the_first_one_or_their_mean(tmp_path):
    expected = expected_maps(IMAGES).reshape(5, -1, 4)
    first = write_encoder(tmp_path / "a.onnx", output="tokens", settings=f'{SCALING}tokens = "class"')
    assert features(first)[:, 0, 0] == pytest.approx(expected[:, 0], abs=1e-5)
    mean = write_encoder(tmp_path / "b.onnx", output="tokens", settings=f'{SCALING}tokens = "mean"')
    assert features(mean).mean(axis=(1, 2)) == pytest.approx(expected.mean(axis=1), abs=1e-5)


def test_an_encoder_of_any_size_batch_and_one_of_several_outputs(tmp_path):
    settings = f'{SCALING}layout = "NCHW"\noutput = "vector"'
    file = write_encoder(tmp_path / "a.onnx", size="any", batch=2, output="maps,vector", settings=settings)
    assert features(file)[:, 0, 0] == pytest.approx(expected_maps(IMAGES).mean(axis=(1, 2)), abs=1e-5)


@pytest.mark.parametrize("family", ["probe", "transfer"])
def test_a_saved_model_contains_the_encoder_and_its_weights_count(family, tmp_path):
    file = write_encoder(tmp_path / "a.onnx")
    model = build_model(config(file, family=family), 3, steps_per_epoch=1)
    assert model.count_params() == KERNEL.size + BIAS.size + 4 * 3 + 3
    size = measure_size(config(file, family=family), 3)
    assert size.parameters == model.count_params()
    assert size.multiply_adds == 7 * 7 * KERNEL.size + 4 * 3  # 7 x 7 positions
    assert len(model.trainable_weights) == 2  # those of the output layer
    expected = model.predict_on_batch(PIXELS)
    model.save(tmp_path / "model.keras")
    file.unlink()
    assert load_model(str(tmp_path / "model.keras")).predict_on_batch(PIXELS) == pytest.approx(expected, abs=1e-6)


def test_an_encoder_is_a_branch_of_other_networks(tmp_path):
    name = f"onnx:{write_encoder(tmp_path / 'a.onnx', size=32, output='maps')}"
    values = {"image_size": 32, "n_dense": 0, "weights": "none", "second_weights": "none"}
    joined = TrialConfig.from_values({**values, "family": "probe", "probe_layers": f"{name}@features+hog@1"})
    concat = TrialConfig.from_values({**values, "family": "concat", "backbone": "scratch", "second_backbone": name})
    images = np.zeros((2, 32, 32, 1), np.float32)
    for one in (joined, concat):
        assert build_model(one, 3, steps_per_epoch=1).predict_on_batch(images).sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_exported_file_contains_encoders_and_other_networks(mirrored, tmp_path):
    first = config(write_encoder(tmp_path / "a.onnx", opset=17), family="transfer")
    second = config(write_encoder(tmp_path / "b.onnx", output="maps"), family="probe", probe_mirrored=True)
    third = TrialConfig.from_values({"family": "scratch", "image_size": 16, "layers": "conv4k3 pool2", "n_dense": 0})
    networks = [build_model(one, 3, steps_per_epoch=1) for one in (first, second, third)]
    vote = MemberWeighting(np.array([0.5, 0.3, 0.2])[:, None, None] * np.eye(3))
    expected = combine_networks(networks, vote, mirrored=mirrored).predict_on_batch(PIXELS)
    options = {"names": ["a", "b", "c"], "facts": {"study": "s"}, "mirrored": mirrored}
    write_ensemble(networks, vote, tmp_path / "all.onnx", file_format="onnx", **options)
    session = onnxruntime.InferenceSession(str(tmp_path / "all.onnx"), providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["pixels"]
    (probabilities,) = session.run(None, {"pixels": PIXELS})
    assert probabilities == pytest.approx(expected, abs=1e-5)
    nodes = onnx.load(str(tmp_path / "all.onnx")).graph.node
    # The image and its mirror image are encoded once by each of the encoders, of which the second needs both in either case.
    assert sum(node.op_type == "Conv" and node.name.startswith("encoder") for node in nodes) == (4 if mirrored else 3)
    with pytest.raises(ExportError, match="--format onnx; received --format keras for a, b"):
        write_ensemble(networks, vote, tmp_path / "all.keras", file_format="keras", **options)


def test_an_encoder_with_a_fixed_number_of_images_is_not_exported(tmp_path):
    network = build_model(config(write_encoder(tmp_path / "a.onnx", batch=2), family="transfer"), 3, steps_per_epoch=1)
    vote = MemberWeighting(np.eye(3)[None])
    with pytest.raises(ExportError, match=r"^An exported file takes any number of images; .* takes 2 at once"):
        write_ensemble([network], vote, tmp_path / "b.onnx", file_format="onnx", names=["a"], facts={})


def test_the_file_and_its_settings_must_not_change(tmp_path):
    file = write_encoder(tmp_path / "a.onnx")
    name = resolve_encoder(f"onnx:{file}")
    assert find_encoder(name) == file
    file.with_suffix(".toml").write_text("range = [0, 255]")
    with pytest.raises(TrialError, match="must not change"):
        find_encoder(name)
    with pytest.raises(UsageError, match=r"does not exist. Correct the path"):
        resolve_encoder(f"onnx:{tmp_path / 'b.onnx'}")


def test_an_encoder_is_found_in_another_folder(tmp_path):
    (tmp_path / "other").mkdir()
    name = resolve_encoder(f"onnx:{write_encoder(tmp_path / 'a.onnx')}")
    for suffix in (".onnx", ".toml"):
        (tmp_path / f"a{suffix}").rename(tmp_path / "other" / f"a{suffix}")
    assert find_encoder(name, [tmp_path / "other"]) == tmp_path / "other" / "a.onnx"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("", "input scaling of an encoder must be stated"),
        ("mean = 0.5", "'range' is missing"),
        ("range = [1, 0]", "low below high"),
        ("range = [0, 1]\nstd = 0", "std must be above 0"),
        ("range = [0, 1]\nscale = 2", "'scale' is unknown"),
        ('range = [0, 1]\nlayout = "CHWN"', "layout must be NCHW or NHWC"),
        ("range = [0, 1]\nmean = [1, 2]", "one for each channel; received 2"),
        ("range = [0, 1]\nsize = 32", "size of the encoder .* is 16; its .toml file states 32"),
        ('range = [0, 1]\noutput = "maps"', "chosen from vector"),
        ('range = [0, 1]\ntokens = "mean"', r"has \(None, 4\) and tokens = mean"),
    ],
)
def test_settings_that_do_not_describe_the_encoder_are_refused(settings, message, tmp_path):
    file = write_encoder(tmp_path / "a.onnx", settings=settings)
    with pytest.raises(TrialError, match=message):
        features(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 24}, "takes images of 24 pixels; received image_size=16. Use --image-size 24"),
        ({"output": "tokens"}, "tokens = None"),
        ({"output": "maps,vector"}, "chosen from maps, vector; its .toml file states none"),
        ({"size": 3, "channels": 3}, "State layout"),
    ],
)
def test_an_encoder_that_is_ambiguous_is_refused(options, message, tmp_path):
    file = write_encoder(tmp_path / "a.onnx", **options)
    with pytest.raises(ImpossibleModelError, match=message):
        features(file)


def test_a_damaged_file_is_refused(tmp_path):
    file = write_encoder(tmp_path / "a.onnx")
    file.write_bytes(b"no graph")
    with pytest.raises(TrialError, match="cannot be read"):
        features(file)


def test_an_encoder_is_not_trained(tmp_path):
    file = write_encoder(tmp_path / "a.onnx")
    with pytest.raises(ImpossibleModelError, match="no gradients and is not trained; received unfreeze=1"):
        config(file, family="transfer", unfreeze=1).refuse_conflicts(3)


def test_heat_maps_need_feature_maps_that_the_encoder_returns(tmp_path):
    maps = build_model(config(write_encoder(tmp_path / "a.onnx", output="maps"), family="transfer"), 3, steps_per_epoch=1)
    (evidence,) = GradCam(maps).evidence(IMAGES, np.zeros(5, int))
    weights = maps.get_layer("probabilities").get_weights()[0][:, 0]
    assert evidence == pytest.approx(expected_maps(IMAGES) @ weights, abs=1e-4)
    vector = build_model(config(write_encoder(tmp_path / "b.onnx"), family="transfer"), 3, steps_per_epoch=1)
    for network, layer in ((vector, None), (maps, "scale")):
        with pytest.raises(UsageError, match=r"an encoder in ONNX has none.* --method shap"):
            GradCam(network, layer)


@pytest.mark.long
def test_a_native_backbone_and_its_onnx_file_give_the_same_features(tmp_path):
    native = build_backbone("squeezenet", 64)
    signature = [keras.InputSpec(shape=(None, 64, 64, 3), dtype="float32", name="image")]
    native.export(str(tmp_path / "a.onnx"), format="onnx", verbose=False, input_signature=signature)
    # Of the scaling of Caffe, that of the registry, which is stated in blue, green, red.
    (tmp_path / "a.toml").write_text("range = [0, 255]\nmean = [103.939, 116.779, 123.68]\n")
    images = np.random.default_rng(1).integers(0, 256, (4, 64, 64, 1)).astype(np.float32)
    rgb = keras.Input((64, 64, 3))
    expected = keras.Model(rgb, native(preprocess(rgb, find_backbone("squeezenet")))).predict_on_batch(
        images.repeat(3, axis=-1)
    )
    encoder = backbone_on_pixels(f"onnx:{tmp_path / 'a.onnx'}", 64)
    assert encoder.predict_on_batch(images) == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(expected.max()))
    assert encoder.count_params() == pytest.approx(native.count_params(), rel=0.01)  # without biases that are 0
