"""Radiographs and bad files that serve_load.py uploads."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

from automl_cxr.data.phantoms import draw_phantoms

_SIDES = (512, 1024, 2048)  # pixels


@dataclass(frozen=True)
class Upload:
    """A file and the status of the answer to it."""

    name: str
    content: bytes
    status: int = 200


def make_uploads() -> list[Upload]:
    """Return 28 radiographs and four bad files, in an order that mixes them."""
    with tempfile.TemporaryDirectory() as folder:
        draw_phantoms(Path(folder) / "phantoms", n_images=30, image_size=512, seed=7)
        pictures = [Image.open(file).convert("L") for file in sorted(Path(folder).rglob("*.png"))][:28]
        good = [_radiograph(number, picture) for number, picture in enumerate(pictures)]
    bad = [
        Upload("truncated.png", good[0].content[: len(good[0].content) // 2], 422),
        Upload("text.png", b"not an image\n" * 1000, 415),
        Upload("bomb.png", _bomb(), 422),
        Upload("ct.dcm", _dicom(np.zeros((512, 512), np.uint8) + np.arange(512, dtype=np.uint8), "CT"), 422),
    ]
    return [upload for number, one in enumerate(bad) for upload in (*good[7 * number : 7 * number + 7], one)]


def _radiograph(number: int, picture: Image.Image) -> Upload:
    side = _SIDES[number % len(_SIDES)]
    scaled = picture.resize((side, side), Image.Resampling.BICUBIC)
    if number % 4 == 0:
        return Upload(f"{number}.dcm", _dicom(np.asarray(scaled), "DX"))
    file_format = "JPEG" if number % 4 == 1 else "PNG"
    with io.BytesIO() as file:
        scaled.save(file, file_format)
        return Upload(f"{number}.{file_format.lower()}", file.getvalue())


def _dicom(pixels: np.ndarray, modality: str) -> bytes:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = DigitalXRayImageStorageForPresentation, generate_uid()
    image = pydicom.dataset.FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.Rows, image.Columns = modality, *pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 0
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 12, 11
    image.PixelData = (pixels.astype(np.uint16) * 16).tobytes()
    with io.BytesIO() as file:
        image.save_as(file, enforce_file_format=True)
        return file.getvalue()


def _bomb() -> bytes:
    """Return a PNG of 9,000 x 9,000 pixels in 80 kB."""
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(9001 * 9000), 9)), (b"IEND", b""))
    packed = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
