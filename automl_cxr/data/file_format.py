"""Detection of the format of an image file by its first bytes, for files of any name."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 160  # bytes at the start of a file that ``detect_format`` needs

_DICOM_PREAMBLE = 128  # bytes of any content before the magic bytes
_DICOM_MAGIC = b"DICM"
_VALUE_TYPES = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)
_MAX_FIRST_LENGTH = 2**12  # bytes; the first element of a DICOM data set is a short one, such as the character set
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"\0\0\0\x0cjP": "JPEG2000",
    b"\xff\x4f\xff\x51": "JPEG2000",
    b"\x93NUMPY": "NumPy",
}
_PPM = re.compile(rb"P(?:[1-6][\s#]+[\s\d#]|[Ff]\s+\d)")


def detect_format(head: bytes) -> str:
    """Return the format of a file from its first ``HEAD_BYTES`` bytes, with Pillow's name; "" if it is not an image format.

    A DICOM file is recognised by its magic bytes, and without preamble by its first data element.
    """
    if has_dicom_preamble(head):
        return "DICOM"
    for signature, name in _SIGNATURES.items():
        if head.startswith(signature):
            return name
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if _PPM.match(head):
        return "PPM"
    return "DICOM" if _starts_with_dicom_element(head) else ""


def has_dicom_preamble(head: bytes) -> bool:
    """Return whether a file starts with the preamble and the magic bytes of DICOM."""
    return head[_DICOM_PREAMBLE : _DICOM_PREAMBLE + len(_DICOM_MAGIC)] == _DICOM_MAGIC


def dicom_start(head: bytes) -> int:
    """Return the position of the first data element of a DICOM file."""
    return _DICOM_PREAMBLE + len(_DICOM_MAGIC) if has_dicom_preamble(head) else 0


def _starts_with_dicom_element(head: bytes) -> bool:
    """Return whether a file starts with an element of group 2 or 8, the first groups of a DICOM file without preamble."""
    for byte_order in ("little", "big"):
        group, element = (int.from_bytes(head[start : start + 2], byte_order) for start in (0, 2))
        if group in (0x0002, 0x0008) and element <= 0x0100 and head[4:6] in _VALUE_TYPES:
            return True
    length = int.from_bytes(head[4:8], "little")  # without a value type: implicit encoding, which is always little-endian
    is_group_8 = head[:2] == b"\x08\0" and head[3:4] == b"\0"
    return is_group_8 and len(head) > 8 and 0 < length <= _MAX_FIRST_LENGTH and length % 2 == 0


def is_text(head: bytes) -> bool:
    """Return whether the first bytes of a file are text in UTF-8, or the file is empty."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be incomplete
    except UnicodeDecodeError:
        return False
    return "\0" not in text
