"""Checks and decoding of an uploaded file, with the decoders of ``predict``."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

from automl_cxr.data.decode import decode_content
from automl_cxr.data.dicom import DicomTags, read_tags_of
from automl_cxr.data.dicom_tags import is_chest_part, kind_of_other
from automl_cxr.data.file_format import HEAD_BYTES, detect_format
from automl_cxr.data.projections import LATERAL, projection_of
from automl_cxr.errors import UnreadableImageError

FORMATS = ("PNG", "JPEG", "DICOM")
MAX_UPLOAD_BYTES = 64 * 2**20
MAX_UPLOAD_PIXELS = 25_000_000  # detectors have up to 18 million; decoding needs up to 40 bytes for each pixel


class WrongFormatError(UnreadableImageError):
    """Raised for an upload in another format than PNG, JPEG and DICOM. Convert the file."""


@dataclass(frozen=True, eq=False)
class Upload:
    """A decoded upload.

    Attributes:
        pixels: uint8 (height, width).
        file_format: A name of ``FORMATS``.
        warnings: What makes the image unusual for a classifier of chest radiographs.
    """

    pixels: np.ndarray
    file_format: str
    warnings: tuple[str, ...] = ()


def decode_upload(content: bytes, *, max_pixels: int = MAX_UPLOAD_PIXELS) -> Upload:
    """Decode an uploaded file. Call it inside ``decoder_warnings_off``.

    Args:
        content: The file.
        max_pixels: Largest number of pixels; larger pictures are refused before their pixels are decoded.

    Raises:
        WrongFormatError: The file is neither PNG, JPEG nor DICOM.
        UnreadableImageError: The file is damaged or too large, or the DICOM object is not a single radiograph.
    """
    file_format = detect_format(content[:HEAD_BYTES])
    if file_format not in FORMATS:
        found = "an empty file" if not content else f"a {file_format} file" if file_format else "a file of an unknown format"
        raise WrongFormatError(f"An upload must be a PNG, JPEG or DICOM file; received {found}. Convert the image.")
    if file_format != "DICOM":
        return Upload(decode_content(content, max_pixels=max_pixels), file_format)
    tags = read_tags_of(io.BytesIO(content))
    _check_is_radiograph(tags)
    return Upload(decode_content(content, max_pixels=max_pixels), file_format, _describe_unusual(tags))


def _check_is_radiograph(tags: DicomTags) -> None:
    """Refuse DICOM objects that are not one radiograph. A data set for a search leaves out the same objects.

    Raises:
        UnreadableImageError: The object is of another kind, or has several frames.
    """
    kind = kind_of_other(tags)
    if kind:
        raise UnreadableImageError(f"not a radiograph by its DICOM header ({kind}); send the radiograph")
    if tags.n_frames > 1:
        raise UnreadableImageError(f"a DICOM file of {tags.n_frames} frames; send one frame as a file of its own")


def _describe_unusual(tags: DicomTags) -> tuple[str, ...]:
    part, view = tags.body_part, tags.view
    warnings = []
    if part and not is_chest_part(part):
        warnings.append(f"The DICOM header has the body part {part}. The probabilities hold for chest radiographs only.")
    if view and projection_of(view) == LATERAL:
        warnings.append(f"The DICOM header has the view {view}. Check that the classifier was trained on lateral views.")
    return tuple(warnings)
