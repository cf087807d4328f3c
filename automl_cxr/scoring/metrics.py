"""The table of metrics: one row for each metric, with its direction."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring import confusion, ranking
from automl_cxr.scoring.calibration import (
    expected_calibration_error,
    log_loss,
    weighted_calibration_error,
    weighted_log_loss,
)
from automl_cxr.scoring.confusion import confusion_matrix, macro_f1
from automl_cxr.scoring.predictions import Predictions

Direction = Literal["maximize", "minimize"]

# Names of the class without a finding, and words that may be added to them without a change of meaning.
_NORMAL_NAMES = frozenset(
    {
        *("normal", "healthy", "negative", "no disease", "no pathology"),
        *("no finding", "no findings", "nofinding", "nofindings"),
    }
)
_NEUTRAL_WORDS = frozenset({"chest", "class", "cxr", "image", "images", "lung", "lungs", "ray", "x", "xray"})


def score_macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Compute the macro-F1 of one model from arrays, fast enough for every epoch.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), or any scores of which the largest one is the prediction.
    """
    return float(macro_f1(confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])))


@dataclass(frozen=True)
class Metric:
    """One row of ``METRICS``, or one of ``metrics_for`` a study's classes.

    Attributes:
        name: Name on the command line.
        direction: "maximize" or "minimize".
        description: One line for help texts and reports.
        function: (labels (n,), probabilities (n, k), normal_class or None) to the score. It is sufficient for a new metric;
            the next three only make bootstrap intervals and ensembles faster.
        of_weights: (labels (n,), probabilities (n, k), weights (n, n_resamples), normal_class or None) to scores
            (n_resamples,), where each image counts as often as its weight; None if there is no such function.
        of_confusions: (confusions (..., k, k), normal_class or None) to scores (...), for metrics that depend only on the
            confusion matrix; None for other metrics.
        of_stacks: (labels (n,), probabilities (..., n, k), normal_class or None) to scores (...); None if there is no such
            function.
        needs_normal_class: Whether the metric is defined only if ``normal_class`` is known.
    """

    name: str
    direction: Direction
    description: str
    function: Callable[[np.ndarray, np.ndarray, int | None], float]
    of_weights: Callable[[np.ndarray, np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    of_confusions: Callable[[np.ndarray, int | None], np.ndarray] | None = None
    of_stacks: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    needs_normal_class: bool = False

    def score_stack(self, labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        """Score several models: with ``of_stacks`` if the metric has it, otherwise one after another.

        Args:
            labels: True classes, integers (n,).
            probabilities: (n_models, n, k).
            normal_class: Index of the class without a finding, or None.

        Returns:
            float64 (n_models,).
        """
        if self.of_stacks is not None:
            return self.of_stacks(labels, probabilities, normal_class)
        return np.array([self.function(labels, model, normal_class) for model in probabilities], dtype=np.float64)

    def score_weighted(
        self, labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None
    ) -> np.ndarray:
        """Score one model where each image counts several times or not at all.

        Uses ``of_weights`` if the metric has it, otherwise the plain function on repeated images, once for each column of
        weights.

        Args:
            labels: True classes, integers (n,).
            probabilities: (n, k).
            weights: How often each image counts, whole numbers (n, n_resamples).
            normal_class: Index of the class without a finding, or None.

        Returns:
            float64 (n_resamples,); NaN where no image counts.
        """
        if self.of_weights is not None:
            return self.of_weights(labels, probabilities, weights, normal_class)
        rows = (np.repeat(np.arange(len(labels)), counts) for counts in weights.T.astype(np.int64))
        scores = [self.function(labels[row], probabilities[row], normal_class) if len(row) else np.nan for row in rows]
        return np.array(scores, dtype=np.float64)

    def require_normal_class(self, normal_class: int | None, n_classes: int) -> None:
        """Check that a metric which needs a normal class has a valid one.

        Raises:
            UsageError: The metric needs a normal class and has none, or the class does not exist.
        """
        if normal_class is not None and not 0 <= normal_class < n_classes:
            raise UsageError(f"The normal class must be from 0 to {n_classes - 1}. Received {normal_class}.")
        if self.needs_normal_class and normal_class is None:
            raise UsageError(f"Metric '{self.name}' requires a normal class. Received none. Name it with --normal-class.")


# --------------------------------------------------------------------------------------------------- kinds of rows


def _of_confusion(
    name: str, direction: Direction, description: str, of_confusions: Callable[[np.ndarray], np.ndarray]
) -> Metric:
    return _of_confusion_and_normal(name, direction, description, lambda matrices, _: of_confusions(matrices), needed=False)


def _of_confusion_and_normal(
    name: str,
    direction: Direction,
    description: str,
    of_confusions: Callable[[np.ndarray, int | None], np.ndarray],
    *,
    needed: bool = True,
) -> Metric:
    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        matrix = confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])
        return float(of_confusions(matrix, normal_class))

    return Metric(name, direction, description, function, of_confusions=of_confusions, needs_normal_class=needed)


def _of_ranks(
    name: str,
    description: str,
    per_class: Callable[[np.ndarray, np.ndarray], np.ndarray],
    weighted: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    number: int | None = None,
) -> Metric:
    """Create the row of a one-vs-rest metric for class ``number``, or for the mean over all classes if it is None."""

    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, _normal_class: int | None) -> np.ndarray:
        scores = per_class(labels, probabilities)
        return scores.mean(axis=-1) if number is None else scores[..., number]

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, _normal_class: int | None) -> np.ndarray:
        numbers = range(probabilities.shape[1]) if number is None else [number]
        return np.mean([weighted(labels == one, probabilities[:, one], weights) for one in numbers], axis=0)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(of_stacks(labels, probabilities, normal_class))

    return Metric(name, "maximize", description, function, of_weights, of_stacks=of_stacks)


