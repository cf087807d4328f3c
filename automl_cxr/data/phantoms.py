"""Phantom radiographs: drawn chests with a known finding, for demonstrations and tests without patient data.

The classes differ only in the drawn finding. Anatomy varies by patient, and position, exposure and noise vary by image, all
independently of the class.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from automl_cxr.errors import DataError, UnknownNameError, UsageError

CLASSES = ("normal", "opacity", "effusion")
DRAWING_VERSION = 1
MARKER_NAME = "phantoms.json"
METADATA_NAME = "metadata.csv"
COLUMNS = ("image", "label", "patient_id", "lesion_x0", "lesion_y0", "lesion_x1", "lesion_y1")
MAX_IMAGES_PER_PATIENT = 4
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class _Chest:
    """The anatomy of one patient, in units of half the picture's width; x to the right, y down, 0 in the centre.

    Left and right refer to the picture. The first entry of an array is the left one.
    """

    lung_x: np.ndarray
    lung_y: np.ndarray
    lung_width: np.ndarray
    lung_height: np.ndarray
    dome_y: np.ndarray
    dome_height: np.ndarray
    heart: np.ndarray
    spine_width: float
    rib_pitch: float
    rib_slope: float
    rib_strength: float
    clavicle_y: float
    vessels: np.ndarray
    breast_strength: float
    breast: np.ndarray
    lesion_side: int
    lesion_location: np.ndarray
    lesion_size: np.ndarray
    fluid_height: float


def draw_phantoms(
    directory: Path | str,
    *,
    n_images: int = 600,
    image_size: int = 128,
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """Draw a data set of phantom radiographs as class folders of PNG files with a metadata.csv.

    Args:
        directory: A folder that is new or empty, or contains phantoms with the same arguments. Complete phantoms are
            unchanged; phantoms of an interrupted call are drawn again.
        n_images: Number of all images, divided equally among the classes; the first classes get one more if necessary.
        image_size: Height and width in pixels, from 32 to 2048.
        seed: Seed of all images.
        classes: At least two of "normal", "opacity", "effusion".

    Returns:
        The directory. metadata.csv has the columns image, label, patient_id and, for opacities, the box of the drawn opacity
        in pixels: lesion_x0, lesion_y0 inclusive, lesion_x1, lesion_y1 exclusive.

    Raises:
        UsageError: An argument is out of range, or a class is unknown.
        DataError: The directory contains other files, or phantoms with other arguments.
    """
    _check_arguments(n_images, image_size, classes)
    directory = Path(directory)
    marker: dict[str, object] = {
        "drawing_version": DRAWING_VERSION,
        "n_images": n_images,
        "image_size": image_size,
        "seed": seed,
        "classes": list(classes),
    }
    if _read_marker(directory) == marker:
        return directory
    _clear(directory)
    rows = []
    for number, (label, n_patient_images) in enumerate(_plan_patients(n_images, classes, seed)):
        rows.extend(_draw_patient(directory, number, label, n_patient_images, image_size, seed))
    with open(directory / METADATA_NAME, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(sorted(rows))
    _write_marker(directory, marker)
    return directory


def _check_arguments(n_images: int, image_size: int, classes: Sequence[str]) -> None:
    for name in classes:
        if name not in CLASSES:
            raise UnknownNameError("phantom class", name, CLASSES)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UsageError(f"Phantoms need two or three different classes; received {', '.join(classes) or 'none'}.")
    if n_images < len(classes):
        raise UsageError(f"n_images must be {len(classes)} or more, one for each class; received {n_images}.")
    if not 32 <= image_size <= 2048:
        raise UsageError(f"image_size must be from 32 to 2048; received {image_size}.")


# The folder


def _read_marker(directory: Path) -> object:
    """Read the arguments of complete phantoms; None if there are none or the call was interrupted."""
    try:
        return json.loads((directory / MARKER_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clear(directory: Path) -> None:
    """Remove phantoms of an interrupted call, and refuse a folder with other files.

    A marker without arguments is written first, by which an interrupted call is recognised.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        found = sorted(os.listdir(directory))
    except OSError as error:
        raise DataError(f"Phantoms need a folder; '{directory}' is not a folder ({error.strerror}). Name another.") from error
    others = [name for name in found if name not in (*CLASSES, METADATA_NAME, MARKER_NAME)]
    if _read_marker(directory):
        others.append("phantoms drawn with other arguments")
    if found and (others or MARKER_NAME not in found):
        raise DataError(f"Phantoms need a new or empty folder; '{directory}' contains {(others or found)[0]}. Name another.")
    _write_marker(directory, {})
    for name in found:
        if name in CLASSES:
            shutil.rmtree(directory / name)
    (directory / METADATA_NAME).unlink(missing_ok=True)


