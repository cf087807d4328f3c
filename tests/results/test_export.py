"""Exported files give the probabilities of `predict`. Unsupported networks are refused with the reason."""

import json
import os
from dataclasses import replace

import keras
import numpy as np
import pytest

from automl_cxr import api
from automl_cxr.ensemble.combiners import CalibratedCombiner, Stacking, WeightedAverage
from automl_cxr.ensemble.finding_combiners import (
    AverageByFinding,
    CalibratedFindings,
    FindingStacking,
    normalize_columns,
)
from automl_cxr.errors import ExportError, UnknownNameError, UsageError
from automl_cxr.model.ensemble_model import MemberWeighting, combine_networks
from automl_cxr.model.export_formats import write_ensemble
from automl_cxr.results import export
from automl_cxr.results.classifier import load_ensemble
from automl_cxr.results.export import TOLERANCE, export_classifier
from automl_cxr.scoring.calibration import with_temperature


@pytest.fixture(scope="module")
def ensemble(finished):
    return load_ensemble(finished.ensemble(top=2, method="ga-by-class", name="shipped").folder)


def small_network(n_classes=3, size=16):
    pixels = keras.Input((size, size, 1))
    outputs = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, keras.layers.Dense(n_classes, activation="softmax")(outputs))


RNG = np.random.default_rng(0)
RULES = {
    "average": WeightedAverage(np.array([0.2, 0.5, 0.3])),
    "one of three": WeightedAverage(np.array([0.0, 1.0, 0.0])),
    "by class": WeightedAverage(RNG.random((3, 3))),
    "stacking": Stacking(RNG.normal(size=(3, 3, 3)), RNG.normal(size=3)),
    "calibrated": CalibratedCombiner(WeightedAverage(np.array([0.2, 0.5, 0.3])), 0.05),
    "calibrated stacking": CalibratedCombiner(Stacking(RNG.normal(size=(3, 3, 3)), RNG.normal(size=3)), 20.0),
}


@pytest.mark.parametrize("name", RULES)
def test_every_combination_rule_is_part_of_the_exported_network(name):
    rule = RULES[name]
    networks = [small_network() for _ in range(3)]
    pixels = RNG.integers(0, 256, (5, 16, 16, 1)).astype(np.float32)
    model = combine_networks(networks, export._to_weighting(rule, 3, 3))
    expected = rule.combine(np.stack([np.asarray(network(pixels)) for network in networks]))
    assert np.asarray(model(pixels)) == pytest.approx(expected, abs=TOLERANCE)
    assert len(model.layers) < 8 or name != "one of three"  # members with weight 0 are omitted


def test_the_mirrored_view_is_part_of_the_exported_network():
    networks, rule = [small_network() for _ in range(2)], WeightedAverage(np.array([0.3, 0.7]))
    pixels = RNG.integers(0, 256, (5, 16, 16, 1)).astype(np.float32)
    model = combine_networks(networks, export._to_weighting(rule, 2, 3), mirrored=True)
    averaged = [(np.asarray(network(pixels)) + np.asarray(network(pixels[:, :, ::-1]))) / 2 for network in networks]
    assert np.asarray(model(pixels)) == pytest.approx(rule.combine(np.stack(averaged)), abs=TOLERANCE)


def finding_network(n_findings=3, size=16):
    pixels = keras.Input((size, size, 1))
    outputs = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(pixels))
    return keras.Model(pixels, keras.layers.Dense(n_findings, activation="sigmoid")(outputs))


FINDING_RULES = {
    "average": WeightedAverage(np.array([0.2, 0.5, 0.3])),
    "by finding": AverageByFinding(normalize_columns(RNG.random((3, 3)))),
    "stacking": FindingStacking(RNG.normal(size=(3, 3)), RNG.normal(size=3)),
    "calibrated": CalibratedFindings(WeightedAverage(np.array([0.2, 0.5, 0.3])), 0.3),
    "calibrated stacking": CalibratedFindings(FindingStacking(RNG.normal(size=(3, 3)), RNG.normal(size=3)), 3.0),
}


