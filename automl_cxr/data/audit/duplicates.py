"""Finds pictures that a data set holds more than once: the same, or resized, compressed, brightened or mirrored.

Hashes find candidates; what decides is the correlation of the fine structure. The whole pictures of two patients correlate
by up to 0.96, because chests are alike; less everything wide (a Gaussian of 1.5 of 64 pixels), 910 radiographs of 612
patients come to 0.76 at most, copies of 200 of them under 15 changes to 0.85 at least.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from automl_cxr.data.audit.hashes import find_candidates, hash_images
from automl_cxr.data.decode import fit_square

SMALLEST_CORRELATION = 0.82
SMALLEST_SIDE = 64  # pixels of the pictures that are compared; smaller ones have no fine structure
_WIDE = 1.5  # standard deviation of the Gaussian that takes away what all chests share, in pixels of those
_FLAT = 1.0  # grey levels; the fine structure of an even picture is rounding
_BLOCK = 2048  # pairs that are correlated together
_ENOUGH = 2**16  # candidates that are looked at together


@dataclass(frozen=True)
class Link:
    """Two rows that show the same picture.

    Attributes:
        row: The later one.
        of: An earlier one.
        kind: "identical" pixels, "near" or "mirrored".
        correlation: Of the fine structure, at most 1.
    """

    row: int
    of: int
    kind: str
    correlation: float


def find_duplicates(images: np.ndarray, sizes: np.ndarray) -> list[Link]:
    """Find the pictures that are there more than once.

    Args:
        images: Decoded pictures, uint8 (n, size, size).
        sizes: Their heights and widths on disk, (n, 2).

    Returns:
        Links by row, as few as hold the copies of a picture together: those of k copies are k - 1. In squares of less than
        64 pixels identical ones alone.
    """
    firsts, links = _link_identical(images, sizes)
    if images.shape[1] < SMALLEST_SIDE:
        return links
    small = np.stack([fit_square(np.asarray(images[row]), SMALLEST_SIDE) for row in firsts])
    links += [
        Link(row=firsts[other], of=firsts[one], kind="mirrored" if is_mirrored else "near", correlation=correlation)
        for one, other, is_mirrored, correlation in _link_near(small)
    ]
    return sorted(links, key=lambda link: (link.row, link.of))


def _link_identical(images: np.ndarray, sizes: np.ndarray) -> tuple[list[int], list[Link]]:
    """Give the first row of each different picture, and link the others to theirs."""
    first_of: dict[bytes, int] = {}
    links = []
    for row, (image, size) in enumerate(zip(images, sizes, strict=True)):
        content = hashlib.blake2b(np.ascontiguousarray(image).tobytes() + size.tobytes(), digest_size=16).digest()
        first = first_of.setdefault(content, row)
        if first != row:
            links.append(Link(row, first, "identical", 1.0))
    return list(first_of.values()), links


def _link_near(small: np.ndarray) -> Iterator[tuple[int, int, bool, float]]:
    groups = _Groups(len(small))
    tested = np.empty((0, 3), np.int64)
    for candidates in _gathered(find_candidates(hash_images(small))):
        open_pairs = [pair for pair in _without(candidates, tested).tolist() if not groups.holds(pair[0], pair[1])]
        for first in range(0, len(open_pairs), _BLOCK):
            block = np.array(open_pairs[first : first + _BLOCK], np.int64)
            for (one, other, is_mirrored), correlation in zip(block.tolist(), _correlate(small, block), strict=True):
                if correlation >= SMALLEST_CORRELATION and not groups.holds(one, other):
                    groups.join(one, other)
                    yield one, other, bool(is_mirrored), float(correlation)
        tested = np.concatenate([tested, candidates])


def _gathered(portions: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Join small portions to some that are worth the work, each pair once in each."""
    waiting: list[np.ndarray] = []
    for portion in portions:
        waiting.append(portion)
        if sum(map(len, waiting)) >= _ENOUGH:
            yield np.unique(np.concatenate(waiting), axis=0)
            waiting = []
    if waiting:
        yield np.unique(np.concatenate(waiting), axis=0)


def _without(pairs: np.ndarray, tested: np.ndarray) -> np.ndarray:
    kind = np.dtype([("one", np.int64), ("other", np.int64), ("mirrored", np.int64)])
    known = np.isin(np.ascontiguousarray(pairs).view(kind).ravel(), np.ascontiguousarray(tested).view(kind).ravel())
    return pairs[~known]


def _correlate(small: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Correlate the fine structures of pairs, (n_pairs,); of even pictures 0."""
    one, other = (small[pairs[:, column]] for column in (0, 1))
    is_mirrored = pairs[:, 2] == 1
    other[is_mirrored] = other[is_mirrored, :, ::-1]
    return np.asarray((_fine_structure(one) * _fine_structure(other)).sum(axis=(1, 2)))


def _fine_structure(pictures: np.ndarray) -> np.ndarray:
    """Take everything wide from pictures and bring them to unit length."""
    from scipy.ndimage import gaussian_filter

    values = pictures.astype(np.float32)
    fine = values - gaussian_filter(values, (0, _WIDE, _WIDE), mode="nearest")
    fine -= fine.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((fine**2).sum(axis=(1, 2), keepdims=True))
    return np.where(length < _FLAT * SMALLEST_SIDE, 0, fine / np.maximum(length, 1e-6))


class _Groups:
    """Which pictures belong together so far (union-find)."""

    def __init__(self, n: int) -> None:
        self._parent = list(range(n))

    def holds(self, one: int, other: int) -> bool:
        return self._root(one) == self._root(other)

    def join(self, one: int, other: int) -> None:
        roots = sorted((self._root(one), self._root(other)))
        self._parent[roots[1]] = roots[0]

    def _root(self, row: int) -> int:
        while self._parent[row] != row:
            self._parent[row] = self._parent[self._parent[row]]
            row = self._parent[row]
        return row
