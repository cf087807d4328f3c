"""How much of the evidence lies where no lung is: in the corners and along the borders.

Letters, markers and black bars stand there. A classifier that was trained on classes from different hospitals can learn those
instead of the disease (Zech et al. 2018, DeGrave et al. 2021), and its scores do not tell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from automl_cxr.results.heat import Heat

CORNER = 0.2  # of a side: a frontal chest film has shoulders, markers, arms and the skin below the diaphragm there
BORDER = 0.08  # of a side; what is padded counts as border
SUSPICIOUS = 1.5  # how often its share of the area: see benchmarks/README.md for what phantoms came to
REGIONS = ("corners", "borders")
ALL = "all"


def region_shares(heats: Sequence[Heat]) -> dict[str, float]:
    """Tell how much of the evidence in one picture, and how much of what the networks see, lies in each region.

    Returns:
        By region the share of the evidence, NaN where nothing speaks for the class; by "<region>_area" the share of the area.
    """
    weights = np.array([heat.share * bool(heat.density.any()) for heat in heats])
    shares = {}
    for region in REGIONS:
        masks = [_mask(heat, region) for heat in heats]
        found = [float((heat.density * mask).mean()) for heat, mask in zip(heats, masks, strict=True)]
        shares[region] = float(np.average(found, weights=weights)) if weights.any() else float("nan")
        shares[f"{region}_area"] = float(np.average([mask.mean() for mask in masks], weights=[heat.share for heat in heats]))
    return shares


def _mask(heat: Heat, region: str) -> np.ndarray:
    """Mark a region on the grid of a heat map, bool (side, side)."""
    steps = (np.arange(len(heat.density)) + 0.5) / len(heat.density)
    off_y = _from_edge(heat.window.top + heat.window.height * steps)[:, np.newaxis]
    off_x = _from_edge(heat.window.left + heat.window.width * steps)[np.newaxis]
    in_border = (off_y < BORDER) | (off_x < BORDER)
    in_corner = (off_y < CORNER) & (off_x < CORNER) & (off_y >= 0) & (off_x >= 0)
    return in_corner if region == "corners" else in_border & ~in_corner


def _from_edge(places: np.ndarray) -> np.ndarray:
    """Measure how far places from 0 to 1 are from the nearer edge; below 0 outside."""
    return np.minimum(places, 1 - places)


def sum_up(shares: pd.DataFrame) -> pd.DataFrame:
    """Average the shares of single pictures by the class whose evidence they are of, and over all.

    Args:
        shares: One row a picture: ``class`` and what ``region_shares`` gave.

    Returns:
        One row a class, and a last one called "all": class, images (with any evidence), corners, borders and outside (both),
        each the mean share of the evidence, outside_area, and ratio, outside by outside_area: 1 where evidence falls evenly.
    """
    found = shares.dropna()
    groups = [*((name, found[found["class"] == name]) for name in dict.fromkeys(shares["class"])), (ALL, found)]
    rows = []
    for name, group in groups:
        means = group.drop(columns=["class"]).mean()
        outside, area = means["corners"] + means["borders"], means["corners_area"] + means["borders_area"]
        told = {"class": name, "images": len(group), "corners": means["corners"], "borders": means["borders"]}
        told |= {"corners_area": means["corners_area"], "borders_area": means["borders_area"]}
        rows.append({**told, "outside": outside, "outside_area": area, "ratio": outside / area})
    return pd.DataFrame(rows)
