"""How much of the evidence lies where no lung is: in the corners and along the borders.

Letters, markers and black bars stand there. A classifier that was trained on classes from different hospitals can learn those
instead of the disease (Zech et al. 2018, DeGrave et al. 2021), and its scores do not tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.results.explain.classifier_gradcam import Heatmap

CORNER = 0.2  # of a side: a frontal chest film has shoulders, markers, arms and the skin below the diaphragm there
BORDER = 0.08  # of a side; what is padded counts as border
# How many times its share of the area a region may have of the evidence. On phantoms, 90 validation images each, the worst
# region of a class came to 1.4 where nothing was planted, and to 3.3 where a letter of 5 pixels in 32 was burnt into a corner.
SUSPICIOUS = 2.0
REGIONS = ("top_left", "top_right", "bottom_left", "bottom_right", "borders")
ALL = "all"


def evidence_by_region(heats: Sequence[Heatmap]) -> dict[str, float]:
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
        shares[_area(region)] = float(np.average([mask.mean() for mask in masks], weights=[heat.share for heat in heats]))
    return shares


def outside(shares: Mapping[str, float]) -> float:
    """Add up the regions' shares of the evidence."""
    return sum(shares[region] for region in REGIONS)


def _area(region: str) -> str:
    return f"{region}_area"


def _mask(heat: Heatmap, region: str) -> np.ndarray:
    """Mark a region on the grid of a heat map, bool (side, side)."""
    steps = (np.arange(len(heat.density)) + 0.5) / len(heat.density)
    down = (heat.window.top + heat.window.height * steps)[:, np.newaxis]
    across = (heat.window.left + heat.window.width * steps)[np.newaxis]
    off_y, off_x = np.minimum(down, 1 - down), np.minimum(across, 1 - across)  # from the nearer edge; below 0 is padding
    in_corner = (off_y >= 0) & (off_y < CORNER) & (off_x >= 0) & (off_x < CORNER)
    if region == "borders":
        return ((off_y < BORDER) | (off_x < BORDER)) & ~in_corner
    vertical, side = region.split("_")
    return in_corner & ((down < 0.5) == (vertical == "top")) & ((across < 0.5) == (side == "left"))


def sum_up(shares: pd.DataFrame) -> pd.DataFrame:
    """Average the shares of single pictures by the class whose evidence they are of, and over all.

    Args:
        shares: One row a picture: ``class`` and what ``evidence_by_region`` gave.

    Returns:
        One row a class, and a last one called "all": class, images (with any evidence); the mean share of the evidence in each
        region and outside, which is all of them; outside_area, their share of the area; worst, the region that has most
        evidence for its area, and times, how many times its share of the area that is: 1 where evidence falls evenly.
    """
    found = shares.dropna()
    groups = [*((name, found[found["class"] == name]) for name in dict.fromkeys(shares["class"])), (ALL, found)]
    return pd.DataFrame([_sum_up_class(str(name), group) for name, group in groups])


def _sum_up_class(name: str, shares: pd.DataFrame) -> dict[str, Any]:
    means = {str(column): float(shares[column].mean()) for column in shares.columns.drop("class")}
    times = {
        region: means[region] / means[_area(region)] for region in REGIONS if means[_area(region)] > 0
    }  # crops cut some off
    worst = max(times, key=lambda region: times[region], default="")
    return {
        "class": name,
        "images": len(shares),
        **{region: means[region] for region in REGIONS},
        "outside": outside(means),
        "outside_area": sum(means[_area(region)] for region in REGIONS),
        "worst": worst,
        "times": times.get(worst, float("nan")),
    }
