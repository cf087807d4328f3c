"""The leaderboard: the finished trials, best first, with scores, intervals, ties, costs and scores on external sites."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.baseline_row import add_baseline_row, audit_notes
from automl_cxr.results.classifier import stored_recommendation
from automl_cxr.results.corrected_best import CorrectedBest, correct_best
from automl_cxr.results.ensemble_rows import add_rows_above, ensemble_rows
from automl_cxr.results.external_sites import ExternalSite
from automl_cxr.results.external_validation import SiteScores, score_site
from automl_cxr.results.latencies import measure_latencies
from automl_cxr.results.tables import table_of_rows
from automl_cxr.results.trial_comparison import FinishedTrial, group_by_images
from automl_cxr.results.trial_ranking import RankingSettings, rank_trials
from automl_cxr.scoring.finding_labels import describe_unscored
from automl_cxr.scoring.intervals import N_RESAMPLES
from automl_cxr.scoring.metric_table import CLASS_METRICS, Direction
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.study.store import StudyStore
from automl_cxr.tasks import MULTILABEL

OnProgress = Callable[[int, int], None]
_MACRO_F1 = "macro_f1"
_WORST_SITE, _WORST_AT = "worst_site", "worst_at"
_ALWAYS_SHOWN = (
    *("rank", "set", "study", "trial", "family", "feasible", "pareto", "tied"),
    *("macro_f1", "micro_f1", "accuracy", "macro_auc", "fnfr"),
    *("n_parameters", "milliseconds", "seconds", "epochs", "best_epoch", "fold_mean", "fold_sd", _WORST_SITE, _WORST_AT),
)


def build_leaderboard(
    *stores: StudyStore,
    metric: str | None = None,
    intervals: Sequence[str] = (),
    all_intervals: bool = False,
    latency: bool = False,
    sites: Sequence[ExternalSite] = (),
    sort: str | None = None,
    with_baseline: bool = False,
    n_resamples: int = N_RESAMPLES,
    on_progress: OnProgress | None = None,
) -> pd.DataFrame:
    """Rank the COMPLETE trials of one or several studies on the validation part; trials that violate a requirement rank last.

    Every metric is computed from the saved predictions of the trials. Trials that were scored on different images are ranked
    separately, by ``set``, without ties.

    Args:
        stores: The studies.
        metric: Metric that ranks the trials, a name of ``metrics_for`` the classes; by default the studies' (first) objective,
            or macro-F1 if the objectives differ.
        intervals: Further metrics with an interval; macro-F1 always has one.
        all_intervals: Whether to compute intervals of all trials. By default those of the best 200 trials, and of all trials
            within reach of the best one (``trial_comparison.within_reach``).
        latency: Whether to measure the milliseconds per image of every saved model, one after the other.
        sites: Labelled images of external sites, on which every saved model and every ensemble of the studies is scored.
        sort: Column by which the rows are sorted instead of the rank, best first, such as "worst_site".
        with_baseline: Whether to add the shortcut baseline of each study's audit as the first row, without a rank.
        n_resamples: Number of bootstrap resamples.
        on_progress: Called with (processed models, all models) if predictions or latencies are computed.

    Returns:
        One row for each COMPLETE trial, and with sites above them one for each ensemble, without a rank, whose scores on the
        validation part are out of fold. The columns are:

        - rank, study (for several studies), set (for trials of different images), trial, family (if it is searched);
        - feasible: whether the trial meets the study's requirements, if there are any;
        - pareto: whether no trial of the study is better in all objectives, for several objectives;
        - the ranking metric and the limits of its 95 % bootstrap interval by patient (``_low``, ``_high``),
          which are missing for trials that are not within reach of the best one;
        - p_best and tied: whether the trial may be the best, corrected for multiple comparisons (``scoring.best_set``);
        - the other objectives and every metric of ``scoring.metrics.metrics_for``;
        - n_parameters, weight_bytes, multiply_adds, milliseconds (per image, with ``latency``), seconds;
        - epochs and best_epoch; with folds, whose scores are out of fold, instead fold_mean and fold_sd, the mean and the
          sample standard deviation of the folds' scores;
        - has_model;
        - the scores on each site as ``<site>:<metric>``, with ``<site>:n_images`` and ``<site>:n_classes``, over the classes
          of the study that the site has, and worst_site and worst_at: the worst value of the ranking metric
          over the validation part and the sites, and where it occurs;
        - the searched hyperparameters as ``params_...``.

        ``attrs["corrected"]`` contains the ``CorrectedBest`` of each set, the score of its best trial corrected for the choice
        among the trials, or None if no trial meets the requirements. ``attrs["notes"]`` contains messages for readers.

    Raises:
        UnknownNameError: The metric or the column to sort by is unknown.
        UsageError: The metric needs the class without a finding, or a study is given twice.
    """
    _check_distinct(stores)
    ranked_by = metric or _common_objective(stores)
    groups = group_by_images(stores)
    settings = RankingSettings(
        ranked_by, tuple(dict.fromkeys((ranked_by, _MACRO_F1, *intervals))), len(groups) == 1, n_resamples, all_intervals
    )
    rows: list[dict[str, Any]] = []
    for number, trials in enumerate(groups, start=1):
        set_number = {"set": number} if len(groups) > 1 else {}
        rows += [{**set_number, **row} for row in rank_trials(trials, settings)]
    if not rows:
        return pd.DataFrame(columns=["rank", "trial", ranked_by, f"{ranked_by}_low", f"{ranked_by}_high"])
    if latency:
        _add_latencies(rows, stores, on_progress)
    used_sites = [[site.for_study(store) for store in stores] for site in sites]
    scored = [_score_sites(stores, used, settings, on_progress) for used in used_sites]
    ensembles = [row for store in stores for row in ensemble_rows(store)] if sites else []
    for site, of_studies in zip(sites, scored, strict=True):
        _add_site([*rows, *ensembles], site.name, of_studies)
    if sites:
        _add_worst_site([*rows, *ensembles], [site.name for site in sites], ranked_by)
    _add_families(rows)
    table = table_of_rows([{name: cell for name, cell in row.items() if name != "params"} | row["params"] for row in rows])
    table = table[_order_of_columns(table, stores, ranked_by)]
    table.attrs["metric"] = ranked_by
    table.attrs["task"] = stores[0].spec.task
    corrected = [correct_best(trials, ranked_by) for trials in groups]
    table.attrs["corrected"] = tuple(corrected)
    table.attrs["row_fields"] = tuple(_row_fields(best, several=len(stores) > 1) for best in corrected if best is not None)
    recommended = [_recommendation_note(store, several=len(stores) > 1) for store in stores] if sites else []
    table.attrs["notes"] = (
        *_notes(groups, used_sites, scored, rows),
        *_unscored_findings(groups),
        *filter(None, recommended),
        *_corrections(corrected),
        *audit_notes(stores),
    )
    if sites:
        names = [site.name for site in sites]
        table = add_rows_above(table, [row for row in ensembles if any(f"{name}:n_images" in row for name in names)])
    table = table if sort is None else sort_leaderboard(table, sort)
    return add_baseline_row(table, stores) if with_baseline else table


def sort_leaderboard(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Sort the rows by a column, best first and missing values last; the ranks do not change.

    Raises:
        UnknownNameError: There is no such column.
        UsageError: The column needs external sites.
    """
    if column == _WORST_SITE and column not in table:
        raise UsageError(f"The column {column} needs external sites; received none. Add one with --external.")
    if column not in table:
        raise UnknownNameError("column", column, map(str, table.columns))
    ranked_by = str(table.attrs.get("metric", _MACRO_F1))
    ascending = _direction(ranked_by if column == _WORST_SITE else column.rpartition(":")[2]) == "minimize"
    return table.sort_values(column, ascending=ascending, kind="stable", na_position="last", ignore_index=True)


