"""Images without a patient, and names that may not be those of a patient."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.data.audit.cleaning import clean_table
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.inspection import inspect_data
from automl_cxr.data.split import PARTS, fold_dataset, split_dataset
from automl_cxr.data_audit.audit import audit_dataset
from automl_cxr.errors import DataError, UnknownNameError

WriteFolders = Callable[..., Path]
N = 24


def write_table(root: Path, patients: list[str]) -> Path:
    """Write a table in which the images 0.png, 1.png, ... alternate between two classes."""
    rows = [f"{number}.png,{'ab'[number % 2]},{patient}" for number, patient in enumerate(patients)]
    (root / "labels.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    return root


def patients_of_parts(root: Path, patient_of_image: dict[str, str], **options: str) -> list[set[str]]:
    dataset = load_dataset(root, DataOptions(**options))
    split = split_dataset(dataset, list(dataset.table["image"]))
    return [{patient_of_image[image] for image in getattr(split, part)} for part in PARTS]


def test_dicom_files_without_suffix_keep_the_patients_of_their_headers(
    tmp_path: Path, write_dicom: Callable[..., Path]
) -> None:
    """24 files of 6 patients, every second of them without a suffix."""
    rng = np.random.default_rng(0)
    patient_of_image = {}
    for number in range(N):
        patient = f"p{number % 6}"
        name = f"{'ab'[patient in ('p0', 'p1', 'p2')]}/IM{number:03d}{'' if number // 6 % 2 else '.dcm'}"
        write_dicom(tmp_path / name, rng.integers(0, 4096, (12, 16)).astype(np.uint16), PatientID=patient)
        patient_of_image[name] = patient
    dataset = load_dataset(tmp_path)
    assert dict(zip(dataset.table["image"], dataset.table["patient_id"], strict=True)) == patient_of_image
    assert (dataset.without_patient, dataset.notes) == ((), ())
    train, valid, test = patients_of_parts(tmp_path, patient_of_image)
    assert not train & valid
    assert not (train | valid) & test


def test_a_split_of_many_images_without_a_patient_needs_a_choice(write_folders: WriteFolders) -> None:
    root = write_table(write_folders([f"{n}.png" for n in range(N)]), [f"p{n // 4}" if n < 16 else "" for n in range(N)])
    dataset = load_dataset(root)
    ids = list(dataset.table["image"])
    expected = r"At most 5 % .* received 8 of 24 images \(33\.3 %\) without one.*--unknown-patients separate .* or drop"
    with pytest.raises(DataError, match=expected):
        split_dataset(dataset, ids)
    with pytest.raises(DataError, match=expected):
        fold_dataset(dataset, ids, n_folds=2)
    assert any(
        note.startswith("8 of 24 images (33.3 %) have no patient: each of them is a patient of its own. A split")
        for note in dataset.notes
    )
    separate = load_dataset(root, DataOptions(unknown_patients="separate"))
    assert sum(split_dataset(separate, ids).counts.values()) == N
    assert set(fold_dataset(separate, ids, n_folds=2)) == {1, 2}
    dropped = load_dataset(root, DataOptions(unknown_patients="drop"))
    assert len(dropped.table) == 16
    assert len(dropped.without_patient) == 8
    assert "8 of 24 images (33.3 %) have no patient and are not used (--unknown-patients drop)." in dropped.notes
    assert sum(split_dataset(dropped, list(dropped.table["image"])).counts.values()) == 16
    with pytest.raises(UnknownNameError, match="Did you mean 'drop'"):
        load_dataset(root, DataOptions(unknown_patients="dropp"))


def test_a_complete_given_split_needs_no_choice(write_folders: WriteFolders) -> None:
    root = write_folders([f"{part}/{label}/{number}.png" for part in PARTS for label in "ab" for number in range(4)])
    dataset = load_dataset(root, DataOptions(patients="[0-2]"))
    assert len(dataset.without_patient) == 6
    assert split_dataset(dataset, list(dataset.table["image"])).origin == "given"


def test_few_images_without_a_patient_are_reported_and_split(write_folders: WriteFolders) -> None:
    root = write_table(write_folders([f"{n}.png" for n in range(N)]), [f"p{n // 2}" if n else "" for n in range(N)])
    dataset = load_dataset(root)
    assert dataset.notes == ("1 of 24 images (4.2 %) have no patient: each of them is a patient of its own.",)
    assert sum(split_dataset(dataset, list(dataset.table["image"])).counts.values()) == N


def test_an_inspection_counts_images_without_a_patient_separately(write_folders: WriteFolders) -> None:
    root = write_table(write_folders([f"{n}.png" for n in range(N)]), [f"p{n // 4}" if n < 16 else "" for n in range(N)])
    found = inspect_data(root)
    assert (found.n_patients, found.n_without_patient) == (4, 8)
    assert list(found.classes["patients"]) == [4, 4]
    assert list(found.classes["images"]) == [12, 12]


@pytest.mark.parametrize("name", ["", "nan", "NaN", "<NA>", "None", " null "])
def test_what_programs_write_for_a_missing_value_is_no_patient(write_folders: WriteFolders, name: str) -> None:
    root = write_table(write_folders([f"{n}.png" for n in range(N)]), [f"p{n // 2}" if n > 2 else name for n in range(N)])
    assert load_dataset(root).without_patient == ("0.png", "1.png", "2.png")


@pytest.mark.parametrize(
    ("patients", "expected"),
    [
        (["unknown" if n < 3 else f"p{n}" for n in range(N)], "Patient 'unknown' has 3 of 24 images (12.5 %), and all"),
        (["Anonymous" if n < 2 else f"p{n}" for n in range(N)], "Patient 'Anonymous' has 2 of 24 images (8.3 %), and all"),
        (["x1" if n % 2 and n < 21 else f"p{n}" for n in range(N)], "Patient 'x1' has 10 of 12 images (83.3 %) of class 'b'"),
        (["NA" if n < 1 else f"p{n // 2}" for n in range(N)], ""),  # one image: it may be a name
        ([f"p{n // 8}" for n in range(N)], ""),
    ],
)
def test_names_that_may_be_placeholders_are_named_with_the_remedy(
    write_folders: WriteFolders, patients: list[str], expected: str
) -> None:
    notes = load_dataset(write_table(write_folders([f"{n}.png" for n in range(N)]), patients)).notes
    assert [note.startswith(expected) and "choose --unknown-patients" in note for note in notes] == ([True] if expected else [])


def test_a_cleaned_table_does_not_invent_patients(write_folders: WriteFolders) -> None:
    root = write_table(write_folders([f"{n}.png" for n in range(N)]), [f"p{n // 4}" if n < 16 else "nan" for n in range(N)])
    dataset = load_dataset(root)
    cleaned = clean_table(dataset, audit_dataset(dataset), beside=root).table
    patients = dict(zip(cleaned["path"], cleaned["patient_id"], strict=True))
    assert patients["3.png"] == "p0"
    assert {patients[f"{n}.png"] for n in range(16, N)} == {""}
