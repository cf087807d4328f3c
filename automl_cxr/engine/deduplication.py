"""Which points of a space were tried: no configuration is trained twice by accident, whoever proposes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

import numpy as np

from automl_cxr.engine.space import Space, Value

Point = Mapping[str, Value]

_DRAWS = 4  # of the proposer, before chance takes over: it may be in love with one point
_CHANCES = 50


class EvaluatedPoints:
    """The points of the trials that were begun, whatever became of them: a configuration that failed fails again."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._keys: set[Hashable] = set()
        self._n_values: dict[int, int] = {}  # of each trial's point, as far as it is noted
        self._points: Iterator[dict[str, Value]] | None = None
        self._untried: dict[str, Value] | None = None

    def add(self, number: int, point: Point) -> None:
        """Note the point of a trial; a trial that still runs may not have all its values yet."""
        if self._n_values.get(number) != len(point):
            self._keys.add(self._space.key(point))
            self._n_values[number] = len(point)

    def __contains__(self, point: Point) -> bool:
        return self._space.key(point) in self._keys

    def new_point(self, draw: Callable[[int], dict[str, Value]], rng: np.random.Generator) -> dict[str, Value]:
        """Draw a point that was not tried.

        Args:
            draw: Gives the proposer's point, given how often it was asked before.
            rng: Chance, which decides where the proposer repeats itself.

        Returns:
            A new point, or, where every point was tried, the proposer's own: a replicate, wanted because the study goes on.
        """
        wanted = draw(0)
        if wanted not in self:
            return wanted
        if self.first_unevaluated() is None and self._space.is_finite:
            return wanted
        for attempt in range(1, _DRAWS):
            if (point := draw(attempt)) not in self:
                return point
        for _ in range(_CHANCES):
            if (point := self._space.sample(rng)) not in self:
                return point
        return self.first_unevaluated() or wanted

    def first_unevaluated(self) -> dict[str, Value] | None:
        """Give the first point of a finite space, in the order of its grids, that was not tried; None if there is none."""
        if not self._space.is_finite:
            return None
        if self._points is None:
            self._points = self._space.points()
            self._untried = next(self._points)
        while self._untried is not None and self._untried in self:
            self._untried = next(self._points, None)
        return self._untried
