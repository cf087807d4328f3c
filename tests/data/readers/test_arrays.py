"""An array of images with a CSV file of labels, in the formats of NumPy, pandas and hand-written files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.layouts import find_layout
from automl_cxr.errors import DataError, UnknownNameError

WriteArray = Callable[..., Path]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 0]
IN_ORDER = [str(label) for label in LABELS]


@pytest.fixture
def write_array(tmp_path: Path) -> WriteArray:
    def write(name: str = "images.npy", *, n_images: int = len(LABELS), sides: tuple[int, ...] = (8, 9, 1)) -> Path:
        (tmp_path / "data").mkdir(exist_ok=True)
        np.save(tmp_path / "data" / name, np.zeros((n_images, *sides), np.uint8))
        return tmp_path / "data"

    return write


def labels_in_order(root: Path) -> list[str]:
    """Read the labels in the order of the array's rows."""
    dataset = load_dataset(root)
    assert dataset.layout == "arrays"
    return list(dataset.table["label"])


def lines(*texts: object) -> str:
    return "".join(f"{text}\n" for text in texts)


def test_an_array_with_labels_is_a_data_set_of_its_rows(write_array: WriteArray) -> None:
    root = write_array(n_images=13_260, sides=(64, 64, 1))
    pd.DataFrame({"label": np.arange(13_260) % 3}, dtype=float).to_csv(root / "labels.csv")
    dataset = load_dataset(root)
    assert dataset.layout == "arrays"
    assert dataset.classes == ("0", "1", "2")
    assert list(dataset.table["image"][[0, 12, 13_259]]) == [f"images.npy#{row:05d}" for row in (0, 12, 13_259)]
    assert dataset.table["label"][13_259] == "2"
    assert len(dataset.notes) == 2  # patients are unknown, and classes are numbers


@pytest.mark.parametrize(
    "content",
    [
        pd.Series(LABELS).to_csv(),
        pd.Series(LABELS, dtype=float).to_csv(),
        pd.DataFrame({"label": LABELS}).to_csv(index=False),
        pd.DataFrame({"Target": LABELS}).to_csv(),
        pd.DataFrame({"image_id": range(12), "Finding": LABELS}).to_csv(index=False),
        pd.DataFrame({"Unnamed: 0": range(12), "class": LABELS}).to_csv(index=False),
        pd.DataFrame({"row": range(12), "diagnosis": LABELS}).to_csv(index=False),
        lines(*LABELS),
        lines(*(f"{row},{label}" for row, label in enumerate(LABELS))),
        lines(*(f"{row:.18e},{label:.18e}" for row, label in enumerate(LABELS))),  # numpy.savetxt
        "\ufeff" + lines("Index , Label", *(f" {row} , {label}.0 " for row, label in enumerate(LABELS)), "", ""),
        lines("id,label", *(f"{row + 1},{label}" for row, label in enumerate(LABELS))),  # ids from 1
        lines("id,label", *(f"scan-{row}x,{label}" for row, label in enumerate(LABELS))),
    ],
)
def test_labels_are_found_in_all_formats(write_array: WriteArray, content: str) -> None:
    root = write_array()
    (root / "labels.csv").write_text(content, encoding="utf-8")
    assert labels_in_order(root) == IN_ORDER
    assert labels_in_order(root / "labels.csv") == IN_ORDER
    assert labels_in_order(root / "images.npy") == IN_ORDER
    assert len(load_dataset(root).notes) == 2  # patients are unknown, and classes are numbers


def test_rows_are_matched_by_an_index_that_counts_the_images(write_array: WriteArray) -> None:
    root = write_array()
    pd.Series(LABELS, name="label").sample(frac=1, random_state=1).to_csv(root / "labels.csv")
    assert labels_in_order(root) == IN_ORDER
    assert (
        "The rows of labels.csv are not in the order of the images. They are matched by the index column."
        in load_dataset(root).notes
    )