def _sensitivity(percent: int) -> Metric:
    name = f"sensitivity_at_{percent}_specificity"

    def of_stacks(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        normal = _known(normal_class, name)
        return ranking.sensitivity_at_specificity(labels, probabilities, normal, specificity=percent / 100)

    def of_weights(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray, normal_class: int | None) -> np.ndarray:
        normal = _known(normal_class, name)
        normality = probabilities[:, normal]
        return ranking.weighted_sensitivity(labels == normal, normality, weights, specificity=percent / 100)

    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(of_stacks(labels, probabilities, normal_class))

    description = f"sensitivity for any finding at {percent} % specificity"
    return Metric(name, "maximize", description, function, of_weights, of_stacks=of_stacks, needs_normal_class=True)


def _known(normal_class: int | None, name: str) -> int:
    if normal_class is None:
        raise UsageError(f"Metric '{name}' requires a normal class. Received none. Name it with --normal-class.")
    return normal_class


def _calibration_errors(labels: np.ndarray, probabilities: np.ndarray, _normal_class: int | None) -> np.ndarray:
    models = probabilities.reshape(-1, *probabilities.shape[-2:])
    errors = [expected_calibration_error(labels, one) for one in models]
    return np.array(errors).reshape(probabilities.shape[:-2])


# ------------------------------------------------------------------------------------------------ the table of metrics

_ROWS = (
    _of_confusion("macro_f1", "maximize", "mean F1 over the classes", macro_f1),
    _of_confusion("accuracy", "maximize", "share of images that are predicted correctly", confusion.accuracy),
    _of_confusion("balanced_accuracy", "maximize", "mean recall over the classes", confusion.balanced_accuracy),
    _of_confusion("cohen_kappa", "maximize", "Cohen's kappa: agreement with the truth beyond chance", confusion.cohen_kappa),
    _of_ranks("macro_auc", "mean one-vs-rest area under the ROC curve", ranking.auc_per_class, ranking.weighted_auc),
    _of_ranks(
        "macro_average_precision",
        "mean average precision over the classes",
        ranking.average_precision_per_class,
        ranking.weighted_average_precision,
    ),
    Metric(
        "log_loss",
        "minimize",
        "mean negative log probability of the true class",
        lambda labels, probabilities, _: log_loss(labels, probabilities),
        lambda labels, probabilities, weights, _: weighted_log_loss(labels, probabilities, weights),
    ),
    Metric(
        "calibration_error",
        "minimize",
        "expected calibration error: difference between confidence and accuracy",
        lambda labels, probabilities, _: expected_calibration_error(labels, probabilities),
        lambda labels, probabilities, weights, _: weighted_calibration_error(labels, probabilities, weights),
        of_stacks=_calibration_errors,
    ),
    _of_confusion_and_normal(
        "fnfr",
        "minimize",
        "False No-Finding Rate: share of images with a finding that are predicted as normal",
        lambda matrices, normal_class: confusion.fnfr(matrices, _known(normal_class, "fnfr")),
    ),
    _sensitivity(90),
    _sensitivity(95),
)
_BY_NAME = {row.name: row for row in _ROWS}
METRICS: Mapping[str, Metric] = MappingProxyType(_BY_NAME)
"""Every metric by name, read-only."""

CLASS_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "f1": "harmonic mean of precision and recall of",
        "precision": "share of correct predictions among the images predicted as",
        "recall": "share of correct predictions among the images of",
        "specificity": "share of the other classes' images that are not predicted as",
        "auc": "one-vs-rest area under the ROC curve of",
        "average_precision": "one-vs-rest average precision of",
    }
)
"""Metrics of a single class, which are named ``<kind>_<class>``, with descriptions that end with the name of the class."""


