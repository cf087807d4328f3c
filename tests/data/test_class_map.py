"""Other names for classes: renamed, joined, left out, and mistakes in the map."""

from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.errors import DataError, UnknownNameError, UsageError

WriteFolders = Callable[..., Path]


@pytest.fixture
def numbered(write_folders: WriteFolders) -> Path:
    """Write a table of images with the labels 0, 1 and 2."""
    root = write_folders([f"images/{number}.png" for number in range(9)])
    rows = "".join(f"images/{number}.png,{number % 3}\n" for number in range(9))
    (root / "labels.csv").write_text(f"path,label\n{rows}")
    return root


@pytest.mark.parametrize(
    ("class_map", "counts"),
    [
        ("0=normal,1=pneumonia", {"normal": 3, "pneumonia": 3, "2": 3}),
        ({"0": "normal", "1": "ill", "2": "ill"}, {"normal": 3, "ill": 6}),
        ("0=normal, 2 = ", {"normal": 3, "1": 3}),
    ],
)
def test_classes_are_renamed_joined_or_left_out(numbered: Path, class_map: object, counts: dict[str, int]) -> None:
    dataset = load_dataset(numbered, DataOptions(class_map=class_map))  # type: ignore[arg-type]
    assert dataset.table["label"].value_counts().to_dict() == counts
    assert dataset.classes == tuple(sorted(counts))
    assert dataset.notes[0].startswith("Names of the classes in the data (--class-map): '0' is 'normal', ")


def test_a_table_of_names_is_read_when_the_options_are_made(numbered: Path, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text('class,name\n0,"normal, no finding"\n1,pneumonia\n2,\n')
    options = DataOptions(class_map=str(tmp_path / "names.csv"), classes=("pneumonia", "normal, no finding"))  # type: ignore[arg-type]
    (tmp_path / "names.csv").unlink()
    assert load_dataset(numbered, options).classes == ("pneumonia", "normal, no finding")


def test_the_map_applies_to_the_choice_of_a_finding(write_folders: WriteFolders) -> None:
    root = write_folders([f"images/{number}.png" for number in range(6)])
    rows = "".join(f"images/{number}.png,{'Mass|Nodule' if number % 2 else 'Nodule'}\n" for number in range(6))
    (root / "labels.csv").write_text(f"path,label\n{rows}")
    options = DataOptions(finding="Mass", class_map={"no Mass": "other"})
    assert load_dataset(root, options).classes == ("Mass", "other")


def test_numbered_classes_get_a_note_with_the_option(numbered: Path) -> None:
    assert "The classes are numbers. To give them names: --class-map 0=NAME,1=NAME,2=NAME." in load_dataset(numbered).notes


def test_classes_that_differ_in_case_are_joined_with_the_proposed_option(write_folders: WriteFolders) -> None:
    root = write_folders(["Normal/1.png", "normal/2.png", "covid/3.png"])
    with pytest.raises(DataError, match="such as --class-map Normal=normal, or"):
        load_dataset(root)
    assert load_dataset(root, DataOptions(class_map={"Normal": "normal"})).classes == ("covid", "normal")


@pytest.mark.parametrize(
    ("class_map", "error", "message"),
    [
        ("3=normal", UnknownNameError, "Unknown class in --class-map '3'. Known: 0, 1, 2"),
        ("0", UsageError, "received '0', which is neither"),
        ("", UsageError, "received '', which is neither"),
        ("0=a,0=b", UsageError, "received '0' twice"),
        ("0=a,1=a,2=a", DataError, "two classes or more; received a"),
    ],
)
def test_mistakes_in_a_map_are_refused(numbered: Path, class_map: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_dataset(numbered, DataOptions(class_map=class_map))  # type: ignore[arg-type]