def test_an_index_of_a_larger_table_does_not_change_the_order(write_array: WriteArray) -> None:
    root = write_array()
    pd.Series(LABELS, index=[90 - 7 * row for row in range(12)], name="label").to_csv(root / "labels.csv")
    assert labels_in_order(root) == IN_ORDER
    assert load_dataset(root).notes[0].startswith("The index in labels.csv does not count the images from 0 or 1")


def test_an_index_with_gaps_does_not_change_the_order_and_is_reported(write_array: WriteArray) -> None:
    root = write_array()
    for name in (None, "id"):
        pd.Series(LABELS, index=pd.Index([3 * row for row in range(12)], name=name), name="label").to_csv(root / "labels.csv")
        assert labels_in_order(root) == IN_ORDER
        assert load_dataset(root).notes[0].startswith("The index in labels.csv does not count the images from 0 or 1")


@pytest.mark.parametrize("name", ["index", "Id", "image_id"])
def test_unsorted_numbers_that_do_not_count_the_images_are_refused(write_array: WriteArray, name: str) -> None:
    root = write_array()
    pd.DataFrame({name: [90 - 7 * row for row in range(12)], "label": LABELS}).to_csv(root / "labels.csv", index=False)
    with pytest.raises(DataError, match=rf"'{name}' of .* must count the 12 images .*; received 90, 83, 76, \.\.\.") as caught:
        load_dataset(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("first", [0, 1])
def test_an_index_may_count_from_0_or_1(write_array: WriteArray, first: int) -> None:
    root = write_array()
    numbers = list(range(first, first + 12))
    rotated = numbers[1:] + numbers[:1]
    pd.Series(LABELS[1:] + LABELS[:1], index=rotated, name="label").to_csv(root / "labels.csv")
    assert labels_in_order(root) == IN_ORDER
    pd.Series(LABELS, index=numbers, name="label").to_csv(root / "labels.csv")
    assert labels_in_order(root) == IN_ORDER


def test_texts_patients_parts_and_missing_labels_are_read(write_array: WriteArray) -> None:
    root = write_array(n_images=5, sides=(8, 8))
    rows = ["normal,007,train,PA", "x NA,1E5,test,AP", ",p,train,", "1.50,p,,", "07,p,val,"]
    (root / "labels.csv").write_text(lines("finding,patient_id,split,view", *rows))
    dataset = load_dataset(root, DataOptions(layout="arrays"))
    assert dataset.table.drop(columns="image").to_numpy().tolist() == [
        ["normal", "007", "train", "PA"],
        ["x NA", "1E5", "test", "AP"],
        ["1.50", "p", "train", ""],
        ["07", "p", "valid", ""],
    ]
    assert dataset.notes[0] == "1 rows of labels.csv have no label and are not used."


def test_the_label_column_is_a_known_name_or_the_only_other_column_or_chosen(write_array: WriteArray) -> None:
    root = write_array()
    rows = [f"{row},{label},{60 + row}" for row, label in enumerate(LABELS)]
    (root / "labels.csv").write_text(lines("index,reading,weight", *rows))
    with pytest.raises(DataError, match=r"must be in a column label\|.* received reading, weight\. Name it with --label"):
        load_dataset(root)
    chosen = load_dataset(root, DataOptions(label_column="Reading"))
    assert list(chosen.table["label"]) == IN_ORDER
    assert chosen.column_notes == ("labels.csv: columns used: index, reading; not used: weight.",)
    with pytest.raises(UnknownNameError, match=r"Unknown label column 'readings'\. Did you mean 'reading'"):
        load_dataset(root, DataOptions(label_column="readings"))
    (root / "labels.csv").write_text(
        lines("diagnosis,patient_id,index", *(f"{label},p,{row}" for row, label in enumerate(LABELS)))
    )
    assert labels_in_order(root) == IN_ORDER
    (root / "labels.csv").write_text(lines("age,target", *(f"{60 + row},{label}" for row, label in enumerate(LABELS))))
    assert labels_in_order(root) == IN_ORDER


@pytest.mark.parametrize("columns", ["{0},{1},{2}", "scan-{0},{1}", "{1},{2}"])
def test_several_columns_without_names_are_refused(write_array: WriteArray, columns: str) -> None:
    root = write_array()
    (root / "labels.csv").write_text(lines(*(columns.format(row, label, row % 2) for row, label in enumerate(LABELS))))
    with pytest.raises(DataError, match=r"received . columns without names\. Add a header"):
        load_dataset(root)


def test_a_header_is_never_read_as_a_label(write_array: WriteArray) -> None:
    # One label is missing. If the header were read as a label, each image would get the label of its neighbour.
    root = write_array()
    (root / "labels.csv").write_text(lines("diagnosis", *LABELS[1:]))
    with pytest.raises(DataError, match=r"images\.npy has 12 images, labels\.csv has 12 lines"):
        find_layout(root, DataOptions(layout="arrays")).read(root)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("3,a,b", r"line 5 of '.*labels\.csv' has 3 instead of 2"),
        ("3", r"line 5 of '.*labels\.csv' has 1 instead of 2"),
        ('3,"a', r"labels\.csv' is not valid CSV from line 5 on"),
    ],
)
def test_a_damaged_row_is_refused_with_its_line(write_array: WriteArray, row: str, reason: str) -> None:
    root = write_array()
    rows = [f"{number},{label}" for number, label in enumerate(LABELS)]
    (root / "labels.csv").write_text(lines("index,label", *rows[:3], row, *rows[4:]))
    for data in (root, root / "labels.csv", root / "images.npy"):
        with pytest.raises(DataError, match=reason):
            load_dataset(data)


