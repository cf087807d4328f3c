"""The images whose statistics an audit measures: all, or a random sample of a large data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_MEASURED = 20_000  # images; the statistics and the forest take 4 ms of CPU for each
MIN_OF_CLASS = 100  # images of each class that are sampled first, because a rare class would have few of a random sample


def sample_rows(
    members: Sequence[np.ndarray], *, max_images: int = MAX_MEASURED, min_of_class: int = MIN_OF_CLASS, seed: int = 0
) -> np.ndarray:
    """Draw a random sample of images without replacement.

    Args:
        members: For each class or finding, which images have it, bool (n,).
        max_images: Largest number of images of the sample.
        min_of_class: Images of each class or with each finding that the sample contains, if there are as many and they fit.
        seed: Seed of the sample.

    Returns:
        Rows of the images in ascending order; all rows if there are at most ``max_images``.
    """
    n_images = len(members[0])
    if n_images <= max_images:
        return np.arange(n_images)
    order = np.random.default_rng(seed).permutation(n_images)
    is_first = np.zeros(n_images, bool)
    for is_member in members:
        drawn = is_member[order]
        is_first |= drawn & (np.cumsum(drawn) <= min_of_class)
    chosen = np.concatenate([order[is_first], order[~is_first]])[:max_images]
    return np.sort(chosen)
