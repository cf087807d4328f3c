"""The table of finished trials, best first: every score, how sure it is, what each trial costs, and which are as good."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.records import TrialRecord
from automl_cxr.results.baseline_row import add_baseline_row, audit_notes
from automl_cxr.results.external_validation import ExternalSite, score_site
from automl_cxr.results.latencies import measure_latencies
from automl_cxr.scoring.best_set import LEVEL, chances_to_be_best
from automl_cxr.scoring.intervals import N_RESAMPLES, intervals_of, named_metric
from automl_cxr.scoring.metrics import CLASS_METRICS, METRICS, Direction, Metric, metrics_for
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.study.store import StudyStore

OnProgress = Callable[[int, int], None]
_MACRO_F1 = "macro_f1"
_WORST_SITE, _WORST_AT = "worst_site", "worst_at"
_ALWAYS_SHOWN = (
    *("rank", "set", "study", "trial", "feasible", "pareto", "tied"),
    *("macro_f1", "accuracy", "macro_auc", "fnfr"),
    *("n_parameters", "milliseconds", "seconds", "epochs", "best_epoch", "fold_mean", "fold_sd", _WORST_SITE, _WORST_AT),
)


@dataclass(frozen=True)
class _Entry:
    """A finished trial of one of the studies."""

    store: StudyStore
    record: TrialRecord
    predictions: Predictions
    is_on_front: bool


@dataclass(frozen=True)
class _RequestedColumns:
    """What a table is to show.

    Attributes:
        metric: What ranks.
        intervals: What gets an interval, ``metric`` first.
        marks_ties: Whether to tell which trials may be the best one.
        n_resamples: Of the bootstrap.
    """

    metric: str
    intervals: tuple[str, ...]
    marks_ties: bool
    n_resamples: int


def build_leaderboard(
    *stores: StudyStore,
    metric: str | None = None,
    intervals: Sequence[str] = (),
    latency: bool = False,
    sites: Sequence[ExternalSite] = (),
    sort: str | None = None,
    line_to_beat: bool = False,
    n_resamples: int = N_RESAMPLES,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Rank the COMPLETE trials of one study or of several on the validation part, those that miss a requirement last.

    Every metric is computed from the predictions that the trial saved, not copied from what it reported.

    Args:
        stores: The studies.
        metric: What ranks, a name of ``metrics_for`` the classes; by default the studies' (first) objective, or macro-F1 where
            they differ in it.
        intervals: Further metrics that get an interval, macro-F1 always does.
        latency: Whether to measure the milliseconds an image of every kept model, now and one after the other.
        sites: Labelled images of other places, by which every kept model is scored.
        sort: Column to order the rows by instead of the rank, the best first, such as "worst_site".
        line_to_beat: Whether the shortcut baseline of each study's audit stands on top, a row without a rank.
        n_resamples: Of the bootstrap.
        on_progress: Told (models done, models in all) where models have to predict or are measured.

    Returns:
        One row a trial: rank, study (of several), set (of several that are not comparable), trial, feasible (where a study
        requires something: whether the trial keeps that), pareto (where there are several objectives: whether no other trial
        of the study beats it in all), the metric that ranks with its 95 % bootstrap interval by patient (``_low``, ``_high``),
        p_best and tied (see ``scoring.best_set``: whether it may be the best trial, corrected for the number compared),
        the other objectives, every metric (``scoring.metrics.metrics_for``), n_parameters, weight_bytes, multiply_adds,
        milliseconds (an image; with ``latency``), seconds, epochs, best_epoch, has_model, for each site its scores as
        ``<site>:<metric>``, worst_site and worst_at (the worst of the ranking metric over the validation part and the sites,
        and where that is), and the searched hyperparameters as ``params_...``. With folds the scores are of the predictions
        out of fold, and instead of the epochs there are the mean of the folds' own scores and their standard deviation (of a
        sample), fold_mean and fold_sd. ``attrs["notes"]`` says in sentences what a reader has to know. No row where no trial
        is complete.

        Trials that were judged on other images are ranked apart, by ``set``, and nothing is said of ties.

    Raises:
        UnknownNameError: There is no such metric, or no such column to sort by.
        UsageError: The metric needs the class without a finding, or a study is named twice.
    """
    _refuse_twice(stores)
    ranked_by = metric or _common_objective(stores)
    sets = _sets_of_images(stores)
    wish = _RequestedColumns(ranked_by, tuple(dict.fromkeys((ranked_by, _MACRO_F1, *intervals))), len(sets) == 1, n_resamples)
    rows: list[dict[str, Any]] = []
    for number, entries in enumerate(sets, start=1):
        label = {"set": number} if len(sets) > 1 else {}
        rows += [{**label, **row} for row in _rank(entries, wish)]
    if not rows:
        return pd.DataFrame(columns=["rank", "trial", ranked_by, f"{ranked_by}_low", f"{ranked_by}_high"])
    if latency:
        _add_latencies(rows, stores, on_progress)
    for site in sites:
        _add_site(rows, stores, site, wish, on_progress)
    if sites:
        _add_worst_site(rows, [site.name for site in sites], ranked_by)
    table = pd.DataFrame([{name: cell for name, cell in row.items() if name != "params"} | row["params"] for row in rows])
    table = table[_order_of_columns(table, stores, ranked_by)]
    table.attrs["metric"] = ranked_by
    table.attrs["notes"] = (*_notes(sets, sites, rows), *audit_notes(stores))
    table = table if sort is None else sort_leaderboard(table, sort)
    return add_baseline_row(table, stores) if line_to_beat else table


