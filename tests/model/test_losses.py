import numpy as np
import pytest

from automl_cxr.config import OPTIMIZERS, TrialConfig
from automl_cxr.model.losses import build_loss, build_optimizer, scheduled_learning_rate


def config(**values):
    return TrialConfig.from_values(values)


def test_focal_loss_is_the_published_one_and_cross_entropy_at_gamma_0():
    truth = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    guess = np.array([[0.3, 0.7], [0.1, 0.9]], np.float32)
    of_truth = np.array([0.7, 0.1])
    focal = float(build_loss(config(loss="focal", focal_gamma=2.0))(truth, guess))
    assert focal == pytest.approx(float(np.mean((1 - of_truth) ** 2 * -np.log(of_truth))), rel=1e-5)
    flat = float(build_loss(config(loss="focal", focal_gamma=0.0))(truth, guess))
    assert flat == pytest.approx(float(build_loss(config(loss="ce"))(truth, guess)), rel=1e-5)


def test_label_smoothing_spreads_the_target():
    truth, guess = np.array([[0.0, 1.0]], np.float32), np.array([[0.2, 0.8]], np.float32)
    smoothed = float(build_loss(config(label_smoothing=0.1))(truth, guess))
    assert smoothed == pytest.approx(-(0.05 * np.log(0.2) + 0.95 * np.log(0.8)), rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_take_their_rate_and_decay(name):
    optimizer = build_optimizer(config(optimizer=name, learning_rate=0.02, weight_decay=0.03))
    assert float(optimizer.learning_rate) == pytest.approx(0.02)
    assert optimizer.weight_decay == pytest.approx(0.03)
    assert not build_optimizer(config(optimizer=name)).weight_decay


def test_the_cosine_falls_from_the_full_rate_towards_0():
    rates = [scheduled_learning_rate(config(learning_rate=0.1, epochs=10), epoch) for epoch in range(1, 11)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[5] == pytest.approx(0.05)
    assert 0 < rates[-1] < 0.003
    assert rates == sorted(rates, reverse=True)
    constant = config(learning_rate=0.1, epochs=10, schedule="constant")
    assert {scheduled_learning_rate(constant, epoch) for epoch in range(1, 11)} == {0.1}
