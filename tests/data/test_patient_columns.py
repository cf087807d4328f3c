"""Columns that may name patients, by their names."""

import pytest

from automl_cxr.data.patient_columns import may_name_patients, patient_column_note


@pytest.mark.parametrize(
    "name",
    ["MRN", "case", "Case No", "patient_hash", "PatientKey", "subjectid", "StudyInstanceUID", "study_id", "Accession Number"],
)
def test_names_of_persons_and_visits(name: str) -> None:
    assert may_name_patients(name)


@pytest.mark.parametrize(
    "name", ["Patient Age", "patient_sex", "Study Date", "image_id", "id", "View Position", "offset", "dose"]
)
def test_other_names(name: str) -> None:
    assert not may_name_patients(name)


def test_the_note_names_the_option() -> None:
    assert patient_column_note("labels.csv", ["age"]) == ""
    note = patient_column_note("labels.csv", ["age", "Case No", "study_id"])
    assert note.startswith("labels.csv: the columns 'Case No', 'study_id' may name patients and are not used.")
    assert note.endswith("--patient-column 'Case No'.")
