"""Images of an explanation: heat maps over radiographs, sheets of feature maps, and PNG files with a caption."""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from automl_cxr.errors import UsageError
from automl_cxr.tasks import FINDING_SEPARATOR

SHOWN_SIDE = 448  # pixels of the longer side of a displayed radiograph
_MAX_OPACITY = 0.65  # of the pixel with the highest value
_TEXT_PIXELS = 15
_MARGIN = 6
_SHEET_TILE = 96  # pixels of a feature map on a sheet; larger maps keep their size
_MAX_MAPS = 64  # of one layer on a sheet
_GRID_GREY = 90  # of the lines between feature maps

# From low to high: dark blue, purple, orange, yellow. The lightness increases, so that it is readable in greyscale.
_COLOUR_MAP = np.array([[10, 10, 60], [120, 28, 109], [207, 68, 70], [247, 149, 27], [252, 245, 140]], np.float32)
_POSITIVE, _NEGATIVE = np.array([230, 50, 60], np.float32), np.array([50, 110, 240], np.float32)


@dataclass(frozen=True, eq=False)
class HeatmapOverlay:
    """One image that explains a prediction.

    Attributes:
        image: Path of the radiograph.
        label: The true class, or None; for findings those that are present, as "A|B".
        predicted: The most probable class; for findings those that count as present, as "A|B".
        probability: Probability of the predicted class; for findings that of the explained one.
        explained: The class that is explained.
        explained_probability: Probability of the explained class.
        method: "gradcam", "activations" or "shap".
        detail: The layers, or the number of evaluations.
        pixels: uint8 (height, width, 3): the heat map over the radiograph, or a sheet of feature maps.
        radiograph: uint8 (height, width): the radiograph below the heat map.
        parts: Overlays by name: for each branch of a network, or each network of an ensemble.
        outside: Share of the evidence in the corners and along the borders; None if it was not measured.
        threshold: Probability from which the explained finding counts as present; None for classes.
    """

    image: str
    label: str | None
    predicted: str
    probability: float
    explained: str
    explained_probability: float
    method: str
    detail: str
    pixels: np.ndarray
    radiograph: np.ndarray
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    outside: float | None = None
    threshold: float | None = None