def _write_marker(directory: Path, marker: dict[str, object]) -> None:
    (directory / MARKER_NAME).write_text(json.dumps(marker, indent=1), encoding="utf-8")


def _plan_patients(n_images: int, classes: Sequence[str], seed: int) -> list[tuple[str, int]]:
    """Divide the images among the classes, and the images of each class among patients."""
    rng = np.random.default_rng([seed, 0])
    plan = []
    for number, label in enumerate(classes):
        n_remaining = n_images // len(classes) + (number < n_images % len(classes))
        while n_remaining > 0:
            size = min(n_remaining, int(rng.integers(1, MAX_IMAGES_PER_PATIENT, endpoint=True)))
            plan.append((label, size))
            n_remaining -= size
    return [plan[index] for index in rng.permutation(len(plan))]  # a patient's number is independent of the class


def _draw_patient(
    directory: Path, number: int, label: str, n_images: int, image_size: int, seed: int
) -> list[tuple[str | int, ...]]:
    rng = np.random.default_rng([seed, 1, number])
    chest = _draw_chest(rng)
    rows: list[tuple[str | int, ...]] = []
    (directory / label).mkdir(exist_ok=True)
    for follow_up in range(n_images):
        pixels, box = _draw_radiograph(chest, label, image_size, rng)
        image = f"{label}/p{number:05d}_{follow_up}.png"
        Image.fromarray(pixels).save(directory / image)
        rows.append((image, label, f"phantom_{number:05d}", *(box or ("",) * 4)))
    return rows


# The drawing


def _draw_chest(rng: np.random.Generator) -> _Chest:
    """Draw one anatomy. Arrays are float32, which takes a third of the time of float64."""

    def around(middle: Sequence[float], spread: float) -> np.ndarray:
        return rng.normal(middle, spread).astype(np.float32)

    def between(low: float, high: float) -> np.ndarray:
        return rng.uniform(low, high, 2).astype(np.float32)

    return _Chest(
        lung_x=around([-0.42, 0.42], 0.02),
        lung_y=around([-0.08, -0.08], 0.03),
        lung_width=between(0.29, 0.37),
        lung_height=between(0.62, 0.78),
        dome_y=around([0.40, 0.45], 0.07),
        dome_height=between(0.08, 0.24),
        heart=around([0.13, 0.24, 0.28, 0.27], 0.03),
        spine_width=rng.uniform(0.07, 0.11),
        rib_pitch=rng.uniform(0.125, 0.17),
        rib_slope=rng.uniform(0.25, 0.5),
        rib_strength=rng.uniform(0.05, 0.14),
        clavicle_y=rng.normal(-0.66, 0.04),
        vessels=rng.normal(0, 1, (4, 2, 24)).astype(np.float32),
        breast_strength=rng.uniform(0, 0.12),
        breast=around([0.45, 0.22, 0.24], 0.04),
        lesion_side=int(rng.integers(2)),
        lesion_location=between(-1, 1),
        lesion_size=between(0.14, 0.22),
        fluid_height=rng.uniform(0.17, 0.36),
    )


def _draw_radiograph(chest: _Chest, label: str, image_size: int, rng: np.random.Generator) -> tuple[np.ndarray, Box | None]:
    """Draw one picture of a chest with its own position, exposure, fog and noise.

    Returns:
        uint8 (image_size, image_size), and the box of the opacity, or None.
    """
    pose = _draw_pose(rng)
    steps = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size * 2 - 1
    x, y = pose.to_body(*np.meshgrid(steps, steps))
    air, lateral, dome = _shape_lungs(chest, x, y)
    density = _draw_body(chest, x, y, air) + _draw_vessels(chest, pose, steps) * air.sum(axis=0)
    box = None
    if label == "opacity":
        shade = _shade_opacity(chest, x, y, air, rng)
        density += shade
        box = _box_around(shade)
    if label == "effusion":
        density += _shade_effusion(chest, y, air, lateral, dome, density, rng)
    density += 0.05 * _smooth_noise(image_size, 5, rng) + 0.025 * air.sum(axis=0) * _smooth_noise(image_size, 14, rng)
    return _to_grey_levels(density, rng), box


