"""Groups of images by metadata, and the scores of a model in each of them."""

import numpy as np
import pytest

from automl_cxr.scoring.group_metrics import plan_comparison, with_fixed_decisions
from automl_cxr.scoring.group_scores import score_groups
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.subgroups import NO_GROUP, Grouping, group_images, intersect
from automl_cxr.scoring.thresholds import choose_thresholds


def test_ages_are_divided_into_bands():
    grouping = group_images("age", ["17.9", "18", "", "39", "40", "80", "104"])
    assert grouping.groups == ("0-17", "18-39", "40-59", "80+"), "a band without an image is no group"
    assert grouping.of_image.tolist() == [0, 1, NO_GROUP, 1, 2, 3, 3]


def test_numbers_are_divided_at_their_quartiles_and_few_numbers_are_not():
    grouping = group_images("bmi", [str(value) for value in range(20, 40)])
    assert grouping.groups == ("below 24.75", "24.75 to 29.5", "29.5 to 34.25", "34.25 or more")
    assert np.bincount(grouping.of_image).tolist() == [5, 5, 5, 5]
    assert group_images("score", ["10", "2", "2"]).groups == ("2", "10")


def test_rare_texts_are_one_group():
    values = [f"site {number}" for number in range(14) for _ in range(20 - number)]
    grouping = group_images("site", values)
    assert len(grouping.groups) == 12
    assert grouping.groups[-1] == "other"
    assert np.sum(grouping.of_image == 11) == 9 + 8 + 7


def test_intersections_have_the_groups_that_occur():
    both = intersect(group_images("sex", ["female", "male", "male", ""]), group_images("age", ["20", "20", "50", "50"]))
    assert both.column == "sex & age"
    assert both.groups == ("female & 18-39", "male & 18-39", "male & 40-59")
    assert both.of_image.tolist() == [0, 1, 2, NO_GROUP]


@pytest.fixture
def classes():
    """Predictions of three classes for 120 images of 60 patients."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=120)
    probabilities = rng.dirichlet([1, 1, 1], size=120)
    probabilities[np.arange(120), labels] += 0.7
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    patients = [f"p{number // 2}" for number in range(120)]
    return Predictions([str(number) for number in range(120)], labels, probabilities, ["normal", "a", "b"], patients)


def grouping_of(numbers):
    numbers = np.asarray(numbers)
    return Grouping("sex", ("female", "male"), numbers)


def test_the_scores_of_a_group_are_those_of_its_images(classes):
    grouping = grouping_of(np.arange(120) // 2 % 2)
    comparison = plan_comparison(classes, grouping, normal_class=0)
    groups = score_groups(classes, grouping, comparison, normal_class=0, with_intervals=["fnfr"], n_resamples=200)
    for number, group in enumerate(groups):
        part = classes.take(grouping.of_image == number)
        assert group.scores == pytest.approx(score_predictions(part, normal_class=0))
        assert (group.n_images, group.n_patients, group.is_compared) == (60, 30, True)
        assert group.intervals["fnfr"].low <= group.scores["fnfr"] <= group.intervals["fnfr"].high
        assert sum(group.shares.values()) == pytest.approx(1)


def test_small_groups_and_groups_without_a_class_are_not_compared(classes):
    numbers = np.full(120, 0)
    numbers[:10] = 1
    comparison = plan_comparison(classes, grouping_of(numbers), normal_class=0)
    assert comparison.compared == ("female",)
    assert comparison.is_small("male")
    numbers = np.where(classes.labels == 0, 0, np.arange(120) // 2 % 2)
    comparison = plan_comparison(classes, grouping_of(numbers), normal_class=0)
    assert not comparison.is_small("male")
    assert comparison.compared == ("female",)
    assert comparison.missing == {"female": (), "male": ("normal",)}


@pytest.fixture
def findings():
    """Predictions of three findings for 120 images; no image of the second half has the third finding."""
    rng = np.random.default_rng(1)
    labels = (rng.random((120, 3)) < 0.4).astype(int)
    labels[60:, 2] = 0
    labels[::11, 0] = -1
    probabilities = np.clip(0.35 * (labels == 1) + 0.5 * rng.random((120, 3)), 0, 1)
    return Predictions([str(number) for number in range(120)], labels, probabilities, ["a", "b", "c"])


def test_decisions_on_findings_are_the_same_in_all_groups(findings):
    fixed = with_fixed_decisions(findings)
    thresholds = choose_thresholds(findings.labels, findings.probabilities)
    assert fixed.thresholds == pytest.approx(thresholds)
    grouping = grouping_of(np.arange(120) // 60)
    comparison = plan_comparison(fixed, grouping, normal_class=None)
    first, second = score_groups(fixed, grouping, comparison)
    of_group = findings.labels[:60], findings.probabilities[:60] >= thresholds
    has_finding = (of_group[0] == 1).any(axis=1)
    assert first.scores["fnfr"] == pytest.approx((has_finding & ~of_group[1][:60].any(axis=1)).sum() / has_finding.sum())
    assert first.scores["recall_c"] > 0
    assert np.isnan(second.scores["auc_c"])


def test_means_over_findings_are_over_those_that_all_groups_have(findings):
    fixed = with_fixed_decisions(findings)
    grouping = grouping_of(np.arange(120) // 60)
    comparison = plan_comparison(fixed, grouping, normal_class=None)
    assert comparison.left_out == ("c",)
    assert comparison.compared == ("female", "male")
    for group in score_groups(fixed, grouping, comparison):
        assert group.scores["macro_auc"] == pytest.approx(np.mean([group.scores["auc_a"], group.scores["auc_b"]]))
        assert group.scores["macro_f1"] == pytest.approx(np.mean([group.scores["f1_a"], group.scores["f1_b"]]))


def test_a_no_finding_output_is_no_finding():
    labels = np.array([[1, 0], [0, 1], [0, 1], [0, 1]])
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.9, 0.9]])
    predictions = Predictions(list("1234"), labels, probabilities, ["No Finding", "mass"], thresholds=np.array([0.5, 0.5]))
    comparison = plan_comparison(predictions, grouping_of([0, 0, 0, 0]), normal_class=None, min_patients=2)
    fnfr = comparison.metrics["fnfr"]
    assert fnfr.function(labels, probabilities, None) == pytest.approx(1 / 3)
    weights = np.array([[1, 0], [1, 1], [1, 0], [1, 3]])
    assert fnfr.score_weighted(labels, probabilities, weights, None) == pytest.approx([1 / 3, 1 / 4])
