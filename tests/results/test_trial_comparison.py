"""The trials of a large study that are compared on resamples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from automl_cxr.results import trial_comparison
from automl_cxr.results.corrected_best import correct_best
from automl_cxr.results.trial_comparison import group_by_images, rank_by, within_reach


@pytest.fixture
def trials(finished, monkeypatch):
    """Return the four trials of a study in which at least one trial is compared."""
    monkeypatch.setattr(trial_comparison, "N_COMPARED", 1)
    (trials,) = group_by_images([finished._store])
    return rank_by(trials, "macro_f1")


def scored(trials, scores, metric="macro_f1"):
    return [replace(trial, scores={**trial.scores, metric: score}) for trial, score in zip(trials, scores, strict=True)]


def test_all_trials_of_a_small_study_are_compared(finished):
    (trials,) = group_by_images([finished._store])
    assert within_reach(rank_by(trials, "macro_f1"), "macro_f1") == rank_by(trials, "macro_f1")
    assert not finished.leaderboard()[["macro_f1_low", "p_best"]].isna().any(axis=None)


def test_trials_far_below_the_best_one_are_not_compared(trials):
    error = trial_comparison._standard_error(trials[0], "macro_f1")
    assert 0 < error < 0.2
    near_and_far = scored(trials, [1 - error * distance for distance in (0, 1, 5.9, 6.1)])
    assert within_reach(near_and_far, "macro_f1") == near_and_far[:3]
    infeasible = [*near_and_far[:2], replace(near_and_far[2], record=replace(trials[2].record, violations={"fnfr": 0.1}))]
    assert within_reach(infeasible, "macro_f1") == near_and_far[:2]


def test_the_direction_of_the_metric_determines_which_trials_are_near(trials):
    error = trial_comparison._standard_error(trials[0], "log_loss")
    near_and_far = scored(trials, [error * distance for distance in (0, 1, 5.9, 6.1)], "log_loss")
    assert within_reach(near_and_far, "log_loss") == near_and_far[:3]


def test_undefined_scores_are_not_compared(trials):
    undefined = scored(trials, [float("nan")] * 4)
    assert within_reach(undefined, "macro_f1") == undefined[:1]


def test_the_others_have_scores_without_intervals(finished, monkeypatch):
    complete = finished.leaderboard()
    monkeypatch.setattr(trial_comparison, "N_COMPARED", 2)
    monkeypatch.setattr(trial_comparison, "_REACH", 0.0)
    table = finished.leaderboard()
    limits = ["macro_f1_low", "macro_f1_high"]
    assert table[limits][:2].equals(complete[limits][:2])
    assert table[[*limits, "p_best"]][2:].isna().all(axis=None)
    assert table["tied"].tolist()[2:] == [False, False]
    for column in ("rank", "trial", "macro_f1", "macro_auc", "log_loss", "fnfr", "params_dense_units"):
        assert table[column].equals(complete[column]), column
    assert finished.leaderboard(all_intervals=True).equals(complete)


def test_all_trials_count_as_candidates_of_the_corrected_score(trials):
    far = scored(trials, [trials[0].scores["macro_f1"], -9, -9, -9])
    corrected = correct_best(far, "macro_f1")
    assert (corrected.trial, corrected.n_candidates) == (trials[0].record.number, 4)
    assert corrected.value == corrected.raw == pytest.approx(trials[0].scores["macro_f1"])


def test_scores_of_trials_are_saved_when_they_end(finished):
    store = finished._store
    for trial in finished.trials:
        assert (store.trial_folder(trial.number) / "scores.json").is_file()
        assert "scores.json" not in store.facts(trial.number)["sha256"]