@pytest.mark.parametrize("name", FINDING_RULES)
def test_rules_and_thresholds_of_findings_are_part_of_the_exported_network(name):
    rule = FINDING_RULES[name]
    networks = [finding_network() for _ in range(3)]
    pixels = RNG.integers(0, 256, (20, 16, 16, 1)).astype(np.float32)
    expected = rule.combine(np.stack([np.asarray(network(pixels)) for network in networks]))
    thresholds = np.median(expected, axis=0).astype(np.float64)
    model = combine_networks(networks, replace(export._to_weighting(rule, 3, 3), is_multilabel=True, thresholds=thresholds))
    probabilities, decisions = (np.asarray(output) for output in model(pixels))
    assert probabilities == pytest.approx(expected, abs=TOLERANCE)
    assert decisions.tolist() == (probabilities >= thresholds).astype(int).tolist()


def test_a_threshold_of_double_precision_is_reached_by_the_same_float32_numbers():
    probability = np.float32(0.3)
    thresholds = np.array([float(probability), np.nextafter(float(probability), 1), np.nextafter(float(probability), 0)])
    inputs = keras.Input((1, 3, 1))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    model = combine_networks([network], MemberWeighting(np.eye(3)[None], is_multilabel=True, thresholds=thresholds))
    _, decisions = model(np.full((1, 1, 3, 1), probability, np.float32))
    assert np.asarray(decisions).tolist() == [[1, 0, 1]]


def test_a_low_temperature_does_not_reduce_the_precision():
    probabilities = np.array([[0.34, 0.33, 0.33], [0.5, 0.499, 0.001], [1.0, 0.0, 0.0]], np.float32)
    inputs = keras.Input((1, 3, 1))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    model = combine_networks([network], MemberWeighting(np.eye(3)[None], temperature=0.05))
    assert np.asarray(model(probabilities[:, None, :, None])) == pytest.approx(
        with_temperature(probabilities, 0.05), abs=TOLERANCE
    )


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["keras", "onnx", "tflite"])
def test_an_exported_ensemble_gives_the_same_probabilities(ensemble, tmp_path, file_format):
    if file_format == "onnx":
        pytest.importorskip("tf2onnx", reason="ONNX is written by tf2onnx")
        onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX is opened by onnxruntime")
    exported = export_classifier(ensemble, tmp_path / f"file.{file_format}")
    assert exported.file_format == file_format
    assert exported.difference <= TOLERANCE
    description = json.loads(exported.description.read_text())
    assert description["classes"] == list(ensemble.classes)
    assert (description["image_size"], description["fit"]) == (32, "stretch")
    assert description["input"] == "raw grey pixels 0..255, float32 (n, 32, 32, 1)"
    assert description["sha256"] == export._digest(exported.file)
    assert sorted(os.listdir(tmp_path)) == [f"file.{file_format}", f"file.{file_format}.json"]
    if file_format == "onnx":
        facts = onnxruntime.InferenceSession(exported.file).get_modelmeta().custom_metadata_map
        assert json.loads(facts["classes"]) == list(ensemble.classes)


@pytest.mark.long
def test_an_export_with_the_mirrored_view_gives_the_probabilities_of_predict(ensemble, tmp_path):
    mirrored = ensemble.with_mirrored_view()
    exported = export_classifier(mirrored, tmp_path / "file.keras")
    assert exported.difference <= TOLERANCE
    assert json.loads(exported.description.read_text())["mirrored"] is True


def test_a_file_with_other_probabilities_is_deleted(ensemble, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_predict_in_other_process", lambda *_: [np.full((export._N_CHECKED, 3), 1 / 3)])
    (tmp_path / "file.keras").write_text("an earlier file")
    with pytest.raises(ExportError, match=r"differs by .*was deleted"):
        export_classifier(ensemble, tmp_path / "file.keras")
    assert os.listdir(tmp_path) == ["file.keras"]
    assert (tmp_path / "file.keras").read_text() == "an earlier file"


def test_unchecked_onnx_is_reported(ensemble, tmp_path, monkeypatch):
    pytest.importorskip("tf2onnx", reason="ONNX is written by tf2onnx")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda _: None)
    exported = export_classifier(ensemble, tmp_path / "file.onnx")
    assert exported.difference is None
    assert json.loads(exported.description.read_text())["images_compared"] == 0


def test_members_of_several_sizes_or_fits_are_refused(ensemble, tmp_path):
    one, other = ensemble.members
    for changed in (replace(other, image_size=48), replace(other, fit="pad")):
        with pytest.raises(ExportError, match=r"same image size and fit; .* have 32 pixels"):
            export_classifier(replace(ensemble, members=(one, changed)), tmp_path / "file.keras")


