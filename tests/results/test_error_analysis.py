import csv
import io
import shutil

import numpy as np
import pandas as pd
import pytest

from automl_cxr import api
from automl_cxr.errors import DataError, StudyError, UnknownNameError, UsageError
from automl_cxr.results.compared_models import ComparedModels
from automl_cxr.results.error_analysis import ErrorAnalysis, Group, compare_errors
from automl_cxr.results.error_report import error_sections, images_to_show
from automl_cxr.results.html_page import Pictures, Text, render_page
from automl_cxr.scoring.predictions import Predictions

CLASSES = ("covid", "normal", "pneumonia")
LABELS = [0, 0, 1, 1, 2]
# Predicted classes of three models for five images, and their probabilities; the other two classes share the rest 2 to 1.
PREDICTED = [[0, 1, 1, 1, 0], [0, 1, 1, 2, 2], [0, 1, 2, 1, 1]]
CONFIDENCE = [[0.9, 0.8, 0.6, 0.7, 0.5], [0.8, 0.95, 0.7, 0.42, 0.6], [0.7, 0.85, 0.99, 0.6, 0.45]]


def probabilities_of(predicted, confidence) -> np.ndarray:
    rows = []
    for column, share in zip(predicted, confidence, strict=True):
        row = np.empty(3)
        row[[column, *(other for other in range(3) if other != column)]] = share, (1 - share) * 2 / 3, (1 - share) / 3
        rows.append(row)
    return np.array(rows, dtype=np.float32)


def analysis_of(n_models: int, labels=LABELS) -> ErrorAnalysis:
    members = np.stack([probabilities_of(*pair) for pair in zip(PREDICTED[:n_models], CONFIDENCE[:n_models], strict=True)])
    ids = tuple(f"{number}.png" for number in range(5))
    images = Predictions(ids, np.array(labels), members[0], CLASSES, ("p0", "p1", "p1", "p2", "p3"))
    names = tuple(f"trial {number}" for number in range(n_models))
    return compare_errors("s", ComparedModels(names, images, members, "valid part"))


def test_images_are_grouped_by_the_agreement_of_the_models():
    errors = analysis_of(3)
    masks = {group: np.flatnonzero(errors.mask(group)).tolist() for group in errors.groups}
    assert masks == {Group.ALL_WRONG: [1], Group.ALL_RIGHT: [0], Group.ONE_WRONG: [2, 3], Group.ONE_RIGHT: [4]}
    assert errors.by_class.to_dict(orient="list") == {
        "class": ["covid", "normal", "pneumonia"],
        "images": [2, 2, 1],
        "all wrong": [1, 0, 0],
        "all right": [1, 0, 0],
        "only one wrong": [0, 2, 0],
        "only one right": [0, 0, 1],
    }
    assert errors.by_model.to_dict(orient="list") == {
        "model": ["trial 0", "trial 1", "trial 2"],
        "wrong": [2, 2, 3],
        "wrong_share": [0.4, 0.4, 0.6],
        "only_wrong": [0, 1, 1],
        "only_right": [0, 1, 0],
    }
    assert "all wrong 1, all right 1, only one wrong 2, only one right 1" in repr(errors)
    with pytest.raises(UnknownNameError, match="Did you mean 'all wrong'"):
        errors.mask("all rong")


def test_the_groups_depend_on_the_number_of_models():
    one, two = analysis_of(1), analysis_of(2)
    assert one.groups == (Group.ALL_WRONG, Group.ALL_RIGHT)
    assert not one.mask(Group.ONE_WRONG).any()
    assert list(one.by_model) == ["model", "wrong", "wrong_share"]
    assert two.groups == (Group.ALL_WRONG, Group.ALL_RIGHT, Group.ONE_WRONG)
    assert two.mask(Group.ONE_WRONG).tolist() == two.mask(Group.ONE_RIGHT).tolist() == [False, False, False, True, True]
    assert two.by_model[["only_wrong", "only_right"]].to_numpy().tolist() == [[1, 1], [1, 1]]


def test_confusions_are_sorted_by_confidence_or_uncertainty():
    errors = analysis_of(3)
    confident, uncertain = errors.confusions(), errors.confusions(order="uncertain")
    assert confident[["image", "model"]].to_numpy().tolist() == [
        ["2.png", "trial 2"],
        ["1.png", "trial 1"],
        ["1.png", "trial 2"],
        ["1.png", "trial 0"],
        ["4.png", "trial 0"],
        ["4.png", "trial 2"],
        ["3.png", "trial 1"],
    ]
    row = confident.iloc[0]
    assert (row["label"], row["predicted"], row["patient_id"]) == ("normal", "pneumonia", "p1")
    assert row[["probability", "probability_of_label", "margin"]].tolist() == pytest.approx([0.99, 0.01 / 3, 0.99 - 0.02 / 3])
    assert uncertain["image"].iloc[0] == "3.png"
    assert uncertain["margin"].iloc[0] == pytest.approx(0.42 - 0.58 * 2 / 3)
    assert uncertain["margin"].is_monotonic_increasing
    assert sorted(map(tuple, confident.to_numpy())) == sorted(map(tuple, uncertain.to_numpy()))
    with pytest.raises(UnknownNameError, match="order"):
        errors.confusions(order="sure")


