"""Missed and false findings of hand-made predictions."""

import numpy as np
import pytest
from pandas.testing import assert_frame_equal

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.compared_models import ComparedModels
from automl_cxr.results.error_analysis import compare_errors
from automl_cxr.results.error_report import error_sections, images_to_show
from automl_cxr.results.finding_errors import FindingErrors
from automl_cxr.results.html_page import Pictures, render_page
from automl_cxr.scoring.predictions import Predictions

FINDINGS = ("Mass", "Nodule")
LABELS = np.array([[1, 0], [1, 1], [0, -1], [0, -2]])
FIRST = np.array(
    [[0.2, 0.9], [0.8, 0.4], [0.6, 0.9], [0.1, 0.1]], np.float32
)  # misses 0/Mass, 1/Nodule; false 0/Nodule, 2/Mass
SECOND = np.array([[0.3, 0.1], [0.9, 0.9], [0.1, 0.1], [0.1, 0.9]], np.float32)  # misses 0/Mass


@pytest.fixture
def analysis() -> FindingErrors:
    images = Predictions(("a", "b", "c", "d"), LABELS, FIRST, FINDINGS, ("p", "p", "q", "r"))
    thresholds = np.array([[0.5, 0.5], [0.5, 0.25]])
    models = ComparedModels(("trial 1", "trial 2"), images, np.stack([FIRST, SECOND]), "valid part", thresholds=thresholds)
    return compare_errors("s", models)


def test_missed_and_false_findings_are_counted_over_known_labels(analysis):
    rows = analysis.by_finding.set_index("finding")
    assert rows.loc["Mass"].to_dict() == {
        "present": 2, "absent": 2, "missed_trial_1": 1, "false_trial_1": 1, "missed_trial_2": 1, "false_trial_2": 0,
        "missed_by_all": 1, "false_by_all": 0,
    }  # fmt: skip
    # The labels of c and d are not known, so that reporting the finding there is no error.
    assert rows.loc["Nodule", ["present", "absent", "missed_trial_1", "false_trial_1", "false_trial_2"]].tolist() == [
        1,
        1,
        1,
        1,
        0,
    ]
    models = analysis.by_model.set_index("model")
    assert models.loc["trial 1"].tolist() == [2, 2, 4 / 6, 3]
    assert models.loc["trial 2"].tolist() == [1, 0, 1 / 6, 1]


def test_pairs_of_errors_in_one_image(analysis):
    (pair,) = analysis.pairs.to_dict(orient="records")  # in image a, Mass is missed and Nodule is reported
    assert pair == {
        "error": "missed", "finding": "Mass", "other_error": "false", "other_finding": "Nodule", "trial 1": 1, "trial 2": 0,
    }  # fmt: skip


def test_wrong_decisions_are_listed_by_their_distance_from_the_threshold(analysis):
    confident = analysis.confusions()
    assert list(confident["margin"]) == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.1])
    assert confident.iloc[0][["image", "finding", "error", "model"]].tolist() == ["a", "Nodule", "false", "trial 1"]
    assert list(analysis.confusions(order="uncertain")["margin"]) == pytest.approx([0.1, 0.1, 0.2, 0.3, 0.4])
    for order in ("confident", "uncertain"):
        every = analysis.confusions(order=order).drop_duplicates("image")
        assert_frame_equal(analysis.confusions(order=order, n_images=2), every.head(2).reset_index(drop=True))
        assert len(analysis.confusions(order=order, n_images=9)) == 3
    with pytest.raises(UnknownNameError, match="Did you mean 'confident'"):
        analysis.confusions(order="confidant")


def test_the_table_lists_images_with_the_most_errors_first(analysis):
    table = analysis.table()
    assert list(table["image"]) == ["a", "b", "c", "d"]
    assert list(table["n_wrong"]) == [3, 1, 1, 0]
    assert table.loc[0, ["findings", "missed_trial_1", "false_trial_1", "missed_trial_2"]].tolist() == [
        "Mass", "Mass", "Nodule", "Mass",
    ]  # fmt: skip
    assert list(table["findings"]) == ["Mass", "Mass|Nodule", "", ""]


def test_the_page_shows_images_of_each_finding(analysis):
    images = images_to_show(analysis, n_shown=2)
    assert images[0] == "a"  # missed by both models
    assert sorted(images) == ["a", "b", "c"]
    sections = error_sections(analysis, {name: np.zeros((4, 4), np.uint8) for name in images}, n_shown=2)
    assert [section.title for section in sections[-2:]] == ["Errors: Mass", "Errors: Nodule"]
    captions = [picture.caption for part in sections[-2].parts if isinstance(part, Pictures) for picture in part.pictures]
    assert captions == ["a (Mass): 0.20..0.30", "c (no finding): 0.10..0.60"]
    assert "Nodule is absent and falsely reported by at least one model in 1 of 1 images." in render_page("t", sections)
