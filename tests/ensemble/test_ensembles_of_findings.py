"""Ensembles of several findings: weights over known labels, combiners, thresholds out of fold, and choice of members."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from automl_cxr.ensemble import fit_sample
from automl_cxr.ensemble.build import build_weight_scorer, fit_ensemble, methods_for
from automl_cxr.ensemble.combiners import WeightedAverage, combiner_from_record
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights, has_exact_optimum
from automl_cxr.ensemble.finding_combiners import AverageByFinding, CalibratedFindings, FindingStacking
from automl_cxr.ensemble.finding_weight_scoring import FindingWeightScorer
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.ensemble.member_selection import choose_diverse, error_correlations, near_duplicates
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import combine_members
from automl_cxr.errors import DataError, UsageError
from automl_cxr.scoring.finding_calibration import with_temperature
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.thresholds import choose_thresholds
from automl_cxr.tasks import MULTILABEL
from tests.scoring.findings import draw_findings, draw_models

QUICK = GeneticSettings(population=10, generations=4, patience=2, halvings=1)
METHODS = list(methods_for(3))


def objective(name: str) -> Objective:
    return Objective.named(name, task=MULTILABEL, classes=("f0", "f1", "f2", "f3"))


def scorer_of(models: list[Predictions], name: str = "macro_auc") -> FindingWeightScorer:
    scorer, _ = build_weight_scorer(models, objective(name))
    assert isinstance(scorer, FindingWeightScorer)
    return scorer


@pytest.mark.parametrize("name", ["macro_auc", "macro_f1", "log_loss", "auc_f2"])
@pytest.mark.parametrize("by_finding", [False, True])
def test_populations_are_scored_like_single_ensembles(name: str, by_finding: bool) -> None:
    models = draw_models(3)
    scorer = scorer_of(models, name)
    weights = np.random.default_rng(0).random((5, 3, 4) if by_finding else (5, 3))
    scores, errors = scorer.score(weights), scorer.squared_error(weights)
    labels, is_known = scorer.labels, scorer.labels >= 0
    for one, score, error in zip(weights, scores, errors, strict=True):
        combiner = AverageByFinding(scorer.standardize(one)) if by_finding else WeightedAverage(one)
        combined = combiner.combine(scorer.probabilities)
        expected = objective(name).score(labels, combined)
        assert score == pytest.approx(expected if name != "log_loss" else -expected, abs=2e-3 if name == "macro_f1" else 1e-5)
        squares = [((combined - labels)[:, number][is_known[:, number]] ** 2).mean() for number in range(4)]
        assert error == pytest.approx(np.mean(squares), abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_unknown_labels_and_probabilities_of_their_images_have_no_influence(method: str) -> None:
    """The fit is the same whatever is predicted for findings whose label is unknown."""
    models = draw_models(3, n=90)
    unknown = models[0].labels < 0
    labels = np.where(unknown, -2, models[0].labels)
    changed = [
        replace(model, probabilities=np.where(unknown, np.float32(0.7), model.probabilities), labels=labels) for model in models
    ]
    first, second = (
        fit_ensemble(one, method=method, objective=objective("macro_auc"), settings=QUICK) for one in (models, changed)
    )
    assert first.combiner.to_record() == second.combiner.to_record()


@pytest.mark.parametrize("method", METHODS)
def test_combiners_are_restored_from_their_records(method: str) -> None:
    models = draw_models(3, n=90)
    combiner = CalibratedFindings(
        fit_ensemble(models, method=method, objective=objective("macro_f1"), settings=QUICK).combiner, 0.7
    )
    probabilities = np.stack([model.probabilities for model in models])
    restored = combiner_from_record(combiner.to_record(), n_members=3, n_classes=4)
    combined = restored.combine(probabilities)
    np.testing.assert_array_equal(combined, combiner.combine(probabilities))
    assert combined.dtype == np.float32
    assert ((combined > 0) & (combined < 1)).all()
    assert restored.shares.sum() == pytest.approx(1)
    assert restored.shares_for(2).sum() == pytest.approx(1)
    with pytest.raises((UsageError, DataError)):
        combiner_from_record(combiner.to_record(), n_members=2, n_classes=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["macro_auc", "macro_f1"])
def test_an_ensemble_is_compared_out_of_fold_and_stores_its_thresholds(name: str) -> None:
    models = [replace(model, thresholds=np.full(4, 0.9)) for model in draw_models(3)]
    built = combine_members(
        models, names="abc", method="greedy", objective=objective(name), settings=QUICK, compared=("best", "greedy")
    )
    assert built.comparison is not None
    out_of_fold = built.comparison.methods["greedy"].predictions
    assert out_of_fold.thresholds is None, "the thresholds of a member are not those of the ensemble"
    probabilities, temperature = out_of_fold.probabilities, built.calibration.temperature
    if temperature != 1:
        probabilities = with_temperature(probabilities, temperature)
    chosen = choose_thresholds(out_of_fold.labels, probabilities)
    np.testing.assert_array_equal(built.predictions.thresholds, chosen)
    expected = METRICS[name].function(out_of_fold.labels, out_of_fold.probabilities, None)
    assert built.comparison.methods["greedy"].score == pytest.approx(expected)
    assert set(built.comparison.methods) == {"best", "greedy"}


@pytest.mark.parametrize("seed", range(3))
def test_the_sweep_of_two_members_is_at_least_as_good_as_a_fine_grid(seed: int) -> None:
    scorer = scorer_of(draw_models(2, n=60, seed=seed))
    assert has_exact_optimum(scorer)
    first = np.linspace(0, 1, 2001)
    best = scorer.score(np.stack([first, 1 - first], axis=1)).max()
    assert scorer.score(exact_two_member_weights(scorer)[None])[0] >= best - 1e-9


def test_greedy_and_genetic_weights_are_not_worse_than_the_best_member() -> None:
    models = draw_models(4)
    scorer = scorer_of(models)
    best = scorer.score(np.eye(4)).max()
    for method in ("greedy", "ga"):
        assert fit_ensemble(models, method=method, objective=objective("macro_auc"), settings=QUICK).score >= best


def test_stacking_of_a_finding_that_is_absent_everywhere_is_the_mean_of_the_logits() -> None:
    models = draw_models(2)
    labels = models[0].labels.copy()
    labels[labels[:, 0] == 1, 0] = 0
    models = [replace(model, labels=labels) for model in models]
    combiner = fit_ensemble(models, method="stacking", objective=objective("macro_auc")).combiner
    assert isinstance(combiner, FindingStacking)
    assert combiner.coefficients[0].tolist() == [0.5, 0.5]
    assert combiner.intercepts[0] == 0


def test_copies_are_near_duplicates_and_weak_independent_members_are_not() -> None:
    first, second = draw_models(2)
    rng = np.random.default_rng(0)
    weak = [replace(first, probabilities=rng.uniform(0.1, 0.2, first.probabilities.shape).astype(np.float32)) for _ in range(2)]
    scorer = scorer_of([first, second, first, *weak])
    assert [(one, other) for one, other, _ in near_duplicates(scorer)] == [(0, 2)]
    assert abs(error_correlations(scorer)[3, 4]) < 0.2
    assert set(choose_diverse(scorer, 2)) != {0, 2}


def test_costly_fits_use_a_sample_of_the_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    models = draw_models(2, n=300)
    scorer, images = build_weight_scorer(models, objective("macro_auc"))
    assert fit_sample.sample_patients(scorer, images.patients, QUICK)[0] is scorer
    monkeypatch.setattr(fit_sample, "MAX_FIT_IMAGES", 100)
    monkeypatch.setattr(fit_sample, "MIN_FIT_LABELS", 5)
    sample, patients, settings = fit_sample.sample_patients(scorer, images.patients, GeneticSettings())
    assert sample.n_images == len(patients) == 99, "33 patients with three images each"
    assert settings.halvings == 1
    rows = [images.ids.index(f"i{3 * int(name[1:])}") for name in dict.fromkeys(patients)]
    assert sample.labels[::3].tolist() == scorer.labels[rows].tolist()


def test_a_sample_is_scored_with_nearly_the_same_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    models = draw_models(3, n=1200)
    for name in ("macro_auc", "auc_f2", "macro_f1"):
        scorer, images = build_weight_scorer(models, objective(name))
        assert isinstance(scorer, FindingWeightScorer)
        monkeypatch.setattr(fit_sample, "MAX_FIT_IMAGES", 900)
        sample = fit_sample.sample_patients(scorer, images.patients, QUICK)[0]
        exact = FindingWeightScorer(sample.probabilities, sample.labels, objective=objective(name))
        weights = np.random.default_rng(0).random((20, 3))
        np.testing.assert_allclose(sample.score(weights), exact.score(weights), atol=1e-4, rtol=0)
        rows = np.arange(450)
        is_equal = sample.take(rows).score(weights) == exact.take(rows).score(weights)
        assert is_equal.all() == (name == "macro_f1"), "halves of a sample are scored like the sample"


def test_a_sample_keeps_the_images_with_rare_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw_findings(3000, 3, unknown=0.5)
    labels = first.labels.copy()
    labels[:, 0] = np.where(np.arange(3000) % 500 == 0, 1, 0)  # six images with the first finding
    labels[:, 1] = np.where(np.arange(3000) % 30 == 0, 0, 1)  # 100 images without the second one
    scorer, images = build_weight_scorer([replace(first, labels=labels)], objective("macro_auc"))
    monkeypatch.setattr(fit_sample, "MAX_FIT_IMAGES", 300)
    monkeypatch.setattr(fit_sample, "MIN_FIT_LABELS", 40)
    sample, patients, _ = fit_sample.sample_patients(scorer, images.patients, QUICK)
    assert sample.n_images <= 300
    assert (sample.labels[:, 0] == 1).sum() == 6
    assert 40 <= (sample.labels[:, 1] == 0).sum() < 50
    assert min((sample.labels[:, 2] == code).sum() for code in (0, 1)) >= 40
    again = fit_sample.sample_patients(scorer, images.patients, QUICK)[1]
    assert patients == again
    other = fit_sample.sample_patients(scorer, images.patients, replace(QUICK, seed=1))[1]
    assert patients != other


def test_stacking_on_a_sample_predicts_the_frequency_of_rare_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((6000, 2)) < (0.01, 0.3)).astype(np.int64)
    logits = rng.normal(size=(2, 6000, 2)) + 2 * labels
    names, patients = tuple(map(str, range(6000))), tuple(str(row // 2) for row in range(6000))
    models = [
        Predictions(names, labels, (1 / (1 + np.exp(2 - one))).astype(np.float32), ("rare", "frequent"), patients)
        for one in logits
    ]
    monkeypatch.setattr(fit_sample, "MAX_FIT_IMAGES", 600)
    monkeypatch.setattr(fit_sample, "MIN_FIT_LABELS", 50)
    combiner = fit_ensemble(models, method="stacking", objective=Objective.named("macro_auc", task=MULTILABEL)).combiner
    mean = combiner.combine(np.stack([model.probabilities for model in models])).mean(axis=0)
    np.testing.assert_allclose(mean, labels.mean(axis=0), rtol=0.3)  # the sample has 50 of 600 images with the rare finding


def test_arrays_without_a_known_label_are_refused() -> None:
    with pytest.raises(DataError, match="some are known"):
        FindingWeightScorer(np.full((2, 3, 1), 0.5), np.full((3, 1), -1), objective=objective("macro_auc"))