def sort_leaderboard(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Order the rows by a column, the best first and those without a value last; the ranks stay.

    Raises:
        UnknownNameError: There is no such column.
        UsageError: The column needs other sites' images.
    """
    if column == _WORST_SITE and column not in table:
        raise UsageError(f"Only other sites give the column {column}; received none. Name one with --external.")
    if column not in table:
        raise UnknownNameError("column", column, map(str, table.columns))
    ranked_by = str(table.attrs.get("metric", _MACRO_F1))
    ascending = _direction(ranked_by if column == _WORST_SITE else column.rpartition(":")[2]) == "minimize"
    return table.sort_values(column, ascending=ascending, kind="stable", na_position="last", ignore_index=True)


def shorten_leaderboard(table: pd.DataFrame, objectives: Collection[str]) -> pd.DataFrame:
    """Keep what fits a screen: what ranks, what was optimised, the scores that are asked for most, F1 of each class, costs."""
    with_interval = [str(name) for name in table if f"{name}_low" in table]
    ends = {f"{name}{end}" for name in with_interval for end in ("_low", "_high")}
    shown = {*_ALWAYS_SHOWN, *objectives, *with_interval, *ends}
    return table[[name for name in map(str, table.columns) if name in shown or name.startswith("f1_")]]


def _direction(name: str) -> Direction:
    """Tell which way a column is good: a metric, one of a class, or an end of its interval; all else is better if less."""
    bare = name.removesuffix("_low").removesuffix("_high")
    if bare in METRICS:
        return METRICS[bare].direction
    of_class = any(bare.startswith(f"{kind}_") for kind in CLASS_METRICS)
    return "maximize" if of_class or bare in ("p_best", "tied", "feasible", "pareto", "has_model") else "minimize"


# ----------------------------------------------------------------------------------------------- which trials, by images


def _refuse_twice(stores: Sequence[StudyStore]) -> None:
    names = [store.name for store in stores]
    if len(set(names)) < len(names):
        raise UsageError(f"A study may be named once; received {', '.join(names)}. Remove the repeated one.")


def _common_objective(stores: Sequence[StudyStore]) -> str:
    objectives = {store.spec.objective for store in stores}
    return objectives.pop() if len(objectives) == 1 else _MACRO_F1


def _sets_of_images(stores: Sequence[StudyStore]) -> list[list[_Entry]]:
    """Group the finished trials by what they were judged on: images, labels, patients, classes, and which one is normal."""
    sets: dict[object, list[_Entry]] = {}
    for store in stores:
        front = {record.number for record in store.pareto_front()}
        for record in store.ranked():
            predictions = store.predictions(record.number)
            judged_on = (
                *(predictions.ids, predictions.labels.tobytes(), predictions.patients, predictions.classes),
                store.spec.normal_index,
            )
            sets.setdefault(judged_on, []).append(_Entry(store, record, predictions, record.number in front))
    return list(sets.values())


# -------------------------------------------------------------------------------------------------- one set of trials


def _rank(entries: Sequence[_Entry], wish: _RequestedColumns) -> list[dict[str, Any]]:
    """Score trials that were judged on the same images, and give a row for each, best first."""
    images, normal_class = entries[0].predictions, entries[0].store.spec.normal_index
    probabilities = np.stack([entry.predictions.probabilities for entry in entries])
    chosen = [named_metric(name, images.classes, normal_class) for name in wish.intervals]
    resampled = resample_scores(
        images.labels,
        probabilities,
        images.patients,
        chosen,
        n_resamples=wish.n_resamples,
        seed=entries[0].store.spec.seed,
        normal_class=normal_class,
    )
    metrics = metrics_for(images.classes, normal_class=normal_class)
    scores = [_scores(entry.predictions, metrics, normal_class) for entry in entries]
    ends = {name: intervals_of(of_metric) for name, of_metric in resampled.items()}
    sign = 1 if chosen[0].direction == "maximize" else -1
    ranking = resampled[wish.metric]
    chances = np.full(len(entries), np.nan)
    if wish.marks_ties:
        may_win = np.flatnonzero([entry.record.is_feasible for entry in entries])
        chances[may_win] = chances_to_be_best(sign * ranking.scores[may_win], sign * ranking.of_resamples[may_win])

    def place(number: int) -> tuple[float, bool, float, int]:
        score = sign * float(ranking.scores[number])
        return entries[number].record.violation, math.isnan(score), -score, number

    return [
        {
            "rank": rank,
            **_identity(entries[number]),
            wish.metric: scores[number][wish.metric],
            **{f"{name}_{end}": getattr(intervals[number], end) for name, intervals in ends.items() for end in ("low", "high")},
            **({"p_best": chances[number], "tied": bool(chances[number] > 1 - LEVEL)} if wish.marks_ties else {}),
            **_objectives(entries[number]),
            **scores[number],
            **_costs(entries[number]),
            "params": {f"params_{name}": value for name, value in sorted(entries[number].record.params.items())},
        }
        for rank, number in enumerate(sorted(range(len(entries)), key=place), start=1)
    ]


def _scores(predictions: Predictions, metrics: Mapping[str, Metric], normal_class: int | None) -> dict[str, float]:
    return {name: row.function(predictions.labels, predictions.probabilities, normal_class) for name, row in metrics.items()}


def _identity(entry: _Entry) -> dict[str, Any]:
    return {
        "study": entry.store.name,
        "trial": entry.record.number,
        "feasible": entry.record.is_feasible,
        "pareto": entry.is_on_front,
    }


def _objectives(entry: _Entry) -> dict[str, float]:
    """Name the values of several objectives; what is counted is a whole number."""
    counts = [name for name in entry.store.spec.objectives if name in COSTS and COSTS[name].is_known_before_training]
    values = zip(entry.store.spec.objectives, entry.record.values, strict=False)
    return {name: int(value) if name in counts else value for name, value in values}


def _costs(entry: _Entry) -> dict[str, Any]:
    record, facts = entry.record, entry.store.facts(entry.record.number)
    return {
        "n_parameters": record.n_parameters,
        "weight_bytes": facts.get("weight_bytes"),
        "multiply_adds": facts.get("multiply_adds"),
        "seconds": record.seconds,
        **_steps(record),
        "has_model": entry.store.has_model(record.number),
    }


def _steps(record: TrialRecord) -> dict[str, Any]:
    if record.folds is None:
        return {"epochs": len(record.scores), "best_epoch": record.best_epoch}
    scores = list(record.scores.values())
    return {"fold_mean": statistics.mean(scores), "fold_sd": statistics.stdev(scores)}


# --------------------------------------------------------------------------------------------- what models are asked for


def _add_latencies(rows: Sequence[dict[str, Any]], stores: Sequence[StudyStore], on_progress: OnProgress | None) -> None:
    measured = measure_latencies(stores, on_progress=on_progress)
    for row in rows:
        row["milliseconds"] = measured.get((row["study"], row["trial"]), math.nan)


def _add_site(
    rows: Sequence[dict[str, Any]],
    stores: Sequence[StudyStore],
    site: ExternalSite,
    wish: _RequestedColumns,
    on_progress: OnProgress | None,
) -> None:
    for store in stores:
        scored = score_site(store, site, metric=wish.metric, n_resamples=wish.n_resamples, on_progress=on_progress)
        for row in rows:
            if row["study"] == store.name:
                row |= {f"{site.name}:{name}": value for name, value in scored.get(row["trial"], {}).items()}


def _add_worst_site(rows: Sequence[dict[str, Any]], sites: Sequence[str], metric: str) -> None:
    """Tell where each trial does worst; of one that no site has scored nothing is known."""
    worst = min if _direction(metric) == "maximize" else max
    for row in rows:
        columns = {"validation": metric, **{site: f"{site}:{metric}" for site in sites}}
        scores = {place: float(row[column]) for place, column in columns.items() if column in row}
        known = {place: score for place, score in scores.items() if not math.isnan(score)}
        if len(known) < len(columns):
            row |= {_WORST_SITE: math.nan, _WORST_AT: None}
        else:
            place = worst(known, key=known.__getitem__)
            row |= {_WORST_SITE: known[place], _WORST_AT: place}


# -------------------------------------------------------------------------------------------------- the table as a whole


def _order_of_columns(table: pd.DataFrame, stores: Sequence[StudyStore], metric: str) -> list[str]:
    """Put what decides first, and leave out what says nothing here."""
    specs = [store.spec for store in stores]
    hidden = {
        "study": len(stores) == 1,
        "feasible": not any(spec.requirements for spec in specs),
        "pareto": all(len(spec.objectives) == 1 for spec in specs),
    }
    others = dict.fromkeys(name for spec in specs for name in spec.objectives[1:])
    leading = ["rank", "set", "study", "trial", "feasible", "pareto", metric, f"{metric}_low", f"{metric}_high"]
    leading += ["p_best", "tied", *others]
    wanted = dict.fromkeys([*leading, *_with_intervals(table)])
    return [name for name in wanted if name in table and not hidden.get(name, False)]


def _with_intervals(table: pd.DataFrame) -> list[str]:
    """Name the columns, each interval right behind its score and the hyperparameters last."""
    ends = [str(name) for name in table if str(name).endswith(("_low", "_high")) and str(name).rpartition("_")[0] in table]
    names = [str(name) for name in table if name not in ends]
    names.sort(key=lambda name: name.startswith("params_"))
    return [column for name in names for column in (name, f"{name}_low", f"{name}_high") if column in table]


def _notes(sets: Sequence[Sequence[_Entry]], sites: Sequence[ExternalSite], rows: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Say what a reader has to know."""
    notes = []
    if len(sets) > 1:
        told = []
        for number, entries in enumerate(sets, start=1):
            studies = " and ".join(dict.fromkeys(entry.store.name for entry in entries))
            told.append(f"set {number} is {len(entries[0].predictions)} images of {studies}")
        notes.append(
            "These studies were judged on different images, so their scores cannot be compared: ranks count within a set, and "
            f"no ties are marked ({'; '.join(told)})."
        )
    if sites:
        notes.append(
            "The epochs and the ranks were chosen on the validation part, so scores there are optimistic; those of "
            f"{' and '.join(site.name for site in sites)} are not, unless trials are chosen by them."
        )
    for site in sites:
        n_images, n_read = len(site.dataset.table), max((row.get(f"{site.name}:n_images", 0) for row in rows), default=0)
        if 0 < n_read < n_images:
            notes.append(
                f"{n_images - n_read} of {n_images} images of {site.name} cannot be read and are left out; `automl-cxr data "
                "inspect` names them."
            )
    return tuple(notes)