def test_a_member_that_a_format_does_not_support_is_named(tmp_path):
    pytest.importorskip("tf2onnx", reason="ONNX is written by tf2onnx")
    supported, unsupported = small_network(), small_network()
    # Keras' argmax on TensorFlow compares bits, which ONNX does not support.
    unsupported = keras.Model(unsupported.input, keras.ops.one_hot(keras.ops.argmax(unsupported.output, axis=1), 3))
    weighting = MemberWeighting(np.stack([np.eye(3)] * 2) / 2)
    with pytest.raises(
        ExportError, match=r"--format onnx does not support the odd one .*--format keras supports every network"
    ):
        write_ensemble(
            [supported, unsupported],
            weighting,
            tmp_path / "m.onnx",
            file_format="onnx",
            names=["the good one", "the odd one"],
            facts={},
        )


def test_members_in_mixed_precision_are_exported_in_float32(tmp_path):
    pixels = keras.Input((16, 16, 1))
    x = keras.layers.Dense(8, dtype="mixed_bfloat16")(keras.layers.Flatten()(pixels))
    mixed = keras.Model(pixels, keras.layers.Dense(3, activation="softmax")(x))
    file = tmp_path / "m.keras"
    write_ensemble([mixed], MemberWeighting(np.eye(3)[None]), file, file_format="keras", names=["m"], facts={})
    images = np.random.default_rng(0).random((4, 16, 16, 1), np.float32)
    hidden, _, output, _ = mixed.get_weights()  # the biases are 0
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(images.reshape(4, -1) @ hidden @ output))
    exported = keras.models.load_model(file).predict(images, verbose=0)
    assert exported == pytest.approx(expected, abs=1e-5)
    assert mixed.predict(images, verbose=0) != pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("out", "file_format", "error", "rule"),
    [
        ("m.onnx", "keras", UsageError, "must end in .keras; received m.onnx"),
        ("m.keras", "kears", UnknownNameError, "Did you mean 'keras'"),
        ("no/such/m.keras", None, UsageError, "its folder does not exist"),
        (".", "savedmodel", UsageError, "it is a folder"),
    ],
)
def test_invalid_destinations_are_refused(ensemble, tmp_path, monkeypatch, out, file_format, error, rule):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=rule):
        export_classifier(ensemble, out, file_format=file_format)


def test_a_trial_is_loaded_from_its_folder(finished):
    number = finished.best.number
    folder = finished._store.trial_folder(number)
    assert api.open_classifier(folder).members == finished.classifier(number).members
    with pytest.raises(UsageError, match="which is neither"):
        api.open_classifier(folder.parent)


@pytest.mark.long
def test_the_model_card_describes_the_ensemble_and_its_test_scores(finished):
    ensemble_result = finished.ensemble(top=2, method="average", name="carded")
    card = (ensemble_result.folder / "model_card.md").read_text()
    spec, split = finished._store.spec, finished._store.split
    record = json.loads((ensemble_result.folder / "ensemble.json").read_text())
    assert f"{len(split.valid.images)} valid, {len(split.test)} test images" in card
    assert f"- Class without a finding: {spec.normal_class}" in card
    assert all(f"| {name} | scratch | 32 pixels, stretch | 0.5000 |" in card for name in ensemble_result.combination.names)
    assert f"the best single trial: {finished.corrected_score().sentence()}" in card
    assert "Not a medical device" in card
    assert "This ensemble was not evaluated on the test part." in card
    assert len(record["members"][0]["predictions_sha256"]) == 64
    assert {row["metric"] for row in record["metrics"]} >= {"macro_f1", "macro_auc", "fnfr"}
    evaluation = finished.evaluate(ensemble_result)
    card = (ensemble_result.folder / "model_card.md").read_text()
    assert f"| macro_f1 | {evaluation.scores['macro_f1']:.4f} |" in card.split("## Scores on the test part")[1]
    assert load_ensemble(ensemble_result.folder).classes == spec.classes


@pytest.mark.long
def test_the_description_of_a_model_does_not_replace_another_file(tmp_path, ensemble):
    other = tmp_path / "model.keras.json"
    other.write_text('{"written": "by hand"}')
    with pytest.raises(UsageError, match="which is another file"):
        export_classifier(ensemble, tmp_path / "model.keras")
    assert other.read_text() == '{"written": "by hand"}'
    other.write_text('{"largest_difference_from_predict": 0}')  # of an earlier export
    assert export_classifier(ensemble, tmp_path / "model.keras").description == other
    assert json.loads(other.read_text())["sha256"]
