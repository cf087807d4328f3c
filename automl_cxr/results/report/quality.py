"""The section about the predictions of the best trial: confusion matrices, curves and calibration."""

from __future__ import annotations

import pandas as pd

from automl_cxr.errors import AutomlCxrError
from automl_cxr.results.figures.quality import plot_confusion, plot_precision_recall, plot_reliability, plot_roc
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.tables import fold_intervals
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import PREDICTIONS_FILE

_N_CONFUSIONS = 3  # trials whose confusion matrices are shown
_MAX_ENSEMBLES = 2


def quality_section(data: ReportData) -> Section:
    """Show confusion matrices, curves and calibration of the best trial on the validation part, or out of fold."""
    name = f"trial {data.best.number}"
    best = f"{name}, {data.evaluated_on}"
    of_each = "each finding" if data.predictions.is_multilabel else "each class against the rest"
    parts: list[Part] = [
        *_scores(data, best),
        *(
            Plot(plot_confusion(predictions, f"{_confusions(predictions)}: {model}"), _confusion_caption(model, predictions))
            for model, predictions in _read_predictions(data).items()
        ),
        Plot(plot_roc(data.predictions, f"ROC: {name}"), f"ROC curve of {of_each}: {best}."),
        Plot(
            plot_precision_recall(data.predictions, f"Precision and recall: {name}"),
            f"Precision-recall curve of {of_each}: {best}.",
        ),
        Plot(
            plot_reliability(data.predictions, f"Reliability: {name}"),
            "Points below the dotted line are overconfident predictions. Larger points represent more images.",
        ),
    ]
    return Section("Quality of the predictions", parts)


def _scores(data: ReportData, best: str) -> list[Part]:
    """Return the table of the scores of each class or finding; findings without a score are named."""
    if data.finding_scores is None:
        return [Table(classes_table(data), f"Precision, recall and F1 of each class: {best}")]
    caption = (
        f"Scores of each finding: {best}. present: images with the finding. The thresholds maximise F1 on these images, so "
        "that F1, precision, recall and specificity are optimistic. Intervals are 95% bootstrap intervals by patient."
    )
    table = fold_intervals(data.finding_scores.per_finding.reset_index())
    return [Table(table, caption), *(Text(note, is_warning=True) for note in data.finding_scores.notes)]


def _confusions(predictions: Predictions) -> str:
    return "Decisions at the thresholds" if predictions.is_multilabel else "Confusions"


def _confusion_caption(model: str, predictions: Predictions) -> str:
    caption = "Numbers of images. The colour is the share of the true class."
    if predictions.is_multilabel:
        caption = "Numbers of images with a known label. The colour is the share of the images with the same label."
    if model.startswith("ensemble"):
        caption += " This matrix is optimistic: the ensemble weights were fitted on these images."
    return caption


def classes_table(data: ReportData) -> pd.DataFrame:
    """Return a table with one row per class: class, images, precision, recall and f1 of the best trial."""
    labels = data.predictions.labels
    return pd.DataFrame(
        [
            {
                "class": name,
                "images": int((labels == number).sum()),
                **{kind: data.scores[f"{kind}_{name}"] for kind in ("precision", "recall", "f1")},
            }
            for number, name in enumerate(data.spec.classes)
        ]
    )


def _read_predictions(data: ReportData) -> dict[str, Predictions]:
    """Return the predictions of the best trials and of ensembles by name. Unreadable files are omitted."""
    store = data.store
    files = {
        f"trial {record.number}": store.trial_folder(record.number) / PREDICTIONS_FILE
        for record in store.ranked()[:_N_CONFUSIONS]
    }
    for name in list(data.ensembles)[:_MAX_ENSEMBLES]:
        files[f"ensemble {name}"] = store.folder / "ensembles" / name / PREDICTIONS_FILE
    found = {}
    for name, file in files.items():
        try:
            found[name] = Predictions.from_npz(file)
        except AutomlCxrError:
            continue
    return found
