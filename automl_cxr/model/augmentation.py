"""Random augmentation of grey images in training: one resampling for all movements, then brightness and contrast.

The movements of an image (flip, rotation, shift, zoom and shear) are composed into one affine map, and the image is
interpolated once. Keras' own random layers interpolate once for each movement, and those for rotation, shift, zoom and shear
cannot be compiled by XLA (``supports_jit = False``), so that one of them prevents the compilation of the whole training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import ops

from automl_cxr.config import TrialConfig
from automl_cxr.model.graph import inputs_of, output_of, replay

_WHITE = 255.0
DRAWS = ("flip", "rotation", "shift_x", "shift_y", "zoom", "shear_side", "shear", "brightness", "contrast")
"""Names of the random numbers of an image, each uniform in 0..1."""


@dataclass(frozen=True, kw_only=True)
class AugmentationRanges:
    """Ranges of the random changes of an image, in the order in which they are applied. 0 or False switches a change off.

    Attributes:
        flip: Whether half of the images are flipped horizontally.
        rotation: Range of the rotation in degrees counter-clockwise, about the centre.
        shift: Largest shift along each axis, as a share of the image size.
        zoom: Largest zoom in or out, as a share of the image size, about the centre.
        shear: Largest horizontal shear to either side, in degrees; the top row does not move.
        brightness: Largest change of brightness, as a share of the range from black to white or of each pixel's value.
        brightening: "add" or "multiply", see ``TrialConfig.brightening``.
        contrast: Largest change of the distance of each pixel from the mean of the image, as a share of it.
        fill: Pixels beyond the edge: "constant" (black), "nearest", "reflect" or "wrap", as in ``keras.ops.image``.
    """

    flip: bool = False
    rotation: tuple[float, float] = (0.0, 0.0)
    shift: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    brightening: str = "add"
    contrast: float = 0.0
    fill: str = "constant"

    @classmethod
    def from_config(cls, config: TrialConfig) -> AugmentationRanges:
        """Return the ranges of a configuration, each multiplied by ``config.augmentation``.

        The flip has no strength of its own: it is used whenever ``config.augmentation`` is above 0, because the side rarely
        matters for a diagnosis.
        """
        strength = config.augmentation
        return cls(
            flip=config.flip and strength > 0,
            rotation=(config.rotation_low * strength, config.rotation_high * strength),
            shift=config.shift * strength,
            zoom=config.zoom * strength,
            shear=config.shear * strength,
            brightness=config.brightness * strength,
            brightening=config.brightening,
            contrast=config.contrast * strength,
            fill=config.fill,
        )

    @property
    def moves(self) -> bool:
        """Whether pixels are moved."""
        return bool(self.flip or any(self.rotation) or self.shift or self.zoom or self.shear)

    @property
    def has_effect(self) -> bool:
        """Whether an image may be changed."""
        return bool(self.moves or self.brightness or self.contrast)


@keras.saving.register_keras_serializable(package="automl_cxr")
class RandomAugmentation(keras.layers.Layer):
    """A layer that changes each image at random in training, and returns images unchanged otherwise.

    Args:
        seed: Seed of the random numbers.
        ranges: The fields of ``AugmentationRanges``.
        name: Name of the layer.
        **kwargs: Arguments of ``keras.layers.Layer``.
    """

    def __init__(self, seed: int, ranges: Mapping[str, Any], name: str = "augmentation", **kwargs: Any) -> None:
        super().__init__(name=name, **{"dtype": "float32", "trainable": False, **kwargs})
        self.ranges = AugmentationRanges(**{**ranges, "rotation": tuple(ranges["rotation"])})
        if self.ranges.fill not in _FILLS or self.ranges.brightening not in _BRIGHTENINGS:
            raise NotImplementedError(f"No operation is implemented for one of the values of {self.ranges}.")
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images: Any, training: bool | None = None) -> Any:
        """Augment grey images, float32 (n, h, w, 1) with values 0..255."""
        if not training:
            return images
        numbers = keras.random.uniform((ops.shape(images)[0], len(DRAWS)), seed=self.seed_generator)
        return augment(images, dict(zip(DRAWS, ops.unstack(numbers, len(DRAWS), axis=1), strict=True)), self.ranges)

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> Sequence[int | None]:
        """Return the shape of the output, which is that of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the layer."""
        return {**super().get_config(), "seed": self.seed, "ranges": asdict(self.ranges)}


def without_augmentation(network: keras.Model) -> keras.Model:
    """Return a network with the same layers but the augmentation, which can be loaded without this package."""
    layer = next((layer for layer in network.layers if isinstance(layer, RandomAugmentation)), None)
    if layer is None:
        return network
    (source,) = inputs_of(layer)
    return keras.Model(network.inputs, replay(network, {id(output_of(layer)): source}), name=network.name)


def augment(images: Any, draws: Mapping[str, Any], ranges: AugmentationRanges) -> Any:
    """Change grey images as random numbers determine.

    Args:
        images: float32 (n, h, w, 1), 0..255.
        draws: For each name in ``DRAWS``, float32 (n,) in 0..1.
        ranges: The ranges of the changes.

    Returns:
        float32 (n, h, w, 1).
    """
    if ranges.moves:
        images = resample(images, _movement(draws, ranges, *images.shape[1:3]), ranges.fill)
    if ranges.brightness:
        change = ops.reshape(_within(draws["brightness"], ranges.brightness), (-1, 1, 1, 1))
        images = ops.clip(_BRIGHTENINGS[ranges.brightening](images, change), 0, _WHITE)
    if ranges.contrast:
        images = _stretch(images, 1 + _within(draws["contrast"], ranges.contrast))
    return images


def _movement(draws: Mapping[str, Any], ranges: AugmentationRanges, height: int, width: int) -> Any:
    """Return the maps from positions in the augmented images to positions in the images, float32 (n, 3, 3)."""
    matrix = _flip(draws["flip"] <= (0.5 if ranges.flip else -1.0), width)
    if any(ranges.rotation):
        low, high = (math.radians(end) for end in ranges.rotation)
        matrix = ops.matmul(matrix, _rotation(low + (high - low) * draws["rotation"], height, width))
    if ranges.shift:
        x, y = (_within(draws[name], ranges.shift) for name in ("shift_x", "shift_y"))
        matrix = ops.matmul(matrix, _shift(width * x, height * y))
    if ranges.zoom:
        matrix = ops.matmul(matrix, _zoom(1 + _within(draws["zoom"], ranges.zoom), height, width))
    if ranges.shear:
        side = ops.where(draws["shear_side"] > 0.5, -1.0, 1.0)
        matrix = ops.matmul(matrix, _shear(side * math.tan(math.radians(ranges.shear)) * draws["shear"]))
    return matrix


def _within(draws: Any, largest: float) -> Any:
    """Convert uniform numbers in 0..1 to the range from -largest to largest."""
    return largest * (2 * draws - 1)


# Single movements, as maps from a position (x, y, 1) in the output to the position in the input, float32 (n, 3, 3)


def _matrix(x_row: Sequence[Any], y_row: Sequence[Any]) -> Any:
    """Stack the rows of the maps; each element is a number or float32 (n,)."""
    like = next(value for value in (*x_row, *y_row) if not isinstance(value, float))
    rows = [ops.stack([ops.ones_like(like) * value for value in row], axis=-1) for row in (x_row, y_row, (0.0, 0.0, 1.0))]
    return ops.stack(rows, axis=-2)


def _flip(is_flipped: Any, width: int) -> Any:
    flipped = ops.cast(is_flipped, "float32")
    return _matrix((1 - 2 * flipped, 0.0, (width - 1) * flipped), (0.0, 1.0, 0.0))


def _rotation(angle: Any, height: int, width: int) -> Any:
    cos, sin, x, y = ops.cos(angle), ops.sin(angle), (width - 1) / 2, (height - 1) / 2
    return _matrix((cos, -sin, x - x * cos + y * sin), (sin, cos, y - x * sin - y * cos))


def _shift(x: Any, y: Any) -> Any:
    return _matrix((1.0, 0.0, -x), (0.0, 1.0, -y))


def _zoom(factor: Any, height: int, width: int) -> Any:
    return _matrix((factor, 0.0, (width - 1) / 2 * (1 - factor)), (0.0, factor, (height - 1) / 2 * (1 - factor)))


def _shear(slope: Any) -> Any:
    return _matrix((1.0, slope, 0.0), (0.0, 1.0, 0.0))


# Resampling


def resample(images: Any, matrix: Any, fill: str) -> Any:
    """Interpolate images at mapped positions, bilinearly.

    ``keras.ops.image.affine_transform`` does the same, but uses an operation without XLA kernel with TensorFlow.

    Args:
        images: float32 (n, h, w, 1).
        matrix: Maps from output to input positions, float32 (n, 3, 3).
        fill: Pixels beyond the edge: "constant" (black), "nearest", "reflect" or "wrap".
    """
    height, width = images.shape[1:3]
    y, x = ops.meshgrid(ops.arange(height, dtype="float32"), ops.arange(width, dtype="float32"), indexing="ij")
    positions = ops.stack([ops.ravel(x), ops.ravel(y), ops.ones(height * width)])
    source = ops.matmul(matrix[:, :2], positions)  # (n, 2, h * w)
    low = ops.floor(source)
    share = source - low
    shares = (1 - share, share)
    n_pixels = height * width
    first = n_pixels * ops.expand_dims(ops.arange(ops.shape(images)[0]), 1)
    pixels = ops.reshape(images, (-1,))
    total = 0.0
    for right in (0, 1):
        column, is_column = _FILLS[fill](low[:, 0] + right, width)
        for below in (0, 1):
            row, is_row = _FILLS[fill](low[:, 1] + below, height)
            values = ops.take(pixels, first + ops.cast(row * width + column, first.dtype))
            total = total + values * shares[right][:, 0] * shares[below][:, 1] * is_column * is_row
    return ops.reshape(total, (-1, height, width, 1))


def _constant(position: Any, size: int) -> tuple[Any, Any]:
    return ops.clip(position, 0, size - 1), ops.cast((position >= 0) & (position <= size - 1), "float32")


def _nearest(position: Any, size: int) -> tuple[Any, Any]:
    return ops.clip(position, 0, size - 1), 1.0


def _reflect(position: Any, size: int) -> tuple[Any, Any]:
    """Repeat the pixels at the edge: d c b a | a b c d | d c b a."""
    position = ops.mod(position, 2 * size)
    return ops.minimum(position, 2 * size - 1 - position), 1.0


def _wrap(position: Any, size: int) -> tuple[Any, Any]:
    return ops.mod(position, size), 1.0


_FILLS: Mapping[str, Callable[[Any, int], tuple[Any, Any]]] = {
    "constant": _constant,
    "nearest": _nearest,
    "reflect": _reflect,
    "wrap": _wrap,
}
"""By name of the fill, a function of whole positions that returns those of pixels, and 0 where there is no pixel."""


# Grey levels


_BRIGHTENINGS: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": lambda images, change: images + _WHITE * change,
    "multiply": lambda images, change: images * (1 + change),
}


def _stretch(images: Any, factor: Any) -> Any:
    mean = ops.mean(images, axis=(1, 2, 3), keepdims=True)
    return ops.clip((images - mean) * ops.reshape(factor, (-1, 1, 1, 1)) + mean, 0, _WHITE)
