"""Pictures of an explanation: heat over a radiograph, sheets of feature maps, and PNG files with words above them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from automl_cxr.errors import UsageError

SHOWN_SIDE = 448  # pixels of the longer side of a radiograph that is shown
_OPAQUE = 0.65  # how much of the radiograph the hottest pixel hides
_TEXT_PIXELS = 15
_MARGIN = 6
_SHEET_TILE = 96  # pixels of a feature map on a sheet, at least its own
_MOST_MAPS = 64  # of one layer on a sheet
_BETWEEN_MAPS = 90  # grey of the lines between them

# From cold to hot, as dark blue, purple, orange and yellow: lightness rises all the way, so that it reads without colours too.
_RAMP = np.array([[10, 10, 60], [120, 28, 109], [207, 68, 70], [247, 149, 27], [252, 245, 140]], np.float32)
_FOR, _AGAINST = np.array([230, 50, 60], np.float32), np.array([50, 110, 240], np.float32)


@dataclass(frozen=True, eq=False)
class HeatmapOverlay:
    """One picture that explains a prediction.

    Attributes:
        image: Which radiograph it is of.
        label: Its true class, or None.
        predicted: The most probable class.
        probability: Of that class.
        explained: The class that the picture explains.
        explained_probability: Of that class.
        method: "gradcam", "activations" or "shap".
        detail: The layers that it was taken from, or how many evaluations it took.
        pixels: uint8 (height, width, 3): the heat on the radiograph, or a sheet of feature maps.
        radiograph: uint8 (height, width): what lies below the heat.
        parts: More pictures of the same kind by name: one for each branch of a network, or each network of an ensemble.
        outside: Share of the evidence in the corners and along the borders; None where it was not asked for.
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


def shown(picture: np.ndarray) -> np.ndarray:
    """Bring a radiograph, uint8 (height, width), to the size that it is shown at."""
    scale = SHOWN_SIDE / max(picture.shape)
    height, width = (max(1, round(side * scale)) for side in picture.shape)
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC))


