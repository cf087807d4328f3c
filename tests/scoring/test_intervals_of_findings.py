"""Bootstrap intervals and corrected scores of several findings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring import influences
from automl_cxr.scoring.intervals import bootstrap_interval, bootstrap_intervals, paired_difference
from automl_cxr.scoring.metrics import METRICS, score_predictions
from automl_cxr.scoring.predictions import align
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
