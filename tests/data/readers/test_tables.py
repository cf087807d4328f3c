"""Tables as people and public data sets write them."""

import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest

import automl_cxr
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
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
    with pytest.raises(DataError, match="folder of the images must exist"):
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


def test_several_findings_need_a_choice(root: Path) -> None:
    texts = ["Effusion|Mass", "No Finding", "Effusion", ""] * 3
    (root / "labels.csv").write_text(table([["path", "findings"], *zip(IMAGES, texts, strict=True)]))
    with pytest.raises(DataError) as caught:
        load_dataset(root)
    assert "9 images with findings in labels.csv, 3 of them with several ('Effusion' 6, " in str(caught.value)
    assert "--finding 'Effusion'" in str(caught.value)
    assert counts(load_dataset(root, DataOptions(finding="Mass"))) == {"Mass": 3, "no Mass": 6}
    single = load_dataset(root, DataOptions(classes=("Effusion", "No Finding")))
    assert counts(single) == {"Effusion": 3, "No Finding": 3}
    (root / "labels.csv").write_text(table([["path", "labels"], *zip(IMAGES, ["['a b', 'c']", "['c']"] * 6, strict=True)]))
    assert counts(load_dataset(root, DataOptions(finding="a b"))) == {"a b": 6, "no a b": 6}


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
    with pytest.raises(DataError, match=r"12 images with findings .* 6 of them with several \('Mass' 12, 'Edema' 6\)"):
        load_dataset(root)


# Public data sets


def test_chexpert(write_folders: WriteFolders) -> None:
    head = ["Path", "Sex", "Frontal/Lateral", "AP/PA", "No Finding", "Pleural Effusion", "Support Devices"]
    rows = {"train": [head], "valid": [head]}
    for part, first in (("train", 1), ("valid", 64541)):
        for n in range(6):
            for view in ("frontal", "lateral"):
                path = f"CheXpert-v1.0-small/{part}/patient{first + n:05}/study1/view1_{view}.jpg"
                states = ["", "1.0", "1.0"] if n % 2 else ["", "0.0", "-1.0"]
                rows[part].append([path, "F", view.title(), "AP" if view == "frontal" else "", *states])
    root = write_folders([row[0] for part in rows.values() for row in part[1:]], "chexpert")
    for part, lines in rows.items():
        (root / "CheXpert-v1.0-small" / f"{part}.csv").write_text(table(lines))
    with pytest.raises(DataError, match="--finding 'Pleural Effusion'"):
        load_dataset(root)
    dataset = load_dataset(root, DataOptions(finding="Pleural Effusion"))
    assert dataset.layout == "chexpert"
    assert counts(dataset) == {"Pleural Effusion": 12, "no Pleural Effusion": 12}
    assert dict(dataset.table["split"].value_counts()) == {"train": 12, "valid": 12}
    assert dict(dataset.table["view"].value_counts()) == {"AP": 12, "Lateral": 12}
    assert dataset.table["patient_id"].nunique() == 12
    assert dataset.notes[0] == "The data are read from the only folder, CheXpert-v1.0-small."


def test_mimic_joins_its_tables(write_folders: WriteFolders) -> None:
    split = [["dicom_id", "study_id", "subject_id", "split"]]
    meta = [["dicom_id", "subject_id", "study_id", "ViewPosition"]]
    labels = [["subject_id", "study_id", "Edema", "No Finding"]]
    images = []
    for n in range(8):
        subject, study, image = 10000032 + n, 50414267 + n, f"{n:08x}-aaaa"
        images.append(f"files/p10/p{subject}/s{study}/{image}.jpg")
        split.append([image, study, subject, "validate" if n == 3 else "test" if n > 5 else "train"])
        meta.insert(1, [image, subject, study, "PA" if n % 2 else "LATERAL"])
        labels.insert(1, [subject, study, "1.0" if n % 2 else "", "" if n % 2 else "1.0"])
    root = write_folders(images)
    for name, rows in (("split", split), ("metadata", meta), ("chexpert", labels)):
        (root / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress(table(rows).encode()))
    dataset = load_dataset(root, DataOptions(finding="Edema"))
    assert (dataset.layout, counts(dataset)) == ("mimic", {"Edema": 4, "no Edema": 4})
    found = dataset.table.set_index("image")
    assert list(found.loc[images[3]]) == ["Edema", "10000035", "valid", "PA"]
    assert dict(found["split"].value_counts()) == {"train": 5, "test": 2, "valid": 1}


