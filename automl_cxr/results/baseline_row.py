"""The line to beat: what each study's audit reached without looking at anatomy, on top of its leaderboard."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_audit import load_audit

SHORTCUT_BASELINE = "shortcut baseline"


def add_baseline_row(table: pd.DataFrame, stores: Sequence[StudyStore]) -> pd.DataFrame:
    """Put a row for the shortcut baseline of each study on top: no rank, its macro-F1 and interval, by the name of a trial.

    Its images are those that the study may see, training part included, each judged by a forest that did not learn from its
    patient; so it is no rival on the same images, and no tie is told.

    Args:
        table: A leaderboard.
        stores: Its studies, which may have no audit.
    """
    lines = [
        {
            "study": store.name,
            "trial": SHORTCUT_BASELINE,
            "macro_f1": audit.shortcut.macro_f1,
            "macro_f1_low": audit.shortcut.low,
            "macro_f1_high": audit.shortcut.high,
        }
        for store in stores
        if (audit := load_audit(store)) is not None and audit.shortcut is not None
    ]
    if not lines or table.empty:
        return table
    top = pd.DataFrame(lines).reindex(columns=table.columns).astype(object)
    rows = pd.concat([top.where(top.notna(), math.nan), table.astype(object)], ignore_index=True)
    rows.attrs = dict(table.attrs)
    return rows


def audit_notes(stores: Sequence[StudyStore]) -> tuple[str, ...]:
    """Give what the audits of studies found, a sentence each: the baseline, and every warning."""
    audits = [audit for audit in map(load_audit, stores) if audit is not None]
    found = [sentence for audit in audits for sentence in (audit.baseline, *audit.warnings) if sentence]
    return tuple(dict.fromkeys(found))
