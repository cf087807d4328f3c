"""The interface of combiners: functions from members' probabilities to the ensemble's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Combiner(Protocol):
    """Combines the probabilities of a fixed number of members in a fixed order."""

    @property
    def shares(self) -> np.ndarray:
        """The influence of each member, float64 (n_members,), sum 1."""

    def shares_for(self, column: int) -> np.ndarray:
        """Return the influence of each member on one class, float64 (n_members,), sum 1."""

    def combine(self, probabilities: np.ndarray) -> np.ndarray:
        """Convert members' probabilities (n_members, n, k) into the ensemble's, float32 (n, k); of classes, rows sum to 1.

        Raises:
            UsageError: The combiner is for another number of members or classes.
        """

    def take(self, members: Sequence[int]) -> Combiner:
        """Return the combiner for some of the members. Its result is the same if the others have no influence.

        Args:
            members: Positions of the members.
        """

    def to_record(self) -> dict[str, Any]:
        """Convert the combiner to JSON values, from which ``combiner_from_record`` restores the same floats."""
