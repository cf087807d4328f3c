"""Reads the images and configurations of a study after its search, and checks that the images have not changed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.decode import decode_image_in_pool, decoder_warnings_off, fit_square
from automl_cxr.data.feature_table import open_recorded_table, save_rows
from automl_cxr.data.patient_metadata import SUBGROUP_COLUMN
from automl_cxr.errors import DataError, UnknownNameError, UnreadableImageError
from automl_cxr.study.data_preparation import digest_table
from automl_cxr.study.store import StudyStore, read_record
from automl_cxr.tasks import FINDING_SEPARATOR, PRESENT

_SMALL = 192  # pixels of a thumbnail on a page


def load_trial_config(store: StudyStore, number: int) -> TrialConfig:
    """Load the saved configuration of a trial.

    Raises:
        StudyError: The trial has no configuration file, or it is damaged.
    """
    return read_record(store.trial_folder(number) / "config.json", TrialConfig.from_json)


def load_study_dataset(store: StudyStore, data: str | None = None, *, subgroups: Sequence[str] = ()) -> Dataset:
    """Load the table of a study's images.

    Args:
        store: The study.
        data: Current location of the data; by default the recorded one.
        subgroups: Further columns of the table that are read as metadata.

    Raises:
        DataError: The data are missing or have changed.
        UnknownNameError: There is no such further column.
    """
    spec = store.spec
    different = DataError(
        f"The data at {data or spec.data} differ from those of study '{store.name}': images, labels or patients have "
        "changed, so the split is not valid. Pass the original data with --data. Images of another site are scored by "
        f"`automl-cxr leaderboard {store.name} --external DIR`."
    )
    options = replace(spec.data_options, subgroups=(*(spec.subgroups or ()), *subgroups) or None)
    try:
        dataset = load_dataset(data or spec.data, options)
    except UnknownNameError as error:  # a class or a label column of the study, which the caller has not typed
        if error.kind == SUBGROUP_COLUMN and error.received in subgroups:
            raise
        raise different from error
    if digest_table(dataset) != spec.data_digest:
        raise different
    return dataset


def scored_images(store: StudyStore, data: str | None = None, *, per_class: int | None = None) -> dict[str, str]:
    """Return the images on which a study scores its trials: the validation part, or with folds those of all folds.

    Args:
        store: The study.
        data: Current location of the data; by default the recorded one.
        per_class: Number of randomly selected images of each class, the same ones at every call; by default all images.

    Returns:
        The class of each file; of several findings, those that are present, as "A|B".

    Raises:
        DataError: The data are missing or have changed.
    """
    if store.split.is_multilabel:
        found = scored_findings(store, data, per_finding=per_class)
        return {file: FINDING_SEPARATOR.join(names) for file, names in found.items()}
    root, split = load_study_dataset(store, data).root, store.split
    part = split.judged
    order = np.random.default_rng(0).permutation(len(part.images))
    by_class = [[row for row in order if part.labels[row] == column] for column in range(len(split.classes))]
    return {
        str(root / part.images[row]): split.classes[column]
        for column, rows in enumerate(by_class)
        for row in sorted(rows[:per_class])
    }


def scored_findings(
    store: StudyStore, data: str | None = None, *, per_finding: int | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the images on which a study of findings scores its trials, with the findings that are present in each.

    Args:
        store: The study.
        data: Current location of the data; by default the recorded one.
        per_finding: Number of randomly selected images with each finding, the same ones at every call; by default all images,
            also those without a finding.

    Raises:
        DataError: The data are missing or have changed.
    """
    root, split = load_study_dataset(store, data).root, store.split
    part = split.judged
    is_present = np.asarray(part.labels, np.int64) == PRESENT
    order = np.random.default_rng(0).permutation(len(part.images))
    rows: Sequence[int] = range(len(part.images))
    if per_finding is not None:
        chosen = [order[is_present[order, column]][:per_finding] for column in range(len(split.classes))]
        rows = sorted({int(row) for rows_of_finding in chosen for row in rows_of_finding})
    return {str(root / part.images[row]): tuple(compress(split.classes, is_present[row])) for row in rows}


def decode_study_images(
    store: StudyStore,
    dataset: Dataset,
    config: TrialConfig,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Return the array file of a study's training and validation images, decoded to the size and fit of a configuration.

    For a configuration that takes features, it contains their rows of the study's table.

    Raises:
        DataError: The content of an image, or the table of features, has changed since the start of the study.
    """
    split, spec = store.split, store.spec
    images = [*split.train.images, *split.valid.images]
    if config.takes_features:
        return save_rows(open_recorded_table(spec.features or "", spec.features_digest).select(images, dataset.root))
    decoded = decode_dataset(dataset.root, images, config.image_size, fit=config.fit, on_progress=on_progress)
    if decoded.digest != store.spec.pixels_digest:
        raise DataError(
            f"The content of the images at {dataset.root} has changed since the start of study '{store.name}'. "
            "Pass the original data with --data."
        )
    return decoded.path


def decode_small_images(
    root: str | Path,
    images: Sequence[str],
    *,
    size: int = _SMALL,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Decode images as thumbnails for a page, padded with black so that their proportions do not change.

    Args:
        root: Folder of the images.
        images: Paths relative to ``root``.
        size: Height and width, in pixels.
        on_progress: Called with (processed images, all images).

    Returns:
        uint8 (size, size) by path, without the images that cannot be read.
    """
    small = {}
    with decoder_warnings_off():
        for n_done, image in enumerate(images, start=1):
            with contextlib.suppress(UnreadableImageError):
                small[image] = fit_square(decode_image_in_pool(Path(root) / image), size, "pad")
            if on_progress is not None:
                on_progress(n_done, len(images))
    return small
