"""From members' predictions to an ensemble's."""

from __future__ import annotations

import numpy as np
import pytest

from automl_cxr.ensemble.build import METHODS, compare_methods, ensemble_predictions, fit_ensemble
from automl_cxr.ensemble.genetic import GeneticSettings
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.predictions import Predictions

SMALL = GeneticSettings(population=20, generations=20, restarts=1, patience=10)


def draw(m: int, n: int = 150, k: int = 3, seed: int = 0) -> list[Predictions]:
    """Members whose images stand in different orders."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(k, size=n)
    ids, patients = tuple(f"i{i}" for i in range(n)), tuple(f"p{i // 3}" for i in range(n))
    members = []
    for _ in range(m):
        logits = rng.normal(size=(n, k)) * 1.5 + np.eye(k)[labels]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        member = Predictions(ids, labels, probabilities, tuple(f"c{i}" for i in range(k)), patients)
        members.append(member.take(rng.permutation(n)))
    return members


@pytest.mark.parametrize("method", METHODS)
def test_the_score_of_a_fit_is_the_score_of_its_predictions(method: str) -> None:
    members = draw(5)
    fitted = fit_ensemble(members, method=method, settings=SMALL)
    predictions = ensemble_predictions(members, fitted.weights)
    assert fitted.method == method
    assert fitted.weights.sum() == pytest.approx(1)
    assert fitted.score == score_predictions(predictions)["macro_f1"]
    assert predictions.ids == members[0].ids
    assert predictions.patients == members[0].patients


@pytest.mark.parametrize("seed", range(4))
def test_methods_stand_beside_each_other(seed: int) -> None:
    members = draw(6, seed=seed)
    fitted = compare_methods(members, settings=SMALL)
    assert set(fitted) == {"ga", "average", "greedy", "best"}
    singles = [score_predictions(member)["macro_f1"] for member in members]
    assert fitted["best"].score == max(singles)
    assert fitted["best"].weights[int(np.argmax(singles))] == 1
    assert fitted["average"].weights.tolist() == pytest.approx([1 / 6] * 6)
    assert fitted["ga"].score >= max(fitted[name].score for name in ("average", "greedy", "best"))
    assert fitted["greedy"].score >= fitted["best"].score


def test_the_seed_counts_and_repeats() -> None:
    members = draw(8, seed=1)
    same = [fit_ensemble(members, seed=3, settings=SMALL).weights.tobytes() for _ in range(2)]
    assert same[0] == same[1]
    others = {fit_ensemble(members, seed=seed, settings=SMALL).weights.tobytes() for seed in range(4)}
    assert len(others) > 1


def test_unlabelled_images_can_be_predicted_but_not_fitted_on() -> None:
    members = [Predictions(member.ids, np.full(150, -1), member.probabilities, member.classes) for member in draw(2)]
    assert set(ensemble_predictions(members, np.array([1, 1])).labels) == {-1}
    with pytest.raises(DataError, match="150 of 150 images without one"):
        fit_ensemble(members)


def test_wrong_words_are_refused() -> None:
    members = draw(2)
    with pytest.raises(UnknownNameError, match="Did you mean 'greedy'"):
        fit_ensemble(members, method="gredy")
    with pytest.raises(UsageError, match="at least one member"):
        fit_ensemble([])
    with pytest.raises(UsageError, match="2 members needs as many weights"):
        ensemble_predictions(members, np.ones(3))
    with pytest.raises(UsageError, match="seed must be an integer of at least 0"):
        fit_ensemble(members, seed=-1)
    with pytest.raises(DataError, match="the same images"):
        fit_ensemble([members[0], members[1].take(slice(9))])
