"""NIH ChestX-ray14: original rows of a sample, and the original layout with folders and two lists."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.layouts import find_layout
from automl_cxr.data.split import split_dataset
from automl_cxr.errors import DataError, UnknownNameError

WriteFolders = Callable[..., Path]
FOUR = ["No Finding", "Infiltration", "Atelectasis", "Effusion"]
HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\r\n"
)


SEVERAL = (
    "images have several findings, none or an uncertain one in Data_Entry_2017.csv and are not used: an image needs exactly "
    "one label."
)
SINGLE = DataOptions(classes=["Mass", "No Finding"])


def write_table(root: Path, labels: dict[str, str], name: str = "Data_Entry_2017.csv") -> Path:
    lines = [f"{image},{label},000,{image[:8]},060Y,M,AP,2500,2048,0.171,0.171\r\n" for image, label in labels.items()]
    (root / name).write_bytes((HEADER + "".join(lines)).encode())
    return root / name


def test_the_sample_has_sixteen_images_of_the_four_classes(test_data: Path) -> None:
    dataset = load_dataset(test_data / "data" / "nih_sample", DataOptions(classes=FOUR))
    assert dataset.layout == "nih"
    assert dataset.table["label"].value_counts().to_dict() == {
        "No Finding": 6,
        "Infiltration": 4,
        "Atelectasis": 3,
        "Effusion": 3,
    }
    row = dataset.table.set_index("image").iloc[0]
    assert row.name == f"images/{row['patient_id']}_{row.name[-7:-4]}.png"
    assert set(dataset.table["view"]) <= {"PA", "AP"}
    assert dataset.notes == (f"5 of 24 {SEVERAL}",)
    assert dataset.ignored == {}


@pytest.fixture
def download(write_folders: WriteFolders) -> Path:
    """Write a partial download: seven patients with two images each in three folders; an eighth patient has no files."""
    labels = {
        f"{patient:08d}_{image:03d}.png": "Mass" if patient % 2 else "No Finding" for patient in range(8) for image in (0, 1)
    }
    labels["00000003_001.png"] = "Mass|Nodule"
    root = write_folders([f"images_{1 + int(name[7]) % 3:03d}/images/{name}" for name in labels if name[7] != "7"])
    write_table(root, labels)
    (root / "train_val_list.txt").write_text("".join(f"{name}\r\n" for name in labels if name[7] < "6"))
    (root / "test_list.txt").write_text("\n".join(name for name in labels if name[7] >= "6"))
    return root


def test_folders_table_and_lists_are_one_data_set(download: Path) -> None:
    dataset = load_dataset(download, SINGLE)
    assert dataset.layout == "nih"
    assert len(dataset.table) == 13
    table = dataset.table.set_index("image")
    assert table.loc["images_003/images/00000005_001.png"].to_list() == ["Mass", "00000005", "train", "AP"]
    assert table["split"].value_counts().to_dict() == {"train": 11, "test": 2}
    assert f"1 of 14 {SEVERAL}" in dataset.notes
    missing = "listed in Data_Entry_2017.csv but missing"
    assert dataset.ignored == {"00000007_000.png": missing, "00000007_001.png": missing}
    assert dataset.used_tables[0].columns["split"] == "from train_val_list.txt and test_list.txt"


def test_several_findings_are_outputs_or_one_is_chosen(download: Path) -> None:
    several = load_dataset(download, DataOptions(min_positives=1))
    assert (several.task, several.classes) == ("multilabel", ("Mass", "Nodule"))
    with pytest.raises(DataError, match=r"14 images with findings in Data_Entry_2017\.csv, 1 of them with .*--finding 'Mass'"):
        load_dataset(download, DataOptions(task="multiclass"))
    dataset = load_dataset(download, DataOptions(finding="mass"))
    assert dataset.table["label"].value_counts().to_dict() == {"no Mass": 8, "Mass": 6}
    with pytest.raises(UnknownNameError, match=r"Unknown finding 'Masses'\. Did you mean 'Mass'"):
        load_dataset(download, DataOptions(finding="Masses"))


def test_the_sample_on_kaggle_has_the_same_layout(write_folders: WriteFolders) -> None:
    root = write_folders([f"sample/images/{n:08d}_000.png" for n in range(4)], "kaggle")
    write_table(root, {f"{n:08d}_000.png": ("Mass", "No Finding")[n % 2] for n in range(4)}, "sample_labels.csv")
    dataset = load_dataset(root)
    assert (dataset.layout, len(dataset.table), dataset.patients_known) == ("nih", 4, True)


def test_the_validation_part_is_made_from_training_patients(download: Path) -> None:
    dataset = load_dataset(download, SINGLE)
    split = split_dataset(dataset, list(dataset.table["image"]), valid_fraction=0.3)
    assert split.origin == "given, valid made"
    assert {image[-16:-8] for image in split.test} == {"00000006"}
    assert not {image[-16:-8] for image in split.valid} & {image[-16:-8] for image in split.train}


def test_images_missing_from_the_table_are_counted(download: Path, write_image: Callable[..., Path]) -> None:
    write_image(download / "images_001" / "images" / "99999999_000.png")
    write_image(download / "images_002" / "00000000_000.png")
    raw = find_layout(download, SINGLE).read(download)
    assert "1 images on disk are not listed in Data_Entry_2017.csv and are not used." in raw.notes
    copy = "another file of the same name is used, images_001/images/00000000_000.png"
    assert raw.ignored["images_002/00000000_000.png"] == copy


def test_lists_that_name_no_image_are_reported(download: Path) -> None:
    for name in ("train_val_list.txt", "test_list.txt"):
        (download / name).write_text("images/" + (download / name).read_text().replace("\n", "\nimages/"))
    dataset = load_dataset(download, SINGLE)
    assert "None of the images is in train_val_list.txt or test_list.txt, so a split is made." in dataset.notes
    assert set(dataset.table["split"]) == {""}


def test_an_image_on_both_lists_is_in_the_test_part(download: Path) -> None:
    with (download / "test_list.txt").open("a") as file:
        file.write("\n00000001_000.png\n")
    table = load_dataset(download, SINGLE).table.set_index("image")
    assert table.loc["images_002/images/00000001_000.png", "split"] == "test"


def test_an_image_without_a_label_is_counted(write_folders: WriteFolders) -> None:
    root = write_folders(["images/00000001_000.png", "images/00000002_000.png", "images/00000003_000.png"])
    table = write_table(root, {"00000001_000.png": "Mass", "00000002_000.png": "", "00000003_000.png": "Hernia"})
    dataset = load_dataset(table)
    assert dataset.layout == "nih"
    assert dataset.classes == ("Hernia", "Mass")
    assert "1 rows of Data_Entry_2017.csv have no image or no label and are not used." in dataset.notes


def test_a_table_without_images_on_disk_is_refused_with_a_remedy(write_folders: WriteFolders) -> None:
    root = write_folders([])
    (root / "images_001").mkdir()
    write_table(root, {"00000001_000.png": "Mass"})
    with pytest.raises(DataError, match=r"'Image Index' must be below .*; none of 1 images .* '00000001_000.png'.*--images"):
        load_dataset(root)


def test_only_the_last_empty_name_of_the_header_may_lack_a_field(write_folders: WriteFolders) -> None:
    """The header has twelve fields and the rows have eleven; a row of ten or twelve has fields in other columns."""
    root = write_folders(["images/00000001_000.png", "images/00000002_000.png", "images/00000003_000.png"])
    labels = {"00000001_000.png": "Mass", "00000002_000.png": "Hernia", "00000003_000.png": "Mass"}
    table = write_table(root, labels)
    text = table.read_text()
    assert len(load_dataset(root).table) == 3
    for wrong, found in (("00000002_000.png,Hernia,", 12), ("00000002_000.png", 10)):
        table.write_text(text.replace("00000002_000.png,Hernia", f"{wrong}"))
        with pytest.raises(DataError, match=rf"line 3 of '.*' has {found} instead of 11"):
            load_dataset(root)


def test_two_tables_are_refused(download: Path) -> None:
    write_table(download, {"00000000_000.png": "Mass"}, "Data_Entry_2017_v2020.csv")
    with pytest.raises(DataError, match=r"found Data_Entry_2017\.csv, Data_Entry_2017_v2020\.csv in .*--labels"):
        load_dataset(download, SINGLE)
    assert len(find_layout(download / "Data_Entry_2017.csv", SINGLE).read(download / "Data_Entry_2017.csv").rows) == 13
    chosen = replace(SINGLE, labels=str(download / "Data_Entry_2017.csv"))
    assert len(load_dataset(download, chosen).table) == 13


def test_the_options_of_tables_apply(download: Path, tmp_path: Path) -> None:
    table = download / "Data_Entry_2017.csv"
    text = table.read_text().replace(",AP,", ",LL,", 2).replace("Follow-up #", "Visit").replace("Patient Gender", "Position")
    table.unlink()
    moved = tmp_path / "Data_Entry_2017.csv"
    moved.write_text(text)
    options = DataOptions(labels=str(moved), finding="Mass", patient_column="Visit", view_column="View Position")
    dataset = load_dataset(download, options)
    assert (dataset.table["patient_id"] == "000").all()
    assert dataset.table["view"].value_counts().to_dict() == {"AP": 12, "LL": 2}
    frontal = load_dataset(download, replace(options, patient_column=None, projections=("AP",)))
    assert len(frontal.table) == 12
    assert len(set(frontal.table["patient_id"])) == 6


def test_images_sorted_into_class_folders_are_class_folders(write_folders: WriteFolders) -> None:
    root = write_folders(["sick/00000001_000.png", "well/00000002_000.png"])
    write_table(root, {"00000001_000.png": "Mass", "00000002_000.png": "No Finding"})
    assert find_layout(root).name == "folders"
    assert {row.label for row in find_layout(root, DataOptions(layout="nih")).read(root).rows} == {"Mass", "No Finding"}


def test_a_folder_without_such_a_table_is_refused(write_folders: WriteFolders) -> None:
    root = write_folders(["images/1.png"])
    (root / "Data_Entry_2017.csv").write_text("image,label\n1.png,a\n")
    with pytest.raises(DataError, match=r"needs a table Data_Entry.* found none"):
        find_layout(root, DataOptions(layout="nih")).read(root)
