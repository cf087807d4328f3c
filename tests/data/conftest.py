"""Fixtures that write small images and folders."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid


@pytest.fixture(scope="session")
def write_image() -> Callable[..., Path]:
    def write(path: Path, *, seed: int = 0, shape: tuple[int, int] = (16, 20)) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(path, format="PNG")
        return path

    return write


@pytest.fixture
def write_folders(tmp_path: Path, write_image: Callable[..., Path]) -> Callable[..., Path]:
    """Return a function that writes images at relative paths in a new folder and returns the folder."""

    def write(images: Sequence[str], name: str = "data") -> Path:
        root = tmp_path / name
        root.mkdir(exist_ok=True)
        for seed, image in enumerate(images):
            write_image(root / image, seed=seed)
        return root

    return write


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., Path]:
    """Return a function that writes an uncompressed DICOM file; further tags are given by their keywords."""

    def write(path: Path, values: np.ndarray, *, bits: int = 12, photometric: str = "MONOCHROME2", **tags: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
        meta.MediaStorageSOPInstanceUID = generate_uid()
        dataset = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        is_colour = photometric in ("RGB", "YBR_FULL")
        frames = values.reshape(-1, *values.shape[-3:]) if is_colour else values.reshape(-1, *values.shape[-2:])
        dataset.NumberOfFrames, dataset.Rows, dataset.Columns = frames.shape[:3]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3 if is_colour else 1), photometric
        if is_colour:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = 8 if values.dtype == np.uint8 else 16
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        dataset.PixelData = values.tobytes()
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