def resize_for_display(image: np.ndarray) -> np.ndarray:
    """Resize a radiograph, uint8 (height, width), to the size of the display."""
    scale = SHOWN_SIDE / max(image.shape)
    height, width = (max(1, round(side * scale)) for side in image.shape)
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def overlay_heatmap(radiograph: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Draw a heat map of values from 0 to 1 (height, width) over a radiograph of the same size: uint8 (height, width, 3)."""
    positions = heat * (len(_COLOUR_MAP) - 1)
    colours = np.stack(
        [np.interp(positions, np.arange(len(_COLOUR_MAP)), _COLOUR_MAP[:, channel]) for channel in range(3)], axis=-1
    )
    return _blend(radiograph, colours, _MAX_OPACITY * heat)


def overlay_signed(radiograph: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Draw values from -1 to 1 (height, width) over a radiograph: positive ones in red, negative ones in blue."""
    colours = np.where(values[..., np.newaxis] > 0, _POSITIVE, _NEGATIVE)
    return _blend(radiograph, colours, _MAX_OPACITY * np.abs(values))


def _blend(radiograph: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    grey = np.repeat(radiograph[..., np.newaxis], 3, axis=-1).astype(np.float32)
    share = opacity[..., np.newaxis]
    return np.rint((1 - share) * grey + share * colours).astype(np.uint8)


def draw_sheet(maps: np.ndarray) -> np.ndarray:
    """Draw the feature maps of a layer in a grid, each from its minimum in black to its maximum in white.

    Args:
        maps: (height, width, channels); of more than 64 channels the 64 with the largest variance are drawn.

    Returns:
        uint8 (height, width, 3).
    """
    selected = np.sort(np.argsort(-maps.std(axis=(0, 1)), kind="stable")[:_MAX_MAPS])
    tiles = [_tile(maps[..., channel]) for channel in selected]
    side_y, side_x = tiles[0].shape
    n_columns = math.ceil(math.sqrt(len(tiles)))
    n_rows = math.ceil(len(tiles) / n_columns)
    sheet = np.full((n_rows * (side_y + 2), n_columns * (side_x + 2)), _GRID_GREY, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // n_columns) * (side_y + 2), (number % n_columns) * (side_x + 2)
        sheet[top : top + side_y, left : left + side_x] = tile
    return np.repeat(sheet[..., np.newaxis], 3, axis=-1)


def _tile(feature_map: np.ndarray) -> np.ndarray:
    low, spread = float(feature_map.min()), float(np.ptp(feature_map)) or 1.0
    grey = np.rint(255 * (feature_map - low) / spread).astype(np.uint8)
    times = max(1, _SHEET_TILE // max(grey.shape))
    return np.kron(grey, np.ones((times, times), np.uint8))


def write_overlay(overlay: HeatmapOverlay, folder: Path, number: int, *, finding: str = "") -> Path:
    """Write a PNG file: a caption above, and the radiograph, the overlay and its parts side by side, each with its name.

    Args:
        overlay: The overlay.
        folder: Folder of the file.
        number: Number of the image, from 1; the prefix of the file name, so that names are unique.
        finding: Entry of ``file_name_parts`` for the explained finding, because an image may have several; empty for classes.

    Raises:
        UsageError: The file cannot be written.
    """
    stem = f"{number:04d}_{safe_name(Path(overlay.image).stem)}"
    if finding and overlay.method != "activations":
        stem += f"_{finding}"
    name = f"{stem}_{safe_name(overlay.detail)}" if overlay.method == "activations" else f"{stem}_{overlay.method}"
    path = folder / f"{name}.png"
    try:
        Image.fromarray(_with_caption(overlay)).save(path)
    except OSError as error:
        raise UsageError(f"Cannot write {path} ({error.strerror or error}). Choose another --out.") from error
    return path


def file_name_parts(findings: Sequence[str]) -> dict[str, str]:
    """Return a part of file names for each finding, distinct also on file systems that ignore case."""
    parts = [safe_name(name) for name in findings]
    folded = Counter(part.casefold() for part in parts)
    return {
        name: part if folded[part.casefold()] == 1 else f"{part}-{number}"
        for number, (name, part) in enumerate(zip(findings, parts, strict=True), start=1)
    }


def safe_name(text: str) -> str:
    """Replace characters that some file systems do not support."""
    return re.sub(r"[^\w.-]+", "-", text)[-80:]


def _with_caption(overlay: HeatmapOverlay) -> np.ndarray:
    if overlay.method == "activations":
        panels = [(f"layer {overlay.detail}", overlay.pixels)]
    else:
        grey = np.repeat(overlay.radiograph[..., np.newaxis], 3, axis=-1)
        panels = [("radiograph", grey), (_title(overlay), overlay.pixels), *overlay.parts.items()]
    body = np.concatenate([_panel(caption, pixels) for caption, pixels in panels], axis=1)
    return np.concatenate([_text_strip(_lines(overlay), body.shape[1]), body])


def _title(overlay: HeatmapOverlay) -> str:
    return {
        "gradcam": f"Grad-CAM for {overlay.explained}",
        "shap": f"SHAP for {overlay.explained}: red increases it, blue decreases it",
    }[overlay.method]


def _lines(overlay: HeatmapOverlay) -> list[str]:
    if overlay.threshold is not None:
        return [*_finding_lines(overlay), *_outside_lines(overlay)]
    lines = [overlay.image, f"predicted {overlay.predicted} {overlay.probability:.3f}"]
    if overlay.label is not None:
        lines[1] += f"   true {overlay.label}"
    if overlay.explained != overlay.predicted:
        lines[1] += f"   explained {overlay.explained} {overlay.explained_probability:.3f}"
    return [*lines, *_outside_lines(overlay)]


def _finding_lines(overlay: HeatmapOverlay) -> list[str]:
    explained = f"{overlay.explained} {overlay.explained_probability:.3f} (threshold {overlay.threshold:.3f})"
    listed = {"predicted": overlay.predicted} | ({} if overlay.label is None else {"true": overlay.label})
    texts = [f"{kind} {names.replace(FINDING_SEPARATOR, ', ') or 'no finding'}" for kind, names in listed.items()]
    return [overlay.image, explained, "   ".join(texts)]


def _outside_lines(overlay: HeatmapOverlay) -> list[str]:
    return [] if overlay.outside is None else [f"{overlay.outside:.0%} of the evidence in corners and borders"]


def _panel(caption: str, pixels: np.ndarray) -> np.ndarray:
    gap = np.zeros((pixels.shape[0], _MARGIN, 3), np.uint8)
    framed = np.concatenate([pixels, gap], axis=1)
    return np.concatenate([_text_strip([caption], framed.shape[1], n_lines=2), framed])


def _text_strip(lines: Sequence[str], width: int, *, n_lines: int = 0) -> np.ndarray:
    """Draw lines of text in white on black, wrapped to the width: uint8 (height, width, 3), at least ``n_lines`` high."""
    font = ImageFont.load_default(size=_TEXT_PIXELS)
    n_letters = max(8, int((width - 2 * _MARGIN) / font.getlength("n")))
    wrapped = [piece for line in lines for piece in textwrap.wrap(line, n_letters) or [""]]
    height = _MARGIN + max(len(wrapped), n_lines) * (_TEXT_PIXELS + 4)
    strip = Image.new("RGB", (width, height))
    ImageDraw.Draw(strip).text((_MARGIN, _MARGIN // 2), "\n".join(wrapped), font=font, fill="white")
    return np.asarray(strip)
