"""Bootstrap intervals: coverage, patients, pairs, determinism."""

from __future__ import annotations

import time

import numpy as np
import pytest

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring import intervals
from automl_cxr.scoring.intervals import Interval, bootstrap_interval, paired_difference
from automl_cxr.scoring.metrics import METRICS, macro_f1
from automl_cxr.scoring.predictions import Predictions

CONFUSION = np.array([[0.85, 0.10, 0.05], [0.10, 0.80, 0.10], [0.03, 0.07, 0.90]])


def draw(rng: np.random.Generator, n_patients: int, images_each: int = 1, same: float = 0.0) -> Predictions:
    """Draw predictions of known confusion; images of a patient repeat its first prediction ``same`` often."""
    labels = np.repeat(rng.integers(3, size=n_patients), images_each)
    predicted = np.array([rng.choice(3, p=CONFUSION[label]) for label in labels])
    first = np.repeat(predicted[::images_each], images_each)
    predicted = np.where(rng.random(len(labels)) < same, first, predicted)
    return predict(labels, predicted, tuple(f"p{i}" for i in np.repeat(np.arange(n_patients), images_each)))


def predict(labels: np.ndarray, predicted: np.ndarray, patients: tuple[str, ...] = ()) -> Predictions:
    probabilities = np.where(np.arange(3) == predicted[:, None], 0.8, 0.1)
    return Predictions(tuple(map(str, range(len(labels)))), labels, probabilities, ("normal", "b", "c"), patients)


def width(interval: Interval) -> float:
    return interval.high - interval.low


def test_intervals_cover_the_true_score() -> None:
    truth = float(macro_f1(CONFUSION / 3))
    rng = np.random.default_rng(0)
    covered = 0
    for number in range(200):
        interval = bootstrap_interval(draw(rng, 150, images_each=2, same=0.7), n_resamples=500, seed=number)
        covered += interval.low <= truth <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_images_of_one_patient_are_not_independent() -> None:
    by_patient = draw(np.random.default_rng(1), 100, images_each=4, same=1.0)
    by_image = Predictions(by_patient.ids, by_patient.labels, by_patient.probabilities, by_patient.classes)
    ratio = width(bootstrap_interval(by_patient)) / width(bootstrap_interval(by_image))
    assert ratio == pytest.approx(2, rel=0.15), "four equal images a patient: the square root of 4"


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_an_interval_around_its_score(name: str) -> None:
    rng = np.random.default_rng(2)
    predictions = draw(rng, 150)
    noisy = predictions.probabilities + rng.dirichlet(np.ones(3), size=150)
    predictions = Predictions(predictions.ids, predictions.labels, noisy / noisy.sum(1, keepdims=True), ("a", "b", "c"))
    interval = bootstrap_interval(predictions, metric=name, n_resamples=300, normal_class=0)
    score = METRICS[name].function(predictions.labels, predictions.probabilities, 0)
    assert interval.low < score < interval.high
    assert interval.level == 0.95
    narrow = bootstrap_interval(predictions, metric=name, n_resamples=300, normal_class=0, level=0.5)
    assert interval.low < narrow.low < narrow.high < interval.high


def test_counts_of_cells_resample_as_rows_of_images_do() -> None:
    predictions = draw(np.random.default_rng(3), 120, images_each=3, same=0.5)
    by_cells = intervals._resampled_scores([predictions], "macro_f1", 0.95, 4000, 0, None)[0]
    by_rows = intervals._scores_by_rows([predictions], METRICS["macro_f1"], 4000, np.random.default_rng(1), None)[0]
    assert by_cells.mean() == pytest.approx(by_rows.mean(), abs=0.002)
    assert np.quantile(by_cells, [0.025, 0.975]) == pytest.approx(np.quantile(by_rows, [0.025, 0.975]), abs=0.006)


def test_blocks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = draw(np.random.default_rng(4), 100, images_each=2)
    whole = bootstrap_interval(predictions)
    monkeypatch.setattr(intervals, "_BLOCK_BYTES", 20_000)
    assert bootstrap_interval(predictions) == whole


def test_the_same_seed_gives_the_same_interval_and_leaves_numpy_alone() -> None:
    predictions = draw(np.random.default_rng(5), 100)
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first = bootstrap_interval(predictions, seed=1)
    assert bootstrap_interval(predictions, seed=1) == first
    assert bootstrap_interval(predictions, seed=2) != first
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]


def test_a_thousand_images_take_milliseconds() -> None:
    predictions = draw(np.random.default_rng(6), 500, images_each=2, same=0.7)
    started = time.process_time()
    bootstrap_interval(predictions)
    assert time.process_time() - started < 0.5  # 0.02 measured; the rest is for a slow machine


def test_pairs_see_what_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(7)
    worse = draw(rng, 300)
    mended = np.where(rng.random(300) < 0.3, worse.labels, worse.predicted)
    better = predict(worse.labels, mended, worse.patients)
    difference, interval = paired_difference(better, worse)
    assert 0 < interval.low < difference < interval.high
    assert bootstrap_interval(better).low < bootstrap_interval(worse).high, "apart, the two overlap"
    reverse, mirrored = paired_difference(worse, better)
    assert reverse == -difference
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=1e-3)


def test_pairs_are_matched_by_id_and_tie_with_themselves() -> None:
    predictions = draw(np.random.default_rng(8), 60)
    shuffled = predictions.take(np.random.default_rng(0).permutation(60))
    for name in ("macro_f1", "macro_auc"):
        assert paired_difference(predictions, shuffled, metric=name, n_resamples=50) == (0, Interval(0, 0, 0.95))
    with pytest.raises(DataError, match="the same images"):
        paired_difference(predictions, predictions.take(slice(30)))


def test_undefined_resamples_do_not_count() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])  # a third of the resamples lack class c
    rng = np.random.default_rng(9)
    probabilities = (rng.dirichlet(np.ones(3), size=41) + np.eye(3)[labels] / 4) / 1.25
    predictions = Predictions(tuple(map(str, range(41))), labels, probabilities, ("a", "b", "c"))
    interval = bootstrap_interval(predictions, metric="macro_auc", n_resamples=200)
    assert 0 < interval.low < interval.high <= 1
    undefined = bootstrap_interval(predictions.take(slice(40)), metric="macro_auc", n_resamples=20)
    assert np.isnan([undefined.low, undefined.high]).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"level": 95}, UsageError, "between 0 and 1. Received 95"),
        ({"n_resamples": 0}, UsageError, "at least one resample"),
        ({"seed": -1}, UsageError, "at least 0"),
        ({"metric": "f1"}, UnknownNameError, "macro_f1"),
        ({"metric": "fnfr"}, UsageError, "which class is normal"),
        ({"metric": "fnfr", "normal_class": 3}, UsageError, "from 0 to 2"),
    ],
)
def test_wrong_words_are_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bootstrap_interval(draw(np.random.default_rng(0), 20), **arguments)


def test_what_cannot_be_scored_has_no_interval() -> None:
    predictions = draw(np.random.default_rng(0), 20)
    with pytest.raises(DataError, match="at least one image"):
        bootstrap_interval(predictions.take(slice(0, 0)))