def test_pairs_count_the_confusions_of_each_model():
    pairs = analysis_of(3).pairs
    assert pairs.to_dict(orient="records") == [
        {"label": "covid", "predicted": "normal", "trial 0": 1, "trial 1": 1, "trial 2": 1},
        {"label": "normal", "predicted": "pneumonia", "trial 0": 0, "trial 1": 1, "trial 2": 1},
        {"label": "pneumonia", "predicted": "covid", "trial 0": 1, "trial 1": 0, "trial 2": 0},
        {"label": "pneumonia", "predicted": "normal", "trial 0": 0, "trial 1": 0, "trial 2": 1},
    ]


def test_the_table_contains_every_image_and_the_predictions_of_each_model():
    table = analysis_of(3).table().set_index("image")
    assert table["n_wrong"].tolist() == [3, 2, 1, 1, 0]
    assert table.index[0] == "1.png"
    assert table.loc["4.png", "only_right"] == "trial 1"
    assert table.loc["2.png", ["only_wrong", "predicted_trial_2", "predicted_trial_0"]].tolist() == [
        "trial 2", "pneumonia", "normal",
    ]  # fmt: skip
    assert table.loc["2.png", "probability_trial_2"] == pytest.approx(0.99)
    assert table.loc["0.png", ["only_wrong", "only_right"]].tolist() == ["", ""]


def test_a_model_without_errors_has_no_confusions():
    errors = analysis_of(1, labels=PREDICTED[0])
    assert errors.pairs.empty
    assert errors.confusions().empty
    sections = {section.title: section.parts for section in error_sections(errors, {})}
    assert sections["Errors: most confident"] == []
    assert "<h2>Right</h2>" in render_page("Errors", error_sections(errors, {}))


def test_images_without_labels_are_refused():
    with pytest.raises(DataError, match="true class of every image"):
        analysis_of(2, labels=[0, 1, -1, 0, 1])


def test_grids_show_each_class_of_each_group():
    errors = analysis_of(3)
    names = images_to_show(errors, n_shown=1)
    assert set(names) == {f"{number}.png" for number in range(5)}
    pictures = {name: np.zeros((4, 4), np.uint8) for name in names if name != "1.png"}
    sections = {section.title: section.parts for section in error_sections(errors, pictures)}
    shown = [part for part in sections["Wrong by one model only"] if isinstance(part, Pictures)]
    assert [[picture.caption for picture in grid.pictures] for grid in shown] == [
        [
            "2.png: normal 0.60..0.70 by 2, pneumonia 0.99 by trial 2",
            "3.png: normal 0.60..0.70 by 2, pneumonia 0.42 by trial 1",
        ]
    ]
    assert [part.text for part in sections["Wrong by all 3 models"] if isinstance(part, Text)] == [
        "covid: 1 of 2 images", "normal: 0 of 2 images", "pneumonia: 0 of 1 images",
    ]  # fmt: skip
    assert not any(isinstance(part, Pictures) for part in sections["Wrong by all 3 models"]), (
        "the picture of its only image is missing"
    )


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    """Return a copy of the finished study whose test part the tests may open."""
    runs = tmp_path_factory.mktemp("errors") / "runs"
    shutil.copytree(finished.folder.parent, runs)
    return api.open_study("done", runs=runs)


def test_the_default_is_the_recommended_classifier_on_the_validation_part(study):
    errors = study.errors()
    recommended = study.recommended
    assert errors.models == (f"{recommended.kind} {recommended.trial if recommended.kind == 'trial' else 'recommended'}",)
    assert errors.place == "valid part"


def test_errors_of_the_best_trial_agree_with_the_leaderboard(study):
    errors = study.errors(top=1)
    assert errors.models == (f"trial {study.best.number}",)
    assert (errors.place, errors.n_opened) == ("valid part", 0)
    assert set(errors.images.ids) == set(study._store.split.valid.images)
    wrong = 1 - study.leaderboard().loc[0, "accuracy"]
    assert errors.by_model["wrong_share"].tolist() == pytest.approx([wrong])