@dataclass(frozen=True)
class _Pose:
    """The position of a patient in front of the detector: rotation, shift and scale."""

    angle: float
    shift: np.ndarray
    scale: np.ndarray

    def to_body(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert picture coordinates (-1 to 1) to body coordinates."""
        x, y = x - self.shift[0], y - self.shift[1]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return (cos * x + sin * y) / self.scale[0], (cos * y - sin * x) / self.scale[1]

    def to_picture(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert body coordinates to picture coordinates."""
        x, y = x * self.scale[0], y * self.scale[1]
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return cos * x - sin * y + self.shift[0], sin * x + cos * y + self.shift[1]


def _draw_pose(rng: np.random.Generator) -> _Pose:
    scale = rng.uniform(0.92, 1.08) * rng.uniform(0.96, 1.04, 2)
    return _Pose(rng.normal(0, 0.05), rng.normal(0, 0.04, 2).astype(np.float32), scale.astype(np.float32))


def _smooth_step(distance: np.ndarray, softness: float) -> np.ndarray:
    """Return a smooth step from 0 to 1 at distance 0, about four times ``softness`` wide."""
    return 0.5 * (1 + np.tanh(distance / softness))


def _shape_lungs(chest: _Chest, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shape both lungs.

    Returns:
        Each (2, height, width): the share of air, the position between the mediastinal and the lateral border (0 to 1), and
        the height above the dome of the diaphragm.
    """
    side = np.array([-1, 1], np.float32)[:, None, None]
    across = side * (x - _by_side(chest.lung_x)) / _by_side(chest.lung_width)
    # Taller than wide and blunt at the bottom: the lateral border extends down to the costophrenic angle.
    up = np.minimum(y - _by_side(chest.lung_y), 0) / _by_side(chest.lung_height)
    border = 1 - np.abs(across) * across**2 - up**2
    arch = _by_side(chest.dome_height) * (1 - np.clip(across, -1.2, 1.2) ** 2)
    dome = _by_side(chest.dome_y) - arch + 0.10 * np.maximum(across, 0) ** 3 - y
    air = _smooth_step(border, 0.10) * _smooth_step(dome, 0.02)
    heart_x, heart_y, heart_width, heart_height = chest.heart
    heart = 1 - ((x - heart_x) / heart_width) ** 2 - ((y - heart_y) / heart_height) ** 2
    return air * _smooth_step(-heart, 0.12), (across + 1) / 2, dome


def _by_side(values: np.ndarray) -> np.ndarray:
    return values[:, None, None]


def _draw_body(chest: _Chest, x: np.ndarray, y: np.ndarray, air: np.ndarray) -> np.ndarray:
    """Draw the structures of every chest, as density from 0 (air) to about 1 (bone)."""
    torso = _smooth_step(0.93 - np.abs(x) - 0.35 * np.maximum(-y - 0.72, 0), 0.03)
    density: np.ndarray = 0.62 * torso - 0.47 * air.sum(axis=0) * torso
    vertebrae = 0.04 * np.sin(y * 40) * (np.abs(x) < chest.spine_width)
    density += 0.16 * np.exp(-((x / chest.spine_width) ** 2)) + vertebrae
    density += 0.10 * np.exp(-((x / 0.16) ** 2)) * _smooth_step(-0.1 - y, 0.2)
    density += _draw_ribs(chest, x, y) * torso
    breast_x, breast_y, breast_size = chest.breast
    breast = ((np.abs(x) - breast_x) ** 2 + (y - breast_y) ** 2) / breast_size**2
    density += chest.breast_strength * _smooth_step(1 - breast, 0.4)
    return density


def _draw_ribs(chest: _Chest, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    away = np.abs(x)
    top_posterior = -0.72 - 0.12 * np.sin(np.pi * np.minimum(away, 0.8)) + chest.rib_slope * away**2
    top_anterior = -0.45 + chest.rib_slope * (0.75 - away)
    posterior = np.exp(-((_distance_to_nearest_rib(y - top_posterior, chest.rib_pitch) / 0.022) ** 2))
    anterior = np.exp(-((_distance_to_nearest_rib(y - top_anterior, 1.05 * chest.rib_pitch) / 0.03) ** 2)) * (away > 0.3)
    ribs: np.ndarray = chest.rib_strength * (posterior + 0.5 * anterior) * _smooth_step(0.8 - away, 0.02)
    clavicle_y = chest.clavicle_y - 0.03 * away + 0.2 * (away - 0.35) ** 2
    clavicles = np.exp(-(((y - clavicle_y) / 0.03) ** 2)) * _smooth_step(away - 0.08, 0.02) * _smooth_step(0.7 - away, 0.02)
    ribs += 0.14 * clavicles
    return ribs


def _distance_to_nearest_rib(below_first: np.ndarray, pitch: float) -> np.ndarray:
    return below_first - pitch * np.clip(np.rint(below_first / pitch), 0, 8)


def _draw_vessels(chest: _Chest, pose: _Pose, steps: np.ndarray) -> np.ndarray:
    """Draw hila and vessels: small bright spots that are not opacities, more of them towards the centre."""
    away, down, size, strength = np.abs(chest.vessels) * np.array([0.16, 0.22, 0.012, 0.08], np.float32)[:, None, None]
    side = np.array([-1, 1], np.float32)[:, None]
    spot_x, spot_y = pose.to_picture(side * (0.17 + away), 0.01 + down * np.sign(chest.vessels[1]))
    width = 0.016 + size.ravel()
    # A round spot is the product of a column and a row, also for a rotated patient.
    columns = np.exp(-(((steps - spot_x.ravel()[:, None]) / width[:, None]) ** 2))
    rows = np.exp(-(((steps - spot_y.ravel()[:, None]) / width[:, None]) ** 2))
    spots: np.ndarray = (rows * strength.ravel()[:, None]).T @ columns
    return spots


def _shade_opacity(chest: _Chest, x: np.ndarray, y: np.ndarray, air: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a soft patch in one lung, at about the same location as in the patient's other pictures."""
    side = chest.lesion_side
    location = np.clip(chest.lesion_location + rng.normal(0, 0.1, 2).astype(np.float32), -1, 1)
    centre_x = chest.lung_x[side] + 0.62 * chest.lung_width[side] * location[0]
    centre_y = -0.12 + 0.36 * location[1]
    size_x, size_y = chest.lesion_size * rng.uniform(0.9, 1.15)
    reach = ((x - centre_x) / size_x) ** 2 + ((y - centre_y) / size_y) ** 2
    grain = 1 + 0.25 * _smooth_noise(len(x), 12, rng)
    shade: np.ndarray = rng.uniform(0.38, 0.52) * np.exp(-(reach**1.5)) * grain * (0.25 + 0.75 * air[side])
    return shade


def _shade_effusion(
    chest: _Chest,
    y: np.ndarray,
    air: np.ndarray,
    lateral: np.ndarray,
    dome: np.ndarray,
    density: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Fill the costophrenic angle of one lung with fluid whose level rises along the lateral border (meniscus)."""
    side = chest.lesion_side
    level = chest.fluid_height * rng.uniform(0.85, 1.15)
    bottom = chest.dome_y[side]
    climb = 0.30 * np.exp(-(1 - np.clip(lateral[side], 0, 1)) / 0.16)
    surface = bottom + 0.06 - level - climb
    fluid = _smooth_step(y - surface, 0.035) * _smooth_step(dome[side] + 0.05, 0.03)
    # Fluid brightens only darker structures: the brightness of a rib in it does not change.
    shade: np.ndarray = fluid * air[side] * np.maximum(0.60 - density, 0) * rng.uniform(0.75, 1.0)
    return shade


def _box_around(shade: np.ndarray) -> Box:
    """Find the box of the pixels with at least a third of the maximal shade: x0, y0, and exclusive x1, y1."""
    rows, columns = np.nonzero(shade >= shade.max() / 3)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _smooth_noise(image_size: int, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    """Draw smooth noise of unit standard deviation with n_cells cells across the picture: (image_size, image_size)."""
    cells = Image.fromarray(rng.normal(0, 1, (n_cells, n_cells)).astype(np.float32))
    return np.asarray(cells.resize((image_size, image_size), Image.Resampling.BICUBIC))


def _to_grey_levels(density: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Convert densities to grey values.

    Mean and spread of the grey values are random and independent of the anatomy, so that they do not depend on the class.
    """
    size = len(density)
    tilt_x, tilt_y = rng.normal(0, 0.05, 2).astype(np.float32)
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    fogged = density + tilt_x * steps[None, :] + tilt_y * steps[:, None]
    fogged = np.sign(fogged) * np.abs(fogged) ** rng.uniform(0.8, 1.25)
    standard = (fogged - fogged.mean()) / fogged.std()
    grain = rng.uniform(0.05, 0.13) * rng.standard_normal((size, size), np.float32)
    grey = rng.uniform(105, 145) + rng.uniform(40, 54) * (standard + grain)
    pixels: np.ndarray = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return pixels
