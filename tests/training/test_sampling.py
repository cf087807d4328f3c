import numpy as np
import pytest

from automl_cxr.config import IMBALANCES, TrialConfig
from automl_cxr.training.sampling import epoch_order, image_weights, images_per_epoch

# 30 images of class 0, 12 of class 1, none of class 2 and 4 of class 3, mixed.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [30, 12, 4]))
SIZES = np.array([30, 12, 0, 4])


def shown(epoch, **values):
    """Count how often each image occurs in an epoch."""
    order = epoch_order(LABELS, 4, TrialConfig.from_values(values), epoch=epoch)
    return np.bincount(order, minlength=len(LABELS))


@pytest.mark.parametrize("imbalance", IMBALANCES)
def test_every_epoch_has_the_declared_number_of_images_of_each_class(imbalance):
    config = TrialConfig.from_values({"imbalance": imbalance, "undersample_ratio": 2.0})
    declared = images_per_epoch(LABELS, 4, config)
    for epoch in (1, 2, 50):
        order = epoch_order(LABELS, 4, config, epoch=epoch)
        assert np.bincount(LABELS[order], minlength=4).tolist() == declared.tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"imbalance": "none"}, [30, 12, 0, 4]),
        ({"imbalance": "class_weights"}, [30, 12, 0, 4]),
        ({"imbalance": "oversample"}, [30, 30, 0, 30]),
        ({"imbalance": "undersample"}, [4, 4, 0, 4]),
        ({"imbalance": "undersample", "undersample_ratio": 2.6}, [10, 10, 0, 4]),
        ({"imbalance": "undersample", "undersample_ratio": 100.0}, [30, 12, 0, 4]),
    ],
)
def test_the_classes_of_an_epoch(values, expected):
    assert images_per_epoch(LABELS, 4, TrialConfig.from_values(values)).tolist() == expected


@pytest.mark.parametrize("imbalance", ["none", "class_weights"])
def test_an_epoch_contains_every_image_once(imbalance):
    assert set(shown(1, imbalance=imbalance)) == {1}


def test_oversampling_repeats_images_evenly_and_others_in_each_epoch():
    epochs = [shown(epoch, imbalance="oversample") for epoch in range(1, 7)]
    for times in epochs:
        assert set(times[LABELS == 0]) == {1}
        assert set(times[LABELS == 1]) == {2, 3}
        assert set(times[LABELS == 3]) == {7, 8}
    repeated = [frozenset(np.flatnonzero(times == 3)) for times in epochs[:2]]
    assert repeated[0] != repeated[1]
    assert np.ptp(sum(epochs)[LABELS == 1]) <= 1


def test_undersampling_uses_all_images_before_it_repeats_one():
    epochs = [shown(epoch, imbalance="undersample") for epoch in range(1, 9)]
    for times in epochs:
        assert set(times) == {0, 1}
    assert (epochs[0] != epochs[1]).any()
    assert sum(epochs).min() >= 1
    assert np.ptp(sum(epochs)[LABELS == 0]) <= 1


@pytest.mark.parametrize("imbalance", IMBALANCES)
def test_the_order_depends_on_seed_and_epoch_only(imbalance):
    def order(epoch, **values):
        return epoch_order(LABELS, 4, TrialConfig.from_values({"imbalance": imbalance, **values}), epoch=epoch).tolist()

    assert order(3, seed=1) == order(3, seed=1, epochs=99, batch_size=7)
    assert order(3, seed=1) != order(3, seed=2)
    assert order(3, seed=1) != order(4, seed=1)


def test_classes_are_mixed_within_an_epoch():
    order = epoch_order(LABELS, 4, TrialConfig.from_values({"imbalance": "oversample"}), epoch=1)
    assert set(LABELS[order[:30]]) == {0, 1, 3}


def test_class_weights_are_inverse_to_class_sizes():
    labels = np.array([0] * 8 + [1] * 2)
    weights = image_weights(labels, 3, TrialConfig.from_values({"imbalance": "class_weights"}))
    assert weights == pytest.approx([10 / 24] * 8 + [10 / 6] * 2)
    for imbalance in ("none", "oversample", "undersample"):
        assert image_weights(labels, 3, TrialConfig.from_values({"imbalance": imbalance})).tolist() == [1] * 10


def test_the_images_of_an_undersampled_epoch_can_be_weighted():
    labels = np.array([0] * 8 + [1] * 2)
    config = TrialConfig(imbalance="undersample+class_weights", undersample_ratio=2.0)
    assert images_per_epoch(labels, 2, config).tolist() == [4, 2]
    assert image_weights(labels, 2, config)[[0, 9]] == pytest.approx([6 / (2 * 4), 6 / (2 * 2)])
