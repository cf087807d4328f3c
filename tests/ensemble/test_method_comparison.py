"""Out-of-fold comparison: folds by patient, and gains beyond chance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.method_comparison import compare_methods_out_of_fold
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import combine_members
from automl_cxr.scoring.predictions import Predictions
from tests.ensemble.drawing import draw_members

QUICK = GeneticSettings(population=20, generations=15, patience=5, halvings=1)
NAMES = tuple("abcdefgh")


def members_of_noise(n_members: int, n: int = 400) -> list[Predictions]:
    """Draw copies of one model with little noise, so that no gain is possible."""
    first = draw_members(1, n=n, seed=3)[0]
    rng = np.random.default_rng(0)
    noisy_members = [np.abs(first.probabilities + rng.normal(0, 0.002, first.probabilities.shape)) for _ in range(n_members)]
    return [replace(first, probabilities=member / member.sum(axis=1, keepdims=True)) for member in noisy_members]


@pytest.mark.long
def test_a_real_gain_is_reported() -> None:
    result = combine_members(draw_members(6, n=600, seed=1), names=NAMES[:6], method="ga", settings=QUICK)
    assert result.comparison is not None
    comparison = result.comparison.methods["ga"]
    assert comparison.is_distinguishable
    assert comparison.gain > 0.05
    assert result.recommended in ("average", "geometric", "greedy", "ga")
    assert f"{comparison.gain:+.4f} against the best member" in result.verdict()
    assert result.comparison.methods["best"].gain == 0
    table = {row["method"]: row for row in result.methods_table()}
    assert table["ga"]["out_of_fold"] == comparison.score
    assert table["ga"]["fitted"] == result.fitted["ga"].score


@pytest.mark.slow
def test_without_a_gain_the_best_member_is_recommended() -> None:
    result = combine_members(members_of_noise(4), names=NAMES[:4], method="ga", settings=QUICK)
    assert result.recommended == "best"
    assert "The gain is not distinguishable from 0" in result.verdict()
    assert len(result.duplicates) == 6


@pytest.mark.long
def test_auto_uses_the_simplest_method_within_one_standard_error_of_the_best() -> None:
    noise = combine_members(members_of_noise(4), names=NAMES[:4], settings=QUICK)
    assert (noise.method, noise.recommended, noise.is_chosen) == ("best", "best", True)
    gain = combine_members(draw_members(6, n=600, seed=1), names=NAMES[:6], settings=QUICK)
    assert gain.comparison is not None
    assert gain.method == gain.comparison.within_one_error != "best"
    scores = {name: result.score for name, result in gain.comparison.methods.items()}
    errors = {
        name: (result.interval.high - result.interval.low) / (2 * 1.96) for name, result in gain.comparison.methods.items()
    }
    assert scores[gain.method] >= max(scores.values()) - 2 * max(errors.values())
    assert gain.verdict().startswith(f"Use {gain.method}: macro_f1 {scores[gain.method]:.4f} out of fold")


def test_auto_averages_members_that_cannot_be_compared() -> None:
    members = [replace(member, patients=("one",) * len(member)) for member in draw_members(3)]
    result = combine_members(members, names=NAMES[:3], settings=QUICK)
    assert (result.method, result.comparison) == ("average", None)
    assert "the score on other patients is unknown" in result.verdict().lower()


@pytest.mark.long
def test_out_of_fold_weights_are_fitted_without_the_patient() -> None:
    # A leak would raise the out-of-fold score to the score on the fitted images.
    members = draw_members(5, n=90, k=3, seed=2)
    comparison = compare_methods_out_of_fold(members, settings=QUICK, methods=("stacking",))
    assert comparison is not None
    assert set(comparison.methods) == {"best", "stacking"}
    fitted = combine_members(members, names=NAMES[:5], method="stacking", settings=QUICK).fitted["stacking"].score
    assert comparison.methods["stacking"].score < fitted


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log_loss", "macro_auc"])
def test_a_positive_gain_is_better_for_every_metric(name: str) -> None:
    result = combine_members(
        draw_members(4, n=300, seed=1), names=NAMES[:4], method="average", objective=Objective.named(name), settings=QUICK
    )
    assert result.comparison is not None
    average, best = (result.comparison.methods[method].score for method in ("average", "best"))
    gain = best - average if name == "log_loss" else average - best
    assert result.comparison.methods["average"].gain == pytest.approx(gain)
    assert result.comparison.methods["average"].interval.low <= gain <= result.comparison.methods["average"].interval.high


def test_a_class_of_one_patient_has_no_out_of_fold_score() -> None:
    members = [replace(member, patients=("one",) * len(member)) for member in draw_members(3)]
    result = combine_members(members, names=NAMES[:3], method="ga", settings=QUICK)
    assert result.comparison is None
    assert result.recommended == "ga"
    assert "which is optimistic" in result.verdict()
    assert result.calibration.temperature == 1


@pytest.mark.slow
def test_a_temperature_that_reduces_the_error_is_used() -> None:
    underconfident = [
        replace(member, probabilities=0.2 * member.probabilities + 0.8 / 3) for member in draw_members(4, n=600, k=3, seed=1)
    ]
    result = combine_members(underconfident, names=NAMES[:4], method="average", settings=QUICK)
    assert result.calibration.temperature < 0.5
    assert result.calibration.error_after < result.calibration.error_before
    assert result.predictions.probabilities.max() > 0.9
    uncalibrated = result.fitted["average"].combiner.combine(
        np.stack([member.take(_order(member)).probabilities for member in underconfident])
    )
    ordered = result.predictions.take(_order(result.predictions))
    assert (ordered.probabilities.argmax(axis=1) == uncalibrated.argmax(axis=1)).all()


def _order(member: Predictions) -> np.ndarray:
    return np.argsort(member.ids)