def test_an_empty_label_does_not_shift_the_others(write_array: WriteArray) -> None:
    root = write_array()
    labels = ["a", "", *"ab" * 5]
    for text in (lines(*labels), pd.Series(labels, name="label").to_csv(index=False), lines("what", *labels)):
        (root / "labels.csv").write_text(text)
        table = load_dataset(root).table
        assert list(table["label"]) == ["a", *"ab" * 5]
        assert list(table["image"][:2]) == ["images.npy#00", "images.npy#02"]


def test_a_label_is_never_read_as_a_header(write_array: WriteArray) -> None:
    # There is one label too many. If the first line were read as a header, each image would get the label of its neighbour.
    root = write_array()
    (root / "labels.csv").write_text(lines(*LABELS, 1))
    with pytest.raises(DataError, match=r"images\.npy has 12 images, labels\.csv has 13 lines\. Make the numbers equal"):
        find_layout(root, DataOptions(layout="arrays")).read(root)


def test_a_header_with_unknown_names_is_a_header(write_array: WriteArray) -> None:
    root = write_array()
    (root / "labels.csv").write_text(lines("what", *(f"class {label}" for label in LABELS)))
    assert labels_in_order(root) == [f"class {label}" for label in LABELS]


def test_other_files_beside_the_pair_are_reported(write_array: WriteArray) -> None:
    root = write_array()
    write_array("test.npy", n_images=7)
    np.save(root / "features.npy", np.zeros((12, 512)))
    np.save(root / "names.npy", np.array([print] * 12, object), allow_pickle=True)
    (root / "labels.csv").write_text(lines(*LABELS))
    (root / "hospitals.csv").write_text("a,b\n1,2\n")
    dataset = load_dataset(root)
    assert len(dataset.table) == 12
    assert dataset.notes[:2] == (
        "Arrays without labels, which are not used: test.npy (7 images).",
        "Tables that match no array, which are not used: hospitals.csv.",
    )
    assert dataset.ignored["names.npy"] == "an array of Python objects, not of numbers"
    assert dataset.ignored["features.npy"].startswith("an array of shape (12, 512), not (n, height, width)")


