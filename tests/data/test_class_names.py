"""Class names that are probably mistakes: nearly equal names, and texts for a missing label."""

from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.class_names import is_placeholder
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.errors import DataError

WriteFolders = Callable[..., Path]


@pytest.mark.parametrize(
    ("one", "other"), [("Normal", "normal"), ("no finding", "No  Finding"), ("caf\u00e9", "cafe\u0301"), ('normal"', "normal")]
)
def test_nearly_equal_classes_are_refused_unless_classes_are_named(write_folders: WriteFolders, one: str, other: str) -> None:
    root = write_folders([f"{one}/1.png", f"{other}/2.png", f"{other}/3.png", "covid/4.png"])
    with pytest.raises(DataError, match="must differ in more than case") as refused:
        load_dataset(root)
    for name, n_images in ((one, 1), (other, 2)):
        assert f"'{name}' ({n_images} images)" in str(refused.value)
    dataset = load_dataset(root, DataOptions(classes=[other, "covid"]))
    assert len(dataset.table) == 3
    assert dataset.notes[0].endswith("are nearly equal, and only those in --classes are used.")
    assert load_dataset(root, DataOptions(classes=[one, other, "covid"])).classes == (one, other, "covid")


def test_class_folders_that_differ_in_outer_spaces_are_one_class(write_folders: WriteFolders) -> None:
    dataset = load_dataset(write_folders(["normal/1.png", "normal /2.png", " covid/3.png"]))
    assert dataset.classes == ("covid", "normal")
    assert list(dataset.table["label"]) == ["covid", "normal", "normal"]
    assert dataset.notes[0] == (
        "The class names 'normal', 'normal ' differ only in outer spaces and are used as one class, 'normal'."
    )


@pytest.mark.parametrize("name", ["nan", "-1", "unknown", "TODO", "N/A", "?", "-1.0"])
def test_a_label_of_a_table_that_stands_for_a_missing_one_is_not_used_unless_it_is_chosen(
    write_folders: WriteFolders, name: str
) -> None:
    root = write_folders([f"{number}.png" for number in range(3)])
    (root / "labels.csv").write_text(f"path,label\n0.png,normal\n1.png,opacity\n2.png,{name}\n")
    dataset = load_dataset(root)
    assert dataset.classes == ("normal", "opacity")
    note = f"Labels in labels.csv that are uncertain or missing are not used (--uncertain drop): '{name}' (1)."
    assert dataset.notes[0] == note
    assert dataset.n_uncertain + dataset.n_missing == 1
    chosen = load_dataset(root, DataOptions(classes=["normal", name]))
    assert chosen.classes == ("normal", name)
    assert note not in chosen.notes


def test_the_remedy_names_classes_only_if_two_remain(write_folders: WriteFolders) -> None:
    dataset = load_dataset(write_folders(["nan/1.png", "no finding/2.png"]))
    assert dataset.notes[0].endswith("If it is not a class, correct the labels.")
    dataset = load_dataset(write_folders(["nan/1.png", "no finding/2.png", "sick/3.png"]))
    assert dataset.notes[0].endswith("--classes 'no finding,sick'.")


@pytest.mark.parametrize("name", ["normal", "no finding", "other", "0", "1", "1.5", "negative", "nanoma"])
def test_usual_names_are_not_suspected(name: str) -> None:
    assert not is_placeholder(name)


def test_spellings_of_a_class_are_named_before_the_number_of_classes(write_folders: WriteFolders) -> None:
    spellings = ["Normal", "normal", "NORMAL", "Sick", "sick", "SICK"]
    root = write_folders([f"{number}.png" for number in range(12)])
    rows = [f"{number}.png,{spellings[number % 6]}\n" for number in range(12)]
    (root / "labels.csv").write_text("".join(["path,label\n", *rows]))
    with pytest.raises(DataError, match=r"must differ in more than case.*'NORMAL' \(2 images\) and 'Normal' \(2 images\)"):
        load_dataset(root)
