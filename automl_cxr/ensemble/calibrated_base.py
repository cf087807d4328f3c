"""The common part of combiners that are followed by a temperature, for classes and for findings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from automl_cxr.ensemble.combiner_protocol import Combiner


@dataclass(frozen=True, eq=False)
class CalibratedBase:
    """A combiner and a temperature. Subclasses define how the temperature changes the probabilities.

    Attributes:
        combiner: The combiner without temperature.
        temperature: Divisor of the logits, above 0.
    """

    combiner: Combiner
    temperature: float

    @property
    def shares(self) -> np.ndarray:
        return self.combiner.shares

    def shares_for(self, column: int) -> np.ndarray:
        return self.combiner.shares_for(column)

    def take(self, members: Sequence[int]) -> Self:
        return replace(self, combiner=self.combiner.take(members))
