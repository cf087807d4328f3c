"""DICOM objects that are not radiographs are left out by their headers, with counts."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.inspection import inspect_data
from automl_cxr.errors import DataError

PIXELS = np.arange(192, dtype=np.uint16).reshape(12, 16)
WriteDicom = Callable[..., Path]


def write_report(path: Path, modality: str = "SR") -> None:
    dataset = pydicom.Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = BasicTextSRStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality = modality
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture
def export(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    """Two classes with two radiographs each, in files without suffix below folders of studies."""
    for label in "ab":
        for number in range(2):
            write_dicom(
                tmp_path / label / f"ST{number}" / "IM1", PIXELS + number, Modality="DX", ViewPosition="PA", PatientID=label
            )
    return tmp_path


@pytest.mark.parametrize(
    ("tags", "kind"),
    [
        ({"Modality": "CT"}, "1 CT images"),
        ({"Modality": "", "SOPClassUID": CTImageStorage}, "1 CT images"),
        ({"Modality": "OT", "SOPClassUID": SecondaryCaptureImageStorage}, "1 secondary captures"),
        ({"SOPClassUID": MultiFrameGrayscaleByteSecondaryCaptureImageStorage}, "1 secondary captures"),
    ],
)
def test_pictures_of_other_modalities_are_left_out(
    export: Path, write_dicom: WriteDicom, tags: dict[str, str], kind: str
) -> None:
    write_dicom(export / "a" / "IM9", PIXELS, **tags)
    dataset = load_dataset(export)
    assert len(dataset.table) == 4
    assert dataset.notes[0] == f"1 of 5 files are not radiographs by their DICOM headers and are not used: {kind}."


def test_objects_without_a_picture_are_left_out(export: Path) -> None:
    write_report(export / "a" / "report1")
    write_report(export / "a" / "report2.dcm")
    write_report(export / "b" / "state", modality="PR")
    (export / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 100)
    dataset = load_dataset(export)
    assert len(dataset.table) == 4
    assert "3 of 7 files" in dataset.notes[0]
    assert "2 structured reports (SR), 1 objects without a picture (PR)" in dataset.notes[0]
    assert dataset.ignored == {"DICOMDIR": "an index of DICOM files, not an image"}


def test_radiographs_that_were_converted_to_secondary_captures_are_used(tmp_path: Path, write_dicom: WriteDicom) -> None:
    for label in "ab":
        write_dicom(tmp_path / label / "1", PIXELS, Modality="CR", SOPClassUID=SecondaryCaptureImageStorage)
    dataset = load_dataset(tmp_path)
    assert len(dataset.table) == 2
    assert not any("captures" in note for note in dataset.notes)


def test_secondary_captures_are_used_with_a_note_if_there_is_nothing_else(tmp_path: Path, write_dicom: WriteDicom) -> None:
    for label in "ab":
        write_dicom(tmp_path / label / "1", PIXELS, SOPClassUID=SecondaryCaptureImageStorage)
    dataset = load_dataset(tmp_path)
    assert len(dataset.table) == 2
    assert "All 2 images are DICOM secondary captures" in dataset.notes[0]


def test_data_without_a_radiograph_are_refused(tmp_path: Path, write_dicom: WriteDicom) -> None:
    for label in "ab":
        write_dicom(tmp_path / label / "1", PIXELS, Modality="CT")
    with pytest.raises(DataError, match=r"needs radiographs \(DICOM modalities CR, .*\); received 2 CT images"):
        load_dataset(tmp_path)


def test_a_damaged_file_is_not_an_object_without_a_picture(export: Path) -> None:
    content = (export / "a" / "ST0" / "IM1").read_bytes()
    for length in (300, 500):  # before and after the modality
        (export / "a" / f"cut{length}").write_bytes(content[:length])
    assert len(load_dataset(export).table) == 6, "decoding reports the reasons"


def test_elements_are_counted_without_decoding(export: Path, write_dicom: WriteDicom, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom(export / "a" / "ct", PIXELS, Modality="CT", BodyPartExamined="ABDOMEN")
    monkeypatch.setattr("automl_cxr.data.decode.decode_dicom", None)
    expected = {
        "modality": {"DX": 4, "CT": 1},
        "view": {"PA": 4, "(empty)": 1},
        "photometric interpretation": {"MONOCHROME2": 5},
        "body part": {"(empty)": 4, "ABDOMEN": 1},
    }
    assert load_dataset(export).headers == expected
    monkeypatch.undo()
    assert inspect_data(export).headers == expected


def test_each_header_is_read_once(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    dcmread = pydicom.dcmread
    monkeypatch.setattr(pydicom, "dcmread", lambda *args, **options: read.append(options) or dcmread(*args, **options))
    load_dataset(export)
    assert len(read) == 4
    assert all(options["stop_before_pixels"] for options in read)


def test_one_dicom_file_among_many_pictures_is_recognised(
    tmp_path: Path, write_dicom: WriteDicom, write_image: Callable[..., Path]
) -> None:
    picture = write_image(tmp_path / "a" / "0000.png").read_bytes()
    (tmp_path / "b").mkdir()
    for number in range(1, 1200):
        (tmp_path / "ab"[number % 2] / f"{number:04d}.png").write_bytes(picture)
    write_dicom(tmp_path / "a" / "0777.png", PIXELS, Modality="CT")
    write_dicom(tmp_path / "a" / "0888.png", PIXELS, Modality="DX", PatientID="p7", ViewPosition="LL")
    dataset = load_dataset(tmp_path)
    assert dataset.headers["modality"] == {"CT": 1, "DX": 1}
    row = dataset.table.set_index("image").loc["a/0888.png"]
    assert (row["view"], "a/0777.png" in set(dataset.table["image"])) == ("LL", False)


def test_another_body_part_is_noted(export: Path, write_dicom: WriteDicom) -> None:
    write_dicom(export / "a" / "hand", PIXELS, Modality="DX", BodyPartExamined="HAND")
    write_dicom(export / "a" / "port", PIXELS, Modality="DX", BodyPartExamined="PORT CHEST")
    dataset = load_dataset(export)
    assert len(dataset.table) == 6
    assert any("another body part than the chest are used: 1 HAND." in note for note in dataset.notes)
