"""Images, labels and notes of each layout."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.files import explain_unusable, walk_images
from automl_cxr.data.layout_rows import RawTable
from automl_cxr.data.layouts import LAYOUTS, find_layout
from automl_cxr.errors import DataError, UnknownNameError, UsageError

WriteFolders = Callable[..., Path]


def read(root: Path) -> tuple[str, RawTable]:
    layout = find_layout(root)
    return layout.name, layout.read(root)


def facts(raw: RawTable, *names: str) -> list[tuple[str, ...]]:
    return sorted(tuple(getattr(row, name) for name in names) for row in raw.rows)


def test_every_layout_has_its_own_name_and_a_description() -> None:
    assert len({layout.name for layout in LAYOUTS}) == len(LAYOUTS)
    assert all(layout.description for layout in LAYOUTS)


def test_class_folders_are_the_labels_at_any_depth(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "a/deep/er/2.PNG", "b/3.jpeg"])
    (root / "a" / "notes.txt").write_text("no image")
    (root / "empty").mkdir()
    name, raw = read(root)
    assert name == "folders"
    assert facts(raw, "image", "label") == [("a/1.png", "a"), ("a/deep/er/2.PNG", "a"), ("b/3.jpeg", "b")]
    assert raw.ignored == {}


def test_hidden_files_and_archive_metadata_are_ignored(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png", "a/._1.png", ".thumbs/3.png", "__MACOSX/a/1.png", "a/.cache/4.png"])
    assert facts(read(root)[1], "image") == [("a/1.png",), ("b/2.png",)]


def test_an_image_outside_of_the_class_folders_is_reported(write_folders: WriteFolders) -> None:
    _, raw = read(write_folders(["a/1.png", "b/2.png", "stray.png"]))
    assert raw.ignored == {"stray.png": "not in a class folder"}


def test_split_folders_may_be_named_in_several_ways(write_folders: WriteFolders) -> None:
    images = ["Train/a/1.png", "Train/b/2.png", "VAL/a/3.png", "testing/b/4.png", "extra/a/5.png", "Train/6.png"]
    name, raw = read(write_folders(images))
    assert name == "split-folders"
    assert facts(raw, "label", "split") == [("a", "train"), ("a", "valid"), ("b", "test"), ("b", "train")]
    assert raw.ignored == {
        "extra/a/5.png": "outside of the folders train, valid and test",
        "Train/6.png": "not in a class folder",
    }


def test_a_folder_named_train_without_class_folders_is_a_class(write_folders: WriteFolders) -> None:
    name, raw = read(write_folders(["train/1.png", "plane/2.png"]))
    assert name == "folders"
    assert facts(raw, "label") == [("plane",), ("train",)]


def test_metadata_adds_patient_view_and_split(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "a/2.png", "b/3.png"])
    (root / "metadata.csv").write_text(
        "\ufeffImage,label,Patient_ID,view,split\r\na/1.png,a,007,PA,train\r\nb/3.png,a,NA,AP,val\r\na/9.png,a,1,,\r\n",
        encoding="utf-8",
    )
    name, raw = read(root)
    assert name == "folders"
    assert facts(raw, "image", "label", "patient_id", "view", "split") == [
        ("a/1.png", "a", "007", "PA", "train"),
        ("a/2.png", "a", "", "", ""),
        ("b/3.png", "b", "NA", "AP", "valid"),
    ]
    assert raw.ignored == {"a/9.png": "listed in metadata.csv but missing"}
    assert [note.split(". ")[0] for note in raw.notes] == [
        "1 of 3 images are not listed in metadata.csv, so they have no patient",
        "1 of 2 labels in metadata.csv differ from the class folder",
    ]


def test_metadata_without_an_image_column_is_not_used_and_reported(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    (root / "metadata.csv").write_text("file_number,age\n1,50\n")
    assert read(root)[1].notes == ("metadata.csv has no column path|image|filename and is not used.",)


def test_the_split_folder_takes_precedence_over_the_split_column(write_folders: WriteFolders) -> None:
    root = write_folders(["train/a/1.png", "test/b/2.png"])
    (root / "metadata.csv").write_text("image,patient_id,split\ntrain/a/1.png,p,test\n")
    assert facts(read(root)[1], "patient_id", "split") == [("", "test"), ("p", "train")]


@pytest.mark.parametrize("folders", [["images"], ["images_001", "images_002"]])
def test_a_table_beside_folders_that_are_not_classes_is_the_data_set(write_folders: WriteFolders, folders: list[str]) -> None:
    paths = [f"{folder}/{number}.png" for folder in folders for number in (1, 2)]
    root = write_folders(paths)
    lines = [f"{path},{'NA' if '1.png' in path else 'None'},p{number}" for number, path in enumerate(paths)]
    (root / "labels.csv").write_text("Path,Finding,patient_id\n" + "\n".join(lines))
    name, raw = read(root)
    assert name == "csv"
    assert {row.label for row in raw.rows} == {"NA", "None"}
    assert len({row.patient_id for row in raw.rows}) == len(paths)


def test_class_folders_take_precedence_over_a_table_with_the_same_labels(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    (root / "labels.csv").write_text("image,label\na/1.png,a\n")
    assert find_layout(root).name == "folders"
    assert find_layout(root / "labels.csv").name == "csv"


@pytest.mark.parametrize("text", ["images and labels of our site\nwere collected in 2020\n", "image label\n", "no images"])
def test_a_readme_is_no_table(write_folders: WriteFolders, text: str) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    (root / "README.txt").write_text(text)
    assert find_layout(root).name == "folders"


def test_missing_and_repeated_files_of_a_table_are_reported(write_folders: WriteFolders) -> None:
    root = write_folders(["x/1.png", "x/2.png", "x/3.png", "x/4.png"])
    (root / "x" / "gone.png").symlink_to("nowhere.png")
    (root / "labels.csv").write_text(
        "image,label\nx/1.png,a\n./x/1.png,a\nx/2.png,b\nx/3.png,a\nx/3.png,b\nx\\4.png,b\n"
        "x/5.png,a\nx/gone.png,a\nx,a\n,a\nx/2.png,\n"
    )
    raw = find_layout(root, DataOptions(layout="csv")).read(root)
    assert facts(raw, "image", "label") == [("x/1.png", "a"), ("x/2.png", "b"), ("x/4.png", "b")]
    assert raw.ignored == {
        "x/3.png": "listed more than once in labels.csv, with different entries",
        "x/5.png": "listed in labels.csv but missing",
        "x/gone.png": "listed in labels.csv but broken symbolic link",
        "x": "listed in labels.csv but a folder, not a file",
    }
    assert raw.notes == (
        "2 rows of labels.csv have no image or no label and are not used.",
        "2 rows of labels.csv repeat an image. Equal rows are used once.",
    )


def test_images_outside_of_the_table_folder_have_absolute_paths(write_folders: WriteFolders) -> None:
    outside = write_folders(["1.png"], "elsewhere") / "1.png"
    root = write_folders(["2.png"])
    (root / "labels.csv").write_text(f"image,label\n../elsewhere/1.png,a\n{root / '2.png'},b\n")
    assert facts(find_layout(root).read(root), "image") == [(outside.as_posix(),), ("2.png",)]
    assert root / outside.as_posix() == outside


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"picture,label\n9.png,a\n", "must have a column path|image|filename; received picture, label. Name it with --path-"),
        (b"a,b,label\n1.png,1.png,a\n", "received a, b, label; a, b name files. Name it with --path-column"),
        (
            b"image,what\n1.png,a\n",
            "label|class|finding, or a column of 0 and 1 for each finding; received image, what. Name the labels with --label-",
        ),
        (b"image,diagnosis,category\n1.png,a,b\n", "which column contains the labels; '"),
        (b"", "received no column and no row"),
        (",".join(map(str, range(14))).encode(), "received 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, ... (14 columns) and"),
        (b"image,label,split\n1.png,a,fold1\n", "must contain train, valid or test; received 'fold1'"),
        (b"image,label\n8.png,a\n9.png,b\n", "none of 2 images can be used, for example '8.png'"),
    ],
)
def test_an_unusable_table_is_refused_with_a_remedy(write_folders: WriteFolders, content: bytes, message: str) -> None:
    path = write_folders(["1.png"]) / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        find_layout(path).read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


DAMAGED = [
    ("1.png,AP, supine,a,b,p1", "line 3 of '{path}' has 6 instead of 5"),
    ("1.png,AP,a", "line 3 of '{path}' has 3 instead of 5"),
    ('1.png,AP,"a,b,p1', "'{path}' is not valid CSV from line 3 on"),
]


@pytest.mark.parametrize(("row", "reason"), DAMAGED)
def test_a_damaged_row_of_a_table_is_refused_with_its_line(write_folders: WriteFolders, row: str, reason: str) -> None:
    root = write_folders([f"{number}.png" for number in range(6)])
    rows = [f"{number}.png,AP,x,{'ab'[number % 2]},p{number}" for number in range(6)]
    path = root / "labels.csv"
    path.write_text("\n".join(["path,notes,reader1,label,patient_id", rows[0], row, *rows[2:]]))
    for data in (root, path):
        with pytest.raises(DataError, match=re.escape(reason.format(path=path))):
            read(data)


@pytest.mark.parametrize(("row", "reason"), DAMAGED)
def test_a_damaged_row_of_metadata_is_refused_with_its_line(write_folders: WriteFolders, row: str, reason: str) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    path = root / "metadata.csv"
    path.write_text(f"image,view,notes,site,patient_id\na/1.png,PA,x,y,p1\n{row}\nb/2.png,AP,x,y,p2\n")
    with pytest.raises(DataError, match=re.escape(reason.format(path=path))):
        read(root)


def test_a_table_with_a_damaged_header_beside_class_folders_is_reported(write_folders: WriteFolders) -> None:
    root = write_folders(["images_1/1.png", "images_2/2.png"])
    (root / "labels.csv").write_text('"path,label\nimages_1/1.png,a\nimages_2/2.png,b\n')
    name, raw = read(root)
    assert name == "folders"
    assert "is not valid CSV from line 1 on" in raw.ignored["labels.csv"]


def test_different_rows_of_an_image_in_metadata_are_refused(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    text = "image,patient_id,age\na/1.png,p1,50\n./a/1.png,p1,51\nb/2.png,p2,52\n"
    (root / "metadata.csv").write_text(text)
    assert facts(read(root)[1], "patient_id") == [("p1",), ("p2",)]
    (root / "metadata.csv").write_text(text.replace("./a/1.png,p1", "./a/1.png,p9"))
    with pytest.raises(DataError, match=r"different entries for 'a/1\.png'"):
        read(root)


def test_two_columns_of_the_same_name_are_refused(write_folders: WriteFolders) -> None:
    path = write_folders(["1.png"]) / "labels.csv"
    path.write_text("path,label,notes, Label\n1.png,a,x,b\n")
    with pytest.raises(DataError, match=r"has the name 'label' for the columns 2, 4\. Rename the others"):
        read(path)


def test_used_and_other_columns_are_named(write_folders: WriteFolders) -> None:
    root = write_folders(["1.png", "2.png"])
    (root / "labels.csv").write_text("finding,path,label,ward\nx,1.png,a,s\nx,2.png,b,s\n")
    assert read(root)[1].used_tables[0].unused == ("finding", "ward")


def test_the_label_column_of_a_table_can_be_chosen(write_folders: WriteFolders) -> None:
    root = write_folders(["x/1.png", "y/2.png"])
    (root / "labels.csv").write_text("path,label,Second Reader\nx/1.png,a,c\ny/2.png,b,d\n")
    layout = find_layout(root, DataOptions(label_column=" second reader"))
    assert (layout.name, facts(layout.read(root), "label")) == ("csv", [("c",), ("d",)])
    raw = find_layout(root / "labels.csv", DataOptions(layout="csv", label_column="Second Reader")).read(root)
    assert facts(raw, "label") == [("c",), ("d",)]
    for data, name in ((root, None), (root / "labels.csv", None), (root / "labels.csv", "csv")):
        with pytest.raises(UnknownNameError, match=r"Unknown label column 'Second'\. Did you mean 'Second Reader'"):
            find_layout(data, DataOptions(layout=name, label_column="Second")).read(data)
    with pytest.raises(UsageError, match="applies to the layouts arrays or csv; received 'label' for the layout 'folders'"):
        find_layout(root, DataOptions(layout="folders", label_column="label"))


def test_spaces_around_a_path_are_part_of_it_only_if_the_file_has_them(write_folders: WriteFolders) -> None:
    root = write_folders([" 1.png", "2.png"])
    (root / "labels.csv").write_text("label,path\na, 1.png\nb, 2.png\n")
    assert facts(read(root)[1], "image", "label") == [(" 1.png", "a"), ("2.png", "b")]


def test_two_tables_are_refused(write_folders: WriteFolders) -> None:
    root = write_folders(["images/1.png"])
    for name in ("one.csv", "two.csv"):
        (root / name).write_text("image,label\nimages/1.png,a\n")
    with pytest.raises(DataError, match=r"found one\.csv, two\.csv\. Name the table to use with --labels"):
        find_layout(root).read(root)
    chosen = DataOptions(labels=str(root / "two.csv"))
    assert len(find_layout(root, chosen).read(root).rows) == 1


def test_the_error_for_an_unknown_layout_suggests_a_name(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'folders'"):
        find_layout(tmp_path, DataOptions(layout="folder"))


def test_dead_and_circular_links_are_reported(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    (root / "a" / "good.png").symlink_to("1.png")
    (root / "a" / "dead.png").symlink_to("nowhere.png")
    (root / "a" / "circular.png").symlink_to("circular.png")
    (root / "a" / "lost_disk").symlink_to("/nowhere/at/all")
    (root / "a" / "up").symlink_to("..")
    (root / "b" / "self").symlink_to(".")
    _, raw = read(root)
    assert facts(raw, "image") == [("a/1.png",), ("a/good.png",), ("b/2.png",)]
    assert raw.ignored == {
        "a/dead.png": "broken symbolic link",
        "a/circular.png": "circular symbolic link",
        "a/lost_disk": "broken symbolic link",
        "a/up": "link to a folder that is already read",
        "b/self": "link to a folder that is already read",
    }


def test_a_folder_that_links_to_itself_is_read_once(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    write_folders(["c/3.png"], "beside")
    (root / "b" / "out").symlink_to(root.parent)
    found = [path for path, reason in walk_images(root) if not reason]
    assert sorted(found) == ["a/1.png", "b/2.png", "b/out/beside/c/3.png"]


def test_a_class_folder_may_be_a_link(write_folders: WriteFolders) -> None:
    elsewhere = write_folders(["1.png"], "elsewhere")
    root = write_folders(["b/2.png"])
    (root / "a").symlink_to(elsewhere)
    assert facts(read(root)[1], "image", "label") == [("a/1.png", "a"), ("b/2.png", "b")]


def test_a_linked_folder_is_listed_under_its_real_name(write_folders: WriteFolders) -> None:
    root = write_folders(["b/2.png", "c/3.png"])
    (root / "a").symlink_to("b")
    _, raw = read(root)
    assert facts(raw, "image", "label") == [("b/2.png", "b"), ("c/3.png", "c")]
    assert raw.ignored == {"a": "link to a folder that is already read"}


def test_names_that_are_not_utf8_are_reported(write_folders: WriteFolders) -> None:
    root = write_folders(["a/1.png", "b/2.png"])
    try:
        (Path(os.fsdecode(os.fsencode(root) + b"/a/caf\xe9.png"))).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    _, raw = read(root)
    assert raw.ignored == {"a/caf\\xe9.png": "name is not valid UTF-8"}
    assert facts(raw, "image") == [("a/1.png",), ("b/2.png",)]


def test_a_pipe_is_not_an_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert explain_unusable(tmp_path / "pipe.png") == "not a regular file"
    assert list(walk_images(tmp_path)) == [("pipe.png", "not a regular file")]


def test_files_without_a_known_suffix_are_images_by_content_or_listed(write_folders: WriteFolders) -> None:
    images = ["a/1.png", "a/2", "a/3.dic", "a/4.jfif", "a/5.0001", "a/IM.dcm.gz", "b/6.PNG"]
    root = write_folders(images)
    (root / "a" / "2.linked").symlink_to("2")
    (root / "a" / "volume.nii").write_bytes(bytes(range(256)) * 2)
    (root / "a" / "copy.png.bak").write_bytes((root / "a" / "1.png").read_bytes())
    np.save(root / "a" / "x.npy", np.zeros((2, 8, 8)))
    (root / "a" / "notes").write_text("Übersicht: " * 40, encoding="utf-8")
    (root / "a" / "empty").touch()
    (root / "a" / "table.xlsx").write_bytes(bytes(range(256)))
    os.mkfifo(root / "a" / "pipe")
    _, raw = read(root)
    assert [row.image for row in raw.rows] == sorted([*images, "a/2.linked"])
    assert raw.ignored == {
        "a/copy.png.bak": "a backup or an incomplete file, by its suffix; rename it to use it",
        "a/volume.nii": "not an image in a known format",
        "a/x.npy": "an array, which is only read beside a table of labels (layout arrays)",
    }


def test_a_folder_of_dicom_files_without_suffix_is_a_class_folder(tmp_path: Path, write_dicom: Callable[..., Path]) -> None:
    pixels = np.arange(12 * 16, dtype=np.uint16).reshape(12, 16)
    for image in ("a/IM0001", "b/IM0002", "a/DICOMDIR"):
        write_dicom(tmp_path / image, pixels)
    _, raw = read(tmp_path)
    assert facts(raw, "image", "label") == [("a/IM0001", "a"), ("b/IM0002", "b")]
    assert raw.ignored == {"a/DICOMDIR": "an index of DICOM files, not an image"}
