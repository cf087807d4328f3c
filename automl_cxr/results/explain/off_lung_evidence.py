"""The share of the Grad-CAM evidence outside the lungs: in the corners and along the borders of the images.

Letters, markers and black bars are located there. If the classes come from different hospitals, a classifier can learn these
instead of the disease (Zech et al. 2018, DeGrave et al. 2021), and its scores do not show this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import UsageError
from automl_cxr.results.classifier import Classifier, LoadedClassifier
from automl_cxr.results.explain.classifier_gradcam import ClassifierGradCam, Heatmap
from automl_cxr.results.explain.image_batches import OnProblem, OnProgress, read_batches

CORNER = 0.2  # of a side; in frontal radiographs, corners show shoulders, arms, markers and regions below the diaphragm
BORDER = 0.08  # of a side; padding counts as border
# Threshold for the evidence of a region, relative to its share of the area. On phantom images (90 validation images), the worst
# region of a class reached 1.4 without a marker, and 3.3 with a burnt-in letter of 5 of 32 pixels in a corner.
SUSPICIOUS = 2.0
REGIONS = ("top_left", "top_right", "bottom_left", "bottom_right", "borders")
_REGION_TEXTS = {
    region: "the borders" if region == "borders" else f"the {region.replace('_', ' ')} corner" for region in REGIONS
}
_BATCH_SIZE = 16  # images whose feature maps are in memory at the same time
ALL = "all"


def measure_off_lung_evidence(
    classifier: Classifier,
    images: Sequence[str | Path],
    *,
    class_name: str | None = None,
    layer: str | None = None,
    on_progress: OnProgress | None = None,
    on_problem: OnProblem | None = None,
) -> pd.DataFrame:
    """Measure the share of the Grad-CAM evidence outside the usual region of the lungs on a set of images.

    Args:
        classifier: A trial or an ensemble.
        images: Image files.
        class_name: The class to explain; by default the predicted class of each image.
        layer: A layer with feature maps; by default the last feature maps of each branch.
        on_progress: Called with (processed images, all images).
        on_problem: Called with an image and the reason why it cannot be read.

    Returns:
        One row for each class, and one for "all"; see ``summarise_evidence``. ``off_lung_warnings`` describes suspicious rows.

    Raises:
        UsageError: A name is unknown, or there is no readable image.
        TrialError: A model file is damaged.
    """
    loaded = LoadedClassifier(classifier)
    gradcam = ClassifierGradCam(loaded, layer)
    batches = read_batches(loaded, images, class_name=class_name, batch_size=_BATCH_SIZE, on_problem=on_problem)
    rows = []
    for batch in batches:
        heatmaps_of_batch = gradcam.compute(batch.squares, batch.pixels, batch.columns)
        for heatmaps, column in zip(heatmaps_of_batch, batch.columns, strict=True):
            rows.append({"class": classifier.classes[column], **evidence_by_region(heatmaps.networks)})
        if on_progress is not None:
            on_progress(batch.n_finished, len(images))
    if not rows:
        raise UsageError("The evidence needs readable images; received none. Pass other images.")
    return summarise_evidence(pd.DataFrame(rows))


def off_lung_warnings(table: pd.DataFrame) -> list[str]:
    """Return a warning for each class whose evidence in a corner or along the borders exceeds the threshold."""
    return [
        f"Class '{row['class']}': {row[row['worst']]:.0%} of the evidence is in {_REGION_TEXTS[row['worst']]}, "
        f"{row['times']:.1f} times its share of the area. Check for letters, markers or bars there that differ between the "
        "classes."
        for row in table[table["class"] != ALL].to_dict(orient="records")
        if row["times"] > SUSPICIOUS
    ]


def evidence_by_region(heatmaps: Sequence[Heatmap]) -> dict[str, float]:
    """Return the share of the evidence and the share of the area of each region in one image.

    Returns:
        For each region its share of the evidence, NaN without evidence for the class; and as "<region>_area" its share of the
        area that the networks use.
    """
    weights = np.array([heatmap.share * bool(heatmap.density.any()) for heatmap in heatmaps])
    shares = {}
    for region in REGIONS:
        masks = [_mask(heatmap, region) for heatmap in heatmaps]
        evidence = [float((heatmap.density * mask).mean()) for heatmap, mask in zip(heatmaps, masks, strict=True)]
        shares[region] = float(np.average(evidence, weights=weights)) if weights.any() else float("nan")
        areas = [mask.mean() for mask in masks]
        shares[_area(region)] = float(np.average(areas, weights=[heatmap.share for heatmap in heatmaps]))
    return shares


def off_lung_share(shares: Mapping[str, float]) -> float:
    """Return the sum of the regions' shares of the evidence."""
    return sum(shares[region] for region in REGIONS)


def _area(region: str) -> str:
    return f"{region}_area"


def _mask(heatmap: Heatmap, region: str) -> np.ndarray:
    """Return the mask of a region on the grid of a heat map, bool (side, side)."""
    steps = (np.arange(len(heatmap.density)) + 0.5) / len(heatmap.density)
    down = (heatmap.window.top + heatmap.window.height * steps)[:, np.newaxis]
    across = (heatmap.window.left + heatmap.window.width * steps)[np.newaxis]
    distance_y, distance_x = np.minimum(down, 1 - down), np.minimum(across, 1 - across)  # negative in the padding
    in_corner = (distance_y >= 0) & (distance_y < CORNER) & (distance_x >= 0) & (distance_x < CORNER)
    if region == "borders":
        return ((distance_y < BORDER) | (distance_x < BORDER)) & ~in_corner
    vertical, side = region.split("_")
    return in_corner & ((down < 0.5) == (vertical == "top")) & ((across < 0.5) == (side == "left"))


def summarise_evidence(shares: pd.DataFrame) -> pd.DataFrame:
    """Average the shares over the images of each class, and over all images.

    Args:
        shares: One row for each image: ``class`` and the result of ``evidence_by_region``.

    Returns:
        One row for each class and a last row "all": class, images (with evidence), the mean share of the evidence in each
        region, outside (their sum), outside_area (their share of the area), worst (the region with the most evidence
        relative to its area) and times (this ratio; 1 for evenly distributed evidence).
    """
    complete = shares.dropna()
    groups = [*((name, complete[complete["class"] == name]) for name in dict.fromkeys(shares["class"])), (ALL, complete)]
    return pd.DataFrame([_summarise_class(str(name), group) for name, group in groups])


def _summarise_class(name: str, shares: pd.DataFrame) -> dict[str, Any]:
    means = {str(column): float(shares[column].mean()) for column in shares.columns.drop("class")}
    times = {
        region: means[region] / means[_area(region)] for region in REGIONS if means[_area(region)] > 0
    }  # with a crop, a region can have no area
    worst = max(times, key=lambda region: times[region], default="")
    return {
        "class": name,
        "images": len(shares),
        **{region: means[region] for region in REGIONS},
        "outside": off_lung_share(means),
        "outside_area": sum(means[_area(region)] for region in REGIONS),
        "worst": worst,
        "times": times.get(worst, float("nan")),
    }
