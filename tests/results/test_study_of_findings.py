"""All results of a small study of several findings: real networks, trained on phantoms with some unknown labels."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from automl_cxr import api
from automl_cxr.data.dataset import load_dataset
from automl_cxr.results.classifier import classifier_of_trial, load_ensemble
from automl_cxr.results.report.report_data import read_report_data
from automl_cxr.scoring.predictions import Predictions

SPACE = """
family = "scratch"
n_blocks = 2
filters = 4
batch_norm = true
[learning_rate]
type = "float"
low = 1e-3
high = 1e-1
log = true
default = 1e-2
"""
FINDINGS = ("effusion", "opacity")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table(tmp_path_factory, phantoms) -> Path:
    """Write a table of the phantoms with two findings, of which some labels are unknown."""
    images = load_dataset(phantoms).table
    labels = {name: (images["label"] == name).astype(int).astype(object) for name in FINDINGS}
    labels["opacity"][::7] = ""
    labels["effusion"][3::10] = 1
    path = tmp_path_factory.mktemp("findings") / "findings.csv"
    paths = [str(phantoms / image) for image in images["image"]]
    pd.DataFrame({"path": paths, "patient_id": images["patient_id"], **labels}).to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory, table):
    runs = tmp_path_factory.mktemp("runs")
    (runs / "tiny.toml").write_text(SPACE)
    return api.search(
        str(runs / "tiny.toml"), table, name="findings", trials=2, epochs=2, image_size=32, batch_size=8, runs=runs,
        executor="inline", keep_models=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def files(table) -> list[str]:
    return pd.read_csv(table)["path"].to_list()[:5]


def test_predict_decides_each_finding_by_the_threshold_of_the_trial(study, files):
    classifier = classifier_of_trial(study._store, 0)
    stored = Predictions.from_npz(study.folder / "trials" / "00000" / "valid.npz")
    assert classifier.thresholds == tuple(stored.thresholds)
    predicted, problems = api.predict(classifier, files)
    assert problems == {}
    assert list(predicted) == [
        "image", "findings", *(f"{kind}_{name}" for name in FINDINGS for kind in ("probability", "decision")),
    ]  # fmt: skip
    for name, threshold in zip(FINDINGS, classifier.thresholds, strict=True):
        decided = predicted[f"probability_{name}"].to_numpy(float) >= threshold
        assert predicted[f"decision_{name}"].tolist() == decided.astype(int).tolist()
        assert [name in text.split("|") for text in predicted["findings"]] == decided.tolist()


def test_evaluate_uses_the_stored_thresholds_on_the_test_part(study):
    result = study.evaluate(0, part="test")
    assert result.predictions.thresholds.tolist() == list(study.classifier(0).thresholds)
    assert list(result.per_class.index) == list(FINDINGS)
    assert (result.per_class["present"] + result.per_class["absent"] <= len(result.predictions)).all()
    assert result.confusion.sum(axis=1).tolist() == (result.per_class["present"] + result.per_class["absent"]).tolist()
    assert result.n_opened == 1


@pytest.fixture(scope="module")
def built(study):
    return study.ensemble(top=2, method="average", name="both")


def test_an_ensemble_has_thresholds_and_a_card_with_them(built):
    opened = load_ensemble(built.folder)
    assert opened.is_multilabel
    assert len(opened.thresholds) == 2
    card = (built.folder / "model_card.md").read_text()
    assert "- Findings, of which an image may have several: effusion, opacity" in card
    assert f"| opacity | {opened.thresholds[1]:.4f} |" in card


@pytest.mark.long
def test_an_exported_ensemble_has_the_thresholds(built, tmp_path):
    opened, exported = load_ensemble(built.folder), built.export(tmp_path / "model.keras")
    assert exported.difference <= 1e-5
    description = json.loads(exported.description.read_text())
    assert description["thresholds"] == dict(zip(FINDINGS, opened.thresholds, strict=True))
    assert description["second_output"].startswith("decisions, int32 (n, 2)")


def test_the_stored_predictions_are_verified(study):
    result = study.verify()
    assert result.is_sound, [check.problems for check in result.trials]


def test_each_finding_of_a_validation_image_is_explained(study):
    overlays = study.explain(what=0, per_class=1)
    present = study.validation_findings(per_finding=1)
    assert [(one.image, one.explained) for one in overlays] == [(file, name) for file in present for name in present[file]]
    assert {one.explained for one in overlays} == set(FINDINGS)


def test_errors_of_trials_and_of_a_table_of_another_program_are_compared(study, tmp_path):
    other = study._store.predictions(1)
    columns = {f"label_{name}": other.labels[:, number] for number, name in enumerate(FINDINGS)}
    columns |= {name: other.probabilities[:, number] for number, name in enumerate(FINDINGS)}
    pd.DataFrame({"image": other.ids, **columns}).to_csv(tmp_path / "other.csv", index=False)
    analysis = study.errors(trials=[0], predictions=[tmp_path / "other.csv"])
    assert analysis.models == ("trial 0", "other.csv")
    assert any("the thresholds are unknown" in note for note in analysis.notes)
    assert analysis.thresholds[0] == pytest.approx(study.classifier(0).thresholds)
    assert "Errors: opacity" in study.error_page(analysis, n_shown=1)


@pytest.mark.long
def test_the_report_has_a_section_for_each_finding(study, tmp_path):
    page = study.report(tmp_path / "report.html").read_text()
    for name in FINDINGS:
        assert f"Finding: {name}" in page
        assert f"Errors: {name}" in page
    assert "prevalence" in page
    assert "each of which may have several of two findings (effusion and opacity)" in page
    assert "stratified iteratively over all findings" in page
    assert "Heat maps are omitted" not in page
    assert "The leaderboard could not be built" not in page
    data = read_report_data(study._store)
    assert data.scores["macro_auc"] == pytest.approx(np.nanmean(data.finding_scores.per_finding["auc"]))


@pytest.mark.long
def test_an_external_site_with_one_of_the_findings_is_scored(study, tmp_path):
    site = tmp_path / "site.csv"
    images = [tmp_path / f"{number}.png" for number in range(8)]
    rng = np.random.default_rng(0)
    for image in images:
        Image.fromarray(rng.integers(0, 256, (40, 40)).astype(np.uint8)).save(image)
    labels = {"Lung opacity": [0, 1] * 4, "nodule": [1, 0, 0, 0] * 2}
    pd.DataFrame({"path": list(map(str, images)), **labels}).to_csv(site, index=False)
    result = study.evaluate(0, external=site, class_map="Lung opacity=opacity")
    assert result.per_class.loc["opacity", ["present", "absent"]].tolist() == [4, 4]
    assert np.isnan(result.per_class.loc["effusion", "auc"])
    assert any("site has no labels of effusion" in note for note in result.notes)
    board = study.leaderboard(external=[site], class_map="Lung opacity=opacity")
    assert board["site:n_classes"].dropna().unique().tolist() == [1]
    assert board["site:macro_auc"].notna().all()
