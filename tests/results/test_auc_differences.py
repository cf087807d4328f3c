"""Comparison of models by areas under ROC curves."""

import numpy as np
import pytest

from automl_cxr.results.auc_differences import auc_differences, describe_dependence
from automl_cxr.results.compared_models import ComparedModels
from automl_cxr.results.error_analysis import compare_errors
from automl_cxr.results.error_report import error_sections
from automl_cxr.results.html_page import Table
from automl_cxr.scoring.predictions import Predictions
from tests.scoring import two_models

NAMES = ("trial 3", "ensemble best")


def two_classes(probabilities) -> np.ndarray:
    return np.stack([1 - probabilities, probabilities], axis=-1).astype(np.float32)


@pytest.fixture
def images() -> Predictions:
    ids = tuple(map(str, range(60)))
    return Predictions(
        ids, two_models.IS_POSITIVE.astype(int), two_classes(two_models.PROBABILITIES[0]), ("no", "yes"), two_models.PATIENTS
    )


def test_the_first_model_is_compared_with_the_others_by_delong_and_by_bootstrap(images):
    (row,) = auc_differences(images, NAMES, two_classes(two_models.PROBABILITIES)).to_dict(orient="records")
    assert (row["class"], row["model"], row["other"]) == ("yes", *NAMES)
    assert row["auc"] == pytest.approx(two_models.AREAS[0])
    assert row["p_delong"] == row["p_holm"] == pytest.approx(two_models.P_DELONG)
    assert row["difference"] == pytest.approx(two_models.AREAS[0] - two_models.AREAS[1])
    assert row["difference_low"] < 0 < row["difference"] < row["difference_high"], "as by DeLong's test, 0 is possible"


def test_copies_of_patients_narrow_the_test_but_not_the_interval(images):
    once = auc_differences(images.take(range(0, 60, 2)), NAMES, two_classes(two_models.PROBABILITIES[:, ::2]))
    doubled = Predictions(
        tuple(map(str, range(60))), np.repeat(images.labels[::2], 2), np.repeat(images.probabilities[::2], 2, axis=0),
        images.classes, images.patients,
    )  # fmt: skip
    twice = auc_differences(doubled, NAMES, np.repeat(two_classes(two_models.PROBABILITIES[:, ::2]), 2, axis=1))
    assert twice["p_delong"].item() < once["p_delong"].item()
    for end in ("difference_low", "difference_high"):
        assert twice[end].item() == pytest.approx(once[end].item())
    assert "60 images of 30 patients as independent" in describe_dependence(doubled)
    assert describe_dependence(images.take(range(0, 60, 2))) == ""


def test_findings_are_compared_over_known_labels_and_shown_on_the_page_of_errors():
    labels = np.array([[1, -1, 0], [0, 1, 0], [1, 0, 0], [0, 0, -2]])
    first = np.array([[0.9, 0.9, 0.1], [0.1, 0.8, 0.2], [0.8, 0.1, 0.3], [0.2, 0.2, 0.4]], np.float32)
    second = np.array([[0.1, 0.0, 0.1], [0.9, 0.8, 0.2], [0.8, 0.9, 0.3], [0.2, 0.2, 0.4]], np.float32)
    images = Predictions(tuple("abcd"), labels, first, ("Mass", "Nodule", "Hernia"), ("p", "p", "q", "r"))
    models = ComparedModels(NAMES, images, np.stack([first, second]), "valid part", thresholds=np.full((2, 3), 0.5))
    analysis = compare_errors("s", models)
    table = analysis.auc_differences.set_index("finding")
    assert table["difference"].to_dict() == {"Mass": 0.75, "Nodule": 0.5}  # Hernia is in no image
    assert np.isnan(table.loc["Nodule", "p_delong"]), "one image with the finding"
    tables = [part for section in error_sections(analysis, {}) for part in section.parts if isinstance(part, Table)]
    assert any("p_delong" in table.table for table in tables)


def test_one_model_has_no_comparison(images):
    models = ComparedModels(NAMES[:1], images, two_classes(two_models.PROBABILITIES[:1]), "valid part")
    assert compare_errors("s", models).auc_differences.empty
