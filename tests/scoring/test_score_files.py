"""Saved scores of predictions, and the checksums of files with predictions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.errors import DataError
from automl_cxr.scoring import score_files
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.prediction_files import contents_of
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.score_files import SCORES_FILE, load_scores, save_scores
from tests.scoring.test_predictions import draw


def saved(folder: Path, predictions: Predictions) -> Path:
    folder.mkdir(exist_ok=True)
    predictions.to_npz(folder / "valid.npz")
    return folder / "valid.npz"


def test_saved_scores_are_those_of_the_predictions_and_are_not_computed_again(tmp_path: Path, monkeypatch) -> None:
    predictions = draw(30)
    path = saved(tmp_path, predictions)
    expected = score_predictions(predictions, normal_class=1)
    assert save_scores(path, normal_class=1) == expected
    monkeypatch.setattr(score_files, "score_predictions", None)  # a call would fail
    assert load_scores(path, normal_class=1) == expected


def test_an_undefined_score_stays_undefined(tmp_path: Path) -> None:
    predictions = Predictions(("a", "b"), np.array([0, 0]), np.array([[0.9, 0.1], [0.4, 0.6]]), ("no", "yes"))
    path = saved(tmp_path, predictions)
    save_scores(path, normal_class=None)
    assert np.isnan(load_scores(path, normal_class=None)["macro_auc"])


@pytest.mark.parametrize("change", ["predictions", "normal class", "code", "damage", "list", "text"])
def test_scores_of_something_else_are_replaced(tmp_path: Path, monkeypatch, change: str) -> None:
    path, normal_class = saved(tmp_path, draw(30)), 1
    save_scores(path, normal_class=1)
    stored = path.with_name(SCORES_FILE)
    if change == "predictions":
        saved(tmp_path, draw(30, seed=1))
    elif change == "normal class":
        normal_class = 2
    elif change == "code":
        monkeypatch.setattr(score_files, "_code_digest", lambda: "other")
        stored.write_text(json.dumps({**json.loads(stored.read_text()), "scores": {"macro_f1": 2}}))
    else:
        stored.write_text({"damage": stored.read_text()[:50], "list": "[]", "text": '{"key": 1, "scores": "x"}'}[change])
    expected = score_predictions(Predictions.from_npz(path), normal_class=normal_class)
    assert load_scores(path, normal_class=normal_class) == expected
    assert json.loads(stored.read_text())["scores"]["macro_f1"] == expected["macro_f1"]


def test_scores_are_returned_if_their_folder_cannot_be_written(tmp_path: Path) -> None:
    path = saved(tmp_path, draw(30))
    path.with_name(SCORES_FILE).mkdir()  # cannot be replaced by a file, for root either
    assert load_scores(path, normal_class=None) == score_predictions(draw(30))
    assert os.listdir(tmp_path / SCORES_FILE) == []


def test_missing_predictions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"valid\.npz"):
        load_scores(tmp_path / "valid.npz", normal_class=None)


def test_models_of_the_same_images_share_ids_and_labels(tmp_path: Path) -> None:
    first, other = draw(30), draw(30).with_probabilities(draw(30, seed=1).probabilities)
    paths = saved(tmp_path / "a", first), saved(tmp_path / "b", other)
    contents = [contents_of(path) for path in paths]
    assert contents[0].of_images == contents[1].of_images
    assert contents[0].of_model != contents[1].of_model
    loaded = [Predictions.from_npz(path) for path in paths]
    assert loaded[0].ids is loaded[1].ids
    assert loaded[0].labels is loaded[1].labels
    with pytest.raises(ValueError, match="read-only"):
        loaded[1].labels[0] = 2
    np.testing.assert_array_equal(loaded[1].probabilities, other.probabilities)
    changed = saved(tmp_path / "c", draw(30, seed=2))
    assert contents_of(changed).of_images != contents[0].of_images
    np.testing.assert_array_equal(Predictions.from_npz(changed).labels, draw(30, seed=2).labels)


def test_probabilities_of_another_model_are_checked() -> None:
    with pytest.raises(DataError, match="sum to 1"):
        draw(6).with_probabilities(np.full((6, 3), 0.5, np.float32))
    with pytest.raises(DataError, match="shape"):
        draw(6).with_probabilities(np.full((5, 3), 1 / 3, np.float32))
    with pytest.raises(DataError, match="thresholds"):
        draw(6).with_probabilities(draw(6).probabilities, np.full(3, 0.5))
