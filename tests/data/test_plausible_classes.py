"""Folders that are not classes are refused with the options that read the data."""

from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.errors import DataError, UsageError

WriteFolders = Callable[..., Path]


def images(folders: list[str], n: int = 3) -> list[str]:
    return [f"{folder}/{number}.png" for folder in folders for number in range(n)]


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        (["train", "val"], r"partly names of parts \(train, val\)"),
        (["stage_2_train_images", "stage_2_test_images"], "partly names of storage folders"),
        (["lungMask", "heartMask"], r"partly masks \(heartMask, lungMask\)"),  # beside other folders, masks are left out
        (["images", "annotations"], "partly names of storage folders"),
        (["normal", "pneumonia", "figures"], r"partly names of storage folders \(figures\)"),
        (["p10", "p11", "p12"], "numbers or identifiers"),
        (["patient00001", "patient00002"], "numbers or identifiers"),
        (["1.2.840.113619.1", "1.2.840.113619.2"], "numbers or identifiers"),
        (["images_001", "images_002"], "partly names of storage folders"),
        (["anna", "bert", "carl", "dora"], "too many for 12 images: fewer than 5 images for a class on average"),
    ],
)
def test_folders_that_are_not_classes_are_refused(write_folders: WriteFolders, folders: list[str], reason: str) -> None:
    root = write_folders(images(folders))
    with pytest.raises(DataError, match=f"Classes must be findings .* which are {reason}.*with --classes ") as caught:
        load_dataset(root)
    assert "\n" not in str(caught.value)
    assert load_dataset(root, DataOptions(layout="folders")).classes == tuple(sorted(folders))
    assert load_dataset(root, DataOptions(classes=folders[:2])).classes == tuple(folders[:2])


@pytest.mark.parametrize(
    "folders",
    [["0", "1"], ["COVID-19", "normal"], ["covid", "no_finding", "pneumonia"], ["stage1", "stage2"], ["Viral Pneumonia", "TB"]],
)
def test_usual_classes_are_not_refused(write_folders: WriteFolders, folders: list[str]) -> None:
    assert load_dataset(write_folders(images(folders))).classes == tuple(sorted(folders))


def test_a_folder_with_few_images_beside_classes_is_refused(write_folders: WriteFolders) -> None:
    root = write_folders([*images(["normal", "pneumonia"], 12), *images(["odd"], 2)])
    with pytest.raises(DataError, match=r"partly folders with few images \(odd 2\)"):
        load_dataset(root)


def test_more_than_200_classes_are_refused_in_tables_too(write_folders: WriteFolders) -> None:
    root = write_folders([f"{number}.png" for number in range(201)])
    (root / "labels.csv").write_text("path,label\n" + "".join(f"{number}.png,c{number}\n" for number in range(201)))
    with pytest.raises(DataError, match="more than 200"):
        load_dataset(root)


@pytest.mark.parametrize("outer", [["hospital_a", "hospital_b"], ["patient001", "patient002"]])
def test_classes_below_other_folders_are_proposed(write_folders: WriteFolders, outer: list[str]) -> None:
    root = write_folders(images([f"{folder}/{label}" for folder in outer for label in ("normal", "pneumonia")]))
    with pytest.raises(DataError) as caught:
        load_dataset(root)
    assert "the folders normal, pneumonia, with --label-regex '^[^/]+/([^/]+)/'; or these folders, with --layout" in str(
        caught.value
    )
    assert load_dataset(root, DataOptions(label_regex="^[^/]+/([^/]+)/")).classes == ("normal", "pneumonia")


def test_the_table_beside_storage_folders_is_proposed(write_folders: WriteFolders) -> None:
    root = write_folders(images(["p10", "p11"]))
    (root / "list.csv").write_text("file no,a,b\n0,x,1\n1,y,2\n2,z,3\n")
    (root / "scores.csv").write_text(
        "where,a,b\n" + "".join(f"{path},x{n},{n}\n" for n, path in enumerate(images(["p10", "p11"])))
    )
    with pytest.raises(
        DataError,
        match=r"with --labels \S+scores\.csv --path-column where --label-column NAME \(its columns are where, a, b\); or",
    ):
        load_dataset(root)


def test_folders_with_data_sets_of_their_own_are_refused(write_folders: WriteFolders) -> None:
    root = write_folders(images(["one/images", "two/images"]))
    for name in ("one", "two"):
        (root / name / "labels.csv").write_text("path,label\nimages/0.png,a\nimages/1.png,b\n")
    with pytest.raises(DataError, match=r"data sets of their own \(one: csv, two: csv\)\. Use one of them, .* \S+/one;"):
        load_dataset(root)


def test_a_lone_folder_is_entered(write_folders: WriteFolders) -> None:
    root = write_folders(images(["set/data/normal", "set/data/pneumonia"]))
    (root / "README.txt").write_text("text")
    dataset = load_dataset(root)
    assert (dataset.root, dataset.classes) == (root / "set" / "data", ("normal", "pneumonia"))
    assert dataset.notes[0] == "The data are read from the only folder, set/data."


def test_parts_inside_of_class_folders_are_used_unless_a_new_split_is_chosen(write_folders: WriteFolders) -> None:
    root = write_folders(images(["normal/train", "normal/test", "pneumonia/train", "pneumonia/test"]))
    dataset = load_dataset(root)
    assert (dataset.layout, dataset.classes) == ("class-splits", ("normal", "pneumonia"))
    assert dict(dataset.table["split"].value_counts()) == {"train": 6, "test": 6}
    again = load_dataset(root, DataOptions(resplit=True))
    assert set(again.table["split"]) == {""}
    assert "The parts that the data give are not used (--resplit): train 6, test 6 images." in again.notes


def test_a_given_part_with_a_handful_of_images_is_noted(write_folders: WriteFolders) -> None:
    root = write_folders([*images(["train/a", "train/b"], 20), *images(["val/a", "val/b"], 4)])
    note = "The valid part that the data give has 8 of 48 images, too few for reliable scores. --resplit makes a new split by"
    assert any(found.startswith(note) for found in load_dataset(root).notes)


def test_a_lone_folder_beside_a_table_is_refused_with_both_ways(write_folders: WriteFolders) -> None:
    root = write_folders([f"imgs/{label}/{label}{n}.png" for label in ("normal", "tb") for n in range(4)])
    rows = [f"{label}{n},{label},{n}\n" for label in ("normal", "tb") for n in range(4)]
    (root / "list.csv").write_text("".join(["scan,reading,age\n", *rows]))
    with pytest.raises(DataError) as caught:
        load_dataset(root)
    assert "--path-column scan --label-column NAME (its columns are scan, reading, age); or the folders in it" in str(
        caught.value
    )
    assert "--classes" not in str(caught.value)
    with pytest.raises(UsageError, match=r"--finding applies to .* with --labels \S+list\.csv --path-column scan"):
        load_dataset(root, DataOptions(finding="tb"))
    chosen = DataOptions(labels=str(root / "list.csv"), path_column="scan", label_column="reading", finding="tb")
    assert load_dataset(root, chosen).classes == ("no tb", "tb")
