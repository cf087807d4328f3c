"""Bootstrap intervals and corrected scores of several findings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring import influences
from automl_cxr.scoring.intervals import bootstrap_interval, bootstrap_intervals, paired_difference
from automl_cxr.scoring.metrics import METRICS, score_predictions
from automl_cxr.scoring.predictions import Predictions, align
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.scoring.selection_bias import corrected_score
from automl_cxr.tasks import MULTILABEL
from tests.scoring.findings import draw_findings, draw_models

DEFINED = [name for name, row in METRICS.items() if MULTILABEL in row.tasks]


@pytest.mark.parametrize("name", [*DEFINED, "auc_f1", "f1_f2"])
def test_the_interval_contains_the_score(name: str) -> None:
    predictions = draw_findings(240)
    interval = bootstrap_interval(predictions, metric=name, n_resamples=150)
    difference, of_difference = paired_difference(*draw_models(2), metric=name, n_resamples=100)
    assert interval.low < interval.high
    if name in METRICS:
        score = METRICS[name].function(predictions.labels, predictions.probabilities, None)
        assert interval.low < score < interval.high
    assert of_difference.low <= difference <= of_difference.high


def test_decisions_use_the_thresholds_of_each_model() -> None:
    predictions = replace(draw_findings(200), thresholds=np.full(4, 0.99))
    assert bootstrap_interval(predictions, metric="macro_f1", n_resamples=20).high < 0.3
    assert bootstrap_interval(replace(predictions, thresholds=None), metric="macro_f1", n_resamples=20).low > 0.3


def test_influences_give_nearly_the_same_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    models = draw_models(3, n=900)
    probabilities, images = align(models)

    def resample() -> np.ndarray:
        scored = resample_scores(images.labels, probabilities, images.patients, [METRICS["macro_auc"]], n_resamples=60, seed=0)
        return scored["macro_auc"].of_resamples

    exact = resample()
    monkeypatch.setattr(influences, "MAX_EXACT", 1)
    approximate = resample()
    assert not np.array_equal(exact, approximate)
    for one, other in zip(exact, approximate, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.98
        assert other.std() == pytest.approx(one.std(), rel=0.1)
        assert other.mean() == pytest.approx(one.mean(), abs=one.std() / 10)


RANKING = ("macro_auc", "macro_average_precision", "sensitivity_at_90_specificity")


def draw_rare_finding(n_present: int, seed: int, *, n: int = 1000) -> Predictions:
    """Draw a finding that is present in both images of some patients, with correlated scores of the two images."""
    rng = np.random.default_rng(seed)
    of_patient = np.isin(np.arange(n // 2), rng.choice(n // 2, n_present // 2, replace=False))
    present = np.repeat(of_patient, 2)
    scores = 1.5 * present + 0.8 * rng.normal(size=n) + 0.6 * np.repeat(rng.normal(size=n // 2), 2)
    probabilities = (1 / (1 + np.exp(3 - 1.5 * scores))).astype(np.float32)[:, None]
    names, patients = tuple(map(str, range(n))), tuple(str(row // 2) for row in range(n))
    return Predictions(names, present[:, None].astype(np.int64), probabilities, ("f",), patients)


@pytest.mark.parametrize(("n_present", "tolerance"), [(50, 0.08), (200, 0.06)])
def test_intervals_by_influences_are_as_wide_as_those_of_the_bootstrap(
    n_present: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [draw_rare_finding(n_present, seed) for seed in range(4)]

    def widths() -> np.ndarray:
        intervals = [bootstrap_intervals(one, RANKING, n_resamples=300) for one in images]
        return np.array([[of[name].high - of[name].low for name in RANKING] for of in intervals])

    exact = widths()
    monkeypatch.setattr(influences, "MAX_EXACT", 1)
    approximate = widths()
    assert not np.isclose(exact, approximate, rtol=1e-4).any()
    np.testing.assert_allclose(approximate.mean(axis=0), exact.mean(axis=0), rtol=tolerance)


@pytest.mark.parametrize("n_present", [10, 20, 48])
def test_fewer_than_50_images_with_a_finding_are_resampled_exactly(n_present: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 10 images with the finding, the approximate intervals of the area would be too narrow by 17 %."""
    images = draw_rare_finding(n_present, 0)
    before = bootstrap_intervals(images, RANKING, n_resamples=40)
    monkeypatch.setattr(influences, "MAX_EXACT", 1)
    assert bootstrap_intervals(images, RANKING, n_resamples=40) == before


@pytest.mark.parametrize("name", RANKING)
def test_the_influence_of_an_image_is_the_change_of_the_score_with_its_weight(name: str) -> None:
    images = draw_rare_finding(200, 0)
    metric, step = METRICS[name], 400.0
    assert metric.of_influence is not None
    influence = metric.of_influence(images.labels, images.probabilities)
    assert influence is not None
    assert influence.sum() == pytest.approx(0, abs=1e-9)
    # Some images, because the sensitivity changes in steps: those with the highest scores, with and without the finding.
    order = np.argsort(-images.probabilities[:, 0])
    for code in (0, 1):
        chosen = order[images.labels[order, 0] == code][:40]
        weights = np.full((len(images), 1), step, dtype=np.float32)
        weights[chosen] += 0.05 * step
        change = metric.score_weighted(images.labels, images.probabilities, weights, None)[0] - metric.function(
            images.labels, images.probabilities, None
        )
        assert change == pytest.approx(0.05 * influence[chosen].sum(), rel=0.3)


def test_rare_findings_are_resampled_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = draw_findings(90)
    before = bootstrap_intervals(predictions, ["macro_auc"], n_resamples=40)
    monkeypatch.setattr(influences, "MAX_EXACT", 1)
    assert bootstrap_intervals(predictions, ["macro_auc"], n_resamples=40) == before


@pytest.mark.parametrize("name", ["macro_auc", "macro_f1", "auc_f0"])
def test_the_best_of_equal_models_is_corrected_downwards(name: str) -> None:
    rng = np.random.default_rng(0)
    first = draw_findings(180)
    models = [
        replace(first, probabilities=np.clip(first.probabilities + rng.normal(size=(180, 4)) / 3, 0, 1).astype(np.float32))
        for _ in range(8)
    ]
    corrected = corrected_score(models, metric=name)
    assert corrected.raw == max(score_predictions(model)[name] for model in models)
    assert corrected.interval.low < corrected.value < corrected.raw


def test_labels_that_differ_are_refused() -> None:
    one, other = draw_models(2)
    labels = other.labels.copy()
    labels[0, 0] = 1 - labels[0, 0] if labels[0, 0] >= 0 else 1
    with pytest.raises(DataError, match="different labels for 1 images"):
        align([one, replace(other, labels=labels)])


def test_a_metric_of_classes_has_no_interval() -> None:
    with pytest.raises(UsageError, match="not defined for several findings"):
        bootstrap_interval(draw_findings(30), metric="accuracy")
