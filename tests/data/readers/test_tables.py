"""Tables as people and public data sets write them."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

import automl_cxr
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.readers.findings import are_regions, from_texts
from automl_cxr.errors import DataError, UnknownNameError, UsageError

WriteFolders = Callable[..., Path]
N = 12
IMAGES = [f"images/scan {n:02}.png" for n in range(N)]
LABELS = [("normal", "pneumonia")[n % 2] for n in range(N)]
PATIENTS = [f"P{n // 4}{n % 2}" for n in range(N)]


def table(rows: Sequence[Sequence[object]], separator: str = ",") -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(rows)
    return text.getvalue()


def counts(dataset: Dataset) -> dict[str, int]:
    return dict(dataset.table["label"].value_counts())


@pytest.fixture
def root(write_folders: WriteFolders) -> Path:
    return write_folders(IMAGES)


ROWS = {
    "semicolons with a decimal comma": table(
        [["path", "dose", "label"], *([path, "0,35", label] for path, label in zip(IMAGES, LABELS, strict=True))], ";"
    ),
    "other names": table([["Image Path", "Class_Name"], *zip(IMAGES, LABELS, strict=True)]),
    "paths of another computer": table(
        [
            ["path", "label"],
            *((f"D:\\CXR\\{path}".replace("/", "\\"), label) for path, label in zip(IMAGES, LABELS, strict=True)),
        ]
    ),
    "names only": table([["file_name", "diagnosis"], *((path[7:], label) for path, label in zip(IMAGES, LABELS, strict=True))]),
    "without suffix": table([["image", "label"], *((path[:-4], label) for path, label in zip(IMAGES, LABELS, strict=True))]),
    "one column for each class": table(
        [["filename", "normal", "pneumonia"], *((path, n % 2 == 0, n % 2 == 1) for n, path in enumerate(IMAGES))]
    ),
    "unknown names": table([["picture of", "reading"], *zip(IMAGES, LABELS, strict=True)]),
    "no header": table([[path, label] for path, label in zip(IMAGES, LABELS, strict=True)]),
}


@pytest.mark.parametrize("text", ROWS.values(), ids=ROWS)
def test_a_table_by_a_person_is_understood(root: Path, text: str) -> None:
    (root / "labels.csv").write_text(text)
    dataset = load_dataset(root / "labels.csv")
    assert counts(dataset) == {"normal": 6, "pneumonia": 6}
    assert dict(zip(dataset.table["image"], dataset.table["label"], strict=True)) == dict(zip(IMAGES, LABELS, strict=True))


@pytest.mark.parametrize("name", ["patient_id", "Patient ID", "subject_id", "pid", "MRN", "patient_no"])
def test_the_columns_of_patients_and_views_have_usual_names(root: Path, name: str) -> None:
    rows = zip(IMAGES, LABELS, PATIENTS, ["PA"] * N, strict=True)
    (root / "labels.csv").write_text(table([["path", "label", name, "View Position"], *rows]))
    dataset = load_dataset(root)
    assert dataset.patients_known
    assert list(dataset.table["patient_id"]) == PATIENTS
    assert set(dataset.table["view"]) == {"PA"}
    assert dataset.used_tables[0].columns["patient_id"] == name


def test_every_column_can_be_chosen(root: Path, tmp_path: Path) -> None:
    rows = zip(IMAGES, LABELS, PATIENTS, ["train"] * 8 + ["test"] * 4, ["PA"] * N, ["x"] * N, strict=True)
    labels = tmp_path / "elsewhere.tsv"
    labels.write_text(table([["where", "what", "who", "which", "how", "label"], *rows], "\t"))
    columns = {"path_column": "where", "label_column": "What", "patient_column": "who", "split_column": "which"}
    dataset = load_dataset(root, DataOptions(labels=str(labels), view_column="how", **columns))
    assert counts(dataset) == {"normal": 6, "pneumonia": 6}
    assert list(dataset.table["patient_id"]) == PATIENTS
    assert dict(dataset.table["split"].value_counts()) == {"train": 8, "test": 4}
    assert set(dataset.table["view"]) == {"PA"}
    assert dataset.used_tables[0].unused == ("label",)
    for option in ("path_column", "patient_column", "split_column", "view_column"):
        with pytest.raises(UnknownNameError, match=f"Unknown {option.replace('_', ' ')} 'wher'"):
            load_dataset(root, DataOptions(labels=str(labels), **{**columns, option: "wher"}))


def test_a_folder_of_images_can_be_named(root: Path, tmp_path: Path) -> None:
    labels = tmp_path / "table" / "labels.csv"
    labels.parent.mkdir()
    labels.write_text(table([["path", "label"], *zip(IMAGES, LABELS, strict=True)]))
    with pytest.raises(DataError, match=r"none of 12 images can be used, for example .* Name their folder with --images"):
        load_dataset(labels)
    dataset = load_dataset(labels, DataOptions(images=str(root)))
    assert (dataset.root, len(dataset.table)) == (root, N)
    with pytest.raises(DataError, match="images must be in an existing folder"):
        load_dataset(labels, DataOptions(images=str(root / "no")))
    with pytest.raises(DataError, match="table of labels must be a file"):
        load_dataset(root, DataOptions(labels=str(root / "no.csv")))


def test_a_name_that_fits_several_files_is_refused(write_folders: WriteFolders) -> None:
    root = write_folders(["a/x/1.png", "b/x/1.png", "a/x/2.png", "b/x/3.png"])
    (root / "labels.csv").write_text("path,label\n1.png,n\n2.png,p\n3.png,p\n")
    with pytest.raises(DataError, match=r"'1\.png' in 'labels\.csv' fits 2 files, such as 'a/x/1\.png' and 'b/x/1\.png'"):
        load_dataset(root / "labels.csv")
    (root / "labels.csv").write_text("path,label\nold/a/x/1.png,n\nold/b/x/1.png,p\n2.png,p\nold/b/x/3.png,p\n")
    found = load_dataset(root / "labels.csv").table
    assert list(found["image"]) == ["a/x/1.png", "a/x/2.png", "b/x/1.png", "b/x/3.png"]
    assert list(found["label"]) == ["n", "p", "p", "p"]


def test_a_missing_file_is_not_replaced_by_another_of_the_same_name(write_folders: WriteFolders) -> None:
    root = write_folders(["p1/img.png", "p3/img.png", "p4/other.png"])
    (root / "labels.csv").write_text("path,label\np1/img.png,n\np2/img.png,p\np3/img.png,p\n")
    dataset = load_dataset(root / "labels.csv")
    assert list(dataset.table["image"]) == ["p1/img.png", "p3/img.png"]
    assert dataset.ignored == {"p2/img.png": "listed in labels.csv but missing"}


# Several findings, uncertain and missing labels


def test_several_findings_are_outputs_or_one_label_is_chosen(root: Path) -> None:
    texts = ["Effusion|Mass", "No Finding", "Effusion", ""] * 3
    (root / "labels.csv").write_text(table([["path", "findings"], *zip(IMAGES, texts, strict=True)]))
    several = load_dataset(root, DataOptions(min_positives=3))
    assert (several.classes, counts(several)) == (("Effusion", "Mass"), {"Effusion": 3, "Effusion|Mass": 3, "No Finding": 3})
    with pytest.raises(DataError) as caught:
        load_dataset(root, DataOptions(task="multiclass"))
    assert "9 images with findings in labels.csv, 3 of them with several ('Effusion' 6, " in str(caught.value)
    assert "--finding 'Effusion'" in str(caught.value)
    assert counts(load_dataset(root, DataOptions(finding="Mass"))) == {"Mass": 3, "no Mass": 6}
    single = load_dataset(root, DataOptions(classes=("Effusion", "No Finding")))
    assert counts(single) == {"Effusion": 3, "No Finding": 3}
    (root / "labels.csv").write_text(table([["path", "labels"], *zip(IMAGES, ["['a b', 'c']", "['c']"] * 6, strict=True)]))
    assert counts(load_dataset(root, DataOptions(finding="a b"))) == {"a b": 6, "no a b": 6}


def test_findings_with_names_of_other_columns_can_be_chosen(root: Path) -> None:
    rows = [(path, n % 2, n // 2 % 2, n // 3 % 2) for n, path in enumerate(IMAGES)]
    (root / "labels.csv").write_text(table([["path", "label", "image", "Edema, mild"], *rows]))
    by_default = load_dataset(root, DataOptions(min_positives=1))
    assert by_default.classes == ("label", "image", "Edema, mild"), "the column label is one of several columns of 0 and 1"
    of_label = load_dataset(root, DataOptions(min_positives=1, label_column="label"))
    assert of_label.classes == ("0", "1")
    names = ("image", "label", "Edema, mild")
    dataset = load_dataset(root, DataOptions(min_positives=1, findings=names))
    assert (dataset.task, dataset.classes) == ("multilabel", names)
    assert dataset.labels_of(list(dataset.table["image"])).tolist() == [[b, a, c] for path, a, b, c in sorted(rows)]


@pytest.mark.parametrize(
    ("texts", "findings"),
    [
        (["a|b", "c", "d"], {"a", "b", "c", "d"}),
        (["a;b", "a;c", "d"], {"a", "b", "c", "d"}),
        (["a, b", "a", "b"], {"a", "b"}),
        (["a/b", "a", "b"], {"a", "b"}),
        (["['a', 'b']", "[]", "['c']"], {"a", "b", "c"}),
        (["a, b", "a, c", "d"], {"a, b", "a, c", "d"}),  # names that contain a comma
        (["Nodule/Mass", "Mass", "other"], {"Nodule/Mass", "Mass", "other"}),
        (["a;b", "c;d"], {"a;b", "c;d"}),
    ],
)
def test_several_findings_are_separated(texts: list[str], findings: set[str]) -> None:
    assert {name for found in from_texts(texts) for name in found.present} == findings


@pytest.mark.parametrize(
    ("texts", "are"),
    [
        (["1 2 3 4", "-1", ""], True),
        (["2 10 20 30 40;0 1 2 3 4", "nan"], True),
        (["1 2", "3 4"], False),  # too few numbers for a region
        (["1", "0"], False),
        (["1 2 3 4", "normal"], False),
        (["", "-1"], False),
    ],
)
def test_columns_of_regions(texts: list[str], are: bool) -> None:
    assert are_regions(texts) is are


@pytest.mark.parametrize(
    ("uncertain", "expected"),
    [
        ("drop", {"Edema": 3, "no Edema": 3}),
        ("zeros", {"Edema": 3, "no Edema": 9}),
        ("ones", {"Edema": 6, "no Edema": 6}),
    ],
)
def test_uncertain_and_missing_findings_follow_the_choice(root: Path, uncertain: str, expected: dict[str, int]) -> None:
    states = [("1.0", "1.0"), ("0.0", "1.0"), ("-1.0", "0.0"), ("", "1.0")] * 3
    rows = [[path, *state] for path, state in zip(IMAGES, states, strict=True)]
    (root / "labels.csv").write_text(table([["Path", "Edema", "Fracture"], *rows]))
    dataset = load_dataset(root, DataOptions(finding="edema", uncertain=uncertain))
    assert counts(dataset) == expected
    assert (dataset.n_uncertain, dataset.n_missing) == (3, 3)
    assert any("uncertain for 3 and missing for 3 of 12 images: " in note for note in dataset.notes)


def test_an_image_without_any_finding_has_no_missing_ones(root: Path) -> None:
    rows = [[path, *(["1.0", "", ""] if n % 2 else ["", "1.0", ""])] for n, path in enumerate(IMAGES)]
    (root / "labels.csv").write_text(table([["Path", "No Finding", "Edema", "Mass"], *rows]))
    dataset = load_dataset(root, DataOptions(finding="Edema"))
    assert (counts(dataset), dataset.n_missing) == ({"Edema": 6, "no Edema": 6}, 0)


def test_uncertain_labels_of_one_column_follow_the_choice(root: Path) -> None:
    texts = ["1.0", "0.0", "-1.0", "nan"] * 3
    (root / "labels.csv").write_text(table([["path", "label"], *zip(IMAGES, texts, strict=True)]))
    assert counts(load_dataset(root)) == {"1.0": 3, "0.0": 3}
    assert counts(load_dataset(root, DataOptions(uncertain="ones"))) == {"1.0": 6, "0.0": 6}
    with pytest.raises(UnknownNameError, match="Unknown choice for uncertain labels 'one'"):
        load_dataset(root, DataOptions(uncertain="one"))
    texts = ["normal", "opacity", "unknown", "opacity"] * 3
    (root / "labels.csv").write_text(table([["path", "label"], *zip(IMAGES, texts, strict=True)]))
    with pytest.raises(UsageError, match="--uncertain zeros needs the labels 0 and 1; received normal, opacity"):
        load_dataset(root, DataOptions(uncertain="zeros"))


def test_the_majority_of_the_readers_decides(root: Path) -> None:
    rows = [["image_id", "rad_id", "No finding", "Mass", "Edema"]]
    for n, path in enumerate(IMAGES):
        votes = [(0, 1, 0), (0, 1, n % 2), (1, 0, n % 2)]  # of two images one has Edema for two of three readers
        rows += [[path[7:-4], f"R{reader}", *vote] for reader, vote in enumerate(votes)]
    (root / "labels.csv").write_text(table(rows))
    assert counts(load_dataset(root, DataOptions(finding="Edema"))) == {"Edema": 6, "no Edema": 6}
    several = load_dataset(root, DataOptions(min_positives=0))
    assert several.classes == ("Mass", "Edema")
    assert several.labels_of(list(several.table["image"])).sum(axis=0).tolist() == [12, 6]


# Inspection


def test_the_normal_form_is_read_identically(root: Path) -> None:
    rows = zip(IMAGES, LABELS, [*PATIENTS[:-1], ""], ["train"] * 8 + ["test"] * 4, strict=True)
    (root / "labels.csv").write_text(table([["path", "label", "MRN", "split"], *rows]))
    found = automl_cxr.inspect(root, save=root / "study-data.csv", unknown_patients="separate")
    assert list(found.columns["use"]) == ["image", "patient_id", "split", "label"]
    assert len(found.examples) == 3
    assert set(found.examples["label"]) == {"normal", "pneumonia"}
    assert "<table" in found._repr_html_()
    options = DataOptions(unknown_patients="separate")
    one, other = load_dataset(root / "labels.csv", options), load_dataset(root / "study-data.csv", options)
    pd.testing.assert_frame_equal(one.table, other.table)
    assert (one.classes, one.without_patient) == (other.classes, other.without_patient)
    with pytest.raises(UsageError, match="must not replace the table that is read"):
        automl_cxr.inspect(root / "labels.csv", save=root / "labels.csv")
    (root / "study-data.csv").unlink()
    for function, option in ((automl_cxr.inspect, "save"), (automl_cxr.audit, "fix")):
        for data, labels in ((root, None), (root / "images", root / "labels.csv")):
            with pytest.raises(UsageError, match=f"must not replace the table that is read.*--{option}"):
                function(data, labels=labels, **{option: root / "labels.csv"})
    with pytest.raises(UnknownNameError, match="Unknown keyword 'label_colum'"):
        automl_cxr.inspect(root, label_colum="x")


def test_the_columns_without_use_are_shown_once(root: Path) -> None:
    rows = zip(IMAGES, LABELS, range(40, 52), strict=True)
    (root / "labels.csv").write_text(table([["path", "label", "weight"], *rows]))
    found = automl_cxr.inspect(root)
    assert found.unused_columns == ("weight",)
    assert not any("not used: weight" in note for note in found.notes), "inspect prints the table of columns"
    assert load_dataset(root).column_notes == ("labels.csv: columns used: path, label; not used: weight.",)
