"""The parts of a split as inputs of training: images, or the features that frozen layers compute for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from automl_cxr.data.image_rows import ImageArray


class Part(Protocol):
    """One part of a split, as inputs of a network.

    Attributes:
        rows: int (n,), the rows of the part in arrays of all images.
        labels: int (n,), class index of each of these rows; for findings int (n, n_findings), label codes.
    """

    @property
    def rows(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...

    def batch(self, positions: np.ndarray) -> Any:
        """Return the inputs of a network at some positions of the part: one array (k, ...), or one for each input."""


@dataclass(frozen=True)
class LabelledPart:
    """The images and labels of one part of a split.

    Attributes:
        images: uint8 (n_all, h, w), usually a memory map that many processes share.
        rows: int (n,), the rows of ``images`` that belong to this part.
        labels: int (n,), class index of each of these rows; for findings int (n, n_findings), label codes.
    """

    images: ImageArray
    rows: np.ndarray
    labels: np.ndarray

    @property
    def inputs(self) -> tuple[np.ndarray, ...]:
        """The images with an axis for the grey channel, uint8 (n_all, h, w, 1), as the only input of a network."""
        return (self.images[..., np.newaxis],)

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Copy the images at some positions of the part, uint8 (k, h, w, 1)."""
        return _copy_rows(self.images, self.rows[positions])[..., np.newaxis]


@dataclass(frozen=True)
class FeaturePart:
    """The features and labels of one part of a split.

    Attributes:
        inputs: One array (n_all, ...) for each input of a network, float32, float16 or, for pixels, uint8; usually memory
            maps.
        rows: int (n,), the rows of each array that belong to this part.
        labels: int (n,), class index of each of these rows; for findings int (n, n_findings), label codes.
    """

    inputs: tuple[np.ndarray, ...]
    rows: np.ndarray
    labels: np.ndarray

    def batch(self, positions: np.ndarray) -> np.ndarray | tuple[np.ndarray, ...]:
        """Copy the rows at some positions of the part, float32 (k, ...), for each input."""
        rows = self.rows[positions]
        copies = tuple(_copy_rows(values, rows).astype(np.float32, copy=False) for values in self.inputs)
        return copies if len(copies) > 1 else copies[0]


@dataclass(frozen=True)
class RowPart:
    """One part of a split whose inputs are on the device (``training/device_inputs.py``); a network gets row numbers.

    Attributes:
        rows: int (n,), the rows of the arrays on the device that belong to this part.
        labels: int (n,), class index of each of these rows; for findings int (n, n_findings), label codes.
    """

    rows: np.ndarray
    labels: np.ndarray

    def batch(self, positions: np.ndarray) -> np.ndarray:
        """Return the row numbers at some positions of the part, int32 (k,)."""
        return self.rows[positions].astype(np.int32)


def _copy_rows(values: ImageArray, rows: np.ndarray) -> np.ndarray:
    """Copy rows of an array, reading a memory map in ascending order."""
    ascending = np.argsort(rows)
    batch = np.empty((len(rows), *values.shape[1:]), values.dtype)
    batch[ascending] = values[rows[ascending]]
    return batch