def test_names_distinguish_files_with_equal_numbers_of_rows(write_array: WriteArray) -> None:
    for name in ("X_train.npy", "test_images.npy"):
        root = write_array(name)
    (root / "train_labels.csv").write_text(lines(*LABELS))
    (root / "y_test.csv").write_text(lines(*reversed(LABELS)))
    table = load_dataset(root).table
    assert list(table["label"][table["split"] == "train"]) == IN_ORDER
    assert list(table["label"][table["split"] == "test"]) == IN_ORDER[::-1]
    assert table["image"][0] == "X_train.npy#00"


def test_several_pairs_need_parts_in_their_names(write_array: WriteArray) -> None:
    root = write_array("train.npy")
    write_array("val.npy", n_images=3)
    (root / "one.csv").write_text(lines(*LABELS))
    (root / "two.csv").write_text(lines(0, 1, 2))
    assert load_dataset(root).table["split"].value_counts().to_dict() == {"train": 12, "valid": 3}
    (root / "train.npy").rename(root / "hospital.npy")
    with pytest.raises(
        DataError, match=r"equal for hospital\.npy with one\.csv, val\.npy with two\.csv\. Name the \.npy or the CSV"
    ):
        load_dataset(root)
    assert len(load_dataset(root / "hospital.npy").table) == 12


def test_ambiguous_pairs_are_refused_unless_a_file_is_named(write_array: WriteArray) -> None:
    root = write_array("ap.npy")
    write_array("pa.npy")
    (root / "labels.csv").write_text(lines(*LABELS))
    with pytest.raises(DataError, match=r"equal for ap\.npy with labels\.csv, pa\.npy with labels\.csv\. Name") as caught:
        load_dataset(root)
    assert "\n" not in str(caught.value)
    dataset = load_dataset(root / "pa.npy")
    assert dataset.root == root
    assert dataset.table["image"][0] == "pa.npy#00"


def test_the_error_for_an_array_without_a_table_names_the_table(write_array: WriteArray) -> None:
    root = write_array()
    with pytest.raises(DataError, match=r"needs a \.npy array of images beside a table .* images\.npy has 12 images"):
        load_dataset(root / "images.npy")
    with pytest.raises(DataError, match=r"but 1 other file 'images\.npy' .* Add its labels"):
        load_dataset(root)


def test_a_table_of_files_does_not_label_an_array(write_array: WriteArray, write_image: Callable[..., Path]) -> None:
    root = write_array("lung_masks.npy", n_images=2)
    for name in ("1.png", "2.png"):
        write_image(root / "images" / name)
    (root / "labels.csv").write_text("image,label\nimages/1.png,a\nimages/2.png,b\n")
    assert find_layout(root).name == "csv"
    assert find_layout(root / "labels.csv").name == "csv"


def test_arrays_in_class_folders_are_not_images(write_array: WriteArray, write_image: Callable[..., Path]) -> None:
    root = write_array()
    for name in ("a/1.png", "b/2.png"):
        write_image(root / name)
    (root / "images.npy").rename(root / "a" / "images.npy")
    dataset = load_dataset(root)
    assert (dataset.layout, list(dataset.table["image"])) == ("folders", ["a/1.png", "b/2.png"])


@pytest.mark.parametrize("labels", [[0, 1] * 6, [[0], [1]] * 6, [[1, 0], [0, 1]] * 6, [0.0, 1.0] * 6])
def test_labels_may_be_an_array(write_array: WriteArray, labels: list[object]) -> None:
    root = write_array("X_train.npy")
    write_array("X_test.npy")
    for part in ("train", "test"):
        np.save(root / f"y_{part}.npy", np.array(labels))
    dataset = load_dataset(root)
    names = ("class 0", "class 1") if np.ndim(labels) == 2 and np.shape(labels)[1] == 2 else ("0", "1")
    assert dataset.classes == names
    assert dataset.table["split"].value_counts().to_dict() == {"train": 12, "test": 12}
    assert list(dataset.table["label"]) == list(names) * 12


