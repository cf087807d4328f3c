"""Non-anatomical statistics of an image: its size, file format, brightness, borders and corners."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.arrays import split_row
from automl_cxr.data.audit.blocks import map_blocks
from automl_cxr.data.decode import fit_square
from automl_cxr.data.file_format import HEAD_BYTES, detect_format
from automl_cxr.data.image_rows import ImageArray

CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
FORMAT = "file_format"  # the only statistic that is text
_MAX_SIDE = 112  # pixels; larger squares are averaged, so that statistics are comparable between sizes
_CORNER_SHARE = 0.25  # of the side
_BLACK, _WHITE = 5, 250
_MAX_BORDER_DEVIATION = 4.0  # grey levels; a row or column of pixels with a smaller standard deviation is a border
_EDGE_SHARE = 0.05
_LETTER_SHARE = 0.06  # of the side; wider structures are not letters
_MIN_BRIGHTNESS_DIFFERENCE = 80  # grey levels between lettering and its surroundings
_LETTERING_SHARE = 0.005  # share of a corner's pixels above which lettering is suspected


def measure_image_statistics(
    root: Path,
    image_ids: Sequence[str],
    images: ImageArray,
    sizes: np.ndarray,
    *,
    rows: np.ndarray | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure the statistics of decoded images, one row each. Files and pixels are read by several threads.

    Args:
        root: Folder that the ids are relative to. Only the first bytes of the files are read.
        image_ids: Paths of the images or rows of arrays.
        images: uint8 (n, size, size), in the order of the ids.
        sizes: Height and width on disk, (n, 2).
        rows: The images to measure, int (k,); by default all.
        on_progress: Called in the calling thread with (images that were measured, all images to measure).

    Returns:
        Columns height, width, aspect_ratio (width over height), bytes_per_pixel (0 for a row of an array), file_format,
        brightness, contrast, black, white (shares), border_top, border_bottom, border_left, border_right (shares of the
        side that are uniform), edge_brightness, and for each corner brightness_... and lettering_... (share of its pixels
        that are much brighter than their surroundings).
    """
    rows = np.arange(len(images)) if rows is None else rows

    def measure(block: slice) -> pd.DataFrame:
        chosen = rows[block]
        files = [_read_header(root / image_ids[row]) for row in chosen]
        of_files = _describe_files(files, sizes[chosen])
        return pd.concat([of_files, _measure_pixels(_downscaled(images[chosen]))], axis=1)

    return pd.concat(map_blocks(measure, len(rows), on_progress=on_progress), ignore_index=True)


def _describe_files(files: Sequence[tuple[str, int]], sizes: np.ndarray) -> pd.DataFrame:
    height, width = sizes.T.astype(np.float64)
    n_bytes = np.array([size for _, size in files], np.float64)
    return pd.DataFrame(
        {
            "height": height,
            "width": width,
            "aspect_ratio": width / height,
            "bytes_per_pixel": n_bytes / (height * width),
            FORMAT: [name for name, _ in files],
        }
    )


def has_lettering(statistics: pd.DataFrame) -> pd.DataFrame:
    """Return for each image the corners in which burnt-in text is suspected, bool (n, 4)."""
    lit = statistics[[f"lettering_{corner}" for corner in CORNERS]] > _LETTERING_SHARE
    return lit.set_axis(list(CORNERS), axis=1)


def _read_header(path: Path) -> tuple[str, int]:
    """Return a file's format, detected by content, and its size in bytes; 0 bytes for a row of an array."""
    file, row = split_row(str(path))
    try:
        with Path(file).open("rb") as opened:
            header = opened.read(HEAD_BYTES)
            n_bytes = os.fstat(opened.fileno()).st_size
    except OSError:
        return "unreadable", 0
    return detect_format(header) or "other", 0 if row is not None else n_bytes


def _downscaled(images: np.ndarray) -> np.ndarray:
    if images.shape[1] <= _MAX_SIDE:
        return np.asarray(images)
    return np.stack([fit_square(np.asarray(image), _MAX_SIDE) for image in images])


def _measure_pixels(images: np.ndarray) -> pd.DataFrame:
    pixels = images.astype(np.float32)
    edge = max(1, round(_EDGE_SHARE * images.shape[1]))
    inside = pixels[:, edge:-edge, edge:-edge]
    n_edge = pixels[0].size - inside[0].size
    statistics = {
        "brightness": pixels.mean(axis=(1, 2)),
        "contrast": pixels.std(axis=(1, 2)),
        "black": (images <= _BLACK).mean(axis=(1, 2)),
        "white": (images >= _WHITE).mean(axis=(1, 2)),
        **_measure_borders(pixels),
        "edge_brightness": (pixels.sum(axis=(1, 2)) - inside.sum(axis=(1, 2))) / n_edge,
    }
    for name, corner in zip(CORNERS, _cut_corners(pixels), strict=True):
        statistics[f"brightness_{name}"] = corner.mean(axis=(1, 2))
        statistics[f"lettering_{name}"] = _share_of_lettering(corner, images.shape[1])
    return pd.DataFrame(statistics)


def _measure_borders(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """Measure the width of the uniform border on each side, as a share of the image's side."""
    uniform_rows, uniform_columns = (pixels.std(axis=axis) < _MAX_BORDER_DEVIATION for axis in (2, 1))
    lines = {
        "border_top": uniform_rows,
        "border_bottom": uniform_rows[:, ::-1],
        "border_left": uniform_columns,
        "border_right": uniform_columns[:, ::-1],
    }
    return {name: np.logical_and.accumulate(uniform, axis=1).mean(axis=1) for name, uniform in lines.items()}


def _cut_corners(pixels: np.ndarray) -> list[np.ndarray]:
    side = max(2, round(_CORNER_SHARE * pixels.shape[1]))
    return [
        pixels[:, rows, columns] for rows in (slice(side), slice(-side, None)) for columns in (slice(side), slice(-side, None))
    ]


def _share_of_lettering(corner: np.ndarray, size: int) -> np.ndarray:
    """Measure the share of a corner's pixels in small structures much brighter than their surroundings (a white top-hat)."""
    from scipy.ndimage import grey_opening

    width = max(3, round(_LETTER_SHARE * size))
    surroundings = grey_opening(corner, size=(1, width, width), mode="nearest")
    return np.asarray((corner - surroundings > _MIN_BRIGHTNESS_DIFFERENCE).mean(axis=(1, 2)))
