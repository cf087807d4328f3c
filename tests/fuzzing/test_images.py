"""Damaged image files, arrays and DICOM headers: a picture, or a reason why the image is unreadable."""

import io
import warnings

import numpy as np
import pydicom
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from automl_cxr.data.decode import decode_content, decode_image, decoder_warnings_off
from automl_cxr.data.dicom import DicomTags, read_tags
from tests.fuzzing.damage import damaged_bytes, result_or_error

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16), dtype=np.uint8)
DEEP = PIXELS.astype(np.uint16) * 16


def encoded(pixels, name, mode=None, **options):
    file = io.BytesIO()
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(file, format=name, **options)
    return file.getvalue()


def as_npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def dicom_bytes(**elements):
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = dataset.SOPInstanceUID = "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.NumberOfFrames = 12, 16, 1, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PatientID, dataset.ViewPosition = "p1", "PA"
    dataset.WindowCenter, dataset.WindowWidth, dataset.RescaleSlope, dataset.RescaleIntercept = 2000, 4000, 1, 0
    dataset.PixelData = DEEP.tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    file = io.BytesIO()
    dataset.save_as(file)
    return file.getvalue()


FILES = {
    "PNG": encoded(PIXELS, "PNG"),
    "PNG 16": encoded(DEEP, "PNG"),
    "palette": encoded(PIXELS, "PNG", "P", transparency=3),
    "RGBA": encoded(PIXELS, "PNG", "RGBA"),
    "JPEG": encoded(PIXELS, "JPEG"),
    "TIFF": encoded(DEEP, "TIFF"),
    "compressed TIFF": encoded(PIXELS, "TIFF", compression="tiff_lzw"),
    "BMP": encoded(PIXELS, "BMP"),
    "GIF": encoded(PIXELS, "GIF"),
    "WEBP": encoded(PIXELS, "WEBP"),
    "JPEG2000": encoded(PIXELS, "JPEG2000"),
    "PPM": encoded(PIXELS, "PPM"),
    "npy": as_npy(PIXELS),
    "npy float": as_npy(PIXELS / 255),
    "DICOM": dicom_bytes(),
}
ELEMENTS = (
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "PixelRepresentation"),
    *("BitsAllocated", "BitsStored", "HighBit", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "PixelData"),
    *("VOILUTFunction", "PixelPaddingValue", "PixelPaddingRangeLimit", "PlanarConfiguration", "PatientID", "ViewPosition"),
    *("VOILUTSequence", "ModalityLUTSequence", "PresentationLUTShape", "SpecificCharacterSet", "PixelSpacing"),
)
VALUE_TYPES = st.sampled_from(["US", "SS", "UL", "DS", "IS", "CS", "LO", "UN", "OW", "OB", "SQ", "FD", "AT", "PN", "UI"])
VALUES = st.sampled_from(
    [None, "", 0, 1, 2, 3, 8, 11, 12, 16, 32, 64, -1, 65535, 2**31, 1.5, "x", "MONOCHROME1", "PALETTE COLOR", "RGB", "ybr_full",
     "SIGMOID", [1, 2], [], b"", b"\0" * 7, b"\0" * 500, "1\\2", "nan", "1e400", "ISO 2022 IR 999", "\u20ac"]
)  # fmt: skip
SEQUENCES = st.lists(
    st.dictionaries(
        st.sampled_from(["LUTDescriptor", "LUTData", "Rows"]),
        st.sampled_from([None, 0, 1, "x", [3, 0, 16], [0, 0, 8], [65535, -5, 16], [0, 100, 200], [1, 2], b"\0\1\2\3"]),
        max_size=3,
    ),
    max_size=2,
)


def decode(content):
    """Decode a file; return the picture or the reason."""
    with decoder_warnings_off():
        picture = result_or_error(decode_content, content)
    if picture is not None:
        assert picture.dtype == np.uint8
        assert picture.ndim == 2
        assert picture.min() < picture.max()
    return picture


@given(st.sampled_from(sorted(FILES)).flatmap(lambda name: damaged_bytes(FILES[name])))
@example(b"")
@example(b"\x93NUMPY")
@example(b"\x93NUMPY\x01\x00v\x00" + b"(" * 117 + b"\n")
def test_a_damaged_file_is_decoded_or_unreadable(content):
    decode(content)


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_undamaged_file_is_decoded(name):
    assert decode(FILES[name]).shape == PIXELS.shape


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("images") / "image"


CHANGES = st.tuples(VALUE_TYPES, VALUES) | st.none() | SEQUENCES


@given(st.dictionaries(st.sampled_from(ELEMENTS), CHANGES, min_size=1, max_size=4))
def test_a_dicom_file_with_any_elements_is_decoded_or_unreadable(file, elements):
    content = changed_dicom(elements)
    if content is None:
        return
    decode(content)
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tags = read_tags(file)
    assert isinstance(tags, DicomTags)
    assert isinstance(tags.patient_id, str)
    assert isinstance(tags.view, str)


def changed_dicom(elements):
    """Replace or remove elements; None if pydicom cannot write such values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(FILES["DICOM"]))
        try:
            for keyword, change in elements.items():
                if keyword in dataset:
                    delattr(dataset, keyword)
                if isinstance(change, tuple):
                    dataset.add_new(keyword, *change)
                elif isinstance(change, list):
                    dataset.add_new(keyword, "SQ", [sequence_item(one) for one in change])
            changed = io.BytesIO()
            dataset.save_as(changed)
        except Exception:  # noqa: BLE001 - pydicom raises many types of exceptions for values that it cannot write
            return None
    return changed.getvalue()


def sequence_item(values):
    item = pydicom.Dataset()
    for keyword, value in values.items():
        item.add_new(keyword, "OW" if isinstance(value, bytes) else "US", value)
    return item


@given(damaged_bytes(as_npy(np.stack([PIXELS, PIXELS]))), st.integers(0, 3))
def test_a_row_of_a_damaged_array_is_decoded_or_unreadable(file, content, row):
    array = file.with_suffix(".npy")
    array.unlink(missing_ok=True)  # the open array is recognised by its inode and times
    array.write_bytes(content)
    picture = result_or_error(decode_image, f"{array}#{row}")
    assert picture is None or picture.dtype == np.uint8