def test_an_archive_of_images_and_labels_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path / "cache"))
    sizes = {"train": 6, "val": 4, "test": 4}
    pixels = np.random.default_rng(0)
    images = {f"{part}_images": pixels.integers(0, 256, (n, 28, 28), np.uint8) for part, n in sizes.items()}
    labels = {f"{part}_labels": (np.arange(n) % 2)[:, None] for part, n in sizes.items()}
    np.savez_compressed(tmp_path / "pneumoniamnist.npz", **images, **labels)
    for root in (tmp_path / "pneumoniamnist.npz", tmp_path):
        dataset = load_dataset(root)
        assert (dataset.layout, dataset.classes) == ("arrays", ("normal", "pneumonia"))
        assert list(dataset.table["label"]) == ["normal", "pneumonia"] * 7
        assert dataset.table["split"].value_counts().to_dict() == {"train": 6, "valid": 4, "test": 4}
        assert decode_dataset(dataset.root, list(dataset.table["image"]), 16).unreadable == {}
    several = {f"{part}_labels": np.eye(14, dtype=int)[:n] + np.eye(14, k=1, dtype=int)[:n] for part, n in sizes.items()}
    np.savez(tmp_path / "pneumoniamnist.npz", **images, **several)
    unnamed = load_dataset(tmp_path, DataOptions(min_positives=2))
    assert unnamed.classes == tuple(f"class {n}" for n in range(6)), "also those that only one part has"
    expected = np.concatenate([several[f"{part}_labels"][:, :6] for part in ("test", "train", "val")])
    assert unnamed.labels_of(list(unnamed.table["image"])).tolist() == expected.tolist()
    assert load_dataset(tmp_path, DataOptions(finding="class 1")).table["label"].value_counts()["class 1"] == 6
    (tmp_path / "pneumoniamnist.npz").rename(tmp_path / "chestmnist_64.npz")
    chest = load_dataset(tmp_path, DataOptions(finding="cardiomegaly"))
    assert chest.table["label"].value_counts()["cardiomegaly"] == 6
    (tmp_path / "chestmnist_64.npz").unlink()
    (tmp_path / "pneumoniamnist.npz").write_bytes(b"text")
    with pytest.raises(DataError, match=r"pneumoniamnist\.npz is not an archive of numbers"):
        load_dataset(tmp_path / "pneumoniamnist.npz")


def test_an_archive_of_an_unknown_name_has_the_classes_that_the_user_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "data" / "train_val.npz"
    archive.parent.mkdir()
    np.savez(archive, train_images=np.zeros((6, 9, 9), np.uint8), train_labels=np.arange(6) % 2)
    assert load_dataset(archive).classes == ("0", "1")
    assert load_dataset(archive, DataOptions(class_map={"0": "normal", "1": "sick"})).classes == ("normal", "sick")
    np.savez(
        tmp_path / "data" / "pneumoniamnist.npz", train_images=np.zeros((6, 9, 9), np.uint8), train_labels=np.arange(6) % 3
    )
    assert load_dataset(tmp_path / "data" / "pneumoniamnist.npz").classes == ("0", "1", "2"), "these are not its classes"


def test_columns_of_0_and_1_are_classes_or_findings(write_array: WriteArray) -> None:
    root = write_array()
    (root / "labels.csv").write_text(lines("Normal,Pneumonia", *(f"{n % 2},{1 - n % 2}" for n in range(12))))
    assert load_dataset(root).table["label"].value_counts().to_dict() == {"Normal": 6, "Pneumonia": 6}
    (root / "labels.csv").write_text(lines("Mass,Nodule,Edema", *(f"{n % 2},{n % 3 // 2},0" for n in range(12))))
    several = load_dataset(root, DataOptions(min_positives=4))
    assert (several.classes, several.table["label"][5], several.table["label"][0]) == (
        ("Mass", "Nodule"),
        "Mass|Nodule",
        "No Finding",
    )
    chosen = load_dataset(root, DataOptions(finding="Nodule"))
    assert chosen.table["label"].value_counts().to_dict() == {"no Nodule": 8, "Nodule": 4}
