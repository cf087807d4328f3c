"""Abstention by conformal sets: coverage on other images, warnings, and tables of predictions."""

import json

import numpy as np
import pandas as pd
import pytest

from automl_cxr import api
from automl_cxr.cli import _run
from automl_cxr.errors import UsageError
from automl_cxr.results.abstention import add_sets, describe_sets, with_set_coverage
from automl_cxr.results.set_coverage import measure_coverage
from automl_cxr.scoring.conformal import calibrate_sets
from automl_cxr.scoring.predictions import Predictions

CLASSES = ("covid", "normal", "pneumonia")


def draw(rng, n_patients, *, shift=0.0) -> Predictions:
    """Draw two images of each patient with a common error, whose log-odds of class covid are lower by ``shift``."""
    labels = np.repeat(rng.choice(3, n_patients, p=[0.2, 0.5, 0.3]), 2)
    logits = np.repeat(rng.normal(size=(n_patients, 3)), 2, axis=0) + 0.5 * rng.normal(size=(2 * n_patients, 3))
    logits += 2 * np.eye(3)[labels]
    logits[:, 0] -= shift
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    patients = tuple(f"p{number // 2}" for number in range(2 * n_patients))
    return Predictions(tuple(map(str, range(2 * n_patients))), labels, probabilities, CLASSES, patients)


@pytest.mark.parametrize("n_patients", [50, 300])
def test_at_most_5_of_100_evaluations_of_similar_images_have_a_warning(n_patients):
    rng, n_warned = np.random.default_rng(0), 0
    for _ in range(300):
        sets = calibrate_sets(draw(rng, 200), 0.9)
        n_warned += bool(measure_coverage(sets, draw(rng, n_patients), place="test part").warnings)
    assert n_warned <= 0.05 * 300


@pytest.mark.parametrize(("n_patients", "share"), [(50, 0.25), (300, 0.8)])  # a fifth of the patients have the class
def test_a_planted_shift_is_told(n_patients, share):
    rng, n_found = np.random.default_rng(0), 0
    for _ in range(100):
        shifted = draw(rng, n_patients, shift=1.5)
        warnings = measure_coverage(calibrate_sets(draw(rng, 200), 0.9), shifted, place="site a").warnings
        n_found += any("contain covid" in warning and "on the site a" in warning for warning in warnings)
    assert n_found >= 100 * share


def test_the_table_has_coverage_abstentions_and_errors_of_each_class():
    calibration = draw(np.random.default_rng(1), 200)
    images, sets = draw(np.random.default_rng(2), 150), calibrate_sets(calibration, 0.9)
    measured = measure_coverage(sets, images, place="test part")
    contains = sets.contains(images.probabilities)
    assert measured.stated == 0.9
    for number, row in enumerate(measured.table.to_dict(orient="records")):
        of_class = contains[images.labels == number]
        is_single = of_class.sum(axis=1) == 1
        assert row["class"] == CLASSES[number]
        assert row["images"] == len(of_class)
        assert row["calibration"] == (calibration.labels == number).sum()
        assert row["coverage"] == pytest.approx(of_class[:, number].mean())
        assert row["coverage_low"] < row["coverage"] < row["coverage_high"]
        assert row["abstained"] == pytest.approx(1 - is_single.mean())
        assert row["error_of_decided"] == pytest.approx(1 - of_class[is_single, number].mean())


def test_classes_without_images_have_no_row():
    images = draw(np.random.default_rng(2), 50)
    some = images.take(images.labels != 1)
    table = measure_coverage(calibrate_sets(draw(np.random.default_rng(1), 50), 0.8), some, place="site").table
    assert table["class"].tolist() == ["covid", "pneumonia"]


