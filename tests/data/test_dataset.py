"""The table of a data set: ids, classes, patients and notes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import COLUMNS, load_dataset, load_image_paths
from automl_cxr.errors import AutomlCxrError, DataError, UnknownNameError, UsageError

WriteFolders = Callable[..., Path]
UNUSUAL_NAMES = ['it\'s, "so".png', "=1+1.png", "-rf.png", " lead.png", "бронхит 肺.png", "two\nlines.png", "100%.png"]


def test_covid3_has_the_documented_images_and_classes(test_data: Path) -> None:
    dataset = load_dataset(test_data / "data" / "covid3")
    assert dataset.layout == "folders"
    assert dataset.classes == ("covid", "no_finding", "pneumonia")
    assert dataset.table["label"].value_counts().to_dict() == {"no_finding": 408, "pneumonia": 402, "covid": 100}
    assert dataset.table["patient_id"].nunique() == 612
    assert dataset.patients_known
    assert (dataset.ignored, dataset.notes) == ({}, ())


def test_the_table_of_covid3_equals_its_folders(test_data: Path) -> None:
    folder = test_data / "data" / "covid3"
    by_table = load_dataset(folder / "metadata.csv")
    assert by_table.layout == "csv"
    pd.testing.assert_frame_equal(by_table.table, load_dataset(folder).table)


def test_the_table_is_sorted_and_complete(write_folders: WriteFolders, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folders(["b/2.png", "a/10.png", "a/9.png"])
    monkeypatch.chdir(root.parent)
    dataset = load_dataset("data")
    assert tuple(dataset.table.columns) == COLUMNS
    assert list(dataset.table["image"]) == ["a/10.png", "a/9.png", "b/2.png"]
    assert list(dataset.table.index) == [0, 1, 2]
    assert set(dataset.table["split"]) == {""}
    assert dataset.root == root  # absolute: a worker may run in another folder


def test_unusual_names_are_unchanged(write_folders: WriteFolders) -> None:
    root = write_folders([f"{label}/{name}" for label in ("a", "b, 'c'") for name in UNUSUAL_NAMES])
    dataset = load_dataset(root)
    assert dataset.classes == ("a", "b, 'c'")
    assert len(dataset.table) == 2 * len(UNUSUAL_NAMES)
    assert all((dataset.root / image).is_file() for image in dataset.table["image"])
    assert dataset.ignored == {}


def test_classes_select_and_order(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png", "c/3.png"])
    dataset = load_dataset(root, DataOptions(classes=["c", "a"]))
    assert dataset.classes == ("c", "a")
    assert list(dataset.table["image"]) == ["a/1.png", "c/3.png"]


def test_classes_named_na_and_none_are_classes(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png", "2.png"])
    (root / "labels.csv").write_text("image,label\n1.png,NA\n2.png,None\n")
    assert load_dataset(root).classes == ("NA", "None")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"classes": ["a", "bb"]}, UnknownNameError, "Unknown class 'bb'"),
        ({"classes": ["a", "a"]}, UsageError, "must be named once; received a, a"),
        ({"classes": ["a"]}, UsageError, "two classes or more; received a for"),
        ({"patients": "("}, UsageError, "must be a regular expression; received '('"),
        ({"patients": "patient-[0-9]+"}, UsageError, "gives no patient for any of 2, such as 'a/1.png'"),
        ({"layout": "dicom"}, UnknownNameError, "Unknown layout 'dicom'"),
        ({"layout": "csv"}, DataError, "exactly one table"),
    ],
)
def test_invalid_arguments_are_refused_on_one_line(
    write_folders: WriteFolders, arguments: dict[str, object], error: type[AutomlCxrError], message: str
) -> None:
    with pytest.raises(error) as caught:
        load_dataset(write_folders(["a/1.png", "b/2.png"]), DataOptions(**arguments))  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_single_class_folders_are_refused(write_folders: WriteFolders) -> None:
    with pytest.raises(DataError, match="must exist; received"):
        load_dataset(write_folders([]) / "nowhere")
    with pytest.raises(DataError, match=r"needs images .* found none in '[^']+'\. Check"):
        load_dataset(write_folders([]))
    with pytest.raises(DataError, match="found none in"):
        load_dataset(write_folders([]), DataOptions(layout="folders"))
    with pytest.raises(DataError, match=r"received a \(1 class\) .* the only folder with images\. Use a table"):
        load_dataset(write_folders(["a/1.png"]))


def test_without_patients_each_image_is_its_own_patient_with_one_note(write_folders: WriteFolders) -> None:
    dataset = load_dataset(write_folders(["a/1.png", "b/1.png"]))
    assert not dataset.patients_known
    assert dataset.table["patient_id"].nunique() == 2
    assert len(dataset.notes) == 1
    assert dataset.notes[0].startswith("Patients are unknown")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"^(?P<rest>.)(?P<patient>\d+)_", {"12", "34"}),
        (r"p(\d+)_", {"12", "34"}),
        (r"p\d+", {"p12", "p34"}),
    ],
)
def test_patients_are_found_in_file_names(write_folders: WriteFolders, pattern: str, expected: set[str]) -> None:
    dataset = load_dataset(write_folders(["a/p12_0.png", "a/p12_1.png", "b/p34_0.png"]), DataOptions(patients=pattern))
    assert dataset.patients_known
    assert set(dataset.table["patient_id"]) == expected
    assert dataset.notes == ()


def test_images_whose_names_do_not_match_are_their_own_patients(write_folders: WriteFolders) -> None:
    dataset = load_dataset(write_folders(["a/p1_0.png", "a/p1_1.png", "b/x.png", "b/y.png"]), DataOptions(patients=r"p\d+"))
    assert dataset.table["patient_id"].nunique() == 3
    assert dataset.without_patient == ("b/x.png", "b/y.png")
    assert [note.split(":")[0] for note in dataset.notes] == [
        "2 of 4 paths do not match --patients.",
        "2 of 4 images (50.0 %) have no patient",
    ]


def test_a_patient_in_two_given_parts_is_reported(write_folders: WriteFolders) -> None:
    images = ["train/a/p1_0.png", "train/b/p2_0.png", "test/a/p1_1.png", "test/b/p3_0.png"]
    dataset = load_dataset(write_folders(images), DataOptions(patients=r"p\d"))
    assert list(dataset.table["split"]) == ["test", "test", "train", "train"]
    assert [note.split(". ")[0] for note in dataset.notes] == [
        "1 patients (2 images) are in more than one part of the given split"
    ]


def test_images_without_a_split_are_used_for_training_if_others_have_one(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png", "2.png", "3.png"])
    (root / "labels.csv").write_text("image,label,split\n1.png,a,\n2.png,b,train\n3.png,a,test\n")
    dataset = load_dataset(root)
    assert list(dataset.table["split"]) == ["train", "train", "test"]
    assert "1 of 3 images have no split, but others do. They are used for training." in dataset.notes


def test_image_paths_for_prediction(write_folders: WriteFolders) -> None:
    root = write_folders(["b/2.png", "a/1.png", "a/.hidden.png", "c.dat"])
    (root / "empty").mkdir()
    (root / "dead.png").symlink_to("nowhere")
    found, unusable = load_image_paths([root / "c.dat", root, root / "a" / "1.png", root / "no.png", root / "empty"])
    assert [path.relative_to(root).as_posix() for path in found] == ["c.dat", "a/1.png", "b/2.png"]
    assert unusable == {
        str(root / "dead.png"): "broken symbolic link",
        str(root / "no.png"): "missing",
        str(root / "empty"): "a folder without images",
    }


def test_arrays_for_prediction_are_replaced_by_their_rows(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png"])
    np.save(root / "images.npy", np.zeros((12, 8, 8), np.uint8))
    np.save(root / "features.npy", np.zeros((12, 512)))
    (root / "scan.dcm").write_bytes(b"tried when it is decoded")
    rows = [f"images.npy#{row:02d}" for row in range(12)]
    found, unusable = load_image_paths([root])
    assert [path.relative_to(root).as_posix() for path in found] == ["1.png", *rows, "scan.dcm"]
    assert list(unusable) == [str(root / "features.npy")]
    assert unusable[str(root / "features.npy")].startswith("an array of shape (12, 512)")
    assert load_image_paths([root / "images.npy"]) == ([root / row for row in rows], {})
    one, missing = root / "images.npy#03", root / "gone.npy#03"
    assert load_image_paths([one, missing, root / "images.npy"])[0] == [one, *(root / row for row in rows if root / row != one)]
    assert load_image_paths([missing]) == ([], {str(missing): "missing"})
