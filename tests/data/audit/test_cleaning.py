import shutil

import pandas as pd
import pytest

from automl_cxr.data.audit.cleaning import clean_table
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data_audit.audit import audit_dataset
from automl_cxr.errors import UsageError


@pytest.fixture
def leaky(tmp_path, phantoms):
    """Write a table of 30 phantoms with copies across parts, copies with different labels, and a patient in two parts."""
    table = pd.read_csv(phantoms / "metadata.csv")
    selected = table.groupby("label").head(10)[["image", "label", "patient_id"]]
    (tmp_path / "images").mkdir()
    rows = []
    for number, (image, label, _) in enumerate(selected.itertuples(index=False)):
        name = f"images/{number:02d}.png"
        shutil.copy(phantoms / image, tmp_path / name)
        rows.append([name, label, f"p{number // 2}", ("train", "valid", "test")[number % 10 // 4]])
    shutil.copy(tmp_path / "images/00.png", tmp_path / "images/copy.png")
    rows.append(["images/copy.png", rows[0][1], "p0", "test"])  # rows[0] is in train
    shutil.copy(tmp_path / "images/05.png", tmp_path / "images/other.png")
    rows.append(["images/other.png", rows[-2][1], "p90", "train"])
    rows[8][2] = rows[0][2] = rows[1][2] = rows[2][2] = "everywhere"  # 0, 1, 2 in train, 8 in test
    path = tmp_path / "leaky.csv"
    pd.DataFrame(rows, columns=["path", "label", "patient_id", "split"]).to_csv(path, index=False)
    return path


@pytest.mark.slow
def test_a_cleaned_table_has_each_picture_once_and_each_patient_in_one_part(leaky):
    dataset = load_dataset(leaky)
    audit = audit_dataset(dataset)
    assert len(audit.across_parts) == 2
    assert len(audit.conflicts) == 1
    assert list(audit.patients_across_parts["patient"]) == ["everywhere"]
    assert len(audit.warnings) >= 3
    cleaned = clean_table(dataset, audit, beside=leaky.parent)
    changes = cleaned.changes.set_index("image")
    assert dict(changes["change"]) == {
        "images/00.png": "dropped",
        "images/05.png": "dropped",
        "images/other.png": "dropped",
        "images/08.png": "moved",
    }
    assert "images/copy.png, which is retained in the test part" in changes["reason"]["images/00.png"]
    assert "one picture with the labels" in changes["reason"]["images/05.png"]
    assert "from test to train, which has most images of patient everywhere" in changes["reason"]["images/08.png"]
    cleaned_file = leaky.with_name("fixed.csv")
    cleaned.table.to_csv(cleaned_file, index=False)
    cleaned_dataset = load_dataset(cleaned_file)
    assert len(cleaned_dataset.table) == len(dataset.table) - 3
    audit_of_cleaned = audit_dataset(cleaned_dataset)
    assert audit_of_cleaned.duplicates.empty
    assert audit_of_cleaned.patients_across_parts.empty


def test_images_outside_of_the_folder_have_absolute_paths(leaky, tmp_path_factory):
    dataset = load_dataset(leaky)
    cleaned = clean_table(dataset, audit_dataset(dataset), beside=tmp_path_factory.mktemp("elsewhere"))
    assert cleaned.table["path"].str.startswith(str(leaky.parent)).all()


def test_rows_of_arrays_are_refused(tmp_path, phantoms):
    import numpy as np

    from automl_cxr.data.decode import decode_image

    images = [decode_image(path) for path in sorted(phantoms.rglob("*.png"))[:12]]
    np.save(tmp_path / "images.npy", np.stack(images))
    pd.DataFrame({"label": ["a", "b"] * 6}).to_csv(tmp_path / "labels.csv", index=False)
    dataset = load_dataset(tmp_path)
    with pytest.raises(UsageError, match="rows of arrays"):
        clean_table(dataset, audit_dataset(dataset), beside=tmp_path)
