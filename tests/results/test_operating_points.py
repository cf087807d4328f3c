"""Frozen operating points of ensembles: record, model card, decisions on other images, evaluation, export and report."""

import json

import numpy as np
import pytest

from automl_cxr import api, cli
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import combine_members
from automl_cxr.errors import DataError, UsageError
from automl_cxr.results.classifier import load_ensemble
from automl_cxr.results.export import export_classifier
from automl_cxr.results.model_card import _thresholds
from automl_cxr.results.report.ensembles import _operating_points
from automl_cxr.scoring.aims import Request
from automl_cxr.tasks import MULTILABEL
from tests.ensemble.drawing import draw_members
from tests.scoring.findings import draw_models

QUICK = GeneticSettings(population=8, generations=2, patience=1, restarts=1, halvings=0)
QUICK_OPTIONS = ("--population", "8", "--generations", "2", "--restarts", "1", "--halvings", "0")
AIMS = ("c0: sensitivity>=0.8", "c2: youden")


def save(members, folder):
    files = [folder / f"member{number}.npz" for number in range(len(members))]
    for member, file in zip(members, files, strict=True):
        member.to_npz(file)
    return files


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Build an ensemble of two tables of 600 images with two operating points."""
    monkeypatch.chdir(tmp_path)
    files = save(draw_members(2, n=600), tmp_path)
    return api.combine_predictions(files, method="average", settings=QUICK, operating_point=AIMS, name="built"), files


def test_the_ensemble_stores_thresholds_that_were_chosen_out_of_fold(built):
    ensemble, files = built
    record = json.loads((ensemble.folder / "ensemble.json").read_text())
    assert [(point["name"], point["aim"], point["confidence"]) for point in record["operating_points"]] == [
        ("c0", "sensitivity>=0.8", 0.95),
        ("c2", "youden", 0.0),
    ]
    point, found = record["operating_points"][0], ensemble.combination
    out_of_fold = found.comparison.methods["average"].predictions
    assert point["n_positive"] == (out_of_fold.labels == 0).sum()
    assert point["sensitivity"] > 0.8
    table, _ = api.apply_ensemble(ensemble.folder, files)
    assert table["decision_c0"].tolist() == (table["probability_c0"] >= point["threshold"]).astype(int).tolist()
    assert "decision_c1" not in table
    card = (ensemble.folder / "model_card.md").read_text()
    assert f"| c0 | sensitivity>=0.8 | 95% | {point['threshold']:.4f} |" in card
    assert "| c2 | youden | no margin |" in card


def test_findings_without_an_aim_keep_the_threshold_with_the_largest_f1():
    objective = Objective.named("macro_auc", normal_class=None, task=MULTILABEL, classes=("f0", "f1", "f2", "f3"))

    def combine(*aims):
        requests = list(map(Request.parse, aims))
        return combine_members(
            draw_models(2, 300), names="ab", method="average", compared=("average", "best"), objective=objective, aims=requests
        )

    plain, built = combine().predictions.thresholds, combine("f3: specificity>=0.8")
    thresholds = built.predictions.thresholds
    assert thresholds[:3].tolist() == plain[:3].tolist()
    assert thresholds[3] == built.operating_points[0].threshold > plain[3]


def test_the_card_separates_thresholds_with_and_without_an_aim():
    record = {"classes": ["f0", "f1"], "thresholds": [0.3, 0.4]}
    point = {"name": "f0"}
    assert "The thresholds were chosen to maximise F1" in _thresholds(record)[0]
    assert "Those of findings without an operating point were" in _thresholds(record | {"operating_points": [point]})[0]
    assert "F1" not in _thresholds(record | {"operating_points": [point, {"name": "f1"}]})[0]


@pytest.mark.slow
def test_the_command_prints_the_operating_points(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    files = list(map(str, save(draw_members(2, n=600, k=2), tmp_path)))
    settings = ["--method", "average", *QUICK_OPTIONS, "--operating-point", "specificity>=0.7", "--confidence", "0.9"]
    assert cli._run(["ensemble", "build", "--predictions", *files, *settings]) == 0
    out = capfd.readouterr().out
    assert "operating points, out of fold" in out
    assert next(line for line in out.splitlines() if "specificity>=0.7" in line).split()[:3] == [
        "c1",
        "specificity>=0.7",
        "90%",
    ]
    assert cli._run(["ensemble", "build", "--predictions", *files, "--operating-point", "accuracy>=0.7"]) == 2
    assert "An operating point is sensitivity>=X" in capfd.readouterr().err
    assert (
        cli._run(["ensemble", "build", "--predictions", *files, *QUICK_OPTIONS, "--operating-point", "sensitivity>=0.999"]) == 2
    )
    assert "needs at least 2995 patients with" in capfd.readouterr().err


@pytest.mark.slow
def test_a_threshold_is_not_changed_after_an_evaluation_on_the_test_part(built):
    ensemble, files = built
    record_file = ensemble.folder / "ensemble.json"
    test = {"n_images": 9, "n_patients": 9, "n_opened": 1, "metrics": []}
    record_file.write_text(json.dumps(json.loads(record_file.read_text()) | {"test": test}))
    with pytest.raises(UsageError, match="with other thresholds that was evaluated on the test part"):
        api.combine_predictions(files, method="average", settings=QUICK, operating_point="c0: sensitivity>=0.7", name="built")
    again = api.combine_predictions(files, method="average", settings=QUICK, operating_point=AIMS, name="built")
    assert json.loads((again.folder / "ensemble.json").read_text())["test"] == test


@pytest.fixture(scope="module")
def aimed(finished):
    aims = [f"{name}: sensitivity>=0.5" for name in finished._store.spec.classes[:2]]
    return finished.ensemble(top=2, method="average", settings=QUICK, name="aimed", operating_point=aims, confidence=0)


def test_predict_adds_the_decisions(aimed, finished):
    classifier = load_ensemble(aimed.folder)
    images = list(finished.validation_images())[:6]
    table, _ = api.predict(classifier, images)
    for point in classifier.operating_points:
        expected = table[f"probability_{point.name}"] >= point.threshold
        assert table[f"decision_{point.name}"].tolist() == expected.astype(int).tolist()
    with pytest.raises(UsageError, match=r"chosen for the images alone; received --mirrored"):
        classifier.with_mirrored_view()
    with pytest.raises(UsageError, match="received --operating-point and --mirrored"):
        finished.ensemble(top=2, mirrored=True, operating_point="youden")


@pytest.mark.slow
def test_the_test_part_is_scored_at_the_frozen_thresholds(aimed, finished):
    evaluation = finished.evaluate(aimed)
    table, predictions = evaluation.operating_points, evaluation.predictions
    for row, point in zip(table.to_dict(orient="records"), load_ensemble(aimed.folder).operating_points, strict=True):
        assert row["threshold"] == point.threshold
        column = predictions.classes.index(point.name)
        decided = predictions.probabilities[:, column] >= point.threshold
        assert row["sensitivity"] == decided[predictions.labels == column].mean()
        assert row["specificity_low"] <= row["specificity"] <= row["specificity_high"]
    record = json.loads((aimed.folder / "ensemble.json").read_text())
    assert [row["aim"] for row in record["test"]["operating_points"]] == ["sensitivity>=0.5"] * 2
    assert "At the operating points, whose thresholds were not changed" in (aimed.folder / "model_card.md").read_text()


@pytest.mark.long
def test_an_exported_file_contains_the_decisions(aimed, tmp_path):
    import keras

    classifier = load_ensemble(aimed.folder)
    exported = export_classifier(classifier, tmp_path / "file.keras")  # compares the decisions with `predict`
    names = [point.name for point in classifier.operating_points]
    description = json.loads(exported.description.read_text())
    assert description["thresholds"] == classifier.decision_thresholds
    assert [point["aim"] for point in description["operating_points"]] == ["sensitivity>=0.5"] * 2
    assert f"decisions of {', '.join(names)}, int32 (n, 2)" in description["second_output"]
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 1)).astype(np.float32)
    probabilities, decisions = (np.asarray(one) for one in keras.saving.load_model(exported.file)(pixels))
    thresholds = [point.threshold for point in classifier.operating_points]
    columns = [classifier.classes.index(name) for name in names]
    assert decisions.tolist() == (probabilities[:, columns] >= thresholds).astype(int).tolist()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(40), abs=1e-5)


def test_a_damaged_operating_point_is_reported(aimed, tmp_path):
    record = json.loads((aimed.folder / "ensemble.json").read_text())
    record["operating_points"][0]["threshold"] = "high"
    record["members"] = []
    (tmp_path / "ensemble.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="is not an ensemble folder"):
        load_ensemble(tmp_path)


def test_the_report_shows_the_choice(aimed):
    record = json.loads((aimed.folder / "ensemble.json").read_text())
    (table,) = _operating_points("aimed", record)
    assert table.table["confidence"].tolist() == ["no margin"] * 2
    assert _operating_points("other", {"operating_points": []}) == []
