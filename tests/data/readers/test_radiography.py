"""Class folders with separate folders of images and masks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.layouts import find_layout
from automl_cxr.errors import DataError

WriteFolders = Callable[..., Path]
BOTH = [f"{label}/{kind}/{label}-1.png" for label in ("COVID", "Normal", "Viral Pneumonia") for kind in ("images", "masks")]


def test_masks_are_not_used_as_images(write_folders: WriteFolders) -> None:
    root = write_folders(BOTH)
    (root / "COVID.metadata.xlsx").write_bytes(b"PK")
    (root / "README.md.txt").write_text("no data")
    dataset = load_dataset(root)
    assert dataset.layout == "radiography"
    assert list(dataset.table["image"]) == [image for image in BOTH if "/images/" in image]
    assert dataset.classes == ("COVID", "Normal", "Viral Pneumonia")
    assert dataset.notes[0] == "3 files in mask folders are not radiographs and are not used."
    assert dataset.ignored == {}


def test_class_folders_in_part_folders_keep_the_part(write_folders: WriteFolders) -> None:
    images = [
        f"{part}/{label}/{kind}/1.png"
        for part in ("Train", "Val", "Test")
        for label in ("COVID", "Normal")
        for kind in ("images", "lung masks", "infection masks")
    ]
    root = write_folders([*images, "extra/COVID/images/9.png"])
    (root / "metadata.csv").write_text("image,patient_id,split\nTrain/COVID/images/1.png,p,test\n")
    dataset = load_dataset(root)
    assert dataset.layout == "radiography"
    assert list(dataset.table["split"]) == ["test", "test", "train", "train", "valid", "valid"]
    assert dataset.table.set_index("image").loc["Train/COVID/images/1.png", "patient_id"] == "p"
    assert dataset.notes[0].startswith("12 files in mask folders")
    assert dataset.ignored == {"extra/COVID/images/9.png": "outside of the folders train, valid and test"}


def test_other_files_of_a_class_are_reported(write_folders: WriteFolders) -> None:
    root = write_folders([*BOTH, "COVID/thumbs/1.png", "COVID/2.png", "3.png"])
    reason = "not in the images folder of a class folder"
    assert find_layout(root).read(root).ignored == dict.fromkeys(("COVID/thumbs/1.png", "COVID/2.png", "3.png"), reason)


@pytest.mark.parametrize(
    "images",
    [
        ["a/images/1.png", "b/images/2.png"],  # no folder of masks
        ["images/1.png", "masks/2.png"],  # these may be two classes
        ["a/images/1.png", "a/masks/1.png", "b/2.png"],  # only one class folder has this pattern
    ],
)
def test_class_folders_without_this_pattern_are_class_folders(write_folders: WriteFolders, images: list[str]) -> None:
    assert find_layout(write_folders(images)).name == "folders"


def test_a_file_is_refused(write_folders: WriteFolders) -> None:
    file = write_folders(["1.png"]) / "1.png"
    with pytest.raises(DataError, match="needs a folder of class folders; received the file"):
        find_layout(file, DataOptions(layout="radiography")).read(file)