def shorten_leaderboard(table: pd.DataFrame, objectives: Collection[str]) -> pd.DataFrame:
    """Select the columns for the terminal: the ranking, the objectives, the main scores and the costs.

    Also F1 of each class, or for findings, whose F1 depends on thresholds, the area under the ROC curve of each.
    """
    with_interval = [str(name) for name in table if f"{name}_low" in table]
    ends = {f"{name}{end}" for name in with_interval for end in ("_low", "_high")}
    shown = {*_ALWAYS_SHOWN, *objectives, *with_interval, *ends}
    of_each = "auc_" if table.attrs.get("task") == MULTILABEL else "f1_"
    return table[[name for name in map(str, table.columns) if name in shown or name.startswith(of_each)]]


def _direction(name: str) -> Direction:
    """Return the direction of a column: that of its metric; other columns are costs, except for a few flags."""
    bare = name.removesuffix("_low").removesuffix("_high")
    if bare in METRICS:
        return METRICS[bare].direction
    is_class_metric = any(bare.startswith(f"{kind}_") for kind in CLASS_METRICS)
    return "maximize" if is_class_metric or bare in ("p_best", "tied", "feasible", "pareto", "has_model") else "minimize"


def _check_distinct(stores: Sequence[StudyStore]) -> None:
    names = [store.name for store in stores]
    if len(set(names)) < len(names):
        raise UsageError(f"Each study can be given only once; received {', '.join(names)}. Remove the repetition.")


