"""Groups of patients of a study: on the command line, in Python and in the report; trials are not trained."""

import json

import numpy as np
import pandas as pd
import pytest

from automl_cxr import api
from automl_cxr.cli import _run
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.image_metadata import METADATA_FILE
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.results.report.report_data import read_report_data
from automl_cxr.results.report.subgroups import subgroups_section
from automl_cxr.results.study_subgroups import analyse_study_subgroups
from automl_cxr.scoring.metrics import score_predictions


@pytest.fixture
def table(tmp_path, phantoms):
    """Write a table of the phantoms with a sex, an age and a ward of each patient."""
    images = load_dataset(phantoms).table
    patients = sorted(set(images["patient_id"]))
    number = images["patient_id"].map({name: number for number, name in enumerate(patients)})
    columns = {
        "path": [str(phantoms / image) for image in images["image"]],
        "label": images["label"],
        "patient_id": images["patient_id"],
        "sex": np.where(number % 2 == 0, "F", "M"),
        "age": 20 + number % 3 * 25,
        "ward": np.where(number % 4 < 2, "icu", "er"),
    }
    file = tmp_path / "labels.csv"
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


@pytest.fixture
def study(prepare, quick_search, table):
    prepared = prepare(data=str(table), folds=2)
    quick_search(prepared, trials=1)
    return prepared.store


def test_groups_are_scored_out_of_fold(study):
    found = analyse_study_subgroups(study, min_patients=5)
    assert (found.model, found.place, found.n_images) == ("trial 0", "out of fold", len(study.split.train.images))
    assert list(dict.fromkeys(found.analysis.groups["column"])) == ["sex", "age", "sex & age"]
    predictions = study.predictions(0)
    metadata = pd.read_csv(study.folder / METADATA_FILE, index_col="image", dtype=str)
    women = predictions.take((metadata.loc[list(predictions.ids), "sex"] == "female").to_numpy())
    row = found.analysis.groups.set_index(["column", "group"]).loc["sex", "female"]
    assert row["macro_f1"] == pytest.approx(score_predictions(women)["macro_f1"])
    assert row["images"] == len(women)
    assert set(found.analysis.gaps["metric"]) == {"macro_f1", "macro_auc", "fnfr", "calibration_error"}
    assert found.analysis.gaps["adjusted_p"].ge(found.analysis.gaps["p_value"]).all()
    every = found.analysis.scores.query("column == 'sex' and group == 'female'").set_index("metric")["score"]
    assert every["recall_opacity"] == pytest.approx(score_predictions(women)["recall_opacity"])
    assert every["share_normal"] == pytest.approx((women.labels == 1).mean())


def test_another_column_is_read_from_the_data(study, table):
    found = analyse_study_subgroups(study, by=["ward", "ward&sex"], metrics=["accuracy"], min_patients=5)
    assert list(dict.fromkeys(found.analysis.groups["column"])) == ["ward", "ward & sex"]
    assert set(found.analysis.gaps["metric"]) == {"accuracy"}
    with pytest.raises(UnknownNameError, match=r"Unknown column of subgroups 'wart'\. Did you mean 'ward'"):
        analyse_study_subgroups(study, by=["wart"])
    table.unlink()
    with pytest.raises(DataError, match="must exist"):
        analyse_study_subgroups(study, by=["ward"])
    assert not analyse_study_subgroups(study, by=["sex"]).analysis.groups.empty, "it is stored with the study"


def test_a_study_of_an_earlier_version_reads_its_data(study):
    expected = analyse_study_subgroups(study, by=["sex"]).analysis.scores
    (study.folder / METADATA_FILE).unlink()
    pd.testing.assert_frame_equal(analyse_study_subgroups(study, by=["sex"]).analysis.scores, expected)


def test_a_search_stores_the_columns_that_it_names(prepare, table):
    prepare(data=str(table))
    folder = prepare(data=str(table), subgroups=["ward"]).store.folder
    assert "ward" in pd.read_csv(folder / METADATA_FILE)


def test_mistakes_are_refused_before_the_test_part_is_opened(study):
    with pytest.raises(UnknownNameError, match="column of subgroups"):
        analyse_study_subgroups(study, by=["race"], part="test")
    with pytest.raises(UnknownNameError, match="metric"):
        analyse_study_subgroups(study, metrics=["f2"], part="test")
    with pytest.raises(UsageError, match="those of one model"):
        analyse_study_subgroups(study, trial=0, ensemble="x")
    with pytest.raises(UsageError, match="has two columns"):
        analyse_study_subgroups(study, by=["sex&age&sex"])
    assert study.test_opened() == []


def test_data_without_metadata_are_refused(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=1)
    with pytest.raises(DataError, match="Subgroups need metadata of the images"):
        analyse_study_subgroups(prepared.store)
    assert subgroups_section(read_report_data(prepared.store)).parts == []


def test_the_report_shows_the_groups(study):
    section = subgroups_section(read_report_data(study))
    texts = " ".join(part.text for part in section.parts if hasattr(part, "text"))
    assert "No gap between groups is larger" in texts
    groups = next(part.table for part in section.parts if getattr(part, "caption", "").startswith("Scores of each group"))
    assert set(groups["column"]) == {"sex", "age", "sex & age"}
    assert set(groups["not_compared"]) == {"few patients"}


def test_the_command_prints_tables_and_writes_every_score(study, tmp_path, capfd):
    code = _run(["subgroups", "s", "--runs", str(tmp_path), "--min-patients", "5", "--out", str(tmp_path / "out.csv")])
    out, err = capfd.readouterr()
    assert code == 0, err
    for text in ("s, trial 0, out of fold", "sex & age", "female", "45", "gaps between the worst and the best group"):
        assert text in out
    written = pd.read_csv(tmp_path / "out.csv")
    assert {"column", "group", "metric", "score", "low", "high", "expected"} <= set(written)
    assert _run(["subgroups", "s", "--runs", str(tmp_path), "--by", "sex", "--json"]) == 0
    printed = json.loads(capfd.readouterr().out)
    assert {row["column"] for row in printed["scores"]} == {"sex"}
    assert printed["test_opened"] == 0


def test_a_study_in_python(study, tmp_path):
    found = api.open_study("s", runs=tmp_path).subgroups(by=["sex"])
    assert "Subgroups of s, trial 0, out of fold" in repr(found)
