"""The section with the best trials and the shortcut baseline."""

from __future__ import annotations

import pandas as pd

from automl_cxr.errors import AutomlCxrError
from automl_cxr.results.baseline_row import SHORTCUT_BASELINE
from automl_cxr.results.html_page import Section, Table, Text
from automl_cxr.results.leaderboard import shorten_leaderboard
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import capitalised
from automl_cxr.results.tables import fold_intervals

_MAX_TRIALS = 15


def leaderboard_section(data: ReportData) -> Section:
    """Rank the best trials with intervals, and mark those that are not significantly worse than the best one."""
    store = data.store
    try:
        table = data.leaderboard.copy()
    except AutomlCxrError as error:
        return Section("Leaderboard", [Text(f"The leaderboard could not be built. {error}")])
    for name in ("n_parameters", "seconds"):
        table[name] = ["" if pd.isna(cell) else f"{cell:,.0f}" for cell in table[name]]
    if data.milliseconds:
        table["milliseconds"] = table["trial"].map(data.milliseconds)
    n_ranked = int(table["rank"].notna().sum())
    trials = f"the first {_MAX_TRIALS} of {n_ranked} finished trials" if n_ranked > _MAX_TRIALS else "all finished trials"
    has_baseline = bool(table["trial"].eq(SHORTCUT_BASELINE).any())
    caption = (
        f"{capitalised(trials)} ({data.evaluated_on}), with 95% bootstrap intervals by patient. tied: the trial may be the "
        "best one, according to a paired bootstrap of all differences."
    )
    if has_baseline:
        caption += " The first row is the shortcut baseline, which uses no anatomy, on the training and validation images."
    shown = fold_intervals(shorten_leaderboard(table.head(_MAX_TRIALS + has_baseline), data.spec.objectives))
    command = f"automl-cxr leaderboard {store.name} --all"
    return Section("Leaderboard", [Table(shown, caption), Text(f"Run `{command}` for all scores.")])
