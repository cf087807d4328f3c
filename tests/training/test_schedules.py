import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.training.schedules import (
    Phase,
    build_rate,
    changes_by_step,
    count_plateaus,
    plan_phases,
    rates_of_steps,
    scheduled_learning_rate,
)


def config(**values):
    return TrialConfig.from_values(values)


def rates(config, n_epochs, start=0.1, monitored=None):
    phase = Phase(n_epochs=n_epochs, learning_rate=start, frozen=False)
    monitored = [0.5] * n_epochs if monitored is None else monitored
    return [scheduled_learning_rate(config, phase, monitored[:epoch]) for epoch in range(n_epochs)]


def test_a_network_without_a_frozen_backbone_has_one_phase():
    whole = (Phase(n_epochs=10, learning_rate=0.01, frozen=False),)
    assert plan_phases(config(epochs=10, learning_rate=0.01, frozen_share=0.5)) == whole
    assert plan_phases(config(epochs=10, learning_rate=0.01, family="transfer")) == whole
    assert plan_phases(config(epochs=10, learning_rate=0.01, family="transfer", unfreeze=3)) == whole


def test_frozen_epochs_come_first_and_fine_tuning_has_its_own_learning_rate():
    unfreezing = {"family": "transfer", "unfreeze": 3, "epochs": 10, "learning_rate": 0.01, "fine_tune_rate": 1e-4}
    assert plan_phases(config(**unfreezing, frozen_share=0.3)) == (
        Phase(n_epochs=3, learning_rate=0.01, frozen=True),
        Phase(n_epochs=7, learning_rate=1e-4, frozen=False),
    )
    assert plan_phases(config(**unfreezing, frozen_share=1.0)) == (Phase(n_epochs=10, learning_rate=0.01, frozen=True),)


def test_the_cosine_schedule_falls_from_the_full_rate_to_0_in_its_phase():
    decreasing = rates(config(epochs=99), 9)
    assert 0.09 < decreasing[0] < 0.1
    assert decreasing[4] == pytest.approx(0.05)
    assert 0 < decreasing[-1] < 0.001
    assert decreasing == sorted(decreasing, reverse=True)


@pytest.mark.parametrize("n_epochs", [1, 4, 30])
def test_the_learning_rate_rises_in_the_warm_up_and_ends_near_0_for_every_number_of_epochs(n_epochs):
    phase = Phase(n_epochs=n_epochs, learning_rate=0.1, frozen=False)
    epochs = [rates_of_steps(config(warmup=0.25), phase, [0.5] * epoch, n_steps=20) for epoch in range(n_epochs)]
    steps = np.concatenate(epochs)
    n_rising = len(steps) // 4
    assert steps[0] == 0.0
    assert np.argmax(steps) == n_rising
    assert steps.max() == pytest.approx(0.1)
    assert (np.diff(steps[: n_rising + 1]) > 0).all()
    assert (np.diff(steps[n_rising:]) < 0).all()
    assert steps[-1] < 0.002


@pytest.mark.parametrize("values", [{}, {"warmup": 0.1}, {"warmup": 0.13, "schedule": "constant"}])
def test_the_rates_of_all_steps_equal_the_schedule_of_the_optimizer(values):
    recipe, phase = config(**values), Phase(n_epochs=3, learning_rate=0.1, frozen=False)
    schedule = build_rate(recipe, phase, n_steps=7)
    expected = [float(schedule(step)) for step in range(21)]
    steps = np.concatenate([rates_of_steps(recipe, phase, [0.5] * epoch, n_steps=7) for epoch in range(3)])
    np.testing.assert_allclose(steps, expected, atol=1e-7)


def test_a_rate_that_changes_between_epochs_only_is_a_number():
    phase = Phase(n_epochs=3, learning_rate=0.1, frozen=False)
    for values in ({"schedule": "constant"}, {"schedule": "plateau", "warmup": 0.2}):
        assert not changes_by_step(config(**values))
        assert build_rate(config(**values), phase, n_steps=7) == 0.1


def test_scaled_rates_depend_on_the_optimizer_and_the_batch_size():
    def rate(**values):
        (phase,) = plan_phases(config(learning_rate=1e-3, **values))
        return phase.learning_rate

    assert rate(batch_size=8, optimizer="sgd") == 1e-3
    assert rate(scaled_rate=True) == rate(scaled_rate=True, optimizer="adamw") == 1e-3
    assert rate(scaled_rate=True, batch_size=8) == pytest.approx(0.5e-3)
    assert rate(scaled_rate=True, batch_size=8, optimizer="sgd") == pytest.approx(2.5e-3)
    fine_tuned = {"family": "transfer", "unfreeze": 3, "frozen_share": 0.5, "fine_tune_rate": 1e-4, "batch_size": 8}
    assert plan_phases(config(scaled_rate=True, **fine_tuned))[1].learning_rate == pytest.approx(0.5e-4)


def test_the_constant_schedule_does_not_change_the_rate():
    assert set(rates(config(schedule="constant"), 10)) == {0.1}


def test_a_plateau_is_a_share_of_patience_without_an_improvement_above_a_thousandth():
    recipe = config(schedule="plateau", plateau_factor=0.8, plateau_share=0.6, patience=5)
    monitored = [0.5, 0.5, 0.5009, 0.5008, 0.6, 0.5, 0.5, 0.5]
    assert rates(recipe, 8, monitored=monitored) == pytest.approx([0.1] * 4 + [0.08] * 4)
    assert rates(recipe, 9, monitored=monitored)[-1] == pytest.approx(0.064)


def test_a_plateau_has_one_epoch_at_least_and_the_rate_stops_at_a_thousandth():
    recipe = config(schedule="plateau", plateau_factor=0.1, plateau_share=0.1, patience=1)
    assert rates(recipe, 6) == pytest.approx([0.1, 0.1, 0.01, 1e-3, 1e-4, 1e-4])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_plateaus_are_counted_as_by_keras():
    rng = np.random.default_rng(1)
    for _ in range(20):
        monitored = np.round(rng.normal(0.5, 0.002, 30), 4).tolist()
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(optimizer=keras.optimizers.SGD(1.0))
        callback = keras.callbacks.ReduceLROnPlateau("monitored", mode="max", factor=0.5, patience=3, min_delta=0.001)
        callback.set_model(model)
        callback.on_train_begin()
        for epoch, value in enumerate(monitored):
            callback.on_epoch_end(epoch, {"monitored": value})
        assert 0.5 ** count_plateaus(monitored, patience=3) == float(model.optimizer.learning_rate)
