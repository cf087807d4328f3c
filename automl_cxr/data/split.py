"""Training, validation and test parts: given by the data set or made by patient; and cross-validation folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.data.patient_folds import assign_patients
from automl_cxr.data.patients import DROP, SEPARATE, check_unknown_share
from automl_cxr.errors import DataError, UsageError

PARTS = ("train", "valid", "test")
_PATIENTS_SHOWN = 5  # in a message


@dataclass(frozen=True)
class Split:
    """The image ids of each part. A part that was made shares no patient with another part.

    Attributes:
        train: Image ids for training, sorted.
        valid: Image ids for the validation scores that the search optimises, sorted.
        test: Image ids for the final evaluation, which are not used before it, sorted.
        seed: Seed of the parts that were made.
        grouped: Whether patients are known, so that parts that were made share no patient.
        origin: "made", "given", or which parts were added to a given split, such as "given, valid made".
    """

    train: tuple[str, ...]
    valid: tuple[str, ...]
    test: tuple[str, ...]
    seed: int
    grouped: bool
    origin: str

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}


def split_dataset(
    dataset: Dataset,
    image_ids: Sequence[str],
    *,
    valid_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
) -> Split:
    """Split a data set by patient, stratified by class or by all findings. Parts that the data set gives are unchanged.

    Missing parts are taken from the training part, without patients who are in a given part. The result depends on the set of
    ids and not on their order.

    Args:
        dataset: Labels, patients and the given split.
        image_ids: The images to use: those that could be decoded.
        valid_fraction: Share of the images for the validation part, if it is to be made; above 0, below 0.5.
        test_fraction: The same for the test part, or 0 for no test part unless the data set gives one.
        seed: Seed of the assignment of patients to parts.

    Raises:
        UsageError: A fraction is out of range, or an id is not in the data set.
        DataError: A class has too few patients for the parts that are to be made, or no training image; or too many images have
            no patient, and the user has not chosen what to do with them.
    """
    fractions = {"valid": valid_fraction, "test": test_fraction}
    for part, fraction in fractions.items():
        if not 0 < fraction < 0.5 and not (part == "test" and fraction == 0):
            raise UsageError(f"{part}_fraction must be above 0 and below 0.5; received {fraction}. Try 0.15.")
    images = _select_images(dataset, image_ids)
    given = set(images["split"]) - {""}
    made = {part: fraction for part, fraction in fractions.items() if part not in given and fraction > 0}
    part_of_image = images["split"].replace("", "train")
    if made:
        pinned = set(images.loc[part_of_image != "train", "patient_id"])
        pool = images[part_of_image == "train"]
        _check_patients(dataset, pool)
        shares = {"train": 1 - sum(made.values()), **made}
        parts, scarce = _assign(dataset, pool, shares, pinned, seed)
        if scarce is not None:
            raise DataError(_too_few_patients_message(dataset, pool, scarce, tuple(shares), noun="parts to be made"))
        part_of_image.update(parts)
    _check_every_class(images["label"], part_of_image, _required_classes(dataset), ("train", *made))
    _check_disjoint(images["patient_id"], part_of_image, made)
    return Split(
        **{part: tuple(images["image"][part_of_image == part]) for part in PARTS},
        seed=seed,
        grouped=dataset.patients_known,
        origin=_describe_origin(given, made),
    )


def fold_dataset(dataset: Dataset, image_ids: Sequence[str], *, n_folds: int | Sequence[int], seed: int = 0) -> tuple[int, ...]:
    """Divide images into folds of equal size by patient, stratified by class or by all findings.

    The folds depend on the set of ids and not on their order. A split that the data set gives is ignored.

    Args:
        dataset: Labels and patients.
        image_ids: The images to divide.
        n_folds: Number of folds, 2 or more; or several numbers, of which the first is used with which every class has a
            patient in every fold.
        seed: Seed of the assignment of patients to folds.

    Returns:
        The fold of each image, from 1, in the order of ``image_ids``. No patient is in two folds.

    Raises:
        UsageError: There are fewer than two folds, or an id is not in the data set.
        DataError: A class has fewer patients than there are folds; or too many images have no patient, and the user has not
            chosen what to do with them.
    """
    candidates = (n_folds,) if isinstance(n_folds, int) else tuple(n_folds)
    if min(candidates) < 2:
        raise UsageError(f"Folds must be 2 or more; received {min(candidates)}. Try 5.")
    images = _select_images(dataset, image_ids)
    _check_patients(dataset, images)
    for number in candidates:
        shares = {str(fold): 1 / number for fold in range(1, number + 1)}
        folds, scarce = _assign(dataset, images, shares, set(), seed)
        if scarce is None:
            break
    if scarce is not None:
        raise DataError(_too_few_patients_message(dataset, images, scarce, tuple(shares), noun="folds"))
    _check_every_class(images["label"], folds, _required_classes(dataset), tuple(shares))
    _check_disjoint(images["patient_id"], folds, shares)
    fold_of_image = dict(zip(images["image"], map(int, folds), strict=True))
    return tuple(fold_of_image[image] for image in image_ids)


def _select_images(dataset: Dataset, image_ids: Sequence[str]) -> pd.DataFrame:
    selected = set(image_ids)
    images = dataset.table[dataset.table["image"].isin(selected)].sort_values("image", ignore_index=True)
    if len(images) < len(selected):
        unknown = min(selected - set(images["image"]))
        raise UsageError(f"Only images of the data set can be split; received '{unknown}'. Use ids from its table.")
    return images


def _check_patients(dataset: Dataset, images: pd.DataFrame) -> None:
    n_unknown = int(images["image"].isin(dataset.without_patient).sum())
    check_unknown_share(n_unknown, len(images), dataset.unknown_patients)


def _describe_origin(given: set[str], made: Mapping[str, float]) -> str:
    if not given:
        return "made"
    return f"given, {' and '.join(made)} made" if made else "given"


def _required_classes(dataset: Dataset) -> tuple[str, ...]:
    """Return the classes that every part needs. A finding may be absent from a part, where it is not scored."""
    return () if dataset.is_multilabel else dataset.classes


def _assign(
    dataset: Dataset, pool: pd.DataFrame, shares: Mapping[str, float], pinned: set[str], seed: int
) -> tuple[pd.Series[str], str | None]:
    """Assign each image of the pool to one of the parts in ``shares``, whole patients at a time.

    Args:
        dataset: The data set, with the labels.
        pool: The images, with their patients.
        shares: Share of the images for each part, above 0; they sum to 1.
        pinned: Patients who must be in the first part.
        seed: Seed of the assignment.

    Returns:
        The part of each image, with the index of the pool; and the class with the fewest patients among those that have no
        patient in a part, or None.

    Raises:
        DataError: Images may have several findings, and a part gets no patient.
    """
    labels = dataset.labels_of(list(pool["image"]))
    numbers = assign_patients(labels, list(pool["patient_id"]), list(shares.values()), seed=seed, pinned=pinned)
    if dataset.is_multilabel and len(set(numbers.tolist())) < len(shares):
        n_patients = pool["patient_id"].nunique()
        raise DataError(
            f"Each of {len(shares)} parts or folds needs a patient; received {n_patients} patients that can be assigned. Add "
            "images of other patients, or use fewer --folds, or --test-fraction 0."
        )
    scarce = [name for index, name in enumerate(_required_classes(dataset)) if len(set(numbers[labels == index])) < len(shares)]
    parts = pd.Series(np.array(list(shares), dtype=object)[numbers], index=pool.index)
    return parts, min(scarce, key=lambda name: len(_patients_of(pool, name)), default=None)


def _patients_of(pool: pd.DataFrame, name: str) -> list[str]:
    return sorted(set(pool.loc[pool["label"] == name, "patient_id"]))


def _too_few_patients_message(dataset: Dataset, pool: pd.DataFrame, name: str, parts: Sequence[str], *, noun: str) -> str:
    patients = _patients_of(pool, name)
    listed = ", ".join(f"'{patient}'" for patient in patients[:_PATIENTS_SHOWN])
    return (
        f"Each class needs a patient in each of the {len(parts)} {noun}; class '{name}' has {len(patients)} "
        f"patient{'' if len(patients) == 1 else 's'} that can be assigned"
        f"{f': {listed}' if listed else ''}{', ...' if len(patients) > _PATIENTS_SHOWN else ''}. "
        f"Add images of other patients, or {', or '.join(_ways_out(dataset, len(patients), parts, noun))}."
    )


def _ways_out(dataset: Dataset, n_patients: int, parts: Sequence[str], noun: str) -> Iterator[str]:
    """Yield the options that make parts possible for a class with too few patients."""
    if noun == "folds" and n_patients > 1:
        yield "use fewer --folds"
    if "test" in parts and n_patients == len(parts) - 1:
        yield "make no test part, --test-fraction 0"
    if len(dataset.classes) > 2:
        yield "leave the class out with --classes"
        yield "join it with another class, --class-map CLASS=OTHER"
        if dataset.used_tables:
            yield "choose one finding against all images without it, --finding NAME"
    if dataset.unknown_patients == DROP and dataset.without_patient:
        yield f"use the {len(dataset.without_patient)} images without a patient, --unknown-patients {SEPARATE}"
    if dataset.patients_known:
        yield "correct the patients, if these are not single persons, with --patients REGEX or --patient-column"


def _check_every_class(
    labels: pd.Series[str], part_of_image: pd.Series[str], classes: Sequence[str], parts: Sequence[str]
) -> None:
    for part in parts:
        missing = [name for name in classes if name not in set(labels[part_of_image == part])]
        if missing:
            raise DataError(
                f"Every class needs images in the {part} part; {', '.join(missing)} has none. "
                "Add images there, make another split with --resplit, or leave the class out with --classes."
            )


def _check_disjoint(patients: pd.Series[str], part_of_image: pd.Series[str], made: Mapping[str, float]) -> None:
    """Check that no patient is in two parts, which would make scores optimistic."""
    for part in made:
        shared = set(patients[part_of_image == part]) & set(patients[part_of_image != part])
        if shared:
            raise DataError(f"A patient must be in one part; '{min(shared)}' is in {part} and elsewhere. Report this as a bug.")
