"""Train, validation and test parts: the data set's own where it has them, made by patient where it does not; and folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.errors import DataError, UsageError

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class Split:
    """Which image serves for what. No patient of a part that was made stands in another part.

    Attributes:
        train: Image ids to learn from, sorted.
        valid: Image ids that the search chooses by, sorted.
        test: Image ids that stay sealed until the end, sorted.
        seed: Decided the parts that were made.
        grouped: True if patients are known, so that no patient stands on two sides.
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
        """Count the images of each part."""
        return {part: len(getattr(self, part)) for part in PARTS}


def split_dataset(
    dataset: Dataset,
    image_ids: Sequence[str],
    *,
    valid_fraction: float = 0.15,
    test_fraction: float = 0.15,
    seed: int = 0,
) -> Split:
    """Split a data set by patient, with the classes in equal shares; parts that it brings are kept as they are.

    Missing parts are taken from train, never from a given part, and leave out patients who stand in a given part. The
    result depends on the set of ids and not on their order.

    Args:
        dataset: Where labels, patients and the given split come from.
        image_ids: The images to use: those that could be decoded.
        valid_fraction: Share of the images to be split that goes to a validation part to be made; above 0, below 0.5.
        test_fraction: The same for a test part.
        seed: Decides which patients go where.

    Raises:
        UsageError: A fraction is out of range, or an id is not in the data set.
        DataError: A class has too few patients for the parts that are to be made, or no training image.
    """
    fractions = {"valid": valid_fraction, "test": test_fraction}
    for part, fraction in fractions.items():
        if not 0 < fraction < 0.5:
            raise UsageError(f"{part}_fraction must be above 0 and below 0.5; received {fraction}. Try 0.15.")
    images = _choose_images(dataset, image_ids)
    given = set(images["split"]) - {""}
    wanted = {part: fraction for part, fraction in fractions.items() if part not in given}
    part_of_image = images["split"].replace("", "train")
    if wanted:
        pinned = set(images.loc[part_of_image != "train", "patient_id"])
        pool = images[part_of_image == "train"]
        shares = {"train": 1 - sum(wanted.values()), **wanted}
        part_of_image.update(_deal_out(pool, dataset.classes, shares, pinned, seed, what="parts to be made"))
    _check_every_class(images["label"], part_of_image, dataset.classes, ("train", *wanted))
    _check_disjoint(images["patient_id"], part_of_image, wanted)
    return Split(
        **{part: tuple(images["image"][part_of_image == part]) for part in PARTS},
        seed=seed,
        grouped=dataset.patients_known,
        origin=_describe_origin(given, wanted),
    )


def fold_dataset(dataset: Dataset, image_ids: Sequence[str], *, n_folds: int, seed: int = 0) -> tuple[int, ...]:
    """Divide images into folds of equal size by patient, with the classes in equal shares.

    The folds depend on the set of ids and not on their order. Which part a data set gave its images to does not matter.

    Args:
        dataset: Where labels and patients come from.
        image_ids: The images to divide.
        n_folds: Folds to make, 2 or more.
        seed: Decides which patients go where.

    Returns:
        The fold of each image, from 1, in the order of ``image_ids``. No patient stands in two folds.

    Raises:
        UsageError: There are fewer than two folds, or an id is not in the data set.
        DataError: A class has fewer patients than there are folds.
    """
    if n_folds < 2:
        raise UsageError(f"Folds must be 2 or more; received {n_folds}. Try 5.")
    images = _choose_images(dataset, image_ids)
    shares = {str(fold): 1 / n_folds for fold in range(1, n_folds + 1)}
    dealt = _deal_out(images, dataset.classes, shares, set(), seed, what="folds")
    _check_every_class(images["label"], dealt, dataset.classes, tuple(shares))
    _check_disjoint(images["patient_id"], dealt, shares)
    fold_of_image = dict(zip(images["image"], map(int, dealt), strict=True))
    return tuple(fold_of_image[image] for image in image_ids)


def _choose_images(dataset: Dataset, image_ids: Sequence[str]) -> pd.DataFrame:
    wanted = set(image_ids)
    images = dataset.table[dataset.table["image"].isin(wanted)].sort_values("image", ignore_index=True)
    if len(images) < len(wanted):
        unknown = min(wanted - set(images["image"]))
        raise UsageError(f"Only images of the data set can be split; received '{unknown}'. Use ids from its table.")
    return images


def _describe_origin(given: set[str], wanted: Mapping[str, float]) -> str:
    if not given:
        return "made"
    return f"given, {' and '.join(wanted)} made" if wanted else "given"