def test_trials_ensembles_and_prediction_files_are_compared(study, tmp_path):
    ensemble = study.ensemble(top=2, method="average", name="mean")
    table = tmp_path / "hospital.npz"
    study._store.predictions(0).to_npz(table)
    errors = study.errors(trials=[3, 1], ensembles=["mean"], predictions=[table])
    assert errors.models == ("trial 3", "trial 1", "ensemble mean", "hospital.npz")
    expected = Predictions.from_npz(ensemble.folder / "valid.npz")
    rows = [expected.ids.index(name) for name in errors.images.ids]
    np.testing.assert_array_equal(errors.probabilities[2], expected.probabilities[rows])
    assert study.errors(ensembles=[ensemble.folder]).models == ("ensemble mean",)
    text = tmp_path / "hospital.csv"
    scores = ",".join(f"probability_{name}" for name in expected.classes)
    named = zip(expected.ids, expected.labels, expected.probabilities, strict=True)
    lines = [f"{name},{expected.classes[label]},3,{','.join(map(str, row))}" for name, label, row in named]
    text.write_text("\n".join([f"image,label,fold,{scores}", *lines]))
    (note,) = study.errors(trials=[1], predictions=[text]).notes
    assert note.startswith(f"hospital.csv: columns used: image, label, {scores.replace(',', ', ')}; not used: fold")
    assert len(study.errors(top=9).models) == 4, "trials without a model saved their predictions too"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trials": [0], "top": 2}, UsageError, "exclude each other"),
        ({"top": 0}, UsageError, "--top must be at least 1"),
        ({"trials": [0, 0]}, UsageError, "must be distinct"),
        ({"trials": [9]}, StudyError, "trials 0 to 3"),
        ({"ensembles": ["ga-77"]}, DataError, "has no ensemble ga-77"),
        ({"part": "valdi"}, UnknownNameError, "Did you mean 'valid'"),
    ],
)
def test_invalid_comparisons_are_refused(study, options, error, message):
    with pytest.raises(error, match=message):
        study.errors(**options)


def test_opening_the_test_part_is_recorded_for_each_model(study):
    n_before = len(study._store.study.user_attrs.get("test_opened", ()))
    errors = study.errors(top=2, part="test")
    opened = study._store.study.user_attrs["test_opened"][n_before:]
    assert [entry["what"] for entry in opened] == list(errors.models)
    assert (errors.place, errors.n_opened) == ("test part", n_before + 2)
    assert set(errors.images.ids) == set(study._store.split.test)


def test_the_page_contains_pictures_and_requires_the_images(study, tmp_path):
    errors = study.errors(top=3)
    page = study.error_page(errors, n_shown=2)
    # An image can be shown in a group and in both lists of confusions.
    assert page.count('src="data:image/jpeg') >= len(images_to_show(errors, n_shown=2))
    assert len(page) < 3_000_000
    with pytest.raises(DataError, match="must exist"):
        study.error_page(errors, data=str(tmp_path / "gone"))


def test_the_command_prints_tables_and_json_and_writes_files(study, tmp_path, capfd):
    import json

    from automl_cxr import cli

    arguments = ["errors", "done", "--top", "3", "--runs", str(study.folder.parent)]
    assert cli._run([*arguments, "--show", "2", "--out", str(tmp_path / "errors.html")]) == 0
    out, err = capfd.readouterr()
    assert "images of each class by agreement of the models" in out
    assert "most uncertain first" in out
    assert f"written to {tmp_path / 'errors.html'}" in err
    assert (tmp_path / "errors.html").read_text().startswith("<!doctype html>")
    assert cli._run([*arguments, "--out", str(tmp_path / "errors.csv"), "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    n_images = len(study._store.split.valid.images)
    assert (printed["images"], printed["part"], len(printed["models"])) == (n_images, "valid part", 3)
    assert sum(row["images"] for row in printed["classes"]) == n_images
    assert sum(model["wrong"] for model in printed["models"]) == len(printed["confusions"])
    rows = list(csv.DictReader(io.StringIO((tmp_path / "errors.csv").read_text())))
    assert len(rows) == n_images
    assert {"image", "label", "n_wrong", "only_wrong", "only_right"} <= set(rows[0])
    assert pd.read_csv(tmp_path / "errors.csv")["n_wrong"].sum() == len(printed["confusions"])
    assert cli._run([*arguments, "--format", "csv"]) == 2
    assert "without --out" in capfd.readouterr().err
    assert cli._run([*arguments, "--format", "cvs", "--out", str(tmp_path / "e")]) == 2
    assert "Did you mean 'csv'" in capfd.readouterr().err
