"""Options of views, DICOM headers and external sites on the command line."""

import json

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from automl_cxr.cli import _run


@pytest.fixture
def export(tmp_path):
    """Write DICOM files without suffix: a frontal and a lateral image for each of four patients in two classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 24, 20), dtype=np.uint8)
    for number, values in enumerate(pixels):
        dataset = pydicom.Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
        dataset.SOPInstanceUID = generate_uid()
        dataset.PatientID, dataset.Modality, dataset.ViewPosition = f"p{number // 2}", "DX", ("PA", "LL")[number % 2]
        dataset.Rows, dataset.Columns = values.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
        dataset.BitsAllocated = dataset.BitsStored = 8
        dataset.HighBit, dataset.PixelData = 7, values.tobytes()
        folder = tmp_path / "export" / "ab"[number // 4]
        folder.mkdir(parents=True, exist_ok=True)
        dataset.save_as(folder / f"IM{number:06d}", enforce_file_format=True)
    return tmp_path / "export"


def test_inspect_counts_projections_and_header_values(export, capsys):
    assert _run(["data", "inspect", str(export)]) == 0
    out = capsys.readouterr().out
    assert "projections: PA 4, lateral 4" in out
    assert "DICOM modality: DX 8" in out
    assert "DICOM view: PA 4, LL 4" in out
    assert "DICOM photometric interpretation: MONOCHROME2 8" in out
    assert "--projections PA,AP." in out


def test_inspect_selects_projections(export, capsys):
    assert _run(["data", "inspect", str(export), "--projections", "pa", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["views"] == {"PA": 4}
    assert found["headers"]["modality"] == {"DX": 8}
    assert found["n_patients"] == 4


def test_the_leaderboard_has_a_map_of_classes(capsys):
    assert _run(["leaderboard", "--help"]) == 0
    assert "COVID-19=covid" in capsys.readouterr().out
