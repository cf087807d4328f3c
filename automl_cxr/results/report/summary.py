"""The top of a report: the best trial, what it scores, what the search cost, and what a reader must be warned of."""

from __future__ import annotations

from collections import Counter

import pandas as pd

from automl_cxr.records import TrialState
from automl_cxr.results.html_page import Part, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import counted, duration, listed, times
from automl_cxr.scoring.metrics import METRICS

_FEW_IMAGES = 30  # of a class in the part that judges: below, one image moves its recall by more than 3 %


def summary_section(evidence: ReportData) -> Section:
    """Say what came out, in figures, and what they are worth."""
    parts: list[Part] = [Text(_verdict(evidence))]
    parts += _baseline_sentence(evidence)
    parts += [Text(warning, is_warning=True) for warning in warnings_of(evidence)]
    parts += [
        Table(scores_table(evidence), f"Trial {evidence.best.number}, {evidence.place}, 95 % intervals by patient"),
        Table(settings_table(evidence), f"Hyperparameters of trial {evidence.best.number}"),
        Table(budget_table(evidence), "What the search spent"),
    ]
    return Section("Summary", parts)


def _verdict(evidence: ReportData) -> str:
    spec, best = evidence.spec, evidence.best
    interval = evidence.intervals[spec.objective]
    judged = len(evidence.predictions)
    said = (
        f"The best of {counted(evidence.tally.complete, 'finished trial')} is trial {best.number}: {spec.objective} "
        f"{evidence.scores[spec.objective]:.4f} ({interval.low:.4f} to {interval.high:.4f}) on {counted(judged, 'image')} "
        f"of {counted(len(set(evidence.predictions.patients)), 'patient')}, {evidence.place}."
    )
    if len(spec.objectives) > 1:
        front = len(evidence.store.pareto_front())
        said += (
            f" {counted(front, 'trial')} of {len(evidence.store.ranked())} stand on the Pareto front of "
            if front != 1
            else (f" One trial of {len(evidence.store.ranked())} stands on the Pareto front of ")
        )
        said += f"{listed(spec.objectives)}."
    return said


def _baseline_sentence(evidence: ReportData) -> list[Part]:
    """Put the best trial beside the shortcut baseline, where the study was audited."""
    audit = evidence.audit
    if audit is None or audit.shortcut is None:
        return []
    line, ours = audit.shortcut, evidence.intervals["macro_f1"]
    if ours.low > line.high:
        verdict = "lies above it"
    elif ours.high < line.low:
        verdict = "lies below it"
    else:
        verdict = "is not clearly above it, since the intervals overlap"
    said = (
        f"The line to beat. {audit.baseline} Trial {evidence.best.number}, with macro-F1 {evidence.scores['macro_f1']:.3f} "
        f"({ours.low:.3f} to {ours.high:.3f}), {verdict}."
    )
    return [Text(said, is_warning=ours.low <= line.high)]


def warnings_of(evidence: ReportData) -> list[str]:
    """Collect what a reader of the figures must know."""
    spec, split, tally = evidence.spec, evidence.split, evidence.tally
    warnings = []
    if not evidence.best.is_feasible:
        warnings.append(f"No finished trial keeps what the study requires ({', '.join(spec.requirements)}).")
    if tally.complete > 1:
        warnings.append(
            f"The same images chose among {tally.complete} trials, and their epochs, that the scores above are of: they are "
            "too good, the more so the more was chosen. Only the test part can tell how much."
        )
    if evidence.audit is not None:
        warnings += evidence.audit.warnings
    if evidence.explained is not None:
        warnings += evidence.explained.warnings
    if not split.grouped:
        warnings.append(
            "Patients are not known: every image counts as its own patient. Images of one patient may stand on both sides of "
            "the split, and intervals are then too narrow."
        )
    images = Counter(split.judged.labels)
    few = [f"{split.classes[label]} ({images[label]})" for label in range(len(split.classes)) if images[label] < _FEW_IMAGES]
    if few:
        warnings.append(f"Few images judge these classes: {listed(few)}. Their scores are rough.")
    if len(evidence.test_opened) > 1:
        warnings.append(
            f"The test part was opened {times(len(evidence.test_opened))}: choosing by it makes its scores too good."
        )
    if split.unreadable:
        warnings.append(f"{counted(len(split.unreadable), 'image')} could not be read and took no part.")
    if tally.n_failed:
        reason, n = next(iter(tally.failed.items()))
        warnings.append(f"{counted(tally.n_failed, 'trial')} failed, most often ({n}) with: {reason}")
    unfinished = tally.running + tally.left + tally.waiting
    if unfinished:
        warnings.append(f"The search is not at its end: {counted(unfinished, 'trial')} not finished when this was written.")
    return [f"{warning[:1].upper()}{warning[1:]}" for warning in warnings]


def scores_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate metric, score, low, high and better (which direction), one row a metric of the best trial."""
    return pd.DataFrame(
        [
            {
                "metric": name,
                "score": evidence.scores[name],
                "low": interval.low,
                "high": interval.high,
                "better": "higher" if METRICS[name].direction == "maximize" else "lower",
            }
            for name, interval in evidence.intervals.items()
        ]
    )


def settings_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate the hyperparameters of the best trial that were searched, and what it is: parameters, epochs, seconds."""
    best = evidence.best
    rows = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in best.params.items()}
    rows["parameters of the network"] = f"{best.n_parameters:,}" if best.n_parameters else "not known"
    rows["epochs" if best.folds is None else "folds"] = str(len(best.scores))
    if best.best_epoch is not None:
        rows["epoch whose weights were kept"] = str(best.best_epoch)
    if best.seconds is not None:
        rows["training time"] = duration(best.seconds)
    if len(evidence.spec.objectives) > 1:
        rows |= {f"objective {name}": f"{value:.6g}" for name, value in zip(evidence.spec.objectives, best.values, strict=True)}
    return pd.DataFrame({"hyperparameter": rows.keys(), "value": rows.values()})


def budget_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate what the search spent: trials by what became of them, epochs, and the time of all trials together."""
    tally, records = evidence.tally, evidence.store.records()
    seconds = [record.seconds for record in records if record.seconds is not None]
    rows = {
        "trials complete": tally.complete,
        "trials stopped early": tally.pruned - tally.refused,
        "trials refused before training": tally.refused,
        "trials failed": tally.n_failed,
        "trials running or waiting": tally.running + tally.left + tally.waiting,
        "trials asked for": tally.asked,
        "repetitions after failures": sum(tally.retried.values()),
        "epochs of all trials": evidence.store.n_epochs(),
        "training time of all finished trials": duration(sum(seconds)) if seconds else None,
        "searches": len(evidence.searches),
    }
    shown = {name: value for name, value in rows.items() if value or name in ("trials complete", "trials failed")}
    return pd.DataFrame({"what": shown.keys(), "how much": [f"{v:,}" if isinstance(v, int) else v for v in shown.values()]})


def failures_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate the trials that failed or were refused: trial, state, reason."""
    records = evidence.store.records(TrialState.FAILED, TrialState.PRUNED)
    rows = [
        {"trial": record.number, "state": str(record.state), "reason": record.error or record.refusal}
        for record in records
        if record.error or record.refusal
    ]
    return pd.DataFrame(rows, columns=["trial", "state", "reason"])
