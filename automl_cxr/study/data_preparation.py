"""Reads, splits and decodes the images of a study. The files of the test part are hashed, but not decoded."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.cache_folder import cache_folder
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.content_hashes import hash_files
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.image_sizes import typical_side
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.data.split import Split, fold_dataset, split_dataset
from automl_cxr.errors import DataError
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.study.automatic_settings import AUTO_IMAGE_SIZE, choose_folds, choose_image_size, limit_enlargement
from automl_cxr.study.image_hashes import ImageHashes, short_hashes
from automl_cxr.study.options import AUTO
from automl_cxr.tasks import ABSENT, PRESENT

OnProgress = Callable[[int, int], None]
"""Called with the number of processed images and the number of all images."""


@dataclass(frozen=True)
class StudyImages:
    """The images of a study.

    Attributes:
        dataset: Table of all images.
        split: Training, validation and test part.
        decoded: Decoded images: those of the training part, then those of the validation part.
    """

    dataset: Dataset
    split: SplitRecord
    decoded: DecodedImages

    def hash_parts(self) -> ImageHashes:
        """Return the content hashes of all images. Decoding has hashed the training and validation images already."""
        n_train, hashes = len(self.split.train.images), self.decoded.content_hashes
        return ImageHashes(
            train=short_hashes(hashes[:n_train]),
            valid=short_hashes(hashes[n_train:]),
            test=short_hashes(hash_files(self.dataset.root, self.split.test)),
        )


def phantom_data(notes: list[str]) -> str:
    """Return the folder of phantom images, and draw them if they do not exist; add a note."""
    notes.append(
        "No --data given: this search uses phantom radiographs, drawn by this program to try it out. "
        "Scores on them do not predict scores on real images."
    )
    return str(draw_phantoms(cache_folder() / "phantoms"))


def read_dataset(data: str, settings: Mapping[str, Any], notes: list[str]) -> Dataset:
    """Read the table of a data set.

    Args:
        data: Folder or table of images.
        settings: Settings of the study, as ``resolve_settings`` returns them.
        notes: List to which messages for the user are appended.

    Raises:
        DataError: The data have no known layout, or fewer than two classes.
    """
    dataset = load_dataset(data, DataOptions.select(settings))
    notes.extend((*dataset.notes, *dataset.column_notes))
    if dataset.ignored:
        notes.append(_ignored_note(dataset))
    return dataset


def choose_automatic_size(dataset: Dataset, notes: list[str]) -> int:
    """Return the image size in pixels of a study for which none was requested; add a note if small images limit it.

    Args:
        dataset: The data set, some images of which are decoded.
        notes: List to which messages for the user are appended.
    """
    side = typical_side(dataset)
    if side is None:
        return AUTO_IMAGE_SIZE
    image_size = choose_image_size(len(dataset.table), side)
    limited = limit_enlargement(image_size, side)
    if limited < image_size:
        notes.append(
            f"The images have about {side} pixels and are enlarged to {limited}, because larger inputs take more time and "
            "contain no further detail; --image-size changes it."
        )
    return limited


def load_images(
    dataset: Dataset, settings: Mapping[str, Any], notes: list[str], on_progress: OnProgress | None = None
) -> StudyImages:
    """Split a data set, and decode its training and validation images.

    Args:
        dataset: The data set.
        settings: Settings of the study, as ``resolve_settings`` returns them.
        notes: List to which messages for the user are appended.
        on_progress: Called with the number of decoded images and of all images.

    Raises:
        DataError: The data are unusable: too few patients, or a class without readable images.
    """
    split = split_dataset(
        dataset,
        list(dataset.table["image"]),
        valid_fraction=settings["valid_fraction"],
        test_fraction=settings["test_fraction"],
        seed=settings["seed"],
    )
    record, decoded = _decode_parts(dataset, split, settings["image_size"], settings["fit"], on_progress)
    n_folds = settings["folds"]
    if n_folds == AUTO:
        n_folds = choose_folds(len(record.train.images) + len(record.valid.images))
    try:
        if n_folds:
            record = _pool_into_folds(dataset, record, n_folds, notes)
        if dataset.is_multilabel:
            _check_findings(record, notes)
        else:
            _check_every_class(record)
    except DataError as error:
        if not record.unreadable:
            raise
        raise DataError(f"{error} {_unreadable_note(record)}") from error
    if record.unreadable:
        notes.append(_unreadable_note(record))
    return StudyImages(dataset, record, decoded)


def _decode_parts(
    dataset: Dataset, split: Split, image_size: int, fit: str, on_progress: OnProgress | None
) -> tuple[SplitRecord, DecodedImages]:
    """Decode the readable training and validation images, in this order."""
    ids = [*split.train, *split.valid]
    decoded = decode_dataset(dataset.root, ids, image_size, fit=fit, on_progress=on_progress)
    unreadable = dict(decoded.unreadable)
    if unreadable:
        readable = [image for image in ids if image not in unreadable]
        decoded = decode_dataset(dataset.root, readable, image_size, fit=fit, on_progress=on_progress)
    rows = dataset.table.set_index("image")
    record = SplitRecord(
        classes=dataset.classes,
        train=_part(dataset, rows, [image for image in split.train if image not in unreadable]),
        valid=_part(dataset, rows, [image for image in split.valid if image not in unreadable]),
        test=split.test,
        seed=split.seed,
        grouped=split.grouped,
        origin=split.origin,
        unreadable=unreadable,
        n_without_patient=len(dataset.without_patient),
        n_uncertain=dataset.n_uncertain,
        n_missing=dataset.n_missing,
        task=dataset.task,
    )
    return record, decoded


def _pool_into_folds(dataset: Dataset, record: SplitRecord, n_folds: int | Sequence[int], notes: list[str]) -> SplitRecord:
    """Divide the training and validation images into folds. The order of the decoded images does not change."""
    if "valid" in set(dataset.table["split"]):
        notes.append(
            "The validation images that the data set specifies are added to the training images: "
            "with --folds, each of these images is used for validation once."
        )
    pooled = record.train.joined(record.valid)
    folds = fold_dataset(dataset, pooled.images, n_folds=n_folds, seed=record.seed)
    if not isinstance(n_folds, int) and max(folds) < n_folds[0]:
        notes.append(_fewer_folds_note(record.classes, pooled, max(folds), n_folds[0]))
    return dataclasses.replace(record, train=pooled, valid=PartRecord(images=(), labels=(), patients=()), folds=folds)


def _fewer_folds_note(classes: Sequence[str], pooled: PartRecord, n_folds: int, usual: int) -> str:
    labels = np.asarray(pooled.labels, np.int64)  # of classes: several findings are always divided into the usual number
    pairs = set(zip(labels.tolist(), pooled.patients, strict=True))
    n_patients, label = min((sum(label == other for other, _ in pairs), label) for label in set(labels.tolist()))
    return (
        f"The images are divided into {n_folds} folds instead of {usual}, because class '{classes[label]}' has only "
        f"{n_patients} patients outside of the test part. Scores of so few patients are imprecise."
    )


def _check_every_class(record: SplitRecord) -> None:
    for name, part in (("training", record.train), ("validation", record.judged)):
        missing = sorted(set(range(len(record.classes))) - set(part.labels))
        if missing:
            raise DataError(
                f"Every class needs readable {name} images; received none of '{record.classes[missing[0]]}'. "
                "See `automl-cxr data inspect`, make another split with --resplit, or exclude the class with --classes."
            )


def _check_findings(record: SplitRecord, notes: list[str]) -> None:
    """Add a note on findings without images with them or without them in a part.

    Raises:
        DataError: A part has no finding with both kinds of images, so that nothing can be trained or scored.
    """
    for name, part in (("training", record.train), ("validation", record.judged)):
        labels = np.asarray(part.labels, np.int64).reshape(len(part.labels), len(record.classes))
        is_known = (labels == PRESENT).any(axis=0) & (labels == ABSENT).any(axis=0)
        one_sided = [finding for finding, known in zip(record.classes, is_known, strict=True) if not known]
        if not is_known.any():
            raise DataError(
                f"A finding needs readable {name} images with it and without it; received both for none of "
                f"{', '.join(record.classes)}. See `automl-cxr data inspect`, or make another split with --resplit."
            )
        if one_sided:
            use = "trained" if name == "training" else "scored"
            notes.append(
                f"Findings without {name} images with them or without them, which cannot be {use}: {', '.join(one_sided)}."
            )


def _part(dataset: Dataset, rows: pd.DataFrame, images: list[str]) -> PartRecord:
    labels = dataset.labels_of(images).tolist()
    return PartRecord(
        images=tuple(images),
        labels=tuple(map(tuple, labels)) if dataset.is_multilabel else tuple(labels),
        patients=tuple(rows.loc[images, "patient_id"]),
    )


def _ignored_note(dataset: Dataset) -> str:
    path, reason = next(iter(dataset.ignored.items()))
    return f"{len(dataset.ignored)} files are ignored, such as {path} ({reason}). `automl-cxr data inspect` lists them all."


def _unreadable_note(record: SplitRecord) -> str:
    image, reason = next(iter(record.unreadable.items()))
    return (
        f"{len(record.unreadable)} of the training and validation images cannot be read and are excluded, "
        f"such as {image} ({reason}). `automl-cxr data inspect` lists them all."
    )


def digest_table(dataset: Dataset) -> str:
    """Return the SHA-256 of the image ids, labels, patients and given split of a data set, as hexadecimal digits."""
    table = dataset.table[["image", "label", "patient_id", "split"]]
    if dataset.findings is not None:
        codes = dataset.findings.loc[table["image"], list(dataset.classes)].reset_index(drop=True)
        table = pd.concat([table.drop(columns="label").reset_index(drop=True), codes], axis=1)
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