def _common_objective(stores: Sequence[StudyStore]) -> str:
    objectives = {store.spec.objective for store in stores}
    return objectives.pop() if len(objectives) == 1 else _MACRO_F1


def _add_families(rows: Sequence[dict[str, Any]]) -> None:
    """Add the family of each network, if at least one study searches it."""
    if any("params_family" in row["params"] for row in rows):
        for row in rows:
            row["family"] = row["params"].get("params_family")


def _add_latencies(rows: Sequence[dict[str, Any]], stores: Sequence[StudyStore], on_progress: OnProgress | None) -> None:
    measured = measure_latencies(stores, on_progress=on_progress)
    for row in rows:
        row["milliseconds"] = measured.get((row["study"], row["trial"]), math.nan)


def _score_sites(
    stores: Sequence[StudyStore], of_studies: Sequence[ExternalSite], settings: RankingSettings, on_progress: OnProgress | None
) -> dict[str, SiteScores]:
    """Return the scores of the models of each study on a site, given with the class names of each study."""
    return {
        store.name: score_site(store, site, metric=settings.metric, n_resamples=settings.n_resamples, on_progress=on_progress)
        for store, site in zip(stores, of_studies, strict=True)
    }


def _add_site(rows: Sequence[dict[str, Any]], site: str, scored: Mapping[str, SiteScores]) -> None:
    """Add the scores on a site to the rows of trials and ensembles."""
    for row in rows:
        of_model = scored[row["study"]].by_model.get(row["trial"], {})
        row |= {f"{site}:{name}": value for name, value in of_model.items()}


def _add_worst_site(rows: Sequence[dict[str, Any]], sites: Sequence[str], metric: str) -> None:
    """Add the worst score of each trial and its site; NaN for a trial without a score on every site."""
    worst = min if _direction(metric) == "maximize" else max
    for row in rows:
        columns = {"validation": metric, **{site: f"{site}:{metric}" for site in sites}}
        scores = {name: float(row[column]) for name, column in columns.items() if column in row}
        known = {name: score for name, score in scores.items() if not math.isnan(score)}
        if len(known) < len(columns):
            row |= {_WORST_SITE: math.nan, _WORST_AT: None}
        else:
            name = worst(known, key=known.__getitem__)
            row |= {_WORST_SITE: known[name], _WORST_AT: name}


def _order_of_columns(table: pd.DataFrame, stores: Sequence[StudyStore], metric: str) -> list[str]:
    """Return the columns, the ranking first, without those that are constant for these studies."""
    specs = [store.spec for store in stores]
    hidden = {
        "study": len(stores) == 1,
        "feasible": not any(spec.requirements for spec in specs),
        "pareto": all(len(spec.objectives) == 1 for spec in specs),
    }
    others = dict.fromkeys(name for spec in specs for name in spec.objectives[1:])
    leading = ["rank", "set", "study", "trial", "family", "feasible", "pareto", metric, f"{metric}_low", f"{metric}_high"]
    leading += ["p_best", "tied", *others]
    ordered = dict.fromkeys([*leading, *_with_intervals(table)])
    return [name for name in ordered if name in table and not hidden.get(name, False)]


