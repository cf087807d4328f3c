"""Curves with fewer points than images, because a screen does not show more and a page with all of them is large."""

from __future__ import annotations

import numpy as np
import pandas as pd


def thinned(curve: pd.DataFrame, max_points: int) -> pd.DataFrame:
    """Return at most ``max_points`` rows of a curve at equal distances, with the first and the last row."""
    return curve.iloc[np.unique(np.linspace(0, len(curve) - 1, min(len(curve), max_points)).round().astype(int))]
