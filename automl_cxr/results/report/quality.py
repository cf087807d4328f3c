"""What the best trial's predictions are worth, and which confusions it shares with the next best and the ensembles."""

from __future__ import annotations

import pandas as pd

from automl_cxr.errors import AutomlCxrError
from automl_cxr.results.figures.quality import plot_confusion, plot_precision_recall, plot_reliability, plot_roc
from automl_cxr.results.html_page import Part, Plot, Section, Table
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import PREDICTIONS_FILE

_MORE_TRIALS = 2  # whose confusions stand beside those of the best
_MOST_ENSEMBLES = 2


def quality_section(evidence: ReportData) -> Section:
    """Show confusions, curves and calibration of the best trial on the validation part, or out of fold."""
    name = f"trial {evidence.best.number}"
    best = f"{name}, {evidence.place}"
    parts: list[Part] = [
        Table(classes_table(evidence), f"Each class: {best}"),
        *(Plot(plot_confusion(one, f"Confusions: {other}"), _explained(other)) for other, one in _compared(evidence).items()),
        Plot(plot_roc(evidence.predictions, f"ROC: {name}"), f"Each class against the rest: {best}."),
        Plot(
            plot_precision_recall(evidence.predictions, f"Precision and recall: {name}"),
            f"Each class against the rest: {best}.",
        ),
        Plot(
            plot_reliability(evidence.predictions, f"Reliability: {name}"),
            "Below the dotted line, predictions are surer than they are right. Larger points stand for more images.",
        ),
    ]
    return Section("Quality of the predictions", parts)


def _explained(name: str) -> str:
    said = "Numbers are images; the colour is the share of the true class."
    return f"{said} The weights were fitted on these images: too good." if name.startswith("ensemble") else said


def classes_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate class, images, precision, recall and f1 of the best trial, one row a class."""
    labels = evidence.predictions.labels
    return pd.DataFrame(
        [
            {
                "class": name,
                "images": int((labels == number).sum()),
                **{kind: evidence.scores[f"{kind}_{name}"] for kind in ("precision", "recall", "f1")},
            }
            for number, name in enumerate(evidence.spec.classes)
        ]
    )


def _compared(evidence: ReportData) -> dict[str, Predictions]:
    """Read the predictions of the best trials and of ensembles; what cannot be read is left out."""
    store = evidence.store
    files = {
        f"trial {record.number}": store.trial_folder(record.number) / PREDICTIONS_FILE
        for record in store.ranked()[: _MORE_TRIALS + 1]
    }
    for name in list(evidence.ensembles)[:_MOST_ENSEMBLES]:
        files[f"ensemble {name}"] = store.folder / "ensembles" / name / PREDICTIONS_FILE
    found = {}
    for name, file in files.items():
        try:
            found[name] = Predictions.from_npz(file)
        except AutomlCxrError:
            continue
    return found
