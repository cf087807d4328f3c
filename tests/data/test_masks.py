"""Masks are left out by the names of their folders and files."""

from collections.abc import Callable
from pathlib import Path

import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.masks import is_mask
from automl_cxr.errors import DataError

WriteFolders = Callable[..., Path]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("masks/1.png", True),
        ("ManualMask/leftMask/MCUCXR_0001_0.png", True),
        ("normal/lung masks/1.png", True),
        ("normal/1_mask.png", True),
        ("normal/mask-1.png", True),
        ("normal/1_seg.png", True),
        ("normal/LungSegmentation/1.png", True),
        ("left lung masks/normal/1.png", True),
        ("Lung Segmentation/CXR_png/1.png", False),
        ("Chest Xray Masks and Labels/CXR_png/1.png", False),
        ("/home/masks/study/images/1.png", False),
        ("/home/study/masks/1.png", True),
        ("normal/1.png", False),
        ("normal/unmasked_1.png", False),
        ("normal/seg_1.png", False),
        ("masked/1.png", False),
    ],
)
def test_names_of_masks(path: str, expected: bool) -> None:
    assert is_mask(path) is expected


@pytest.mark.parametrize(
    "masks", [["masks/1.png", "masks/2.png"], ["a/1_mask.png", "b/1_mask.png"], ["a/ManualMask/1.png", "b/left_mask/1.png"]]
)
def test_masks_are_left_out_and_counted(write_folders: WriteFolders, masks: list[str]) -> None:
    images = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]
    dataset = load_dataset(write_folders([*images, *masks]))
    assert list(dataset.table["image"]) == images
    assert "2 of 6 images are masks" in dataset.notes[0]


def test_a_folder_beside_masks_is_no_class(write_folders: WriteFolders) -> None:
    root = write_folders(["CXR_png/1.png", "CXR_png/2.png", "ManualMask/leftMask/1.png", "ManualMask/leftMask/2.png"])
    with pytest.raises(DataError, match=r"received CXR_png \(1 class\) .* the only folder with images"):
        load_dataset(root)


def test_masks_in_a_table_are_left_out(write_folders: WriteFolders) -> None:
    root = write_folders(["x/1.png", "x/2.png", "x/1_mask.png"])
    (root / "labels.csv").write_text("path,label\nx/1.png,a\nx/2.png,b\nx/1_mask.png,a\n")
    assert list(load_dataset(root / "labels.csv").table["image"]) == ["x/1.png", "x/2.png"]


def test_a_class_that_is_named_is_used(write_folders: WriteFolders) -> None:
    root = write_folders(["mask/1.png", "normal/1.png"])
    dataset = load_dataset(root, DataOptions(classes=("mask", "normal")))
    assert len(dataset.table) == 2


def test_names_of_all_images_are_no_sign_of_masks(write_folders: WriteFolders) -> None:
    dataset = load_dataset(write_folders(["a/mask_1.png", "b/mask_2.png"]))
    assert len(dataset.table) == 2
    assert "All 2 images have names of masks" in dataset.notes[0]
