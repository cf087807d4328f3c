import numpy as np
import pytest

from automl_cxr import config as config_module
from automl_cxr.config import OPTIMIZERS, TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.tasks import TASKS
from automl_cxr.training.losses import LOSSES, build_loss, build_optimizer
from automl_cxr.training.schedules import Phase

TRUTH = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
GUESS = np.array([[0.3, 0.7], [0.1, 0.9]], np.float32)
PHASE = Phase(n_epochs=5, learning_rate=0.02, frozen=False)
OF_TRUTH = np.array([0.7, 0.1])
FOCAL = (1 - OF_TRUTH) ** 2 * -np.log(OF_TRUTH)


def config(**values):
    return TrialConfig.from_values(values)


def test_every_loss_is_implemented_for_a_task():
    assert set(LOSSES) == set(TASKS)
    assert {name for names in LOSSES.values() for name in names} == set(config_module.LOSSES)


def test_focal_loss_equals_its_formula_and_cross_entropy_at_gamma_0():
    focal = float(build_loss(config(loss="focal", focal_gamma=2.0), 2)(TRUTH, GUESS))
    assert focal == pytest.approx(float(np.mean(FOCAL)), rel=1e-5)
    flat = float(build_loss(config(loss="focal", focal_gamma=0.0), 2)(TRUTH, GUESS))
    assert flat == pytest.approx(float(build_loss(config(loss="ce"), 2)(TRUTH, GUESS)), rel=1e-5)


@pytest.mark.parametrize(("alpha", "of_truth"), [("0.25", [0.25, 0.25]), ("0.2, 0.8", [0.8, 0.2])])
def test_alpha_weights_the_terms_of_the_classes(alpha, of_truth):
    focal = float(build_loss(config(loss="focal", focal_alpha=alpha), 2)(TRUTH, GUESS))
    assert focal == pytest.approx(float(np.mean(np.array(of_truth) * FOCAL)), rel=1e-5)


def test_alpha_and_image_weights_multiply():
    loss = build_loss(config(loss="focal", focal_alpha="0.2,0.8"), 2)
    weighted = float(loss(TRUTH, GUESS, sample_weight=np.array([3.0, 0.5], np.float32)))
    assert weighted == pytest.approx(float(np.mean([3.0 * 0.8 * FOCAL[0], 0.5 * 0.2 * FOCAL[1]])), rel=1e-5)


def test_a_wrong_number_of_alphas_is_refused():
    with pytest.raises(ImpossibleModelError, match=r"1 number or 3, one for each class; received 2 \('0.5,0.5'\)"):
        build_loss(config(loss="focal", focal_alpha="0.5,0.5"), 3)
    build_loss(config(loss="ce", focal_alpha="0.5,0.5"), 3)


def test_label_smoothing_spreads_the_target_probability():
    truth, guess = np.array([[0.0, 1.0]], np.float32), np.array([[0.2, 0.8]], np.float32)
    smoothed = float(build_loss(config(label_smoothing=0.1), 2)(truth, guess))
    assert smoothed == pytest.approx(-(0.05 * np.log(0.2) + 0.95 * np.log(0.8)), rel=1e-5)
    focal = float(build_loss(config(loss="focal", label_smoothing=0.1), 2)(truth, guess))
    assert focal == pytest.approx(-(0.05 * 0.8**2 * np.log(0.2) + 0.95 * 0.2**2 * np.log(0.8)), rel=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_have_the_configured_learning_rate_and_weight_decay(name):
    optimizer = build_optimizer(config(optimizer=name, weight_decay=0.03), PHASE, n_steps=10)
    assert float(optimizer.learning_rate) == pytest.approx(0.02)
    assert float(optimizer.weight_decay) == pytest.approx(0.03)
    assert build_optimizer(config(optimizer=name), PHASE, n_steps=10).weight_decay is None


def test_an_optimizer_clips_gradients_and_averages_weights_only_if_they_are_configured():
    plain = build_optimizer(config(), PHASE, n_steps=10)
    assert (plain.global_clipnorm, plain.use_ema) == (None, False)
    recipe = build_optimizer(config(gradient_clip=2.0, weight_average=0.2), PHASE, n_steps=10)
    assert recipe.global_clipnorm == 2.0
    assert recipe.use_ema
    assert recipe.ema_momentum == pytest.approx(1 - 1 / 10)  # a fifth of 50 steps
    assert not build_optimizer(config(weight_average=0.01), PHASE, n_steps=10).use_ema  # less than a step


def test_the_warm_up_of_an_optimizer_spans_its_share_of_the_steps():
    optimizer = build_optimizer(config(warmup=0.2), PHASE, n_steps=10)
    rates = []
    for step in range(51):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    assert rates[0] == 0.0
    assert rates[5] == pytest.approx(0.01)
    assert rates[10] == pytest.approx(0.02)
    assert rates[50] == pytest.approx(0.0, abs=1e-8)
