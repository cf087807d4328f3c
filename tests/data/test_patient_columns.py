"""Columns that may name patients, by their names."""

from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.patient_columns import may_name_patients, patient_column_note

PERSONS = ("MRN", "case", "Case No", "patient_hash", "PatientKey", "subjectid", "PatNr", "Patientennummer", "pt_id", "Subj ID")
VISITS = ("StudyInstanceUID", "study_id", "Accession Number")
OTHERS = (
    "Patient Age",
    "patient_sex",
    "PT",
    "Patientenalter",
    "Study Date",
    "image_id",
    "id",
    "View Position",
    "offset",
    "dose",
)


@pytest.mark.parametrize("name", [*PERSONS, *VISITS])
def test_names_of_persons_and_visits(name: str) -> None:
    assert may_name_patients(name)


@pytest.mark.parametrize("name", OTHERS)
def test_other_names(name: str) -> None:
    assert not may_name_patients(name)


@pytest.mark.parametrize(("column", "is_named"), [("Accession Number", True), ("age", False), ("patient_id", False)])
def test_a_column_that_is_not_used_is_named(write_folders: Callable[..., Path], column: str, is_named: bool) -> None:
    root = write_folders([f"images/{n}.png" for n in range(8)])
    rows = [f"images/{n}.png,{'ab'[n % 2]},x{n // 2}" for n in range(8)]
    (root / "labels.csv").write_text("\n".join([f"path,label,{column}", *rows]) + "\n")
    notes = load_dataset(root).notes
    assert any(f"the column '{column}' may name patients" in note for note in notes) is is_named


def test_the_note_names_the_option() -> None:
    assert patient_column_note("labels.csv", ["age"]) == ""
    note = patient_column_note("labels.csv", ["age", "Case No", "study_id"])
    assert note.startswith("labels.csv: the columns 'Case No', 'study_id' may name patients and are not used.")
    assert note.endswith("--patient-column 'Case No'.")
