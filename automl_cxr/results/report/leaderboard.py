"""The best trials side by side, with the line to beat on top."""

from __future__ import annotations

import pandas as pd

from automl_cxr.errors import AutomlCxrError
from automl_cxr.results.baseline_row import SHORTCUT_BASELINE
from automl_cxr.results.html_page import Section, Table, Text
from automl_cxr.results.leaderboard import build_leaderboard, shorten_leaderboard
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.tables import fold_intervals

_MOST = 15  # trials


def leaderboard_section(evidence: ReportData) -> Section:
    """Rank the best trials with intervals, and mark those that may be the best one."""
    store = evidence.store
    try:
        table = build_leaderboard(store, with_baseline=True)
    except AutomlCxrError as error:
        return Section("Leaderboard", [Text(f"There is no leaderboard. {error}")])
    for name in ("n_parameters", "seconds"):
        table[name] = ["" if pd.isna(cell) else f"{cell:,.0f}" for cell in table[name]]
    if evidence.milliseconds:
        table["milliseconds"] = table["trial"].map(evidence.milliseconds)
    n_ranked = int(table["rank"].notna().sum())
    first = f"the first {_MOST} of {n_ranked} finished trials" if n_ranked > _MOST else "the finished trials"
    has_line = bool(table["trial"].eq(SHORTCUT_BASELINE).any())
    told = (
        f"{first[:1].upper()}{first[1:]}, {evidence.place}, with 95 % intervals by patient. tied: may be the best trial, by a "
        "paired bootstrap of all differences."
        + (" On top the line to beat, which looks at no anatomy, on the images that the study may see." if has_line else "")
    )
    shown = fold_intervals(shorten_leaderboard(table.head(_MOST + has_line), evidence.spec.objectives))
    return Section("Leaderboard", [Table(shown, told), Text(f"All scores: `automl-cxr leaderboard {store.name} --all`.")])