def metric(name: str) -> Metric:
    """Return the metric with a name.

    Raises:
        UnknownNameError: There is no such metric.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def metrics_for(classes: Sequence[str], *, normal_class: int | None = None) -> dict[str, Metric]:
    """Return all metrics for a list of classes, by name.

    Args:
        classes: Class names in the order of their indices.
        normal_class: Index of the class without a finding; if None, the metrics that need it are omitted.

    Returns:
        Rows of ``METRICS``, then ``<kind>_<class>`` for each kind of ``CLASS_METRICS`` and each class.

    Raises:
        UsageError: The normal class does not exist.
    """
    rows = {name: row for name, row in METRICS.items() if normal_class is not None or not row.needs_normal_class}
    for row in rows.values():
        row.require_normal_class(normal_class, len(classes))
    for kind in CLASS_METRICS:
        rows |= {f"{kind}_{name}": _class_metric(kind, name, number) for number, name in enumerate(classes)}
    return rows


def _class_metric(kind: str, class_name: str, number: int) -> Metric:
    name, description = f"{kind}_{class_name}", f"{CLASS_METRICS[kind]} {class_name}"
    if kind == "auc":
        return _of_ranks(name, description, ranking.auc_per_class, ranking.weighted_auc, number)
    if kind == "average_precision":
        per_class, weighted = ranking.average_precision_per_class, ranking.weighted_average_precision
        return _of_ranks(name, description, per_class, weighted, number)
    of_classes = {
        "f1": confusion.f1_per_class,
        "precision": confusion.precision_per_class,
        "recall": confusion.recall_per_class,
        "specificity": confusion.specificity_per_class,
    }[kind]
    return _of_confusion(name, "maximize", description, lambda matrices: of_classes(matrices)[..., number])


def score_predictions(predictions: Predictions, *, normal_class: int | None = None) -> dict[str, float]:
    """Compute all metrics of one model.

    Args:
        predictions: Labelled predictions, at least one image.
        normal_class: Index of the class without a finding; if None, the metrics that need it are omitted.

    Returns:
        The scores of ``metrics_for`` the classes by name; NaN where undefined, such as macro_auc if a class has no image.

    Raises:
        DataError: There is no image or a label is unknown.
        UsageError: The normal class does not exist.
    """
    predictions.require_labels()
    rows = metrics_for(predictions.classes, normal_class=normal_class)
    labels, probabilities = predictions.labels, predictions.probabilities
    return {name: row.function(labels, probabilities, normal_class) for name, row in rows.items()}


def find_normal_class(classes: Sequence[str]) -> int | None:
    """Find the class without a finding by the class names.

    The whole name must match, regardless of case, separators and numbering ("01_No-Finding", "Normal lung"). A matching word
    is not enough: "Abnormal", "No opacity / not normal" and "COVID-negative pneumonia" are not normal.

    Returns:
        The index of the class; None if no name or more than one name matches.
    """
    matches = [index for index, name in enumerate(classes) if _is_normal_name(name)]
    return matches[0] if len(matches) == 1 else None


def _is_normal_name(name: str) -> bool:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # NoFinding
    words = re.findall(r"[^\W\d_]+", separated.lower())
    return " ".join(word for word in words if word not in _NEUTRAL_WORDS) in _NORMAL_NAMES
