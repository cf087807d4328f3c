"""Decoding of DICOM files, and patients and views from their headers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.decode import decode_image
from automl_cxr.data.dicom import NOT_DICOM, DicomTags, read_tags
from automl_cxr.errors import UnreadableImageError

WriteDicom = Callable[..., Path]
DEEP = np.linspace(0, 4095, 12 * 16).reshape(12, 16).astype(np.uint16)  # uint16 (12, 16)


def window_shares(low: float, high: float) -> np.ndarray:
    return np.clip((DEEP.astype(float) - low) / (high - low), 0, 1)


def reason_for(path: Path, **options: int) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Pixels


@pytest.mark.parametrize(("photometric", "inverted"), [("MONOCHROME2", False), ("MONOCHROME1", True)])
@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({}, window_shares(0, 4095)),
        ({"WindowCenter": 2048, "WindowWidth": 1001}, window_shares(1547.5, 2547.5)),  # PS3.3 C.11.2.1.2.1
        ({"WindowCenter": [2048, 1], "WindowWidth": [1001, 2]}, window_shares(1547.5, 2547.5)),
        ({"WindowCenter": 2048, "WindowWidth": 1000, "VOILUTFunction": "LINEAR_EXACT"}, window_shares(1548, 2548)),
        ({"WindowCenter": 2048, "WindowWidth": 1}, DEEP > 2047.5),
        ({"WindowCenter": 2048, "WindowWidth": 0}, window_shares(0, 4095)),
        ({"WindowCenter": None, "WindowWidth": None}, window_shares(0, 4095)),
        ({"WindowCenter": 1000, "WindowWidth": 401, "RescaleSlope": 0.5, "RescaleIntercept": 100}, window_shares(1399, 2199)),
        (
            {"WindowCenter": 2000, "WindowWidth": 800, "VOILUTFunction": "SIGMOID"},
            1 / (1 + np.exp(-4 * (DEEP.astype(float) - 2000) / 800)),
        ),
    ],
)
def test_grey_above_8_bits_uses_its_first_window(
    tmp_path: Path, write_dicom: WriteDicom, photometric: str, inverted: bool, tags: dict[str, object], expected: np.ndarray
) -> None:
    decoded = decode_image(write_dicom(tmp_path / "x.dcm", DEEP, photometric=photometric, **tags))
    assert decoded.dtype == np.uint8
    np.testing.assert_allclose(decoded, np.rint(255 * (1 - expected if inverted else expected)), atol=1)


def test_grey_above_8_bits_without_a_window_uses_its_used_range(tmp_path: Path, write_dicom: WriteDicom) -> None:
    decoded = decode_image(write_dicom(tmp_path / "x.dcm", DEEP // 4 + 500))
    assert (decoded.min(), decoded.max()) == (0, 255)
    signed = write_dicom(tmp_path / "y.dcm", DEEP.astype(np.int16) - 2000, bits=16, RescaleSlope=2, RescaleIntercept=-5)
    np.testing.assert_allclose(decode_image(signed), np.rint(255 * window_shares(0, 4095)), atol=1)


@pytest.mark.parametrize("tags", [{}, {"RescaleSlope": 1, "RescaleIntercept": 0}])
def test_eight_bits_without_a_window_are_unchanged(tmp_path: Path, write_dicom: WriteDicom, tags: dict[str, object]) -> None:
    eight_bit = (DEEP // 32 + 40).astype(np.uint8)  # values 40..167
    path = write_dicom(tmp_path / "x.dcm", eight_bit, bits=8, **tags)
    np.testing.assert_array_equal(decode_image(path), eight_bit)
    path = write_dicom(tmp_path / "x.dcm", eight_bit, bits=8, photometric="MONOCHROME1", **tags)
    np.testing.assert_array_equal(decode_image(path), 255 - eight_bit)


def test_a_lookup_table_takes_precedence_over_a_window(tmp_path: Path, write_dicom: WriteDicom) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor = [4096, 0, 16]
    table.add_new("LUTData", "US", [4095 - value for value in range(4096)])  # 12 bits, although the descriptor declares 16
    path = write_dicom(tmp_path / "x.dcm", DEEP, VOILUTSequence=[table], WindowCenter=5, WindowWidth=2)
    np.testing.assert_allclose(decode_image(path), np.rint(255 * (1 - window_shares(0, 4095))), atol=1)


def test_the_first_frame_and_colours_are_converted_to_grey(tmp_path: Path, write_dicom: WriteDicom) -> None:
    frames = np.stack([DEEP, DEEP[::-1]])
    np.testing.assert_allclose(decode_image(write_dicom(tmp_path / "x.dcm", frames)), 255 * window_shares(0, 4095), atol=1)
    red = np.zeros((12, 16, 3), np.uint8)
    red[1:, :, 0] = 255
    decoded = decode_image(write_dicom(tmp_path / "y.dcm", red, bits=8, photometric="RGB"))
    assert set(decoded.flat) == {0, 76}  # ITU-R 601 luma


def test_the_suffix_does_not_affect_decoding(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "x.png", DEEP)
    np.testing.assert_allclose(decode_image(path), 255 * window_shares(0, 4095), atol=1)


def test_size_is_checked_before_pixels(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "x.dcm", DEEP, Rows=60_000, Columns=60_000)
    assert reason_for(path) == "too large (60000 x 60000 pixels; at most 100,000,000 in all)"
    assert reason_for(write_dicom(tmp_path / "y.dcm", DEEP[:4])).startswith("too small (16 x 4 pixels")


def test_files_that_cannot_be_decoded_are_refused_with_a_reason(tmp_path: Path, write_dicom: WriteDicom) -> None:
    intact = write_dicom(tmp_path / "x.dcm", DEEP).read_bytes()
    (tmp_path / "half.dcm").write_bytes(intact[:-200])
    assert reason_for(tmp_path / "half.dcm").startswith("truncated (")
    (tmp_path / "text.dcm").write_text("patient,label\n")
    assert reason_for(tmp_path / "text.dcm").startswith("not an image in a known format")
    (tmp_path / "bare.dcm").write_bytes(intact[:128] + b"DICM")
    assert reason_for(tmp_path / "bare.dcm") == "a DICOM file without an image"


def test_compression_without_a_decoder_is_refused_with_a_remedy(tmp_path: Path, write_dicom: WriteDicom) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", DEEP))
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    reasons = {}
    for syntax in (JPEGLosslessSV1, JPEG2000Lossless):
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.save_as(tmp_path / "y.dcm")
        reasons[syntax] = reason_for(tmp_path / "y.dcm")
        assert syntax.name in reasons[syntax]
        assert "`pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg`, or convert the file" in reasons[syntax]
    assert "cannot be decoded as" in reasons[JPEG2000Lossless]  # Pillow decodes JPEG 2000, but not this damaged file


def test_a_deflated_file_is_refused_without_inflating_it(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "x.dcm", DEEP, PatientID="p7")
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert reason_for(path).startswith("a deflated file")
    assert "convert it to an uncompressed file" in reason_for(path)
    assert read_tags(path) == DicomTags()
    dataset.file_meta.FileMetaInformationVersion = b"\0\1" * 5000  # precedes the transfer syntax; may have any length
    dataset.save_as(path)
    assert reason_for(path).startswith("a deflated file")
    assert read_tags(path) == DicomTags()


def test_a_file_that_only_contains_the_uid_of_deflation_is_read(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "x.dcm", DEEP, PatientID="p7", ImageComments=str(DeflatedExplicitVRLittleEndian))
    np.testing.assert_allclose(decode_image(path), 255 * window_shares(0, 4095), atol=1)
    assert read_tags(path).patient_id == "p7"


def test_damaged_bytes_raise_no_other_exception(tmp_path: Path, write_dicom: WriteDicom) -> None:
    rng = np.random.default_rng(0)
    content = np.frombuffer(write_dicom(tmp_path / "x.dcm", DEEP, WindowCenter=5, WindowWidth=9).read_bytes(), np.uint8)
    n_refused = 0
    for _ in range(200):
        damaged = content.copy()
        damaged[rng.integers(132, len(content) - DEEP.nbytes, 3)] = rng.integers(0, 256, 3)
        (tmp_path / "x").write_bytes(damaged.tobytes())
        try:
            decoded = decode_image(tmp_path / "x")
        except UnreadableImageError:
            n_refused += 1
        else:
            assert (decoded.dtype, decoded.ndim) == (np.uint8, 2)
    assert n_refused > 40


# Headers


def test_patient_and_view_are_read_from_a_header_and_empty_for_a_broken_one(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = write_dicom(tmp_path / "x.dcm", DEEP, PatientID=" 007 ", ViewPosition="PA")
    assert (read_tags(path).patient_id, read_tags(path).view) == ("007", "PA")
    assert read_tags(write_dicom(tmp_path / "y.dcm", DEEP, PatientID=None)).patient_id == ""
    path.write_bytes(b"no header")
    assert read_tags(path) == NOT_DICOM
    assert read_tags(tmp_path / "missing.dcm") == NOT_DICOM


@pytest.fixture
def folder(tmp_path: Path, write_dicom: WriteDicom) -> Path:
    for image, patient in (("a/1.dcm", "p1"), ("a/2.DICOM", "p1"), ("b/3.dcm", "p2")):
        write_dicom(tmp_path / "data" / image, DEEP, PatientID=patient, ViewPosition="AP")
    (tmp_path / "data" / "b" / "4.dcm").write_bytes(b"no header")
    return tmp_path / "data"


def test_patients_and_views_come_from_headers(folder: Path) -> None:
    dataset = load_dataset(folder)
    assert dataset.table.set_index("image")[["patient_id", "view"]].to_numpy().tolist() == [
        ["p1", "AP"],
        ["p1", "AP"],
        ["p2", "AP"],
        ["b/4.dcm", ""],
    ]
    assert dataset.patients_known
    assert dataset.without_patient == ("b/4.dcm",)
    assert [note.split(":")[0] for note in dataset.notes] == ["1 of 4 images (25.0 %) have no patient"]


def test_a_table_and_the_patients_option_take_precedence_over_headers(folder: Path) -> None:
    (folder / "labels.csv").write_text("image,label,patient_id,view\na/1.dcm,x,mine,PA\na/2.DICOM,y,,\nb/3.dcm,y,,\n")
    table = load_dataset(folder / "labels.csv").table
    assert table[["patient_id", "view"]].to_numpy().tolist() == [["mine", "PA"], ["p1", "AP"], ["p2", "AP"]]
    assert set(load_dataset(folder, DataOptions(patients=r"\d")).table["patient_id"]) == {"1", "2", "3"}


def test_one_patient_id_in_all_files_counts_as_unknown(tmp_path: Path, write_dicom: WriteDicom) -> None:
    for image in ("a/1.dcm", "a/2.dcm", "b/3.dcm"):
        write_dicom(tmp_path / image, DEEP, PatientID="ANONYMOUS")
    dataset = load_dataset(tmp_path)
    assert not dataset.patients_known
    assert dataset.table["patient_id"].nunique() == 3
    assert (
        dataset.notes[0]
        == "All 3 DICOM files with a patient have the same one, 'ANONYMOUS', so patients are treated as unknown."
    )
