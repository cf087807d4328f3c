"""The summary of a report: the best trial, its scores, the baseline, the budget of the search, and warnings."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd

from automl_cxr.records import SplitRecord, TrialState
from automl_cxr.results.classifier import stored_recommendation
from automl_cxr.results.html_page import Part, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import capitalised, counted, duration, listed, times
from automl_cxr.scoring.objectives import direction_of
from automl_cxr.tasks import PRESENT

_FEW_IMAGES = 30  # of a class: with fewer, one image changes the recall of the class by more than 3 %


def summary_section(data: ReportData) -> Section:
    """Show the best trial with its scores and hyperparameters, the budget of the search, and warnings."""
    number = data.best.number
    parts: list[Part] = [Text(_best_trial_text(data))]
    parts += _baseline_text(data)
    parts += _recommendation_text(data)
    parts += [Text(warning, is_warning=True) for warning in warnings_of(data)]
    parts += [
        Table(scores_table(data), f"Scores of trial {number} ({data.evaluated_on}), with 95% bootstrap intervals by patient"),
        Table(settings_table(data), f"Hyperparameters of trial {number}"),
        Table(budget_table(data), "Budget of the search"),
    ]
    return Section("Summary", parts)


def _best_trial_text(data: ReportData) -> str:
    spec, best = data.spec, data.best
    interval = data.intervals[spec.objective]
    text = (
        f"The best of {counted(data.counts.complete, 'finished trial')} is trial {best.number}: {spec.objective} "
        f"{data.scores[spec.objective]:.4f} (95% interval {interval.low:.4f} to {interval.high:.4f}) on "
        f"{counted(len(data.predictions), 'image')} of {counted(len(set(data.predictions.patients)), 'patient')} "
        f"({data.evaluated_on})."
    )
    if data.corrected is not None and (sentence := data.corrected.sentence()):
        text += f" {sentence}"
    if len(spec.objectives) > 1:
        n_front, n_ranked = len(data.store.pareto_front()), len(data.store.ranked())
        are = "is" if n_front == 1 else "are"
        text += (
            f" {capitalised(counted(n_front, 'trial'))} of {n_ranked} {are} on the Pareto front of {listed(spec.objectives)}."
        )
    return text


def _recommendation_text(data: ReportData) -> list[Part]:
    recommended = stored_recommendation(data.store)
    return [] if recommended is None else [Text(recommended.sentence)]


def _baseline_text(data: ReportData) -> list[Part]:
    """Compare the best trial with the shortcut baseline, if the study has an audit."""
    audit = data.audit
    if audit is None or audit.shortcut is None:
        return []
    baseline, interval = audit.shortcut, data.intervals[audit.shortcut.metric]
    if interval.low > baseline.high:
        verdict = "is above the baseline"
    elif interval.high < baseline.low:
        verdict = "is below the baseline"
    else:
        verdict = "is not clearly above the baseline, because the intervals overlap"
    text = (
        f"{audit.baseline} The {baseline.title} of trial {data.best.number}, {data.scores[baseline.metric]:.3f} "
        f"({interval.low:.3f} to {interval.high:.3f}), {verdict}."
    )
    return [Text(text, is_warning=interval.low <= baseline.high)]


def warnings_of(data: ReportData) -> list[str]:
    """Return warnings about the scores for the reader."""
    spec, split, counts = data.spec, data.split, data.counts
    warnings = []
    if not data.best.is_feasible:
        warnings.append(f"No finished trial satisfies the requirements of the study ({', '.join(spec.requirements)}).")
    if counts.complete > 1:
        warnings.append(
            f"These scores are optimistic: the same images selected the best of {counts.complete} trials and the epochs. The "
            "corrected score takes the choice among the trials into account, but not the choice of the epochs. Only an "
            "evaluation on the test part can show by how much."
        )
    warnings += data.source_warnings
    if data.audit is not None:
        warnings += data.audit.warnings
    if data.heatmaps is not None:
        warnings += data.heatmaps.warnings
    if not split.grouped:
        warnings.append(
            "Patients are unknown, so every image is treated as a separate patient. Images of the same patient may be in "
            "different parts of the split, and the intervals are then too narrow."
        )
    n_images = _images_of_classes(split)
    few = [f"{name} ({n})" for name, n in zip(split.classes, n_images, strict=True) if n < _FEW_IMAGES]
    if few:
        kind = "findings" if split.is_multilabel else "classes"
        warnings.append(
            f"Scores are imprecise for {kind} with fewer than {_FEW_IMAGES} images in the {_part_name(data)}: {listed(few)}."
        )
    if data.finding_scores is not None:
        warnings += data.finding_scores.notes
    if len(data.test_opened) > 1:
        warnings.append(
            f"The test part was evaluated {times(len(data.test_opened))}. Selecting models by their test scores makes these "
            "scores optimistic."
        )
    if split.unreadable:
        were = "was" if len(split.unreadable) == 1 else "were"
        warnings.append(f"{counted(len(split.unreadable), 'image')} could not be read and {were} excluded.")
    if counts.n_failed:
        reason, n = next(iter(counts.failed.items()))
        warnings.append(f"{counted(counts.n_failed, 'trial')} failed. The most frequent reason ({times(n)}): {reason}")
    unfinished = counts.running + counts.left  # configurations may also wait for a later search, such as those of a portfolio
    if unfinished:
        were = "was" if unfinished == 1 else "were"
        warnings.append(
            f"The search is not complete: {counted(unfinished, 'trial')} {were} running at the time of this report."
        )
    return [capitalised(warning) for warning in warnings]


def _images_of_classes(split: SplitRecord) -> list[int]:
    """Count the validation images of each class, or with each finding; with folds those of all folds."""
    labels = split.judged.labels
    if split.is_multilabel:
        return (np.asarray(labels, np.int64) == PRESENT).sum(axis=0).tolist()
    counts = Counter(labels)
    return [counts[label] for label in range(len(split.classes))]


def _part_name(data: ReportData) -> str:
    return "folds" if data.split.folds else "validation part"


def scores_table(data: ReportData) -> pd.DataFrame:
    """Return a table with one row per metric of the best trial: metric, score, low, high and better (the direction)."""
    return pd.DataFrame(
        [
            {
                "metric": name,
                "score": data.scores[name],
                "low": interval.low,
                "high": interval.high,
                "better": "higher" if direction_of(name) == "maximize" else "lower",
            }
            for name, interval in data.intervals.items()
        ]
    )


def settings_table(data: ReportData) -> pd.DataFrame:
    """Return a table of the searched hyperparameters of the best trial, its size, its epochs and its training time."""
    best = data.best
    rows = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in best.params.items()}
    rows["number of parameters"] = f"{best.n_parameters:,}" if best.n_parameters else "not known"
    rows["epochs" if best.folds is None else "folds"] = str(len(best.scores))
    if best.best_epoch is not None:
        rows["best epoch (its weights were saved)"] = str(best.best_epoch)
    if best.seconds is not None:
        rows["training time"] = duration(best.seconds)
    if len(data.spec.objectives) > 1:
        rows |= {f"objective {name}": f"{value:.6g}" for name, value in zip(data.spec.objectives, best.values, strict=True)}
    return pd.DataFrame({"hyperparameter": rows.keys(), "value": rows.values()})


def budget_table(data: ReportData) -> pd.DataFrame:
    """Return a table of the numbers of trials by outcome, of all epochs and of the training time of all trials."""
    counts, records = data.counts, data.store.records()
    seconds = [record.seconds for record in records if record.seconds is not None]
    rows = {
        "trials completed": counts.complete,
        "trials stopped early": counts.pruned - counts.refused,
        "trials refused before training": counts.refused,
        "trials failed": counts.n_failed,
        "trials running": counts.running + counts.left,
        "configurations that wait for a later search": counts.waiting,
        "trials requested": counts.asked,
        "retries after failures": sum(counts.retried.values()),
        "epochs of all trials": data.store.n_epochs(),
        "training time of all finished trials": duration(sum(seconds)) if seconds else None,
        "searches": len(data.searches),
    }
    shown = {name: value for name, value in rows.items() if value or name in ("trials completed", "trials failed")}
    cells = [f"{value:,}" if isinstance(value, int) else value for value in shown.values()]
    return pd.DataFrame({"quantity": shown.keys(), "value": cells})


def failures_table(data: ReportData) -> pd.DataFrame:
    """Return a table of the failed and refused trials: trial, state and reason."""
    records = data.store.records(TrialState.FAILED, TrialState.PRUNED)
    rows = [
        {"trial": record.number, "state": str(record.state), "reason": record.error or record.refusal}
        for record in records
        if record.error or record.refusal
    ]
    return pd.DataFrame(rows, columns=["trial", "state", "reason"])
