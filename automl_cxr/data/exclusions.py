"""Numbers of images that are left out while a data set is read, for the flow diagram of a publication."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass


@dataclass(frozen=True)
class Exclusion:
    """Images that are left out for the same reason.

    Attributes:
        reason: The reason, for a table or a diagram.
        n_images: Number of images.
    """

    reason: str
    n_images: int


class ExclusionCounter:
    """Counts the images that each step of reading leaves out.

    Args:
        rows: All images with a label.
        n_unlabelled: Number of images without a label that is used, which are not among them.
    """

    def __init__(self, rows: Sized, *, n_unlabelled: int) -> None:
        self._n_left = len(rows)
        self._found = [Exclusion("no label that is used", n_unlabelled)] if n_unlabelled else []

    def count(self, rows: Sized, reason: str) -> None:
        """Record the images that were left out since the last call.

        Args:
            rows: The remaining images.
            reason: Why the others were left out.
        """
        if len(rows) < self._n_left:
            self._found.append(Exclusion(reason, self._n_left - len(rows)))
        self._n_left = len(rows)

    @property
    def found(self) -> tuple[Exclusion, ...]:
        """The exclusions, in the order of the steps."""
        return tuple(self._found)
