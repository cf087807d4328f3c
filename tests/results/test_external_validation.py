"""Scores of saved models on the images of an external site."""

import math
import shutil

import numpy as np
import pytest

from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import DataError, UsageError
from automl_cxr.results import external_validation
from automl_cxr.scoring.metrics import METRICS


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    return draw_phantoms(tmp_path_factory.mktemp("sites") / "hospital", n_images=30, image_size=48, seed=9)


def test_saved_models_are_scored_on_external_images_and_predict_once(finished, hospital, monkeypatch):
    steps = []
    table = finished.leaderboard(external=[hospital], on_progress=lambda *counts: steps.append(counts))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    assert table["hospital:macro_f1"].notna().tolist() == table["has_model"].tolist()
    for row in table[table["has_model"]].to_dict(orient="records"):
        (file,) = (finished.folder / "external").glob(f"*/{row['trial']:05d}.npz")
        predictions = external_validation.Predictions.from_npz(file)
        assert len(predictions) == 30
        for name, metric in METRICS.items():
            assert row[f"hospital:{name}"] == metric.function(predictions.labels, predictions.probabilities, 1)
        assert row["hospital:macro_f1_low"] <= row["hospital:macro_f1"] <= row["hospital:macro_f1_high"]
        assert row["worst_site"] == min(row["macro_f1"], row["hospital:macro_f1"])
        assert row["worst_at"] == ("validation" if row["macro_f1"] < row["hospital:macro_f1"] else "hospital")
    assert "hospital are not" in table.attrs["notes"][0]
    monkeypatch.setattr(external_validation, "_predict", None)
    sorted_table = finished.leaderboard(external=[hospital], sort="worst_site")
    scores = [score for score in sorted_table["worst_site"] if not math.isnan(score)]
    assert scores == sorted(table["worst_site"].dropna(), reverse=True)
    assert math.isnan(sorted_table["worst_site"].iloc[-1]), "a trial without a model is last"


def test_unreadable_images_are_left_out_and_counted(finished, hospital, tmp_path):
    clinic = tmp_path / "clinic"
    shutil.copytree(hospital, clinic)
    next((clinic / "normal").glob("*.png")).write_bytes(b"no picture")
    table = finished.leaderboard(external=[clinic])
    assert table["clinic:n_images"].dropna().tolist() == [29, 29, 29]
    assert "1 of 30 images of clinic cannot be read and are excluded" in table.attrs["notes"][1]


def test_the_predictions_equal_those_of_the_classifier(finished, hospital):
    (site,) = external_validation.open_sites([hospital])
    predictions = external_validation.predict_site(finished._store, site)
    number = finished.best.number
    files = [hospital / image for image in predictions[number].ids]
    expected, _ = finished.classifier(number).predict(files)
    assert np.abs(predictions[number].probabilities - expected).max() < 1e-5


def test_sites_that_do_not_match_the_study_are_refused(finished, hospital, phantoms, tmp_path):
    with pytest.raises(DataError, match="60 of 60 images of data are identical to images of study 'done'"):
        finished.leaderboard(external=[phantoms])
    mixed = tmp_path / "mixed"
    shutil.copytree(hospital, mixed)
    shutil.copy(next((phantoms / "normal").glob("*.png")), mixed / "normal" / "renamed.png")
    (mixed / "metadata.csv").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"1 of 31 images of mixed are identical .*, such as normal/renamed\.png"):
        finished.leaderboard(external=[mixed])
    incomplete = tmp_path / "lacking"
    shutil.copytree(hospital, incomplete)
    shutil.rmtree(incomplete / "normal")
    (incomplete / "metadata.csv").unlink(missing_ok=True)
    with pytest.raises(DataError, match="lacking lacks normal"):
        finished.leaderboard(external=[incomplete])
    shutil.copytree(hospital / "normal", incomplete / "healthy")
    with pytest.raises(DataError, match="lacks normal and has healthy"):
        finished.leaderboard(external=[incomplete])
    with pytest.raises(UsageError, match="Rename one"):
        finished.leaderboard(external=[hospital, hospital])
    with pytest.raises(DataError, match="must exist"):
        finished.leaderboard(external=[tmp_path / "nowhere"])
