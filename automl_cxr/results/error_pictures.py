"""Parts that all pages of errors share: grids of pictures, the comparison of models, and texts on unreadable images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from automl_cxr.results.auc_differences import describe_dependence
from automl_cxr.results.html_page import Part, Picture, Pictures, Table, Text
from automl_cxr.results.tables import fold_intervals
from automl_cxr.scoring.predictions import Predictions


def picture_grid(images: Sequence[str], captions: Sequence[str], pictures: Mapping[str, np.ndarray]) -> list[Pictures]:
    """Return a grid of the images that have a picture; an empty list if none has one.

    Args:
        images: Ids of the images.
        captions: Caption of each image.
        pictures: Pixels by image id.
    """
    shown = [Picture(pictures[image], caption) for image, caption in zip(images, captions, strict=True) if image in pictures]
    return [Pictures(shown)] if shown else []


def auc_difference_parts(differences: pd.DataFrame, images: Predictions) -> list[Part]:
    """Return the comparison of the first model with each other model by AUC; nothing for a single model.

    Args:
        differences: Result of ``results.auc_differences.auc_differences``.
        images: The images of the comparison.
    """
    if differences.empty:
        return []
    caption = (
        "Difference of the areas under the ROC curves, with the 95% interval of a paired bootstrap by patient and the p-value "
        "of DeLong's test. p_holm is adjusted for the number of comparisons."
    )
    note = describe_dependence(images)
    return [Table(fold_intervals(differences), caption), *([Text(note)] if note else [])]


def unreadable_texts(unreadable: Mapping[str, str]) -> list[Text]:
    """Return a text for each image that cannot be read, with the reason."""
    return [Text(f"Excluded because it cannot be read: {image} ({reason}).") for image, reason in unreadable.items()]
