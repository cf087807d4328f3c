"""Images that are left out while a data set is read are counted by reason."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.exclusions import Exclusion


@pytest.fixture
def table(tmp_path):
    """Write a table of twelve images, of which eight are left out for five reasons."""
    rows = []
    for number in range(12):
        name = f"{'mask_' if number < 2 else ''}{number}.png"
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / name)
        label = {4: "", 5: "", 6: "other"}.get(number, ("no", "yes")[number % 2])
        rows.append([name, label, "" if number == 7 else f"p{number}", "lateral" if number in (2, 3) else "PA"])
    pd.DataFrame(rows, columns=["image", "label", "patient_id", "view"]).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def test_each_step_of_reading_counts_the_images_that_it_leaves_out(table):
    options = DataOptions(projections=("PA",), class_map={"other": ""}, unknown_patients="drop")
    dataset = load_dataset(table, options)
    assert dataset.exclusions == (
        Exclusion("no label that is used", 2),
        Exclusion("a mask", 2),
        Exclusion("a projection that is not used", 2),
        Exclusion("a class that is not used", 1),
        Exclusion("no known patient", 1),
    )
    assert len(dataset.table) + sum(one.n_images for one in dataset.exclusions) == 12


def test_images_without_a_label_of_a_chosen_finding_are_counted(tmp_path, table):
    labels = {"Mass": ["1", "0", "", "0", "1"], "Nodule": ["", "", "", "1", "0"]}
    images = [f"{number}.png" for number in range(7, 12)]
    pd.DataFrame({"image": images, "patient_id": images, **labels}).to_csv(tmp_path / "found.csv", index=False)
    table.unlink()
    dataset = load_dataset(tmp_path / "found.csv", DataOptions(findings=("Nodule",), task="multilabel", min_positives=1))
    assert sum(one.n_images for one in dataset.exclusions) == 3
    assert len(dataset.table) == 2


def test_nothing_is_excluded_from_phantoms(phantoms):
    assert load_dataset(phantoms).exclusions == ()
