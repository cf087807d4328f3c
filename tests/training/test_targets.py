import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError, UsageError
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN
from automl_cxr.training.targets import known_targets, targets_of_heads, training_targets

LABELS = np.array(
    [
        [PRESENT, ABSENT, UNCERTAIN],
        [ABSENT, UNKNOWN, UNCERTAIN],
        [ABSENT, ABSENT, PRESENT],
        [ABSENT, UNKNOWN, ABSENT],
        [UNKNOWN, UNKNOWN, UNKNOWN],
    ]
)


def config(**values):
    return TrialConfig.from_values({"task": "multilabel", **values})


def test_unknown_labels_have_weight_zero_and_the_mean_weight_of_all_labels_is_one():
    for imbalance in ("none", "class_weights"):
        targets = training_targets(LABELS, 3, config(imbalance=imbalance))
        np.testing.assert_array_equal(targets.weights == 0, LABELS < 0)
        assert targets.weights.mean() == pytest.approx(1)
        np.testing.assert_array_equal(targets.values[LABELS >= 0], LABELS[LABELS >= 0])


def test_the_sides_of_a_finding_have_the_weights_of_rajpurkar_2017():
    targets = training_targets(LABELS, 3, config(imbalance="class_weights"))
    first = targets.weights[:4, 0]  # one present label, three absent ones
    np.testing.assert_allclose(first / first[0], [1, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    last = targets.weights[[2, 3], 2]  # one of each
    np.testing.assert_allclose(last / first[0], [(1 / 2) / (3 / 4)] * 2, rtol=1e-6)
    assert training_targets(LABELS, 3, config(imbalance="none")).weights[0].tolist() == pytest.approx([15 / 8, 15 / 8, 0])


@pytest.mark.parametrize(("setting", "expected"), [("zeros", 0.0), ("ones", 1.0), ("0.55-0.55", 0.55)])
def test_uncertain_labels_get_the_target_of_their_setting(setting, expected):
    probabilities, is_known = known_targets(LABELS, config(uncertain_targets=setting))
    np.testing.assert_array_equal(is_known, (LABELS >= 0) | (LABELS == UNCERTAIN))
    assert probabilities[:2, 2].tolist() == pytest.approx([expected, expected])
    assert probabilities[2:4, 2].tolist() == [1, 0]


def test_each_finding_can_have_its_own_treatment_of_uncertain_labels():
    labels = np.full((4, 3), UNCERTAIN)
    probabilities, is_known = known_targets(labels, config(uncertain_targets="ones, ignore,0.2-0.3"))
    assert is_known.tolist() == [[True, False, True]] * 4
    assert (probabilities[:, 0] == 1).all()
    assert ((probabilities[:, 2] >= 0.2) & (probabilities[:, 2] <= 0.3)).all()
    assert len(set(probabilities[:, 2])) == 4
    with pytest.raises(ImpossibleModelError, match="must contain 1 entry or 4, one for each finding; received 3"):
        known_targets(np.full((4, 4), UNCERTAIN), config(uncertain_targets="ones,ignore,zeros"))


def test_drawn_targets_depend_on_the_seed_only():
    labels = np.full((50, 2), UNCERTAIN)
    first, again, other = (known_targets(labels, config(uncertain_targets="0.5-0.9", seed=seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).all()


@pytest.mark.parametrize("setting", ["sometimes", "", "0.5", "0.9-0.1", "0.5-1.2", "ones,", "nan-1"])
def test_an_invalid_treatment_of_uncertain_labels_is_refused(setting):
    with pytest.raises(UsageError, match="'uncertain_targets' must be"):
        config(uncertain_targets=setting)


def test_a_finding_with_labels_of_one_side_only_keeps_a_small_weight():
    labels = np.array([[0, 1]] * 9 + [[0, 0]])
    weights = training_targets(labels, 2, config(imbalance="class_weights")).weights
    assert (weights > 0).all()
    assert weights[:, 0].sum() < weights[:, 1].sum()


def test_labels_without_any_known_one_have_finite_targets():
    targets = training_targets(np.full((3, 2), UNKNOWN), 2, config())
    assert not targets.weights.any()
    assert np.isfinite(targets.values).all()


def test_heads_with_equal_targets_share_them():
    configs = [config(seed=1), config(seed=2), config(imbalance="none"), config(uncertain_targets="ones")]
    drawn = [config(uncertain_targets="0.5-0.9", seed=seed) for seed in (1, 2, 1)]
    found = targets_of_heads(LABELS, 3, [*configs, *drawn])
    assert found[0] is found[1]
    assert found[4] is found[6]
    assert len(set(map(id, found))) == 5
    for targets, one in zip(found, [*configs, *drawn], strict=True):
        np.testing.assert_array_equal(targets.weights, training_targets(LABELS, 3, one).weights)
        np.testing.assert_array_equal(targets.values, training_targets(LABELS, 3, one).values)
