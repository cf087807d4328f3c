"""Sex, age and other metadata of images, from tables of all layouts and from DICOM headers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.patient_metadata import clean_value, metadata_columns
from automl_cxr.errors import UnknownNameError

PIXELS = np.arange(192, dtype=np.uint16).reshape(12, 16)
WriteFolders = Callable[..., Path]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        *[("sex", "F", "female"), ("sex", " Male ", "male"), ("sex", "O", "other"), ("sex", "1", "1"), ("sex", "unknown", "")],
        *[("age", "077Y", "77"), ("age", "18M", "1.5"), ("age", "63", "63"), ("age", "63.0", "63"), ("age", "90+", "90")],
        *[("age", "45 years", "45"), ("age", "414", ""), ("age", "old", ""), ("age", "nan", "")],
        *[("view", "AP Supine", "AP"), ("view", "LL", "lateral"), ("view", "?", "")],
        *[("scanner", "  GE   Medical ", "GE Medical"), ("site", "N/A", "")],
    ],
)
def test_values_have_one_form(name: str, text: str, expected: str) -> None:
    assert clean_value(name, text) == expected


def test_columns_are_found_by_names_of_public_data_sets() -> None:
    nih = ["Image Index", "Patient Age", "Patient Gender", "View Position"]
    assert metadata_columns(nih, DataOptions()) == {"age": 1, "sex": 2}
    brax = ["PngPath", "PatientSex", "PatientAge", "Manufacturer"]
    assert metadata_columns(brax, DataOptions()) == {"sex": 1, "age": 2, "scanner": 3}
    assert metadata_columns(["path", "Smoking Status"], DataOptions(subgroups=("smoking_status",))) == {"smoking_status": 1}


def test_a_table_states_the_metadata_of_its_images(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png", "2.png", "3.png"])
    (root / "labels.csv").write_text(
        "path,label,Gender,Age,view,ward\n1.png,a,F,077Y,PA,icu\n2.png,b,M,,AP,er\n3.png,b,,30,,er\n"
    )
    dataset = load_dataset(root, DataOptions(subgroups=("ward",)))
    assert dataset.metadata.to_dict(orient="index") == {
        "1.png": {"sex": "female", "age": "77", "view": "PA", "ward": "icu"},
        "2.png": {"sex": "male", "age": "", "view": "AP", "ward": "er"},
        "3.png": {"sex": "", "age": "30", "view": "", "ward": "er"},
    }
    assert dataset.used_tables[0].unused == ()
    assert "ward" not in load_dataset(root).metadata


def test_metadata_do_not_change_which_images_are_used(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png", "2.png"])
    (root / "labels.csv").write_text("path,label,sex,age\n1.png,a,F,50\n1.png,a,F,51\n2.png,b,M,20\n")
    dataset = load_dataset(root)
    assert list(dataset.table["image"]) == ["1.png", "2.png"]
    assert dataset.metadata.loc["1.png"].to_dict() == {"sex": "female", "age": ""}, "the ages of the two rows differ"


def test_metadata_csv_beside_class_folders(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    (root / "metadata.csv").write_text(
        "image,patient_id,sex,hospital\na/1.png,p,F,north\na/1.png,p,F,south\nb/2.png,q,M,south\n"
    )
    assert load_dataset(root).metadata.to_dict() == {
        "sex": {"a/1.png": "female", "b/2.png": "male"},
        "site": {"a/1.png": "", "b/2.png": "south"},
    }


def test_dicom_headers_state_what_a_table_does_not(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    born = {"PatientBirthDate": "19500601", "StudyDate": "20200531"}
    write_dicom(tmp_path / "a" / "1.dcm", PIXELS, PatientSex="F", PatientAge="012M", Manufacturer="Agfa", ViewPosition="PA")
    write_dicom(tmp_path / "b" / "2.dcm", PIXELS + 1, PatientSex="M", InstitutionName="North", **born)
    (tmp_path / "metadata.csv").write_text("image,sex\nb/2.dcm,F\n")
    assert load_dataset(tmp_path).metadata.to_dict(orient="index") == {
        "a/1.dcm": {"sex": "female", "age": "1", "view": "PA", "site": "", "scanner": "Agfa"},
        "b/2.dcm": {"sex": "female", "age": "69", "view": "", "site": "North", "scanner": ""},
    }


def test_the_table_of_an_array(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((4, 8, 8), np.uint8))
    (tmp_path / "labels.csv").write_text("label,sex,age\na,F,20\na,M,30\nb,F,40\nb,M,50\n")
    assert load_dataset(tmp_path).metadata["age"].tolist() == ["20", "30", "40", "50"]


def test_an_unknown_column_is_refused_with_the_columns(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png", "2.png"])
    (root / "labels.csv").write_text("path,label,smoker\n1.png,a,1\n2.png,b,0\n")
    with pytest.raises(UnknownNameError, match=r"Unknown column of subgroups 'smoke'\. Did you mean 'smoker'"):
        load_dataset(root, DataOptions(subgroups=("smoke",)))


def test_a_column_of_subgroups_is_no_finding(write_folders: WriteFolders) -> None:
    names = [f"{number}.png" for number in range(12)]
    root = write_folders(names)
    rows = "".join(f"{name},{number % 2},{number % 3 // 2},{number % 4 // 2}\n" for number, name in enumerate(names))
    (root / "labels.csv").write_text(f"path,edema,mass,insured\n{rows}")
    options = DataOptions(task="multilabel", min_positives=1)
    assert load_dataset(root, options).classes == ("edema", "mass", "insured")
    chosen = load_dataset(root, DataOptions(task="multilabel", min_positives=1, subgroups=("insured",)))
    assert chosen.classes == ("edema", "mass")
    assert set(chosen.metadata["insured"]) == {"0", "1"}
