"""Records the points that were evaluated, so that no proposer proposes the same configuration twice unintentionally."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

import numpy as np

from automl_cxr.engine.parameters import Value
from automl_cxr.engine.space import Space

Point = Mapping[str, Value]

_MAX_DRAWS = 4  # attempts of the proposer, which may return the same point again, before points are drawn at random
_MAX_RANDOM_DRAWS = 50


class EvaluatedPoints:
    """The points of all trials, including failed ones: a configuration that failed would fail again.

    Args:
        space: The search space.
        effective: Returns the values of a point that have an effect. Points that differ in other values only are the same
            configuration.
    """

    def __init__(self, space: Space, effective: Callable[[Point], Point] = lambda point: point) -> None:
        self._space = space
        self._effective = effective
        self._keys: set[Hashable] = set()
        self._n_values: dict[int, int] = {}  # number of values that are recorded, by trial
        self._points: Iterator[dict[str, Value]] | None = None
        self._next_point: dict[str, Value] | None = None

    def add(self, number: int, point: Point) -> None:
        """Record the point of a trial. A running trial may not have all its values yet."""
        if self._n_values.get(number) != len(point):
            self._keys.add(self._key(point))
            self._n_values[number] = len(point)

    def __contains__(self, point: Point) -> bool:
        return self._key(point) in self._keys

    def _key(self, point: Point) -> Hashable:
        return self._space.key(self._effective(point))

    def new_point(
        self,
        draw: Callable[[int], dict[str, Value]],
        rng: np.random.Generator,
        *,
        fits: Callable[[Point], bool] = lambda _: True,
    ) -> dict[str, Value]:
        """Draw a point that was not evaluated, and for which the time left suffices.

        Args:
            draw: Returns the proposer's point, given the number of earlier attempts.
            rng: Generator of random points, used if all points of the proposer were evaluated before.
            fits: Returns whether the time left suffices for a point.

        Returns:
            A new point; or the proposer's own point, as a replicate, if all points were evaluated or do not fit.
        """
        proposed = draw(0)
        if proposed not in self and fits(proposed):
            return proposed
        if self.first_unevaluated() is None and self._space.is_finite:
            return proposed
        for attempt in range(1, _MAX_DRAWS):
            if (point := draw(attempt)) not in self and fits(point):
                return point
        for _ in range(_MAX_RANDOM_DRAWS):
            if (point := self._space.sample(rng)) not in self and fits(point):
                return point
        return self.first_unevaluated() or proposed

    def first_unevaluated(self) -> dict[str, Value] | None:
        """Return the first point of a finite space, in grid order, that was not evaluated; None if there is none."""
        if not self._space.is_finite:
            return None
        if self._points is None:
            self._points = self._space.points()
            self._next_point = next(self._points)
        while self._next_point is not None and self._next_point in self:
            self._next_point = next(self._points, None)
        return self._next_point
