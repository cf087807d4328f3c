"""Findings of an external site under the names of a study."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from automl_cxr.data.dataset import Dataset
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.results.site_findings import match_findings


def site(**columns: list[int]) -> Dataset:
    """Return a data set with the label codes of each finding; images are named by their number."""
    images = [f"{number}.png" for number in range(len(next(iter(columns.values()))))]
    table = pd.DataFrame({"image": images, "label": "", "patient_id": images, "split": "", "view": ""})
    findings = pd.DataFrame(columns, index=images, dtype=np.int8)
    return Dataset(
        root=Path("site"), layout="csv", table=table, classes=tuple(columns), patients_known=False, ignored={}, notes=(),
        task="multilabel", findings=findings,
    )  # fmt: skip


def match(dataset, **class_map):
    return match_findings(dataset, class_map, site="site", study="s", findings=("Effusion", "Mass"))


def test_findings_that_the_site_lacks_are_unknown():
    matched = match(site(Mass=[1, 0, -2], Nodule=[0, 0, 1]))
    assert matched.dataset.classes == ("Effusion", "Mass")
    assert matched.dataset.labels_of(["0.png", "1.png"]).tolist() == [[-1, 1], [-1, 0]]
    assert list(matched.dataset.table["image"]) == ["0.png", "1.png"]  # the label of the third image is uncertain
    assert matched.notes == (
        "site has no labels of Effusion. Means over the findings leave them out.",
        (
            "site has findings that study 's' does not have and that are not used: Nodule. --class-map names findings that are "
            "the same."
        ),
        "1 of 3 images of site have no known label and are not scored.",
    )


def test_a_map_joins_findings_of_the_site():
    labels = {"Pleural effusion": [1, 0, 0, 0], "Hydrothorax": [0, 0, -1, -2], "Mass": [0, 0, 0, 0]}
    matched = match(site(**labels), **{"Pleural effusion": "Effusion", "Hydrothorax": "Effusion"})
    assert matched.dataset.labels_of([f"{number}.png" for number in range(4)])[:, 0].tolist() == [1, 0, -1, -2]
    assert matched.notes == ()


def test_a_site_without_a_known_finding_of_the_study_is_refused():
    with pytest.raises(DataError, match="A site must have a finding of study 's'"):
        match(site(Nodule=[1, 0]))
    with pytest.raises(DataError, match="a known label of a finding of study 's'; site has none"):
        match(site(Mass=[-1, -2]))
    with pytest.raises(UnknownNameError, match="Did you mean 'Mass'"):
        match(site(Nodule=[1, 0]), Nodule="mas")