def test_predictions_have_sets_and_decisions_only_where_one_class_is_left():
    sets = calibrate_sets(draw(np.random.default_rng(1), 200), 0.9)
    low, normal_low, _ = sets.limits
    rows = [[0.98, 0.01, 0.01], [low, 1 - low, 0.0], [0.9 * low, 0.9 * normal_low, 1 - 0.9 * (low + normal_low)]]
    table = pd.DataFrame(rows, columns=[f"probability_{name}" for name in CLASSES])
    found = add_sets(table, sets, CLASSES)
    assert found["set"].tolist()[:2] == ["covid", "covid|normal"]
    assert found["decision"].tolist()[:2] == ["covid", ""]
    assert list(found.columns)[:3] == list(table.columns)
    n_abstained = (found["decision"] == "").sum()
    assert describe_sets(found, sets, CLASSES)[0].startswith(f"The classifier abstains from {n_abstained} of 3 decisions")


def test_findings_are_decided_one_by_one_and_rare_ones_are_named():
    rng = np.random.default_rng(3)
    labels = np.column_stack([np.arange(100) % 3 == 0, np.arange(100) < 4]).astype(int)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=(100, 2)) + 3 * labels - 1.5)))
    calibration = Predictions(tuple(map(str, range(100))), labels, probabilities, ("Mass", "Hernia"))
    sets = calibrate_sets(calibration, 0.9)
    table = pd.DataFrame({"probability_Mass": [0.99, 0.01], "probability_Hernia": [0.99, 0.01]})
    found = add_sets(table.assign(findings="", decision_Mass=1, decision_Hernia=1), sets, ("Mass", "Hernia"))
    assert found["decision_Mass"].tolist() == ["1", "0"]
    assert found["decision_Hernia"].tolist() == ["1", ""], "with four images with a hernia, it cannot be excluded"
    assert found["findings"].tolist() == ["Mass|Hernia", ""]
    assert "needs more calibration images of Hernia present" in describe_sets(found, sets, ("Mass", "Hernia"))[1]
    measured = measure_coverage(sets, calibration, place="test part").table
    assert measured[["finding", "label"]].to_numpy().tolist()[:2] == [["Mass", "present"], ["Mass", "absent"]]


def test_the_test_part_has_a_coverage_and_the_validation_part_has_none(finished):
    classifier = finished.classifier()
    evaluation = finished.evaluate(classifier, abstain=0.8)
    assert evaluation.set_coverage.stated == 0.8
    assert evaluation.set_coverage.table["images"].sum() == len(evaluation.predictions)
    assert finished.evaluate(classifier, part="valid").set_coverage is None
    n_opened = len(finished._store.test_opened())
    with pytest.raises(UsageError, match="between 0 and 1"):
        finished.evaluate(classifier, abstain=80)
    assert len(finished._store.test_opened()) == n_opened, "a wrong option does not open the test part"
    mirrored = with_set_coverage(evaluation, classifier.with_mirrored_view(), 0.9)
    assert "mirrored view" in mirrored.notes[-1]


def test_predict_writes_sets_and_decisions(finished, phantoms, tmp_path, capsys):
    classifier, files = finished.classifier(), sorted((phantoms / "normal").glob("*.png"))[:4]
    table, _ = api.predict(classifier, files, abstain=0.5)
    names = [f"probability_{name}" for name in classifier.classes]
    assert list(table.columns) == ["image", "class", *names, "set", "decision"]
    assert "abstains from" in table.attrs["notes"][-1] or "abstains from" in table.attrs["notes"][-2]
    with pytest.raises(UsageError, match="mirrored"):
        api.predict(classifier.with_mirrored_view(), files, abstain=0.5)
    runs = str(finished._store.folder.parent)
    assert _run(["predict", "done", str(files[0]), "--abstain", "0.5", "--json", "--runs", runs]) == 0
    out = capsys.readouterr()
    assert {"set", "decision"} <= set(json.loads(out.out)[0])
    assert "abstains from" in out.err
    assert _run(["predict", "done", str(files[0]), "--abstain", "90", "--runs", runs]) == 2
    assert "between 0 and 1" in capsys.readouterr().err
