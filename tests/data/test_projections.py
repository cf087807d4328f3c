"""Projections of radiographs from tables, headers and paths, and --projections."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset as DicomDataset

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.inspection import inspect_data
from automl_cxr.data.projections import projection_in_path, projection_of
from automl_cxr.errors import DataError, UnknownNameError, UsageError

PIXELS = np.arange(192, dtype=np.uint16).reshape(12, 16)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        ("PA", "PA"),
        ("AP Supine", "AP"),
        ("AP_horizontal", "AP"),
        ("postero-anterior", "PA"),
        ("posterior-anterior view", "PA"),
        ("Thorax p.a.", "PA"),
        ("a.p. im Liegen", "AP"),
        ("Thorax seitlich", "lateral"),
        ("Frontal", "frontal"),
        ("Frontal AP", "AP"),
        ("LL", "lateral"),
        ("L", "lateral"),
        ("LATERAL", "lateral"),
        ("AP LLD", "AP"),
        ("left lateral decubitus", "other"),
        ("LPO", "other"),
        ("Axial", "other"),
        ("CHEST (PA AND LAT)", "unknown"),
        ("erect", "unknown"),
        ("", "unknown"),
    ],
)
def test_names_of_projections(view: str, expected: str) -> None:
    assert projection_of(view) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train/patient00001/study1/view1_frontal.jpg", "frontal"),
        ("train/patient00001/study1/view2_lateral.jpg", "lateral"),
        ("normal/p1-PA.png", "PA"),
        ("normal/LATERAL/1.png", "lateral"),
        ("normal/PA000001/ST000000/IM000001", "unknown"),
        ("normal/paternal_apnoea.png", "unknown"),
        ("a/1_PA_lateral.png", "unknown"),
    ],
)
def test_words_of_paths(path: str, expected: str) -> None:
    assert projection_in_path(path) == expected


@pytest.fixture
def viewed(write_folders: Callable[..., Path]) -> Path:
    """Two classes; in each three frontal images, two lateral ones and one of unknown projection, by name."""
    names = [f"{n}_{view}" for n, view in enumerate(("PA", "AP", "frontal", "lateral", "lat"))] + ["5"]
    return write_folders([f"{label}/{name}.png" for label in "ab" for name in names])


@pytest.mark.parametrize(
    ("projections", "n_images", "left_out"),
    [
        (("PA", "AP"), 6, "6 of 12 images are not used (--projections PA,AP): 4 lateral, 2 unknown. 'unknown' in"),
        (("pa", "ap", "unknown"), 8, "4 of 12 images are not used (--projections pa,ap,unknown): 4 lateral."),
        (("frontal",), 6, "4 lateral, 2 unknown"),
        (("PA",), 2, "2 AP, 2 frontal, 4 lateral, 2 unknown"),
        (("LL",), 4, "2 PA, 2 AP, 2 frontal, 2 unknown"),
    ],
)
def test_images_of_other_projections_are_left_out_and_counted(
    viewed: Path, projections: tuple[str, ...], n_images: int, left_out: str
) -> None:
    dataset = load_dataset(viewed, DataOptions(projections=projections))
    assert len(dataset.table) == n_images
    assert any(left_out in note for note in dataset.notes)


def test_laterals_are_noted_if_no_projection_was_chosen(viewed: Path) -> None:
    found = inspect_data(viewed)
    assert found.views == {"PA": 2, "AP": 2, "frontal": 2, "lateral": 4, "unknown": 2}
    assert any("4 of 12 images are not frontal" in note and "--projections PA,AP,unknown" in note for note in found.notes)


def test_a_projection_that_no_image_has_is_refused(viewed: Path) -> None:
    with pytest.raises(DataError, match="received other for 2 PA, 2 AP, 2 frontal, 4 lateral, 2 unknown"):
        load_dataset(viewed, DataOptions(projections=("other",)))
    with pytest.raises(UnknownNameError, match=r"projection 'latral'. Did you mean 'lateral'"):
        load_dataset(viewed, DataOptions(projections=("latral",)))


def test_the_view_of_a_table_precedes_the_name(viewed: Path) -> None:
    rows = [f"{label}/0_PA.png,{label},LATERAL" for label in "ab"] + [f"{label}/1_AP.png,{label}," for label in "ab"]
    (viewed / "labels.csv").write_text("\n".join(["path,label,view", *rows]) + "\n")
    dataset = load_dataset(viewed / "labels.csv", DataOptions(projections=("lateral",)))
    assert set(dataset.table["image"]) == {"a/0_PA.png", "b/0_PA.png"}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ViewPosition": "LL"}, "lateral"),
        ({"SeriesDescription": "W Chest Lat."}, "lateral"),
        ({"SeriesDescription": "CHEST PA AND LAT", "ProtocolName": "chest ap"}, "AP"),
        ({"PatientOrientation": ["A", "F"]}, "lateral"),
        ({"PatientOrientation": ["L", "F"]}, "frontal"),
        ({}, "unknown"),
    ],
)
def test_views_of_headers(tmp_path: Path, write_dicom: Callable[..., Path], tags: dict[str, object], expected: str) -> None:
    for label in "ab":
        write_dicom(tmp_path / label / "1", PIXELS, **tags)
    assert inspect_data(tmp_path).views == {expected: 2}


@pytest.mark.parametrize(
    ("description", "is_suspected"), [("CHEST PA AND LAT", True), ("Chest 2 Views", True), ("Chest", False)]
)
def test_laterals_that_a_description_of_the_study_names_are_suspected(
    tmp_path: Path, write_dicom: Callable[..., Path], description: str, is_suspected: bool
) -> None:
    for label in "ab":
        write_dicom(tmp_path / label / "1", PIXELS, StudyDescription=description)
    dataset = load_dataset(tmp_path)
    assert any(f"2 of 2 images may be lateral views by descriptions such as '{description}'" in n for n in dataset.notes) is (
        is_suspected
    )


def test_the_view_code_of_a_header(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    code = DicomDataset()
    code.CodeMeaning = "postero-anterior"
    for label in "ab":
        write_dicom(tmp_path / label / "1", PIXELS, ViewCodeSequence=[code])
    assert inspect_data(tmp_path).views == {"PA": 2}


def test_texts_that_name_no_projection_are_noted(write_folders: Callable[..., Path]) -> None:
    root = write_folders([f"images/{n}.png" for n in range(6)])
    views = ["PA", "1", "2", "unknown", "", "LATERAL"]
    rows = [f"images/{n}.png,{'ab'[n % 2]},{view}" for n, view in enumerate(views)]
    (root / "labels.csv").write_text("\n".join(["path,label,view", *rows]) + "\n")
    note = "2 of 6 images have a view that names no projection, such as '1', and count as unknown."
    assert note in load_dataset(root).notes


def test_a_chosen_column_without_projections_is_refused(write_folders: Callable[..., Path]) -> None:
    root = write_folders([f"images/{n}.png" for n in range(6)])
    rows = [f"images/{n}.png,{'ab'[n % 2]},x{n % 2},PA" for n in range(6)]
    (root / "labels.csv").write_text("\n".join(["path,label,site,how", *rows]) + "\n")
    with pytest.raises(UsageError, match=r"must name a column of projections, .* received 'site' with 'x0', 'x1'"):
        load_dataset(root, DataOptions(view_column="site"))
    assert set(load_dataset(root, DataOptions(view_column="how")).table["view"]) == {"PA"}
    with pytest.raises(DataError, match=r"site, how, of which 'label' \(view\) is chosen for another use"):
        load_dataset(root, DataOptions(view_column="label"))
