"""Tables that name DICOM files by identifiers in their headers, and DICOM exports without labels."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.errors import DataError

PIXELS = np.arange(192, dtype=np.uint16).reshape(12, 16)
N_PATIENTS = 6


@pytest.fixture
def export(tmp_path: Path, write_dicom: Callable[..., Path]) -> Path:
    """Six patients with a study of two images each, in folders that are no classes."""
    for patient in range(N_PATIENTS):
        for number, view in enumerate(("PA", "LL")):
            write_dicom(
                tmp_path / "export" / f"PA{patient:06d}" / f"IM{number}",
                PIXELS + 2 * patient + number,
                PatientID=f"00{patient}",
                Modality="DX",
                ViewPosition=view,
                SOPInstanceUID=f"1.2.3.{patient}.1.{number}",
                SeriesInstanceUID=f"1.2.3.{patient}.0",
                StudyInstanceUID=f"1.2.3.{patient}",
                AccessionNumber=f"0A{patient}" if patient else "",
            )
    return tmp_path / "export"


def read_with(export: Path, header: str, names: list[str], **options: object) -> Dataset:
    """Write a table with a row for each name, which is ill if the number of the row is odd, and read the export with it."""
    table = export.parent / "labels.csv"
    rows = [f"{name},{('normal', 'ill')[number % 2]},{60 + number}" for number, name in enumerate(names)]
    table.write_text("\n".join([header, *rows, ""]))
    return load_dataset(export, DataOptions(labels=str(table), **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "pattern", "element"),
    [
        ("StudyInstanceUID,Diagnosis,Age", "1.2.3.{}", "StudyInstanceUID"),
        ("Exam,Diagnosis,Age", "1.2.3.{}", "StudyInstanceUID"),
        ("Exam,Diagnosis,Age", "1.2.3.{}.0", "SeriesInstanceUID"),
        ("PatientID,Diagnosis,Age", "00{}", "PatientID"),
        ("MRN,Diagnosis,Age", "{}", "PatientID"),
        ("MRN,Diagnosis,Age", "{}.0", "PatientID"),
    ],
)
def test_a_row_for_each_study_or_patient_labels_all_its_images(export: Path, header: str, pattern: str, element: str) -> None:
    dataset = read_with(export, header, [pattern.format(patient) for patient in range(N_PATIENTS)])
    assert len(dataset.table) == 2 * N_PATIENTS
    labels = dataset.table.set_index("image")["label"]
    assert all(labels[f"PA{patient:06d}/IM1"] == ("normal", "ill")[patient % 2] for patient in range(N_PATIENTS))
    assert dataset.table["patient_id"].nunique() == N_PATIENTS
    column = header.partition(",")[0]
    assert f"labels.csv: the column '{column}' is matched with the {element} in the DICOM headers: 6 of 6 rows, 12 files." in (
        dataset.notes
    )
    assert dataset.used_tables[0].columns["image"] == f"{column} ({element} in the DICOM headers)"


def test_a_row_for_each_image_labels_this_image(export: Path) -> None:
    dataset = read_with(export, "image_id,Diagnosis,Age", [f"1.2.3.{patient}.1.0" for patient in range(N_PATIENTS)])
    assert set(dataset.table["view"]) == {"PA"}
    assert dataset.table["label"].value_counts().to_dict() == {"normal": 3, "ill": 3}


def test_a_study_that_the_export_does_not_contain_is_reported(export: Path) -> None:
    dataset = read_with(export, "Accession No,Diagnosis,Age", [f"0A{patient}" for patient in range(1, N_PATIENTS + 1)])
    assert len(dataset.table) == 2 * (N_PATIENTS - 1)
    assert dataset.ignored["0A6"] == "listed in labels.csv but missing"
    assert "2 images on disk are not listed in labels.csv and are not used." in dataset.notes


def test_a_patient_with_different_labels_is_not_used(export: Path) -> None:
    dataset = read_with(export, "PatientID,Diagnosis,Age", ["000", "001", "002", "003", "004", "004"])
    assert len(dataset.table) == 8
    assert dataset.ignored["PA000004/IM0"] == "listed more than once in labels.csv, with different entries"


def test_the_label_of_a_patient_is_not_used_for_images_that_the_table_names_otherwise(export: Path) -> None:
    with pytest.raises(DataError, match=r"in the column 'image' .* none of 6 images can be used"):
        read_with(export, "image,Diagnosis,PatientID", [f"IM{patient}x" for patient in range(N_PATIENTS)])


def test_numbers_that_differ_in_leading_zeros_are_not_guessed(export: Path, write_dicom: Callable[..., Path]) -> None:
    write_dicom(export / "other", PIXELS + 50, PatientID="01", Modality="DX")
    dataset = read_with(export, "MRN,Diagnosis,Age", [str(patient) for patient in range(N_PATIENTS)])
    assert len(dataset.table) == 2 * (N_PATIENTS - 1)
    assert dataset.ignored["1"] == "listed in labels.csv but missing"


FOUND = r"12 DICOM files of 6 patients \(modality DX 12; view PA 6, LL 6\)"


def test_an_export_without_labels_is_refused_with_the_columns_of_a_table(export: Path) -> None:
    with pytest.raises(DataError, match=rf"found {FOUND}\. Use a table .*--labels FILE.*SOPInstanceUID.*or PatientID; or"):
        load_dataset(export)


def test_files_in_one_folder_are_refused_in_the_same_way(export: Path) -> None:
    for path in list(export.rglob("IM*")):
        path.rename(export / f"{path.parent.name}{path.name}")
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    with pytest.raises(DataError, match=rf"Images need labels .* found {FOUND} .*--labels FILE"):
        load_dataset(export)


def test_a_table_beside_the_files_is_proposed(export: Path) -> None:
    rows = "".join(f"1.2.3.{patient},{patient % 2}\n" for patient in range(N_PATIENTS))
    (export / "report.csv").write_text(f"study,result\n{rows}")
    with pytest.raises(DataError, match=r"Use the table that lists the images, with --labels \S+report\.csv"):
        load_dataset(export)
