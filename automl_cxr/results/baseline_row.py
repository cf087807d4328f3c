"""The rows of a leaderboard for shortcut baselines: scores of classifiers that use no anatomical information."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from automl_cxr.results.ensemble_rows import add_rows_above
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_audit import load_audit

SHORTCUT_BASELINE = "shortcut baseline"


def add_baseline_row(table: pd.DataFrame, stores: Sequence[StudyStore]) -> pd.DataFrame:
    """Add the shortcut baseline of each study above the trials: macro-F1, or the mean ROC AUC of several findings, with
    its interval, without a rank.

    The baseline is the out-of-fold score, by patient, of a random forest on the training and validation images. The trials are
    scored on other images, therefore ties with the baseline are not marked.

    Args:
        table: A leaderboard.
        stores: The studies of the leaderboard; studies without an audit have no baseline row.
    """
    baselines = [
        {
            "study": store.name,
            "trial": SHORTCUT_BASELINE,
            audit.shortcut.metric: audit.shortcut.score,
            f"{audit.shortcut.metric}_low": audit.shortcut.low,
            f"{audit.shortcut.metric}_high": audit.shortcut.high,
        }
        for store in stores
        if (audit := load_audit(store)) is not None and audit.shortcut is not None
    ]
    return add_rows_above(table, baselines)


def audit_notes(stores: Sequence[StudyStore]) -> tuple[str, ...]:
    """Return the baselines and the warnings of the audits of studies, without duplicates."""
    audits = [audit for audit in map(load_audit, stores) if audit is not None]
    sentences = [sentence for audit in audits for sentence in (audit.baseline, *audit.warnings) if sentence]
    return tuple(dict.fromkeys(sentences))