def overlay_heatmap(radiograph: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay heat from 0 to 1 (height, width) on a radiograph of that size: uint8 (height, width, 3)."""
    places = heat * (len(_RAMP) - 1)
    colours = np.stack([np.interp(places, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)], axis=-1)
    return _blend(radiograph, colours, _OPAQUE * heat)


def overlay_signed(radiograph: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lay values from -1 to 1 (height, width) on a radiograph: red where they speak for the class, blue where against it."""
    colours = np.where(values[..., np.newaxis] > 0, _FOR, _AGAINST)
    return _blend(radiograph, colours, _OPAQUE * np.abs(values))


def _blend(radiograph: np.ndarray, colours: np.ndarray, opacity: np.ndarray) -> np.ndarray:
    grey = np.repeat(radiograph[..., np.newaxis], 3, axis=-1).astype(np.float32)
    share = opacity[..., np.newaxis]
    return np.rint((1 - share) * grey + share * colours).astype(np.uint8)


def draw_sheet(maps: np.ndarray) -> np.ndarray:
    """Draw the feature maps of a layer beside each other, each from its least value in black to its greatest in white.

    Args:
        maps: (height, width, channels); of more than 64 channels those that vary most, in their order.

    Returns:
        uint8 (height, width, 3).
    """
    kept = np.sort(np.argsort(-maps.std(axis=(0, 1)), kind="stable")[:_MOST_MAPS])
    tiles = [_tile(maps[..., channel]) for channel in kept]
    side_y, side_x = tiles[0].shape
    n_columns = math.ceil(math.sqrt(len(tiles)))
    n_rows = math.ceil(len(tiles) / n_columns)
    sheet = np.full((n_rows * (side_y + 2), n_columns * (side_x + 2)), _BETWEEN_MAPS, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // n_columns) * (side_y + 2), (number % n_columns) * (side_x + 2)
        sheet[top : top + side_y, left : left + side_x] = tile
    return np.repeat(sheet[..., np.newaxis], 3, axis=-1)


def _tile(one: np.ndarray) -> np.ndarray:
    low, spread = float(one.min()), float(np.ptp(one)) or 1.0
    grey = np.rint(255 * (one - low) / spread).astype(np.uint8)
    times = max(1, _SHEET_TILE // max(grey.shape))
    return np.kron(grey, np.ones((times, times), np.uint8))


def write_overlay(overlay: HeatmapOverlay, folder: Path, number: int) -> Path:
    """Write a PNG: words above, then the radiograph, the heat and the parts beside each other, each with its name.

    Args:
        overlay: What is written.
        folder: Where to.
        number: Of the image, from 1; file names begin with it, so that they are unique.

    Raises:
        UsageError: The file cannot be written.
    """
    stem = f"{number:04d}_{_plain(Path(overlay.image).stem)}"
    name = f"{stem}_{_plain(overlay.detail)}" if overlay.method == "activations" else f"{stem}_{overlay.method}"
    path = folder / f"{name}.png"
    try:
        Image.fromarray(_with_words(overlay)).save(path)
    except OSError as error:
        raise UsageError(f"Cannot write {path} ({error.strerror or error}). Name another --out.") from error
    return path


def _plain(text: str) -> str:
    """Write a text with what every file system takes."""
    return re.sub(r"[^\w.-]+", "-", text)[-80:]


def _with_words(overlay: HeatmapOverlay) -> np.ndarray:
    if overlay.method == "activations":
        panels = [(f"layer {overlay.detail}", overlay.pixels)]
    else:
        grey = np.repeat(overlay.radiograph[..., np.newaxis], 3, axis=-1)
        panels = [("radiograph", grey), (_title(overlay), overlay.pixels), *overlay.parts.items()]
    body = np.concatenate([_captioned(caption, pixels) for caption, pixels in panels], axis=1)
    return np.concatenate([_strip(_lines(overlay), body.shape[1]), body])


def _title(overlay: HeatmapOverlay) -> str:
    return {"gradcam": f"Grad-CAM for {overlay.explained}", "shap": f"SHAP for {overlay.explained}: red for, blue against"}[
        overlay.method
    ]


def _lines(overlay: HeatmapOverlay) -> list[str]:
    lines = [overlay.image, f"predicted {overlay.predicted} {overlay.probability:.3f}"]
    if overlay.label is not None:
        lines[1] += f"   true {overlay.label}"
    if overlay.explained != overlay.predicted:
        lines[1] += f"   explained {overlay.explained} {overlay.explained_probability:.3f}"
    if overlay.outside is not None:
        lines.append(f"{overlay.outside:.0%} of the evidence in corners and borders")
    return lines


def _captioned(caption: str, pixels: np.ndarray) -> np.ndarray:
    gap = np.zeros((pixels.shape[0], _MARGIN, 3), np.uint8)
    framed = np.concatenate([pixels, gap], axis=1)
    return np.concatenate([_strip([caption], framed.shape[1], n_lines=2), framed])


def _strip(lines: Sequence[str], width: int, *, n_lines: int = 0) -> np.ndarray:
    """Write lines in white on black, broken to fit: uint8 (height, width, 3), of at least ``n_lines``."""
    font = ImageFont.load_default(size=_TEXT_PIXELS)
    n_letters = max(8, int((width - 2 * _MARGIN) / font.getlength("n")))
    broken = [piece for line in lines for piece in textwrap.wrap(line, n_letters) or [""]]
    height = _MARGIN + max(len(broken), n_lines) * (_TEXT_PIXELS + 4)
    strip = Image.new("RGB", (width, height))
    ImageDraw.Draw(strip).text((_MARGIN, _MARGIN // 2), "\n".join(broken), font=font, fill="white")
    return np.asarray(strip)
