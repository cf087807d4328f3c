"""The images of a study, found again after its search, and only if they are still the same."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.decode import decode_image_in_pool, decoder_warnings_off, fit_square
from automl_cxr.errors import DataError, UnreadableImageError
from automl_cxr.study.data_preparation import digest_table
from automl_cxr.study.store import StudyStore

_SMALL = 192  # pixels: what a picture among many takes of a page


def load_study_dataset(store: StudyStore, data: str | None = None) -> Dataset:
    """Read the table of a study's images.

    Args:
        store: The study.
        data: Where the data are now; by default where they were.

    Raises:
        DataError: The data are gone or no longer those of the study.
    """
    spec = store.spec
    dataset = load_dataset(data or spec.data, layout=spec.layout, classes=spec.classes, patients=spec.patients)
    if digest_table(dataset) != spec.data_digest:
        raise DataError(
            f"The data at {data or spec.data} are no longer those of study '{store.name}' (images, labels or patients "
            "changed), so its split does not hold. Name the original data with --data."
        )
    return dataset


def judged_images(store: StudyStore, data: str | None = None, *, per_class: int | None = None) -> dict[str, str]:
    """Find the images that a study judges its trials by: the validation part, or with folds those of all folds.

    Args:
        store: The study.
        data: Where the data are now; by default where they were.
        per_class: How many of each class, drawn alike at every call; by default all.

    Returns:
        By file the class.

    Raises:
        DataError: The data are gone or no longer those of the study.
    """
    root, split = load_study_dataset(store, data).root, store.split
    part = split.judged
    order = np.random.default_rng(0).permutation(len(part.images))
    by_class = [[row for row in order if part.labels[row] == column] for column in range(len(split.classes))]
    return {
        str(root / part.images[row]): split.classes[column]
        for column, rows in enumerate(by_class)
        for row in sorted(rows[:per_class])
    }


def decode_study_images(
    store: StudyStore,
    dataset: Dataset,
    config: TrialConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Give the decoded array of a study's training and validation images, in the square of a configuration.

    Raises:
        DataError: An image has other contents than when the study was begun.
    """
    split = store.split
    images = [*split.train.images, *split.valid.images]
    decoded = decode_dataset(dataset.root, images, config.image_size, fit=config.fit, on_progress=on_progress)
    if decoded.digest != store.spec.pixels_digest:
        raise DataError(
            f"The images at {dataset.root} have other contents than when study '{store.name}' was begun. "
            "Name the original data with --data."
        )
    return decoded.path


def decode_small_images(
    root: str | Path,
    images: Sequence[str],
    *,
    size: int = _SMALL,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Decode images as people look at them on a page: small, and padded with black so that nothing is out of proportion.

    Args:
        root: Folder that the ids are relative to.
        images: Ids.
        size: Height and width, in pixels.
        on_progress: Told (images done, images in all).

    Returns:
        uint8 (size, size) by id, without the images that cannot be read.
    """
    small = {}
    with decoder_warnings_off():
        for n_done, image in enumerate(images, start=1):
            with contextlib.suppress(UnreadableImageError):
                small[image] = fit_square(decode_image_in_pool(Path(root) / image), size, "pad")
            if on_progress is not None:
                on_progress(n_done, len(images))
    return small
