"""Each DICOM element that decoding reads: missing, empty or odd values give the right picture or a refusal that names them."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from automl_cxr.data.decode import decode_image
from automl_cxr.data.dicom import read_tags
from automl_cxr.errors import UnreadableImageError

WriteDicom = Callable[..., Path]
DEEP = np.linspace(0, 4095, 12 * 16).reshape(12, 16).astype(np.uint16)  # uint16 (12, 16)
GREY = np.rint(255 * (DEEP / 4095))
FULL = 4096  # numbers of 12 bits
EMPTY_TYPES = dict.fromkeys(("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept"), "DS") | {
    "VOILUTFunction": "CS",
    "PixelPaddingValue": "US",
}


def reason_for(path: Path) -> str:
    with pytest.raises(UnreadableImageError) as caught:
        decode_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(path: Path, **elements: object) -> Path:
    """Set elements of a file; None deletes one, and "" empties it."""
    dataset = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of the invalid values
        for name, value in elements.items():
            if value is None:
                delattr(dataset, name)
            elif value == "":
                dataset.add_new(name, dataset[name].VR if name in dataset else EMPTY_TYPES[name], None)
            else:
                setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def table(n_entries: int, first: int, bits: int, data: object, *, vr: str = "US") -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "US", [n_entries, first, bits])
    item.add_new("LUTData", vr, data)
    return item


# Padding


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    ("padding", "elements"),
    [
        (0, {"PixelPaddingValue": 0}),
        (4095, {"PixelPaddingValue": 4095}),
        (4000, {"PixelPaddingValue": 3900, "PixelPaddingRangeLimit": 4095}),
        (4000, {"PixelPaddingValue": 4095, "PixelPaddingRangeLimit": 3900}),
        (0xF800, {"PixelPaddingValue": 0xF800}),  # more bits than BitsStored
    ],
)
def test_padding_does_not_count_in_the_window_and_is_black(
    tmp_path: Path, write_dicom: WriteDicom, padding: int, elements: dict[str, int], photometric: str
) -> None:
    pixels = (DEEP // 4 + 1000).astype(np.uint16)  # 1000 to 2023
    pixels[:4] = padding
    path = write_dicom(tmp_path / "x.dcm", pixels, photometric=photometric, **elements)
    decoded = decode_image(path)
    assert not decoded[:4].any()
    inside = pixels[4:].astype(float)
    expected = 255 * (inside - inside.min()) / (inside.max() - inside.min())
    np.testing.assert_allclose(decoded[4:], 255 - expected if photometric == "MONOCHROME1" else expected, atol=1)


def test_a_padding_value_that_does_not_fit_in_the_pixels_marks_none(tmp_path: Path, write_dicom: WriteDicom) -> None:
    pixels = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    path = write_dicom(tmp_path / "x.dcm", pixels, bits=8, PixelPaddingValue=0xFFFF)
    np.testing.assert_array_equal(decode_image(path), pixels)


@pytest.mark.parametrize("value_type", ["US", "SS"])
def test_padding_of_signed_pixels_is_found_with_either_value_type(
    tmp_path: Path, write_dicom: WriteDicom, value_type: str
) -> None:
    pixels = DEEP.astype(np.int16) - 1000
    pixels[0] = -2000
    path = write_dicom(tmp_path / "x.dcm", pixels, bits=16, RescaleSlope=1, RescaleIntercept=-1024)
    dataset = pydicom.dcmread(path)
    dataset.add_new("PixelPaddingValue", value_type, -2000 if value_type == "SS" else 2**16 - 2000)
    dataset.save_as(path)
    decoded = decode_image(path)
    assert not decoded[0].any()
    np.testing.assert_allclose(decoded[1:], 255 * (DEEP[1:] - float(DEEP[1, 0])) / (4095 - DEEP[1, 0]), atol=1)


def test_padding_is_black_with_a_window_of_the_file_and_a_picture_of_padding_is_refused(
    tmp_path: Path, write_dicom: WriteDicom
) -> None:
    pixels = DEEP.copy()
    pixels[:4] = 4095
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    assert not decode_image(write_dicom(tmp_path / "x.dcm", pixels, PixelPaddingValue=4095, **window))[:4].any()
    assert reason_for(write_dicom(tmp_path / "y.dcm", pixels * 0, PixelPaddingValue=0)) == "all pixels are padding"


# Bits


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize(("stored", "high"), [(12, 11), (12, 15), (12, 13), (10, 15), (16, 15)])
def test_numbers_are_read_from_the_bits_that_the_header_names(
    tmp_path: Path, write_dicom: WriteDicom, stored: int, high: int, dtype: type
) -> None:
    limits = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if dtype is np.int16 else (0, 2**stored - 1)
    numbers = np.linspace(*limits, 12 * 16).reshape(12, 16).astype(np.int64)
    mask = (1 << high + 1) - 1
    others = np.random.default_rng(0).integers(0, 2**16, numbers.shape)  # overlays in bits that are not stored
    shift = high + 1 - stored
    cells = ((numbers << shift) & mask) | (others & ~mask & 0xFFFF) | (others & ((1 << shift) - 1))
    path = write_dicom(tmp_path / "x.dcm", cells.astype(np.uint16).view(dtype), bits=stored, HighBit=high)
    np.testing.assert_allclose(decode_image(path), GREY, atol=1)


def test_a_high_bit_that_the_numbers_contradict_is_refused(tmp_path: Path, write_dicom: WriteDicom) -> None:
    reason = reason_for(write_dicom(tmp_path / "x.dcm", DEEP, HighBit=15))
    assert "HighBit 15 places the numbers in the upper 12 of 16 bits" in reason
    assert "correct HighBit (to 11" in reason


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"BitsStored": 12, "HighBit": 7}, "BitsAllocated 16, BitsStored 12 and HighBit 7, which contradict each other"),
        ({"BitsStored": 17, "HighBit": 16}, "contradict each other"),
        ({"BitsAllocated": 12}, "BitsAllocated 12, where 1, 8, 16, 32, 64 are supported"),
        ({"BitsAllocated": None}, "without BitsAllocated"),
        ({"PixelRepresentation": None}, "without PixelRepresentation"),
        ({"PixelRepresentation": ""}, "without PixelRepresentation"),
        ({"Rows": None}, "without Rows"),
        ({"Columns": ""}, "without Columns"),
        ({"PhotometricInterpretation": None}, "no PhotometricInterpretation"),
        ({"PhotometricInterpretation": ""}, "no PhotometricInterpretation"),
        ({"PhotometricInterpretation": "MONO2"}, "the PhotometricInterpretation 'MONO2'"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples per pixel, where RGB has 3"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope 0"),
        ({"WindowCenter": 5, "WindowWidth": 2, "VOILUTFunction": "LOG"}, "the VOILUTFunction 'LOG'"),
        ({"WindowCenter": 90_000, "WindowWidth": 2}, "uniform: every pixel has the grey level 0"),
    ],
)
def test_elements_that_give_no_picture_are_named(
    tmp_path: Path, write_dicom: WriteDicom, elements: dict[str, object], expected: str
) -> None:
    assert expected in reason_for(change(write_dicom(tmp_path / "x.dcm", DEEP), **elements))


@pytest.mark.parametrize("name", ["WindowCenter", "RescaleSlope"])
def test_a_text_instead_of_a_number_is_named(tmp_path: Path, write_dicom: WriteDicom, name: str) -> None:
    path = write_dicom(tmp_path / "x.dcm", DEEP, **{name: 1234567, "WindowWidth": 9, "RescaleIntercept": 0})
    path.write_bytes(path.read_bytes().replace(b"1234567", b"sixteen"))
    assert f"a DICOM file whose {name}" in reason_for(path)


@pytest.mark.parametrize(
    "elements",
    [
        {"SamplesPerPixel": None},
        {"SamplesPerPixel": ""},
        {"HighBit": None},
        {"HighBit": ""},
        {"NumberOfFrames": None},
        {"NumberOfFrames": ""},
        {"PhotometricInterpretation": "monochrome2"},
        {"PhotometricInterpretation": "MONOCHROME2 "},
        {"VOILUTSequence": []},
        {"VOILUTSequence": [pydicom.Dataset()]},
        {"ModalityLUTSequence": [pydicom.Dataset()]},
        {"WindowCenter": "", "WindowWidth": ""},
        {"WindowCenter": 2048},
        {"WindowWidth": 10},
        {"WindowCenter": 2048, "WindowWidth": -1},
        {"RescaleSlope": "", "RescaleIntercept": ""},
        {"RescaleSlope": 2},
        {"RescaleIntercept": -1024},
        {"PixelPaddingValue": ""},
        {"VOILUTFunction": "", "WindowCenter": 2047.5, "WindowWidth": 4096},
        {"VOILUTFunction": " linear_exact", "WindowCenter": 2047.5, "WindowWidth": 4095},
    ],
    ids=str,
)
def test_missing_empty_and_unusual_values_do_not_change_the_picture(
    tmp_path: Path, write_dicom: WriteDicom, elements: dict[str, object]
) -> None:
    path = change(write_dicom(tmp_path / "x.dcm", DEEP), **elements)
    np.testing.assert_allclose(decode_image(path), GREY, atol=1)


def test_lower_case_monochrome1_is_inverted(tmp_path: Path, write_dicom: WriteDicom) -> None:
    path = change(write_dicom(tmp_path / "x.dcm", DEEP), PhotometricInterpretation="monochrome1")
    np.testing.assert_allclose(decode_image(path), 255 - GREY, atol=1)


@pytest.mark.parametrize(("slope", "intercept", "expected"), [(0.1, 0, GREY), (2, -100, GREY), (-1, 0, 255 - GREY)])
def test_rescaled_8_bits_keep_their_grey_levels(
    tmp_path: Path, write_dicom: WriteDicom, slope: float, intercept: float, expected: np.ndarray
) -> None:
    eight_bit = (GREY // 2 + 20).astype(np.uint8)
    path = write_dicom(tmp_path / "x.dcm", eight_bit, bits=8, RescaleSlope=slope, RescaleIntercept=intercept)
    np.testing.assert_allclose(decode_image(path), eight_bit if slope > 0 else 255 - eight_bit, atol=1)


# Lookup tables


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize(
    "item",
    [
        table(FULL, 0, 16, [16 * (4095 - number) for number in range(FULL)]),
        table(FULL, 0, 12, np.arange(FULL)[::-1].astype("<u2").tobytes(), vr="OW"),
        table(FULL, 0, 8, [(4095 - number) // 16 for number in range(FULL)]),  # more entries than an 8-bit number counts
        table(FULL, 0, 8, (np.arange(FULL)[::-1] // 16).astype(np.uint8).tobytes(), vr="OW"),  # two entries in a word
        table(3000, 1000, 16, [4095 - number for number in range(1000, 4000)]),  # other numbers have the nearest entry
    ],
    ids=["16 bits", "bytes", "8 bits", "8 bits in bytes", "part"],
)
def test_lookup_tables_of_any_depth_are_applied(
    tmp_path: Path, write_dicom: WriteDicom, sequence: str, item: pydicom.Dataset
) -> None:
    decoded = decode_image(write_dicom(tmp_path / "x.dcm", DEEP, **{sequence: [pydicom.Dataset(), item]}))
    first, n_entries = item.LUTDescriptor[1], item.LUTDescriptor[0]
    clipped = np.clip(DEEP.astype(float), first, first + n_entries - 1)
    expected = 255 * (first + n_entries - 1 - clipped) / (n_entries - 1)
    np.testing.assert_allclose(decoded, expected, atol=1.5)


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
def test_incomplete_lookup_tables_are_refused(tmp_path: Path, write_dicom: WriteDicom, sequence: str) -> None:
    short = table(FULL, 0, 16, [1, 2, 3])
    assert f"whose {sequence} has 3 of 4096 entries" in reason_for(write_dicom(tmp_path / "x.dcm", DEEP, **{sequence: [short]}))
    del short.LUTDescriptor
    assert f"whose {sequence} has no valid LUTDescriptor" in reason_for(
        write_dicom(tmp_path / "y.dcm", DEEP, **{sequence: [short]})
    )


# Encodings


@pytest.mark.parametrize("has_preamble", [True, False])
@pytest.mark.parametrize("has_meta", [True, False])
@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_files_without_preamble_or_transfer_syntax_are_read_as_detected(
    tmp_path: Path, write_dicom: WriteDicom, syntax: pydicom.uid.UID, has_meta: bool, has_preamble: bool
) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", DEEP, PatientID="p1", ViewPosition="PA"))
    plain = pydicom.Dataset({element.tag: element for element in dataset})
    plain.PixelData = DEEP.astype("<u2" if syntax.is_little_endian else ">u2").tobytes()
    magic = b"\0" * 128 + b"DICM"
    if has_meta:
        plain.file_meta, plain.preamble = dataset.file_meta, magic[:128]
        plain.file_meta.TransferSyntaxUID = syntax
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, plain, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    content = buffer.getvalue().removeprefix(magic)
    content = magic + content if has_preamble else content
    path = tmp_path / "picture"
    path.write_bytes(content)
    np.testing.assert_allclose(decode_image(path), GREY, atol=1)
    assert (read_tags(path).patient_id, read_tags(path).view) == ("p1", "PA")


def test_compressed_pixels_without_a_transfer_syntax_are_refused(tmp_path: Path, write_dicom: WriteDicom) -> None:
    dataset = pydicom.dcmread(write_dicom(tmp_path / "x.dcm", DEEP))
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(tmp_path / "x.dcm")
    content = (tmp_path / "x.dcm").read_bytes()
    start = content.index(b"\x08\0\x16\0")  # the first element after the meta information
    (tmp_path / "x.dcm").write_bytes(content[:132] + content[start:])
    assert reason_for(tmp_path / "x.dcm").startswith("a DICOM file without TransferSyntaxUID")
