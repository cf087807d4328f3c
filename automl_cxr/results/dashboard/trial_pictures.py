"""The pictures of a trial: which there are, and each as SVG."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.results.dashboard.drawing import Line, draw_lines, draw_matrix
from automl_cxr.results.figures.quality import confusion_table, precision_recall_table, reliability_table, roc_table
from automl_cxr.results.figures.search import loss_table
from automl_cxr.scoring.calibration import expected_calibration_error
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore


def _draw_scores(store: StudyStore, number: int) -> str:
    record = store.record(number)
    step, name = "fold" if store.spec.folds else "epoch", store.spec.objective
    steps = sorted(record.scores)
    line = Line(name, steps, [record.scores[one] for one in steps])
    return draw_lines(f"Trial {number}: score after each {step}", [line], x=step, y=name)


def _draw_loss(store: StudyStore, number: int) -> str:
    table = loss_table(store, number)
    steps = list(range(1, len(table) + 1))  # with folds their epochs follow each other
    lines = [Line("training", steps, list(table["loss"])), Line("validation", steps, list(table["valid_loss"]))]
    return draw_lines(f"Trial {number}: loss", lines, x="epoch", y="loss")


def _draw_confusion(store: StudyStore, number: int) -> str:
    table = confusion_table(store.predictions(number))
    return draw_matrix(f"Trial {number}: confusions, {_place(store)}", table, rows="true", columns="predicted")


def _draw_roc(store: StudyStore, number: int) -> str:
    curves = roc_table(store.predictions(number)).groupby("class", sort=False)
    lines = [Line(str(name), list(c["false_positive_rate"]), list(c["true_positive_rate"])) for name, c in curves]
    title = f"Trial {number}: ROC, {_place(store)}"
    return draw_lines(title, lines, x="false positive rate", y="true positive rate", is_share=True)


def _draw_precision_recall(store: StudyStore, number: int) -> str:
    curves = precision_recall_table(store.predictions(number)).groupby("class", sort=False)
    lines = [Line(str(name), list(c["recall"]), list(c["precision"])) for name, c in curves]
    return draw_lines(f"Trial {number}: precision and recall", lines, x="recall", y="precision", is_share=True)


def _draw_reliability(store: StudyStore, number: int) -> str:
    predictions = store.predictions(number)
    table = reliability_table(predictions)
    error = expected_calibration_error(predictions.labels, predictions.probabilities)
    lines = [Line("predictions", list(table["confidence"]), list(table["accuracy"])), Line("as sure as right", [0, 1], [0, 1])]
    title = f"Trial {number}: reliability, ECE {error:.3f}"
    return draw_lines(title, lines, x="probability of the predicted class", y="share that is right", is_share=True)


def _place(store: StudyStore) -> str:
    return "out of fold" if store.spec.folds else "validation part"


PICTURES: Mapping[str, Callable[[StudyStore, int], str]] = MappingProxyType(
    {
        "scores.svg": _draw_scores,
        "loss.svg": _draw_loss,
        "confusion.svg": _draw_confusion,
        "roc.svg": _draw_roc,
        "precision-recall.svg": _draw_precision_recall,
        "reliability.svg": _draw_reliability,
    }
)
"""Pictures of a trial by their file names, each drawn of a study and a trial's number. A row is all that another one takes."""


def pictures_of(store: StudyStore, record: TrialRecord) -> list[str]:
    """Name the pictures that a trial has: of its scores alone, unless it left its predictions."""
    if not record.scores:
        return []
    is_whole = record.state is TrialState.COMPLETE and (store.trial_folder(record.number) / PREDICTIONS_FILE).is_file()
    return list(PICTURES) if is_whole else ["scores.svg"]