def _deal_out(
    pool: pd.DataFrame, classes: Sequence[str], shares: Mapping[str, float], pinned: set[str], seed: int, *, what: str
) -> pd.Series[str]:
    """Assign each image of the pool to one of the parts that shares are given for, whole patients at a time.

    The patients are dealt out as in scikit-learn's StratifiedGroupKFold, those with most images first, but to parts of
    chosen sizes: each to the part that is then nearest to its share of every class.

    Args:
        pool: The images, with their labels and patients.
        classes: Class names.
        shares: Share of the images that each part is to get, above 0; they sum to 1.
        pinned: Patients who must go to the first part.
        seed: Decides which patients go where.
        what: What the parts are called in a message.

    Returns:
        The part of each image, indexed as the pool.
    """
    counts = pd.crosstab(pool["patient_id"], pool["label"]).reindex(columns=list(classes), fill_value=0)
    parts = tuple(shares)
    table = counts.to_numpy(float)
    is_pinned = counts.index.isin(list(pinned))
    shuffled = np.random.default_rng(seed).permutation(len(table))
    seats = np.where(is_pinned, 0, -1)
    _seat_every_class(table, seats, shuffled, len(parts), classes, what=what)
    _seat_the_rest(table, seats, shuffled, np.array([*shares.values()]))
    part_of_patient = dict(zip(counts.index, (parts[seat] for seat in seats), strict=True))
    return pool["patient_id"].map(part_of_patient)


def _seat_every_class(
    table: np.ndarray, seats: np.ndarray, shuffled: np.ndarray, n_parts: int, classes: Sequence[str], *, what: str
) -> None:
    """Give each part one patient of each class, from the rarest class on, the patients with fewest images first.

    Dealing by shares alone would leave a part without a class of three patients.

    Args:
        table: Images of each patient in each class (n_patients, n_classes).
        seats: Part of each patient, or -1; changed in place.
        shuffled: The patients in random order.
        n_parts: Parts there are; 0 is the one that patients may be pinned to.
        classes: Class names, for the message.
        what: What the parts are called in it.

    Raises:
        DataError: A class has fewer free patients than there are parts.
    """
    has_class = table > 0
    by_size = shuffled[np.argsort(table[shuffled].sum(axis=1), kind="stable")]
    for label in np.argsort(has_class.sum(axis=0), kind="stable"):
        n_free = int((has_class[:, label] & (seats != 0)).sum())
        n_patients = int(has_class[:, label].sum())
        if n_free < n_parts - 1 or n_patients < n_parts:
            raise DataError(_explain_too_few(classes[label], n_patients, n_parts, what))
        for part in range(n_parts):
            if has_class[seats == part, label].any():
                continue
            free = by_size[has_class[by_size, label] & (seats[by_size] == -1)]
            if not free.size:
                raise DataError(_explain_too_few(classes[label], n_patients, n_parts, what))
            seats[free[0]] = part


def _seat_the_rest(table: np.ndarray, seats: np.ndarray, shuffled: np.ndarray, shares: np.ndarray) -> None:
    """Deal out the patients without a seat, each where the sum of (have - target)^2 / target falls most."""
    target = np.maximum(shares[:, None] * table.sum(axis=0), 1e-9)
    have = np.stack([table[seats == part].sum(axis=0) for part in range(len(shares))])
    for patient in shuffled[np.argsort(-table[shuffled].sum(axis=1), kind="stable")]:
        if seats[patient] >= 0:
            continue
        images = table[patient]
        cost = (images * (images + 2 * (have - target)) / target).sum(axis=1)
        seats[patient] = cost.argmin()
        have[seats[patient]] += images


def _explain_too_few(name: str, n_patients: int, n_parts: int, what: str) -> str:
    return (
        f"Each class needs a patient in each of the {n_parts} {what}; class '{name}' has {n_patients} "
        f"patient{'' if n_patients == 1 else 's'} that can be dealt out. Add images of other patients, leave the class "
        f"out with --classes, or {'take fewer --folds' if what == 'folds' else 'give the split yourself'}."
    )


def _check_every_class(
    labels: pd.Series[str], part_of_image: pd.Series[str], classes: Sequence[str], parts: Sequence[str]
) -> None:
    for part in parts:
        missing = [name for name in classes if name not in set(labels[part_of_image == part])]
        if missing:
            raise DataError(
                f"Every class needs images in the {part} part; {', '.join(missing)} has none. "
                "Add images there, or leave the class out with --classes."
            )


def _check_disjoint(patients: pd.Series[str], part_of_image: pd.Series[str], made: Mapping[str, float]) -> None:
    """Stop rather than let a score be reported that leaked: guards the promise of ``Split``."""
    for part in made:
        shared = set(patients[part_of_image == part]) & set(patients[part_of_image != part])
        if shared:
            raise DataError(f"A patient must be in one part; '{min(shared)}' is in {part} and elsewhere. Report this.")
