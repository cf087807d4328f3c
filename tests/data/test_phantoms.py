"""Phantoms: determinism, differences between classes only in the finding, and safe handling of folders."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.data.split import split_dataset
from automl_cxr.errors import DataError, UnknownNameError, UsageError


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_phantoms(tmp_path_factory.mktemp("phantoms"), n_images=360, image_size=64)


@pytest.fixture(scope="module")
def table(phantoms: Path) -> pd.DataFrame:
    return pd.read_csv(phantoms / "metadata.csv").astype({"label": object, "patient_id": object, "image": object})


@pytest.fixture(scope="module")
def pixels(phantoms: Path, table: pd.DataFrame) -> np.ndarray:
    return np.stack([np.asarray(Image.open(phantoms / image)) for image in table["image"]])


def score_by_patient(model: object, features: np.ndarray, table: pd.DataFrame) -> float:
    labels, patients = table["label"].to_numpy(), table["patient_id"].to_numpy()
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    predicted = cross_val_predict(model, features, labels, groups=patients, cv=folds)
    return float(f1_score(labels, predicted, average="macro"))


def test_phantoms_are_a_data_set_with_patients(phantoms: Path) -> None:
    dataset = load_dataset(phantoms)
    assert dataset.layout == "folders"
    assert dataset.classes == ("effusion", "normal", "opacity")
    assert dataset.table["label"].value_counts().to_dict() == {"effusion": 120, "normal": 120, "opacity": 120}
    assert (dataset.ignored, dataset.notes) == ({}, ())
    sizes = dataset.table.groupby("patient_id").size()
    assert (sizes.min(), sizes.max()) == (1, 4)
    assert dataset.table.groupby("patient_id")["label"].nunique().max() == 1
    assert split_dataset(dataset, list(dataset.table["image"])).grouped


def test_a_seed_determines_every_byte(tmp_path: Path) -> None:
    arguments = {"n_images": 9, "image_size": 48}
    first = contents(draw_phantoms(tmp_path / "1", seed=5, **arguments))
    assert contents(draw_phantoms(tmp_path / "2", seed=5, **arguments)) == first
    other = contents(draw_phantoms(tmp_path / "3", seed=6, **arguments))
    assert not {data for name, data in first.items() if name.endswith("png")} & set(other.values())


def test_images_have_the_requested_size_and_good_exposure(pixels: np.ndarray) -> None:
    assert pixels.shape == (360, 64, 64)
    assert pixels.dtype == np.uint8
    saturated = ((pixels == 0) | (pixels == 255)).mean(axis=(1, 2))
    assert saturated.max() < 0.1
    assert pixels.std(axis=(1, 2)).min() > 20


def test_boxes_enclose_the_opacities(table: pd.DataFrame, pixels: np.ndarray) -> None:
    boxes = table[["lesion_x0", "lesion_y0", "lesion_x1", "lesion_y1"]]
    is_opacity = (table["label"] == "opacity").to_numpy()
    assert boxes[~is_opacity].isna().all().all()
    contrasts = []
    for (x0, y0, x1, y1), image in zip(boxes[is_opacity].to_numpy(int), pixels[is_opacity].astype(float), strict=True):
        assert 0 <= x0 < x1 <= 64
        assert 0 <= y0 < y1 <= 64
        middle = image[(y0 + y1) // 2 - 1 : (y0 + y1) // 2 + 2, (x0 + x1) // 2 - 1 : (x0 + x1) // 2 + 2]
        corners = image[[y0, y0, y1 - 1, y1 - 1], [x0, x1 - 1, x0, x1 - 1]]
        contrasts.append(middle.mean() - corners.mean())
    assert np.mean(np.array(contrasts) > 0) > 0.9
    sizes = boxes[is_opacity].to_numpy() @ np.array([[-1, 0], [0, -1], [1, 0], [0, 1]])
    assert sizes.max() < 32


def test_brightness_contrast_and_corners_do_not_predict_the_class(table: pd.DataFrame, pixels: np.ndarray) -> None:
    corners = [pixels[:, rows, columns] for rows in (slice(6), slice(-6, None)) for columns in (slice(6), slice(-6, None))]
    features = [pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2)), *(corner.mean(axis=(1, 2)) for corner in corners)]
    forest = RandomForestClassifier(100, random_state=0)
    assert score_by_patient(forest, np.stack(features, axis=1), table) < 0.45  # chance is 0.33


def test_a_linear_model_is_better_than_chance_but_not_perfect(table: pd.DataFrame, pixels: np.ndarray) -> None:
    small = pixels.reshape(-1, 32, 2, 32, 2).mean(axis=(2, 4)).reshape(-1, 1024)
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    assert 0.45 < score_by_patient(linear, small, table) < 0.75


def test_complete_phantoms_are_unchanged(tmp_path: Path) -> None:
    folder = draw_phantoms(tmp_path, n_images=6, image_size=32)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert draw_phantoms(tmp_path, n_images=6, image_size=32) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("marker", ["{}", ""])
def test_interrupted_phantoms_are_drawn_again(tmp_path: Path, marker: str) -> None:
    arguments = {"n_images": 6, "image_size": 32, "classes": ("opacity", "normal")}
    expected = contents(draw_phantoms(tmp_path / "whole", **arguments))
    assert json.loads(expected["phantoms.json"])["n_images"] == 6
    draw_phantoms(tmp_path / "x", n_images=12, image_size=32)
    (tmp_path / "x" / "phantoms.json").write_text(marker)  # the state after an interruption
    (tmp_path / "x" / "metadata.csv").unlink()
    assert contents(draw_phantoms(tmp_path / "x", **arguments)) == expected


def test_phantoms_with_other_arguments_are_refused_and_unchanged(tmp_path: Path) -> None:
    before = contents(draw_phantoms(tmp_path, n_images=6, image_size=32))
    with pytest.raises(DataError, match="contains phantoms drawn with other arguments"):
        draw_phantoms(tmp_path, n_images=6, image_size=32, seed=1)
    assert contents(tmp_path) == before


def test_a_folder_with_other_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "a_real_patient.png").write_bytes(b"precious")
    for other_file in (None, "thesis.tex"):
        if other_file:
            draw_phantoms(tmp_path / "drawn", n_images=3, image_size=32)
            (tmp_path / "drawn" / other_file).write_text("precious")
        target = tmp_path / "drawn" if other_file else tmp_path
        before = contents(target)
        with pytest.raises(DataError, match=rf"contains {other_file or 'normal'}\. Name another"):
            draw_phantoms(target, n_images=6, image_size=32)
        assert contents(target) == before


def test_invalid_arguments_are_refused_before_writing(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'effusion'"):
        draw_phantoms(tmp_path / "x", classes=("normal", "efusion"))
    for arguments in ({"classes": ("normal",)}, {"n_images": 2}, {"image_size": 16}, {"image_size": 4096}):
        with pytest.raises(UsageError):
            draw_phantoms(tmp_path / "x", **arguments)  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is not a folder"):
        draw_phantoms(tmp_path / "file")
