"""Measures of a picture that say nothing of anatomy: its size, its file, its brightness, its borders and its corners."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.arrays import split_row
from automl_cxr.data.decode import fit_square

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
FORMAT = "file_format"  # the only trait that is a word
_LARGEST_SIDE = 112  # pixels; larger squares are averaged, so that a measure means the same at every size
_CORNER_SHARE = 0.25  # of the side
_BLACK, _WHITE = 5, 250
_EVEN = 4.0  # grey levels; a line of pixels that spreads less is border
_EDGE_SHARE = 0.05
_SMALL_SHARE = 0.06  # of the side; what is wider than this is no lettering
_LIT = 80  # grey levels that lettering stands out from what is around it
_LETTERING_SHARE = 0.005  # of a corner that is lit where there is lettering
_BLOCK = 1024  # images that are measured together
_BEGINNINGS = (
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8", "JPEG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"RIFF", "WEBP"),
    (b"GIF8", "GIF"),
    (b"\0\0\0\x0cjP", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\x93NUMPY", "NumPy"),
)


def measure_image_statistics(root: Path, image_ids: Sequence[str], images: np.ndarray, sizes: np.ndarray) -> pd.DataFrame:
    """Measure the traits of decoded images, one row each.

    Args:
        root: Folder that the ids are relative to. Only the beginnings of the files are read.
        image_ids: Paths of the images or rows of arrays.
        images: uint8 (n, size, size), in the order of the ids.
        sizes: Height and width on disk, (n, 2).

    Returns:
        Columns height, width, aspect_ratio (width over height), bytes_per_pixel (0 for a row of an array), file_format,
        brightness, contrast, black, white (shares), border_top, border_bottom, border_left, border_right (shares of the
        side that are even), edge_brightness, and of each corner brightness_... and lettering_... (share of its pixels
        that stand out).
    """
    height, width = sizes.T.astype(np.float64)
    files = [_read_header(root / image_id) for image_id in image_ids]
    n_bytes = np.array([size for _, size in files], np.float64)
    of_files = pd.DataFrame(
        {
            "height": height,
            "width": width,
            "aspect_ratio": width / height,
            "bytes_per_pixel": n_bytes / (height * width),
            FORMAT: [name for name, _ in files],
        }
    )
    blocks = [_measure_pixels(_shrunken(images[first : first + _BLOCK])) for first in range(0, len(images), _BLOCK)]
    return pd.concat([of_files, pd.concat(blocks, ignore_index=True)], axis=1)


def has_lettering(traits: pd.DataFrame) -> pd.DataFrame:
    """Tell of each image in which corners burnt-in text is suspected, bool (n, 4)."""
    lit = traits[[f"lettering_{corner}" for corner in CORNERS]] > _LETTERING_SHARE
    return lit.set_axis(list(CORNERS), axis=1)


def _read_header(path: Path) -> tuple[str, int]:
    """Read what kind of file it is, by its content, and its bytes; those of an array say nothing of one image."""
    file, row = split_row(str(path))
    try:
        with Path(file).open("rb") as opened:
            beginning = opened.read(132)
            n_bytes = os.fstat(opened.fileno()).st_size
    except OSError:
        return "unreadable", 0
    named = next((name for start, name in _BEGINNINGS if beginning.startswith(start)), "other")
    name = "DICOM" if beginning[128:] == b"DICM" else named
    return name, 0 if row is not None else n_bytes


def _shrunken(images: np.ndarray) -> np.ndarray:
    if images.shape[1] <= _LARGEST_SIDE:
        return np.asarray(images)
    return np.stack([fit_square(np.asarray(image), _LARGEST_SIDE) for image in images])


def _measure_pixels(images: np.ndarray) -> pd.DataFrame:
    pixels = images.astype(np.float32)
    edge = max(1, round(_EDGE_SHARE * images.shape[1]))
    inside = pixels[:, edge:-edge, edge:-edge]
    n_edge = pixels[0].size - inside[0].size
    traits = {
        "brightness": pixels.mean(axis=(1, 2)),
        "contrast": pixels.std(axis=(1, 2)),
        "black": (images <= _BLACK).mean(axis=(1, 2)),
        "white": (images >= _WHITE).mean(axis=(1, 2)),
        **_measure_borders(pixels),
        "edge_brightness": (pixels.sum(axis=(1, 2)) - inside.sum(axis=(1, 2))) / n_edge,
    }
    for name, corner in zip(CORNERS, _cut_corners(pixels), strict=True):
        traits[f"brightness_{name}"] = corner.mean(axis=(1, 2))
        traits[f"lettering_{name}"] = _share_lit(corner, images.shape[1])
    return pd.DataFrame(traits)


def _measure_borders(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Measure how far from each side the lines of pixels are even."""
    even_rows, even_columns = pixels.std(axis=2) < _EVEN, pixels.std(axis=1) < _EVEN
    lines = {
        "border_top": even_rows,
        "border_bottom": even_rows[:, ::-1],
        "border_left": even_columns,
        "border_right": even_columns[:, ::-1],
    }
    return {name: np.logical_and.accumulate(even, axis=1).mean(axis=1) for name, even in lines.items()}


def _cut_corners(pixels: np.ndarray) -> list[np.ndarray]:
    side = max(2, round(_CORNER_SHARE * pixels.shape[1]))
    return [
        pixels[:, rows, columns] for rows in (slice(side), slice(-side, None)) for columns in (slice(side), slice(-side, None))
    ]


def _share_lit(corner: np.ndarray, size: int) -> np.ndarray:
    """Measure the share of a corner that is small and much brighter than what is around it (a white top-hat)."""
    from scipy.ndimage import grey_opening

    width = max(3, round(_SMALL_SHARE * size))
    around = grey_opening(corner, size=(1, width, width), mode="nearest")
    return np.asarray((corner - around > _LIT).mean(axis=(1, 2)))
