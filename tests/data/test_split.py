"""Splits and folds: disjoint patients, equal classes, and unchanged given parts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automl_cxr.data.dataset import COLUMNS, Dataset, load_dataset
from automl_cxr.data.split import PARTS, Split, fold_dataset, split_dataset
from automl_cxr.errors import DataError, UsageError


def make_dataset(rows: list[tuple[str, str, str]], classes: tuple[str, ...] = ("a", "b")) -> Dataset:
    """Build a data set from (label, patient, split) rows; the id of image i is 000i.png."""
    table = pd.DataFrame(
        [(f"{number:04d}.png", label, patient, split, "") for number, (label, patient, split) in enumerate(rows)],
        columns=list(COLUMNS),
    )
    return Dataset(Path("/nowhere"), "csv", table, classes, patients_known=True, ignored={}, notes=())


def make_rows(n_patients: int, *, split: str = "", prefix: str = "p", seed: int = 0) -> list[tuple[str, str, str]]:
    """Draw patients with 1 to 4 images; every third patient has class b."""
    sizes = np.random.default_rng(seed).integers(1, 5, n_patients)
    return [
        ("b" if patient % 3 == 0 else "a", f"{prefix}{patient}", split)
        for patient, size in enumerate(sizes)
        for _ in range(size)
    ]


def ids_of(dataset: Dataset) -> list[str]:
    return list(dataset.table["image"])


def patients_of(dataset: Dataset, split: Split, part: str) -> set[str]:
    return set(dataset.table.set_index("image").loc[list(getattr(split, part)), "patient_id"])


def assert_complete_and_disjoint(dataset: Dataset, split: Split) -> None:
    all_images = [image for part in PARTS for image in getattr(split, part)]
    assert sorted(all_images) == ids_of(dataset)
    patients_by_part = [patients_of(dataset, split, part) for part in PARTS]
    assert sum(map(len, patients_by_part)) == len(set.union(*patients_by_part))


@pytest.mark.parametrize("seed", range(5))
def test_covid3_is_split_by_patient_with_equal_classes(test_data: Path, seed: int) -> None:
    dataset = load_dataset(test_data / "data" / "covid3")
    split = split_dataset(dataset, ids_of(dataset), seed=seed)
    assert_complete_and_disjoint(dataset, split)
    assert (split.origin, split.grouped, split.seed) == ("made", True, seed)
    label = dataset.table.set_index("image")["label"]
    overall = label.value_counts(normalize=True)
    for part, share in (("train", 0.70), ("valid", 0.15), ("test", 0.15)):
        images = list(getattr(split, part))
        assert split.counts[part] == pytest.approx(share * 910, abs=5)
        assert (label[images].value_counts(normalize=True) - overall).abs().max() < 0.02


def test_a_split_depends_only_on_the_images_and_the_seed() -> None:
    dataset = make_dataset(make_rows(60))
    ids = ids_of(dataset)
    first = split_dataset(dataset, ids, seed=1)
    shuffled = Dataset(dataset.root, "csv", dataset.table.sample(frac=1, random_state=3), dataset.classes, True, {}, ())
    assert split_dataset(shuffled, ids[::-1], seed=1) == first
    assert split_dataset(dataset, ids, seed=2).test != first.test
    assert list(first.train) == sorted(first.train)


def test_fractions_are_shares_of_the_images() -> None:
    dataset = make_dataset(make_rows(120))
    split = split_dataset(dataset, ids_of(dataset), valid_fraction=0.1, test_fraction=0.3)
    assert split.counts["valid"] == pytest.approx(0.1 * len(dataset.table), abs=3)
    assert split.counts["test"] == pytest.approx(0.3 * len(dataset.table), abs=3)


def test_only_the_given_images_are_split() -> None:
    dataset = make_dataset(make_rows(60))
    ids = ids_of(dataset)[5:]
    split = split_dataset(dataset, ids)
    assert sorted(split.train + split.valid + split.test) == ids
    with pytest.raises(UsageError, match=r"received 'x\.png'"):
        split_dataset(dataset, [*ids, "x.png"])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (10, 1, 1), (1, 4, 9)])
def test_a_class_of_three_patients_is_in_all_parts(sizes: tuple[int, ...]) -> None:
    rare = [("b", f"rare{number}", "") for number, size in enumerate(sizes) for _ in range(size)]
    dataset = make_dataset([("a", f"p{number}", "") for number in range(40)] + rare)
    for seed in range(5):
        split = split_dataset(dataset, ids_of(dataset), seed=seed)
        assert_complete_and_disjoint(dataset, split)
        label = dataset.table.set_index("image")["label"]
        assert all("b" in set(label[list(getattr(split, part))]) for part in PARTS)


def test_the_error_for_too_few_patients_contains_the_class_and_the_number() -> None:
    rows = [("a", f"p{number}", "") for number in range(40)] + [("b", f"q{number % 2}", "") for number in range(30)]
    dataset = make_dataset(rows)
    message = r"class 'b' has 2 patients that can be assigned: 'q0', 'q1'\. .*--test-fraction 0, or .*--patients"
    with pytest.raises(DataError, match=message) as refused:
        split_dataset(dataset, ids_of(dataset))
    assert "--classes" not in str(refused.value), "one of two classes cannot be left out"
    assert set(split_dataset(dataset, ids_of(dataset), test_fraction=0).counts.values()) > {0}


def test_the_error_for_one_patient_names_the_ways_out_that_apply() -> None:
    rows = [(label, f"{label}{number}", "") for label in "ab" for number in range(9)] + [("c", "single", "")] * 9
    dataset = replace(make_dataset(rows, ("a", "b", "c")), unknown_patients="drop", without_patient=("x.png",))
    with pytest.raises(DataError, match=r"class 'c' has 1 patient .*: 'single'\. .*--classes.*1 images.*separate") as refused:
        split_dataset(dataset, ids_of(dataset), test_fraction=0)
    assert "--test-fraction" not in str(refused.value), "two parts need two patients, too"


@pytest.mark.parametrize("fractions", [{"valid_fraction": 0.0}, {"test_fraction": 0.5}, {"valid_fraction": -0.1}])
def test_fractions_out_of_range_are_refused(fractions: dict[str, float]) -> None:
    dataset = make_dataset(make_rows(30))
    with pytest.raises(UsageError, match=r"must be above 0 and below 0\.5; received"):
        split_dataset(dataset, ids_of(dataset), **fractions)


def given_images(dataset: Dataset, part: str) -> set[str]:
    return set(dataset.table.loc[dataset.table["split"] == part, "image"])


def test_a_complete_given_split_is_unchanged() -> None:
    rows = [row for part in PARTS for row in make_rows(10, split=part, prefix=part)]
    dataset = make_dataset(rows)
    split = split_dataset(dataset, ids_of(dataset), seed=7)
    assert split.origin == "given"
    assert {part: set(getattr(split, part)) for part in PARTS} == {part: given_images(dataset, part) for part in PARTS}
    assert split == split_dataset(dataset, ids_of(dataset), seed=7, valid_fraction=0.4)


@pytest.mark.parametrize(("existing", "made"), [("test", "valid"), ("valid", "test")])
def test_a_missing_part_is_taken_from_train(existing: str, made: str) -> None:
    dataset = make_dataset(make_rows(60, split="train") + make_rows(20, split=existing, prefix="q"))
    split = split_dataset(dataset, ids_of(dataset))
    assert split.origin == f"given, {made} made"
    assert_complete_and_disjoint(dataset, split)
    assert set(getattr(split, existing)) == given_images(dataset, existing)
    assert set(getattr(split, made)) < given_images(dataset, "train")
    assert split.counts[made] == pytest.approx(0.15 * len(given_images(dataset, "train")), abs=3)


def test_both_other_parts_are_taken_from_a_given_train_part() -> None:
    dataset = make_dataset(make_rows(60, split="train"))
    split = split_dataset(dataset, ids_of(dataset))
    assert split.origin == "given, valid and test made"
    assert_complete_and_disjoint(dataset, split)


@pytest.mark.parametrize(("existing", "made"), [("test", "valid"), ("valid", "test")])
def test_patients_of_a_given_part_are_never_in_a_made_part(existing: str, made: str) -> None:
    # The given parts share patients p0 to p19; the made part must not contain any of their patients.
    dataset = make_dataset(make_rows(60, split="train") + make_rows(20, split=existing))
    for seed in range(5):
        split = split_dataset(dataset, ids_of(dataset), seed=seed)
        made_patients = patients_of(dataset, split, made)
        assert made_patients
        assert not made_patients & patients_of(dataset, split, existing)
        assert not made_patients & patients_of(dataset, split, "train")


def test_a_class_without_training_images_is_refused() -> None:
    rows = [("a", f"p{number}", "train") for number in range(9)] + make_rows(9, split="valid", prefix="v")
    dataset = make_dataset(rows + make_rows(9, split="test", prefix="t"))
    with pytest.raises(DataError, match="in the train part; b has none"):
        split_dataset(dataset, ids_of(dataset))


def test_a_split_records_that_patients_are_unknown() -> None:
    with_patients = make_dataset(make_rows(60))
    dataset = Dataset(with_patients.root, "folders", with_patients.table, with_patients.classes, False, {}, ())
    assert not split_dataset(dataset, ids_of(dataset)).grouped


def assert_folds_are_disjoint_and_balanced(dataset: Dataset, ids: list[str], folds: tuple[int, ...], n_folds: int) -> None:
    table = dataset.table.set_index("image").loc[ids].assign(fold=folds)
    assert set(folds) == set(range(1, n_folds + 1))
    assert table.groupby("patient_id")["fold"].nunique().max() == 1
    assert table["fold"].value_counts().to_numpy() == pytest.approx(len(ids) / n_folds, abs=4)
    for _, of_class in table.groupby("label"):
        assert of_class["fold"].value_counts().to_numpy() == pytest.approx(len(of_class) / n_folds, abs=4)


@pytest.mark.parametrize("n_folds", [2, 3, 5])
def test_folds_separate_patients_and_have_equal_class_shares(n_folds: int) -> None:
    dataset = make_dataset(make_rows(90))
    ids = ids_of(dataset)
    folds = fold_dataset(dataset, ids, n_folds=n_folds, seed=1)
    assert_folds_are_disjoint_and_balanced(dataset, ids, folds, n_folds)
    reordered = fold_dataset(dataset, ids[::-1], n_folds=n_folds, seed=1)
    assert reordered == folds[::-1], "folds depend on the set of images, not on their order"
    assert fold_dataset(dataset, ids, n_folds=n_folds, seed=2) != folds


def test_folds_ignore_given_parts() -> None:
    rows = make_rows(40, split="train", prefix="t") + make_rows(20, split="valid", prefix="v")
    dataset = make_dataset([*rows, ("a", "t1", "valid")])
    ids = ids_of(dataset)
    assert_folds_are_disjoint_and_balanced(dataset, ids, fold_dataset(dataset, ids, n_folds=4), 4)


@pytest.mark.parametrize(("n_patients", "expected"), [(6, 5), (5, 5), (4, 3), (3, 3), (2, 2)])
def test_the_first_number_of_folds_is_used_for_which_a_class_has_enough_patients(n_patients: int, expected: int) -> None:
    rows = [("a", f"p{number}", "") for number in range(20)] + [("b", f"q{number}", "") for number in range(n_patients)]
    dataset = make_dataset(rows)
    folds = fold_dataset(dataset, ids_of(dataset), n_folds=(5, 3, 2))
    assert folds == fold_dataset(dataset, ids_of(dataset), n_folds=expected)
    assert_folds_are_disjoint_and_balanced(dataset, ids_of(dataset), folds, expected)


def test_a_class_with_one_patient_cannot_be_in_folds() -> None:
    dataset = make_dataset([("a", f"p{number}", "") for number in range(20)] + [("b", "q", "")] * 10)
    with pytest.raises(DataError, match=r"each of the 2 folds; class 'b' has 1 patient that can be assigned: 'q'\.") as refused:
        fold_dataset(dataset, ids_of(dataset), n_folds=(5, 3, 2))
    assert "--folds" not in str(refused.value)


def test_only_the_given_images_are_in_folds() -> None:
    dataset = make_dataset(make_rows(60))
    ids = ids_of(dataset)[7:]
    assert len(fold_dataset(dataset, ids, n_folds=3)) == len(ids)
    with pytest.raises(UsageError, match=r"received 'x\.png'"):
        fold_dataset(dataset, [*ids, "x.png"], n_folds=3)


def test_more_folds_than_a_class_has_patients_are_refused() -> None:
    rows = [("a", f"p{number}", "") for number in range(40)] + [("b", f"q{number % 4}", "") for number in range(30)]
    dataset = make_dataset(rows)
    assert set(fold_dataset(dataset, ids_of(dataset), n_folds=4)) == {1, 2, 3, 4}
    with pytest.raises(DataError, match=r"each of the 5 folds; class 'b' has 4 patients .* use fewer --folds"):
        fold_dataset(dataset, ids_of(dataset), n_folds=5)
    with pytest.raises(UsageError, match="2 or more; received 1"):
        fold_dataset(dataset, ids_of(dataset), n_folds=1)