def test_padchest(write_folders: WriteFolders) -> None:
    texts = ["['normal']", "['pneumonia', 'COPD signs']", "['exclude']", ""] * 3
    rows = [["", "ImageID", "ImageDir", "PatientID", "Projection", "MethodLabel", "Labels"]]
    rows += [[n, f"{n}_a.png", n % 2, n // 2, "PA", "Physician", text] for n, text in enumerate(texts)]
    root = write_folders([f"{n % 2}/{n}_a.png" for n in range(N)])
    (root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text(table(rows))
    dataset = load_dataset(root, DataOptions(finding="pneumonia"))
    assert (dataset.layout, counts(dataset)) == ("padchest", {"no pneumonia": 3, "pneumonia": 3})
    assert dataset.n_missing == 6
    assert dataset.patients_known


def test_vindr_has_the_majority_of_its_readers(write_folders: WriteFolders) -> None:
    train, test = [["image_id", "rad_id", "Pneumonia", "No finding"]], [["image_id", "Pneumonia", "No finding"]]
    for n in range(8):
        for reader in range(3):
            is_ill = n % 2 and reader < 2  # two of three readers
            train.append([f"{n:032x}", f"R{reader}", int(is_ill), int(not is_ill)])
    test += [[f"{n:032x}", int(n % 2), int(not n % 2)] for n in range(8, 12)]
    images = [f"{'train' if n < 8 else 'test'}/{n:032x}.dicom" for n in range(N)]
    root = write_folders(images)
    (root / "annotations").mkdir()
    (root / "annotations" / "image_labels_train.csv").write_text(table(train))
    (root / "annotations" / "image_labels_test.csv").write_text(table(test))
    dataset = load_dataset(root)
    assert (dataset.layout, counts(dataset)) == ("vindr", {"No finding": 6, "Pneumonia": 6})
    assert dict(dataset.table["split"].value_counts()) == {"train": 8, "test": 4}
    kaggle = [["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"]]
    for n in range(8):
        for reader in range(3):
            is_ill = n % 2 and reader < 2
            kaggle += [[f"{n:032x}", "Mass" if is_ill else "No finding", 1, f"R{reader}", 1, 2, 3, 4]] * (1 + is_ill)
    (root / "train.csv").write_text(table(kaggle))
    dataset = load_dataset(root, DataOptions(layout="vindr-kaggle"))
    assert counts(dataset) == {"No finding": 4, "Mass": 4}


def test_rsna_has_a_row_for_each_box(write_folders: WriteFolders) -> None:
    rows, kinds = [["patientId", "x", "y", "width", "height", "Target"]], [["patientId", "class"]]
    for n in range(N):
        rows += [[f"{n:08x}", box, 2, 3, 4, 1] for box in range(2)] if n % 2 else [[f"{n:08x}", "", "", "", "", 0]]
        kinds.append([f"{n:08x}", ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal", "Lung Opacity")[n % 4]])
    root = write_folders([*(f"stage_2_train_images/{n:08x}.dcm" for n in range(N)), "stage_2_test_images/ff.dcm"])
    (root / "stage_2_train_labels.csv").write_text(table(rows))
    (root / "stage_2_detailed_class_info.csv").write_text(table(kinds))
    dataset = load_dataset(root)
    assert (dataset.layout, counts(dataset)) == ("rsna", {"Lung Opacity": 6, "no Lung Opacity": 6})
    assert "1 images on disk are not listed in stage_2_train_labels.csv and are not used." in dataset.notes
    by_class = load_dataset(root, DataOptions(label_column="class"))
    assert counts(by_class) == {"Lung Opacity": 6, "Normal": 3, "No Lung Opacity / Not Normal": 3}


def test_covidx_has_tables_without_a_header(write_folders: WriteFolders) -> None:
    parts = {"train": range(6), "val": range(6, 8), "test": range(8, 12)}
    root = write_folders([f"{part}/{n}.png" for part, numbers in parts.items() for n in numbers])
    for part, numbers in parts.items():
        lines = [f"p{n} {n}.png {'positive' if n % 2 else 'negative'} ricord" for n in numbers]
        (root / f"{part}.txt").write_text("\n".join(lines))
    dataset = load_dataset(root)
    assert (dataset.layout, counts(dataset)) == ("covidx", {"negative": 6, "positive": 6})
    assert dict(dataset.table["split"].value_counts()) == {"train": 6, "valid": 2, "test": 4}
    assert dataset.table["patient_id"].nunique() == N


def test_the_collection_of_ieee8023_is_read_without_computed_tomography(write_folders: WriteFolders) -> None:
    rows = [["patientid", "finding", "view", "modality", "folder", "filename", "clinical_notes"]]
    for n in range(N):
        finding = "todo" if n == 0 else ("Pneumonia/Viral/COVID-19", "No Finding")[n % 2]
        rows.append([n // 2, finding, "PA", "CT" if n > 9 else "X-ray", "images", f"{n}.png", "infiltrates,\nboth lungs"])
    root = write_folders([*(f"images/{n}.png" for n in range(N)), "annotations/lungVAE-masks/1_mask.png"])
    (root / "metadata.csv").write_text(table(rows))
    dataset = load_dataset(root)
    assert (dataset.layout, counts(dataset)) == ("ieee8023", {"No Finding": 5, "Pneumonia/Viral/COVID-19": 4})
    assert "2 rows of metadata.csv are not used: their modality is not X-ray." in dataset.notes


def test_siim_covid_joins_studies_to_images(write_folders: WriteFolders) -> None:
    images, studies = [["id", "boxes", "label", "StudyInstanceUID"]], [["id", "Negative for Pneumonia", "Typical Appearance"]]
    for n in range(N):
        images.append([f"{n:012x}_image", "", "none 1 0 0 1 1", f"study{n}"])
        studies.insert(1, [f"study{n}_study", int(n % 2 == 0), n % 2])
    root = write_folders([f"train/study{n}/series/{n:012x}.dcm" for n in range(N)])
    (root / "train_image_level.csv").write_text(table(images))
    (root / "train_study_level.csv").write_text(table(studies))
    dataset = load_dataset(root)
    assert (dataset.layout, counts(dataset)) == ("siim-covid", {"Negative for Pneumonia": 6, "Typical Appearance": 6})


def test_tuberculosis_sets_have_the_label_in_the_name(write_folders: WriteFolders) -> None:
    names = [f"MCUCXR_{n:04}_{n % 2}" for n in range(N)]
    root = write_folders([f"{folder}/{name}.png" for folder in ("CXR_png", "ManualMask/leftMask") for name in names])
    dataset = load_dataset(root)
    assert (dataset.layout, counts(dataset)) == ("tuberculosis", {"normal": 6, "tuberculosis": 6})
    chosen = load_dataset(root, DataOptions(label_regex=r"^CXR_png/.*_(\d)\.png"))
    assert (chosen.layout, counts(chosen)) == ("names", {"0": 6, "1": 6})
    for pattern, message in (("(", "must be a regular expression"), ("x(y)", "matches none below")):
        with pytest.raises(UsageError, match=message):
            load_dataset(root, DataOptions(label_regex=pattern))


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
    (root / "labels.csv").write_text(table([["path", "label", "age"], *rows]))
    found = automl_cxr.inspect(root)
    assert found.unused_columns == ("age",)
    assert not any("not used: age" in note for note in found.notes), "inspect prints the table of columns"
    assert load_dataset(root).column_notes == ("labels.csv: columns used: path, label; not used: age.",)