def _with_intervals(table: pd.DataFrame) -> list[str]:
    """Return the columns, each interval directly after its score and the hyperparameters last."""
    ends = [str(name) for name in table if str(name).endswith(("_low", "_high")) and str(name).rpartition("_")[0] in table]
    names = [str(name) for name in table if name not in ends]
    names.sort(key=lambda name: name.startswith("params_"))
    return [column for name in names for column in (name, f"{name}_low", f"{name}_high") if column in table]


def _row_fields(corrected: CorrectedBest, *, several: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the cells that identify the row of the best trial, and the field that JSON adds to it."""
    row = {"trial": corrected.trial, **({"study": corrected.study} if several else {})}
    return row, {"corrected": corrected.fields()}


def _recommendation_note(store: StudyStore, *, several: bool) -> str:
    recommended = stored_recommendation(store)
    of_study = f" of study '{store.name}'" if several else ""
    return "" if recommended is None else f"The recommended classifier{of_study} is {recommended.name}."


def _corrections(corrected: Sequence[CorrectedBest | None]) -> list[str]:
    """Return the corrected score of the best trial of each set as a sentence."""
    sentences = ["" if best is None else best.sentence() for best in corrected]
    if len(sentences) > 1:
        sentences = [f"Set {number}: {sentence}" if sentence else "" for number, sentence in enumerate(sentences, start=1)]
    return [sentence for sentence in sentences if sentence]


def _unscored_findings(groups: Sequence[Sequence[FinishedTrial]]) -> list[str]:
    """Return a sentence that names the findings which the means leave out, for the images of each set."""
    images = [trials[0].predictions for trials in groups if trials[0].predictions.is_multilabel]
    return list(dict.fromkeys(filter(None, (describe_unscored(one.labels, one.classes) for one in images))))


def _notes(
    groups: Sequence[Sequence[FinishedTrial]],
    sites: Sequence[Sequence[ExternalSite]],
    scored: Sequence[Mapping[str, SiteScores]],
    rows: Sequence[dict[str, Any]],
) -> tuple[str, ...]:
    """Return messages about incomparable sets, optimistic scores, absent classes and unreadable images.

    Args:
        groups: The trials, by the images on which they were scored.
        sites: For each site, its images with the class names of each study.
        scored: For each site, the scores of the models of each study.
        rows: Rows of the leaderboard.
    """
    notes = []
    if len(groups) > 1:
        sets = []
        for number, trials in enumerate(groups, start=1):
            studies = " and ".join(dict.fromkeys(trial.store.name for trial in trials))
            sets.append(f"set {number}: {len(trials[0].predictions)} images of {studies}")
        notes.append(
            "These studies were scored on different images, so their scores cannot be compared. Ranks are valid within a set; "
            f"ties are not marked ({'; '.join(sets)})."
        )
    if sites:
        names = " and ".join(site.name for site, *_ in sites)
        notes.append(
            "Scores on the validation part are optimistic: the same images selected the epochs and the ranks. The scores on "
            f"{names} are not, unless they select the trials."
        )
    notes += dict.fromkeys(note for of_studies in sites for site in of_studies for note in site.notes)
    notes += dict.fromkeys(note for of_studies in scored for one in of_studies.values() for note in one.notes)
    for site, *_ in sites:
        n_images, n_read = len(site.dataset.table), max((row.get(f"{site.name}:n_images", 0) for row in rows), default=0)
        if 0 < n_read < n_images:
            notes.append(
                f"{n_images - n_read} of {n_images} images of {site.name} cannot be read and are excluded. "
                "`automl-cxr data inspect` lists them."
            )
    return tuple(notes)
