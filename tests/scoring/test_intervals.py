"""Bootstrap intervals: coverage, patients, pairs, determinism."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring import influences, resampling
from automl_cxr.scoring.best_set import chances_to_be_best
from automl_cxr.scoring.intervals import Interval, bootstrap_interval, bootstrap_intervals, paired_difference
from automl_cxr.scoring.metrics import METRICS, macro_f1, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import MULTICLASS, MULTILABEL

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


def resample(*models: Predictions, n_resamples: int = 300, seed: int = 0) -> resampling.ResampledScores:
    probabilities = np.stack([model.probabilities for model in models])
    return resampling.resample_scores(
        models[0].labels, probabilities, models[0].patients, [METRICS["macro_f1"]], n_resamples=n_resamples, seed=seed
    )["macro_f1"]


def width(interval: Interval) -> float:
    return interval.high - interval.low


@pytest.mark.long
def test_intervals_cover_the_truth_in_93_to_97_of_100_draws() -> None:
    """Use macro-F1, accuracy and recall. Two images of a patient are equal in 7 of 10 cases, plus agreement by chance."""
    truths = {
        "macro_f1": float(macro_f1(CONFUSION / 3)),
        "accuracy": float(np.diagonal(CONFUSION).mean()),
        "recall_b": 0.8,
    }
    rng = np.random.default_rng(0)
    covered = dict.fromkeys(truths, 0)
    for number in range(400):
        found = bootstrap_intervals(draw(rng, 150, images_each=2, same=0.7), list(truths), n_resamples=200, seed=number)
        for name, truth in truths.items():
            covered[name] += found[name].low <= truth <= found[name].high
    shares = {name: count / 400 for name, count in covered.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_intervals_of_the_area_under_the_curve_cover_the_truth() -> None:
    """Use normally distributed scores with variance 1 and class means 1.5 apart: the true area is Phi(1.5 / sqrt(2))."""
    truth, rng, covered = NormalDist().cdf(1.5 / 2**0.5), np.random.default_rng(1), 0
    for number in range(400):
        labels = np.arange(120) % 2
        odds = rng.normal(size=120) + 1.5 * labels
        second = 1 / (1 + np.exp(-odds))
        predictions = Predictions(tuple(map(str, range(120))), labels, np.stack([1 - second, second], axis=1), ("a", "b"))
        found = bootstrap_interval(predictions, metric="auc_b", n_resamples=400, seed=number)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 400 <= 0.97, covered / 400


def test_images_of_one_patient_are_not_independent() -> None:
    by_patient = draw(np.random.default_rng(1), 100, images_each=4, same=1.0)
    by_image = Predictions(by_patient.ids, by_patient.labels, by_patient.probabilities, by_patient.classes)
    ratio = width(bootstrap_interval(by_patient)) / width(bootstrap_interval(by_image))
    assert ratio == pytest.approx(2, rel=0.15), "four equal images of each patient double the width, by the square root of 4"


@pytest.mark.parametrize("name", [name for name, row in METRICS.items() if MULTICLASS in row.tasks])
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


def test_weighted_confusion_matrices_equal_those_of_repeated_images() -> None:
    predictions = draw(np.random.default_rng(3), 120, images_each=3, same=0.5)
    (by_cells,) = resample(predictions, n_resamples=4000).of_resamples
    rng, by_rows = np.random.default_rng(1), []
    for _ in range(4000):
        times = np.bincount(rng.integers(120, size=120), minlength=120)
        rows = np.repeat(np.arange(360), np.repeat(times, 3))
        by_rows.append(METRICS["macro_f1"].function(predictions.labels[rows], predictions.probabilities[rows], None))
    assert by_cells.mean() == pytest.approx(np.mean(by_rows), abs=0.002)
    assert np.quantile(by_cells, [0.025, 0.975]) == pytest.approx(np.quantile(by_rows, [0.025, 0.975]), abs=0.006)


def test_blocks_do_not_change_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = draw(np.random.default_rng(4), 100, images_each=2)
    whole = bootstrap_interval(predictions)
    monkeypatch.setattr(resampling, "_BLOCK_BYTES", 20_000)
    assert bootstrap_interval(predictions) == whole


def test_the_same_seed_gives_the_same_interval_and_the_state_of_numpy_is_unchanged() -> None:
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
    assert time.process_time() - started < 0.5  # 0.02 measured; slow machines need more


def test_paired_intervals_detect_differences_that_separate_intervals_do_not() -> None:
    rng = np.random.default_rng(7)
    worse = draw(rng, 300)
    better_predictions = np.where(rng.random(300) < 0.3, worse.labels, worse.predicted)
    better = predict(worse.labels, better_predictions, worse.patients)
    difference, interval = paired_difference(better, worse)
    assert 0 < interval.low < difference < interval.high
    assert bootstrap_interval(better).low < bootstrap_interval(worse).high, "the separate intervals overlap"
    reverse, mirrored = paired_difference(worse, better)
    assert reverse == -difference
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low), abs=1e-3)


def test_pairs_are_matched_by_id_and_a_model_is_tied_with_itself() -> None:
    predictions = draw(np.random.default_rng(8), 60)
    shuffled = predictions.take(np.random.default_rng(0).permutation(60))
    for name in ("macro_f1", "macro_auc"):
        assert paired_difference(predictions, shuffled, metric=name, n_resamples=50) == (0, Interval(0, 0, 0.95))
    with pytest.raises(DataError, match="the same images"):
        paired_difference(predictions, predictions.take(slice(30)))


def test_undefined_resamples_do_not_count() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2])  # class c is missing in a third of the resamples
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
        ({"metric": "f1"}, UnknownNameError, "Did you mean 'f1_"),
        ({"metric": "fnfr"}, UsageError, "requires a normal class"),
        ({"metric": "fnfr", "normal_class": 3}, UsageError, "from 0 to 2"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        bootstrap_interval(draw(np.random.default_rng(0), 20), **arguments)


def test_an_undefined_score_has_no_interval() -> None:
    predictions = draw(np.random.default_rng(0), 20)
    with pytest.raises(DataError, match="at least one image"):
        bootstrap_interval(predictions.take(slice(0, 0)))


def test_the_interval_of_a_model_does_not_depend_on_other_models() -> None:
    models = [draw(np.random.default_rng(10), 60, images_each=2)]
    models.append(predict(models[0].labels, np.roll(models[0].predicted, 1), models[0].patients))
    single, with_others = resample(models[0]), resample(*models)
    np.testing.assert_array_equal(single.of_resamples[0], with_others.of_resamples[0])
    np.testing.assert_array_equal(single.left_out[0], with_others.left_out[0])


def test_patients_are_left_out_singly_or_in_400_groups() -> None:
    few = draw(np.random.default_rng(11), 50, images_each=2)
    expected = [float(METRICS["macro_f1"].function(*_without(few, f"p{i}"), None)) for i in range(50)]
    assert resample(few, n_resamples=1).left_out[0] == pytest.approx(expected)
    assert resample(draw(np.random.default_rng(12), 900), n_resamples=1).left_out.shape == (1, 400)


def _without(predictions: Predictions, patient: str) -> tuple[np.ndarray, np.ndarray]:
    rest = predictions.take([name != patient for name in predictions.patients])
    return rest.labels, rest.probabilities


def test_the_best_of_equal_models_is_not_distinguished() -> None:
    """Compare eight equally good models: each of them is in the best set in 95 of 100 draws."""
    rng, n_in_best_set, all_tied = np.random.default_rng(13), 0, 0
    for number in range(200):
        labels = rng.integers(3, size=120)
        base = np.array([rng.choice(3, p=CONFUSION[label]) for label in labels])
        models = [predict(labels, np.where(rng.random(120) < 0.3, rng.permutation(base), base)) for _ in range(8)]
        scored = resample(*models, n_resamples=300, seed=number)
        is_tied = chances_to_be_best(scored.scores, scored.of_resamples) > 0.05
        n_in_best_set, all_tied = n_in_best_set + bool(is_tied[0]), all_tied + bool(is_tied.all())
    assert n_in_best_set / 200 >= 0.93
    assert all_tied / 200 >= 0.6, "pairwise comparisons without a correction would tie all eight in far fewer draws"


def test_a_clearly_worse_model_is_distinguished_and_a_copy_is_not() -> None:
    good = draw(np.random.default_rng(14), 300)
    worse = predict(good.labels, np.where(np.arange(300) % 4, good.predicted, (good.predicted + 1) % 3))
    scored = resample(good, good, worse, n_resamples=500)
    chances = chances_to_be_best(scored.scores, scored.of_resamples)
    assert chances[:2].tolist() == [1, 1]
    assert chances[2] < 0.01
    undefined = np.array([np.nan, 0.5]), np.array([[np.nan] * 9, [0.5] * 9])
    assert np.isnan(chances_to_be_best(*undefined)).tolist() == [True, False]


def test_two_hundred_trials_of_two_thousand_images_take_a_second() -> None:
    rng = np.random.default_rng(15)
    labels = rng.integers(3, size=2000)
    stack = rng.dirichlet(np.ones(3), size=(200, 2000)).astype(np.float32) + np.eye(3, dtype=np.float32)[labels]
    patients = [f"p{number // 2}" for number in range(2000)]
    started = time.process_time()
    scored = resampling.resample_scores(labels, stack, patients, [METRICS["macro_f1"]], n_resamples=2000, seed=0)["macro_f1"]
    chances_to_be_best(scored.scores, scored.of_resamples)
    assert time.process_time() - started < 8  # 0.5 measured; slow machines need more


@pytest.mark.parametrize("task", [MULTICLASS, MULTILABEL])
@pytest.mark.parametrize("excess", [0.0, 0.1, 0.3])
def test_intervals_of_the_calibration_error_cover_the_truth(task: str, excess: float) -> None:
    """The accuracy, or the frequency of a finding, is below the probability by a known amount in every bin."""
    rng = np.random.default_rng(0)
    covered, n_draws, n_images = 0, 60, 200
    for number in range(n_draws):
        confidence = rng.uniform(0.55, 0.95, n_images)
        is_true = (rng.random(n_images) < confidence - excess).astype(np.int64)
        images, patients = tuple(map(str, range(n_images))), tuple(str(i // 2) for i in range(n_images))
        if task == MULTICLASS:
            predictions = Predictions(images, 1 - is_true, np.column_stack([confidence, 1 - confidence]), ("a", "b"), patients)
        else:
            predictions = Predictions(images, is_true[:, None], confidence[:, None], ("a",), patients)
        interval = bootstrap_interval(predictions, metric="calibration_error", n_resamples=200, seed=number)
        score = METRICS["calibration_error"].function(predictions.labels, predictions.probabilities, None)
        assert interval.low <= score <= interval.high
        covered += interval.low <= excess <= interval.high
    assert covered >= 0.8 * n_draws  # of BCa intervals, at most 0.7 for the smaller errors


def test_a_difference_of_calibration_errors_may_be_below_zero() -> None:
    better, worse = (draw(np.random.default_rng(0), 100) for _ in range(2))
    worse = replace(worse, probabilities=np.where(worse.probabilities > 0.5, 0.4, 0.3).astype(np.float32))
    difference, interval = paired_difference(better, worse, metric="calibration_error", n_resamples=100)
    assert interval.low <= difference < 0


def test_influences_give_nearly_the_same_intervals_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw(np.random.default_rng(0), n_patients=900)
    probabilities = images.probabilities[None]
    rows = [METRICS["macro_auc"], metrics_for(images.classes)["auc_b"], METRICS["macro_f1"]]

    def resample_all() -> dict[str, resampling.ResampledScores]:
        return resampling.resample_scores(images.labels, probabilities, images.patients, rows, n_resamples=60, seed=0)

    exact = resample_all()
    monkeypatch.setattr(influences, "MAX_EXACT", 1)
    approximate = resample_all()
    for row in rows[:2]:
        assert not np.array_equal(exact[row.name].of_resamples, approximate[row.name].of_resamples)
        for one, other in zip(exact[row.name].of_resamples, approximate[row.name].of_resamples, strict=True):
            assert np.corrcoef(one, other)[0, 1] > 0.98
            assert other.std() == pytest.approx(one.std(), rel=0.1)
    np.testing.assert_array_equal(exact["macro_f1"].of_resamples, approximate["macro_f1"].of_resamples)


def test_rare_classes_are_resampled_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = draw(np.random.default_rng(0), n_patients=100)
    before = bootstrap_interval(predictions, metric="macro_auc", n_resamples=40)
    monkeypatch.setattr(influences, "MAX_EXACT", 1)
    assert bootstrap_interval(predictions, metric="macro_auc", n_resamples=40) == before
