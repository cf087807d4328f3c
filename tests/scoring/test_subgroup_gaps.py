"""The test of the gaps between groups: it finds a planted gap, and none that follows from chance or from the labels."""

import numpy as np
import pytest

from automl_cxr.scoring.group_metrics import plan_comparison, with_fixed_decisions
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.subgroup_gaps import ALPHA, gaps_between_groups, holm
from automl_cxr.scoring.subgroups import Grouping

METRICS = ("macro_f1", "macro_auc", "fnfr", "calibration_error")
N_PATIENTS = 150


def draw(seed, *, penalty=0.0, shares=((1, 1, 1), (1, 1, 1))):
    """Simulate two images of each patient of two groups; the evidence of the second group is lower by ``penalty``."""
    rng = np.random.default_rng(seed)
    group = np.repeat(rng.integers(2, size=N_PATIENTS), 2)
    labels = np.repeat([rng.choice(3, p=np.array(shares[one]) / sum(shares[one])) for one in group[::2]], 2)
    logits = rng.normal(size=(2 * N_PATIENTS, 3)) + np.repeat(rng.normal(size=(N_PATIENTS, 3)), 2, axis=0)
    logits[np.arange(len(labels)), labels] += 2.5 - penalty * group
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ids, patients = [str(row) for row in range(len(labels))], [f"p{row // 2}" for row in range(len(labels))]
    return Predictions(ids, labels, probabilities, ["normal", "a", "b"], patients), Grouping("sex", ("f", "m"), group)


def gaps(predictions, grouping, metrics=METRICS, **choices):
    comparison = plan_comparison(predictions, grouping, normal_class=0 if not predictions.is_multilabel else None)
    chosen = {"normal_class": None if predictions.is_multilabel else 0, "n_permutations": 300, **choices}
    return {one.metric: one for one in gaps_between_groups(predictions, grouping, comparison, metrics, **chosen)}


def test_a_planted_gap_is_found():
    found = gaps(*draw(0, penalty=2.0))
    for name in ("macro_f1", "macro_auc", "fnfr"):
        assert (found[name].worst, found[name].best) == ("m", "f")
        assert found[name].p_value == pytest.approx(1 / 301), "the smallest possible p-value"
    assert found["macro_f1"].gap > 0.2
    expected = found["macro_f1"].expected
    assert abs(expected["f"] - expected["m"]) < 0.05


def test_another_mix_of_the_classes_is_no_disparity():
    found = gaps(*draw(5, shares=((10, 1, 1), (1, 4, 4))), ["average_precision_a"])["average_precision_a"]
    assert found.gap > 0.2
    assert found.expected["f"] < found.expected["m"] - 0.1, "the average precision of a rarer class is lower"
    assert found.p_value > 0.2


def test_p_values_of_groups_without_a_difference_are_uniform():
    p_values = np.array([gaps(*draw(seed), ["macro_f1"], n_permutations=99)["macro_f1"].p_value for seed in range(60)])
    assert np.mean(p_values <= 0.1) <= 0.2
    assert 0.35 < p_values.mean() < 0.65


@pytest.mark.long
def test_no_disparity_is_claimed_in_95_of_100_runs():
    claims = 0
    for seed in range(100):
        found = gaps(*draw(1000 + seed), n_permutations=500)
        claims += min(holm([one.p_value for one in found.values()])) <= ALPHA
    assert claims <= 5


def test_gaps_between_findings_keep_the_labels_of_the_finding():
    rng = np.random.default_rng(3)
    group = np.arange(300) % 2
    labels = (rng.random((300, 2)) < np.where(group == 1, 0.5, 0.15)[:, None]).astype(int)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=(300, 2)) + 2 * labels - 1)))
    probabilities[group == 1, 0] = rng.random(150)  # no skill on the first finding
    predictions = with_fixed_decisions(Predictions([str(row) for row in range(300)], labels, probabilities, ["a", "b"]))
    found = gaps(predictions, Grouping("sex", ("f", "m"), group), ["auc_a", "auc_b", "recall_b"])
    assert found["auc_a"].worst == "m"
    assert found["auc_a"].p_value < 0.01
    assert found["auc_b"].p_value > 0.05
    assert found["recall_b"].p_value > 0.05


def test_one_comparable_group_has_no_gap():
    predictions, grouping = draw(0)
    alone = Grouping("sex", ("f", "m"), np.where(np.arange(len(grouping.of_image)) < 10, 1, 0))
    assert gaps(predictions, alone) == {}


def test_the_correction_of_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
