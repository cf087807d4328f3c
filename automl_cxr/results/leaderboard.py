"""The table of a study's finished trials, best first, with what each costs and how sure its score is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from automl_cxr.errors import UnknownNameError
from automl_cxr.records import TrialRecord
from automl_cxr.scoring.intervals import bootstrap_interval
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.study.store import StudyStore


def build_leaderboard(store: StudyStore, *, n_resamples: int = 2000) -> pd.DataFrame:
    """Rank the COMPLETE trials by the study's (first) objective on the validation part, those that miss a requirement last.

    Every metric is computed from the predictions that the trial saved, not copied from what it reported.

    Returns:
        One row a trial: rank, trial, feasible (where the study requires something: whether it keeps that), pareto (where there
        are several objectives: whether no other trial beats it in all), the objective and its 95 % bootstrap interval by
        patient (``_low``, ``_high``; also for macro-F1 where that is not the objective), the other objectives, accuracy,
        macro_auc, F1 of each class, fnfr where a normal class is known, n_parameters, seconds, epochs, best_epoch, has_model,
        and the searched hyperparameters as ``params_...``.
        With folds the scores are of the predictions out of fold, and instead of the epochs there are the mean of the folds'
        own scores and their standard deviation (of a sample), fold_mean and fold_sd.
        No row where no trial is complete.
    """
    spec = store.spec
    front = {record.number for record in store.pareto_front()}
    judged = (["feasible"] if spec.requirements else []) + (["pareto"] if len(spec.objectives) > 1 else [])
    rows = [
        {
            "rank": rank,
            "trial": record.number,
            "feasible": record.is_feasible,
            "pareto": record.number in front,
            **_objectives(spec.objectives, record.values),
            **_scores(store, record, n_resamples),
            **_costs(store, record),
            **_params(record),
        }
        for rank, record in enumerate(store.ranked(), start=1)
    ]
    interval = [f"{spec.objective}_low", f"{spec.objective}_high"]
    leading = ["rank", "trial", *judged, spec.objective, *interval, *spec.objectives[1:]]
    if not rows:
        return pd.DataFrame(columns=leading)
    table = pd.DataFrame(rows)
    hidden = {"feasible", "pareto", *leading}
    return table[[*leading, *(column for column in table if column not in hidden)]]


def _objectives(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """Name the values of several objectives; what is counted is a whole number."""
    counts = [name for name in names if name in COSTS and COSTS[name].is_known_before_training]
    return {name: int(value) if name in counts else value for name, value in zip(names, values, strict=False)}


def _scores(store: StudyStore, record: TrialRecord, n_resamples: int) -> dict[str, float]:
    spec = store.spec
    predictions = store.predictions(record.number)
    scores = score_predictions(predictions, normal_class=spec.normal_index)
    row: dict[str, float] = {}
    for metric in dict.fromkeys((spec.objective, "macro_f1")):
        interval = bootstrap_interval(
            predictions, metric=metric, n_resamples=n_resamples, seed=spec.seed, normal_class=spec.normal_index
        )
        row |= {metric: scores[metric], f"{metric}_low": interval.low, f"{metric}_high": interval.high}
    shown = ["accuracy", "macro_auc", *(f"f1_{name}" for name in spec.classes), "fnfr"]
    return row | {name: scores[name] for name in shown if name in scores}


def _costs(store: StudyStore, record: TrialRecord) -> dict[str, object]:
    return {
        "n_parameters": record.n_parameters,
        "seconds": record.seconds,
        **_steps(record),
        "has_model": store.has_model(record.number),
    }


def _steps(record: TrialRecord) -> dict[str, object]:
    if record.folds is None:
        return {"epochs": len(record.scores), "best_epoch": record.best_epoch}
    scores = list(record.scores.values())
    return {"fold_mean": statistics.mean(scores), "fold_sd": statistics.stdev(scores)}


def _params(record: TrialRecord) -> dict[str, object]:
    return {f"params_{name}": value for name, value in sorted(record.params.items())}


def _to_csv(table: pd.DataFrame) -> str:
    return safe_cells(table).to_csv(index=False)


def _to_json(table: pd.DataFrame) -> str:
    return table.to_json(orient="records", indent=1, force_ascii=False, double_precision=15) + "\n"


def _to_markdown(table: pd.DataFrame) -> str:
    cells = _for_reading(table)
    rows = [list(cells.columns), ["---"] * len(cells.columns), *cells.to_numpy()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def _to_html(table: pd.DataFrame) -> str:
    body = _for_reading(table).to_html(index=False, border=0, justify="left")
    style = "body{font-family:sans-serif}table{border-collapse:collapse}td,th{padding:.3em .8em;border-bottom:1px solid #ccc}"
    return f"<!doctype html>\n<meta charset='utf-8'><title>Leaderboard</title><style>{style}</style>\n{body}\n"


def _for_reading(table: pd.DataFrame) -> pd.DataFrame:
    """Write scores with four decimals, hyperparameters with four digits, and nothing where there is none."""

    def written(name: str, cell: object) -> object:
        if not isinstance(cell, float):
            return "" if cell is None else cell
        if math.isnan(cell):
            return ""
        return f"{cell:.4g}" if name.startswith("params_") else f"{cell:.4f}"

    return pd.DataFrame({name: [written(str(name), cell) for cell in table[name]] for name in table})


FORMATS: Mapping[str, Callable[[pd.DataFrame], str]] = MappingProxyType(
    {"csv": _to_csv, "json": _to_json, "md": _to_markdown, "html": _to_html}
)
"""Texts that a table can be exported as. A row is all that another format takes."""


def format_table(table: pd.DataFrame, kind: str) -> str:
    """Write a table as text.

    Raises:
        UnknownNameError: There is no such format.
    """
    if kind not in FORMATS:
        raise UnknownNameError("format", kind, FORMATS)
    return FORMATS[kind](table)


def safe_cells(table: pd.DataFrame) -> pd.DataFrame:
    """Put an apostrophe before texts, headers too, that a spreadsheet would take for a formula (OWASP "CSV injection")."""

    def escape(cell: object) -> object:
        return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell

    return table.map(escape).rename(columns=escape)
