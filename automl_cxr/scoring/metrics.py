"""What a score is: one row a metric, each with its direction, and the confusion matrices that most are made of.

Nothing here infers a direction from a name. Metrics of a confusion matrix work on stacks of them, (..., k, k), so that
a bootstrap or a population of ensembles is scored in one call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.scoring.predictions import Predictions

Direction = Literal["maximize", "minimize"]

# Names of the class without a finding, as words; what may stand beside them without changing the meaning.
_NORMAL_NAMES = frozenset(
    {
        *("normal", "healthy", "negative", "no disease", "no pathology"),
        *("no finding", "no findings", "nofinding", "nofindings"),
    }
)
_NEUTRAL_WORDS = frozenset({"chest", "class", "cxr", "image", "images", "lung", "lungs", "ray", "x", "xray"})

# ---------------------------------------------------------------------------------------------- confusion matrices


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, n_classes: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Count images by true class (rows) and predicted class (columns).

    Args:
        labels: True classes, integers (n,) from 0 to n_classes - 1.
        predicted: Predicted classes, the same.
        n_classes: Number of classes, k.
        weights: What each image counts, (n,); 1 when left out.

    Returns:
        (k, k), int64, or float64 with weights.

    Raises:
        DataError: If a class is out of range (an unknown label of -1 is).
    """
    for classes in (labels, predicted):
        if classes.size and (classes.min() < 0 or classes.max() >= n_classes):
            raise DataError(
                f"A confusion matrix of {n_classes} classes needs classes from 0 to {n_classes - 1}. "
                f"Received {classes.min()} to {classes.max()}. Leave images without a label out."
            )
    cells = labels.astype(np.int64) * n_classes + predicted
    return np.bincount(cells, weights, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def precision_per_class(confusion: np.ndarray) -> np.ndarray:
    """Right ones among the images predicted as each class, (..., k, k) to (..., k); 0 where none is predicted."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2), undefined=0.0)


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Right ones among the images of each class, (..., k, k) to (..., k); 0 where the class has none."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1), undefined=0.0)


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall of each class, (..., k, k) to (..., k).

    A class with neither a true nor a predicted image has F1 0, as in ``sklearn.metrics.f1_score(zero_division=0)``
    with all labels given: a class that a split lost is a fault to see, not a perfect score to average in.
    """
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2), undefined=0.0)


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean F1 over all classes, (..., k, k) to (...)."""
    return f1_per_class(confusion).mean(axis=-1)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of images predicted right, (..., k, k) to (...)."""
    return _ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)), undefined=np.nan)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean recall over the classes that have images, (..., k, k) to (...), as ``sklearn``'s balanced accuracy."""
    has_images = confusion.sum(axis=-1) > 0
    return _ratio(recall_per_class(confusion).sum(axis=-1), has_images.sum(axis=-1), undefined=np.nan)


def fnfr(confusion: np.ndarray, normal_class: int) -> np.ndarray:
    """False No-Finding Rate, (..., k, k) to (...): sick patients sent home.

    Images wrongly predicted as the normal class over all images that are not normal (the reference report on
    ChestX-ray14, section 7.1); NaN where every image is normal.
    """
    not_normal = np.delete(confusion, normal_class, axis=-2)
    return _ratio(not_normal[..., normal_class].sum(axis=-1), not_normal.sum(axis=(-2, -1)), undefined=np.nan)


def score_macro_f1(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Macro-F1 of one model, from arrays alone: cheap enough for every epoch.

    Args:
        labels: True classes, integers (n,).
        probabilities: (n, k), or any scores whose largest is the prediction.
    """
    return float(macro_f1(confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])))


# -------------------------------------------------------------------------------------- scores of the probabilities


def macro_auc(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Mean over the classes of the area under each one-against-rest ROC curve, (..., n, k) to (...); NaN without a class.

    The area is the Mann-Whitney statistic, ties counted half, and equals ``roc_auc_score(multi_class="ovr")``. Written
    out because a bootstrap or a population of ensembles asks for it thousands of times: scikit-learn takes a second to import
    and 16 times as long for 1,000 images of 4 classes, and refuses rows whose sum is off by a float16 rounding.
    """
    areas = [_areas_under_curve(labels == number, probabilities[..., number]) for number in range(probabilities.shape[-1])]
    return np.mean(areas, axis=0)


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean negative logarithm of the probability given to the true class, clipped at float32's epsilon."""
    of_truth = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(of_truth.clip(np.finfo(np.float32).eps, 1.0)).mean())


def _areas_under_curve(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Give the area for each row of scores, (..., n) to (...); ``positive`` is (n,)."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return np.full(scores.shape[:-1], np.nan)
    order = scores.argsort(axis=-1)
    ordered = np.take_along_axis(scores, order, axis=-1)
    steps = ordered[..., 1:] != ordered[..., :-1]
    edge = np.ones((*scores.shape[:-1], 1), dtype=bool)
    place = np.arange(len(positive))
    # Equal scores share a rank: half way from the first to the last of them.
    first = np.maximum.accumulate(np.where(np.concatenate([edge, steps], axis=-1), place, 0), axis=-1)
    backwards = np.where(np.concatenate([steps, edge], axis=-1), place, len(positive))[..., ::-1]
    last = np.minimum.accumulate(backwards, axis=-1)[..., ::-1]
    ranks_of_positive = np.where(positive[order], (first + last) / 2 + 1, 0).sum(axis=-1)
    return (ranks_of_positive - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative)


def sensitivity_at_specificity(
    labels: np.ndarray, probabilities: np.ndarray, normal_class: int, *, specificity: float
) -> np.ndarray:
    """Share of the images with a finding that are called, where enough of the normal ones are not, (..., n, k) to (...).

    An image is called when 1 - P(normal) is above a threshold, whatever its finding. The threshold is the lowest at which at
    least ``specificity`` of the normal images stay uncalled; images that tie with it are not called. It is chosen on these
    very images, as on every ROC curve.

    Args:
        labels: True classes, integers (n,).
        probabilities: (..., n, k).
        normal_class: Index of the class without a finding; all others have one.
        specificity: Share of the normal images, above 0 and below 1.

    Returns:
        The sensitivity, 0 to 1; NaN where either kind of image is missing.
    """
    normality, is_normal = probabilities[..., normal_class], labels == normal_class
    if is_normal.all() or not is_normal.any():
        return np.full(normality.shape[:-1], np.nan)
    n_called = int((1 - specificity) * is_normal.sum() + 1e-9)  # 0.1 of 10 images is 1, not 0.99...
    threshold = np.sort(normality[..., is_normal], axis=-1)[..., n_called, None]
    return (normality[..., ~is_normal] < threshold).mean(axis=-1)


# ------------------------------------------------------------------------------------------------ the table of metrics


@dataclass(frozen=True)
class Metric:
    """One row of ``METRICS``.

    Attributes:
        name: What users write.
        direction: "maximize" or "minimize".
        description: One line for people.
        function: (labels (n,), probabilities (n, k), normal_class or None) to the score.
        of_confusions: (confusions (..., k, k), normal_class or None) to scores (...), for metrics that need no more
            than the confusion matrix; None for the others.
        of_ranks: (labels (n,), probabilities (..., n, k), normal_class or None) to scores (...), for metrics that depend on
            the order of the images; None for the others.
        needs_normal_class: Whether ``normal_class`` must be known.
    """

    name: str
    direction: Direction
    description: str
    function: Callable[[np.ndarray, np.ndarray, int | None], float]
    of_confusions: Callable[[np.ndarray, int | None], np.ndarray] | None = None
    of_ranks: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray] | None = None
    needs_normal_class: bool = False

    def require_normal_class(self, normal_class: int | None, n_classes: int) -> None:
        """Refuse a metric that misses its normal class.

        Raises:
            UsageError: If the metric needs a normal class and has none, or one that does not exist.
        """
        if normal_class is not None and not 0 <= normal_class < n_classes:
            raise UsageError(f"The normal class must be from 0 to {n_classes - 1}. Received {normal_class}.")
        if self.needs_normal_class and normal_class is None:
            raise UsageError(f"Metric '{self.name}' needs to know which class is normal. Received none: name it.")


def _metric_of_confusion(
    name: str,
    direction: Direction,
    description: str,
    of_confusions: Callable[[np.ndarray, int | None], np.ndarray],
    *,
    needs_normal_class: bool = False,
) -> Metric:
    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        confusion = confusion_matrix(labels, probabilities.argmax(axis=1), probabilities.shape[1])
        return float(of_confusions(confusion, normal_class))

    return Metric(name, direction, description, function, of_confusions, needs_normal_class=needs_normal_class)


def _metric_of_ranks(
    name: str,
    description: str,
    of_ranks: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray],
    *,
    needs_normal_class: bool = False,
) -> Metric:
    def function(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> float:
        return float(of_ranks(labels, probabilities, normal_class))

    return Metric(name, "maximize", description, function, of_ranks=of_ranks, needs_normal_class=needs_normal_class)


def _fnfr_of_confusions(confusions: np.ndarray, normal_class: int | None) -> np.ndarray:
    if normal_class is None:
        raise UsageError("Metric 'fnfr' needs to know which class is normal. Received none: name it.")
    return fnfr(confusions, normal_class)


def _sensitivity_row(percent: int) -> Metric:
    name = f"sensitivity_at_{percent}_specificity"

    def of_ranks(labels: np.ndarray, probabilities: np.ndarray, normal_class: int | None) -> np.ndarray:
        if normal_class is None:
            raise UsageError(f"Metric '{name}' needs to know which class is normal. Received none: name it.")
        return sensitivity_at_specificity(labels, probabilities, normal_class, specificity=percent / 100)

    description = f"images with a finding that are called while {percent} % of the normal ones are not"
    return _metric_of_ranks(name, description, of_ranks, needs_normal_class=True)


_ROWS = (
    _metric_of_confusion("macro_f1", "maximize", "mean F1 over the classes", lambda c, _: macro_f1(c)),
    _metric_of_confusion("accuracy", "maximize", "share of images predicted right", lambda c, _: accuracy(c)),
    _metric_of_confusion("balanced_accuracy", "maximize", "mean recall over the classes", lambda c, _: balanced_accuracy(c)),
    _metric_of_ranks("macro_auc", "mean one-vs-rest area under the ROC curve", lambda y, p, _: macro_auc(y, p)),
    Metric("log_loss", "minimize", "mean negative log probability of the truth", lambda y, p, _: log_loss(y, p)),
    _metric_of_confusion(
        "fnfr",
        "minimize",
        "False No-Finding Rate: images with a finding that are predicted normal",
        _fnfr_of_confusions,
        needs_normal_class=True,
    ),
    _sensitivity_row(90),
    _sensitivity_row(95),
)
METRICS: Mapping[str, Metric] = MappingProxyType({row.name: row for row in _ROWS})


def metric(name: str) -> Metric:
    """Look a metric up.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    if name not in METRICS:
        raise UnknownNameError("metric", name, METRICS)
    return METRICS[name]


def score_predictions(predictions: Predictions, *, normal_class: int | None = None) -> dict[str, float]:
    """Give every score of one model.

    Args:
        predictions: Labelled predictions, at least one image.
        normal_class: Index of the class without a finding; the metrics that need it are left out when it is None.

    Returns:
        Every metric of ``METRICS`` by name, then precision_, recall_ and f1_<class> for each class. macro_auc is NaN
        where a class has no image.

    Raises:
        DataError: If there is no image or a label is unknown.
        UsageError: If the normal class does not exist.
    """
    predictions.require_labels()
    scores = {}
    for row in METRICS.values():
        if normal_class is None and row.needs_normal_class:
            continue
        row.require_normal_class(normal_class, len(predictions.classes))
        scores[row.name] = row.function(predictions.labels, predictions.probabilities, normal_class)
    confusion = confusion_matrix(predictions.labels, predictions.predicted, len(predictions.classes))
    for kind, per_class in (
        ("precision", precision_per_class(confusion)),
        ("recall", recall_per_class(confusion)),
        ("f1", f1_per_class(confusion)),
    ):
        scores |= {f"{kind}_{name}": float(value) for name, value in zip(predictions.classes, per_class, strict=True)}
    return scores


def find_normal_class(classes: Sequence[str]) -> int | None:
    """Guess which class has no finding, from the names alone.

    The whole name must say so, whatever its case, separators and numbering ("01_No-Finding", "Normal lung"); the word
    alone is not enough: "Abnormal", "No opacity / not normal" and "COVID-negative pneumonia" are not normal.

    Returns:
        The index of the class; None if no name fits or more than one does.
    """
    fits = [index for index, name in enumerate(classes) if _is_normal_name(name)]
    return fits[0] if len(fits) == 1 else None


def _is_normal_name(name: str) -> bool:
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # NoFinding
    words = re.findall(r"[^\W\d_]+", separated.lower())
    return " ".join(word for word in words if word not in _NEUTRAL_WORDS) in _NORMAL_NAMES


def _diagonal(confusion: np.ndarray) -> np.ndarray:
    return np.diagonal(confusion, axis1=-2, axis2=-1)


def _ratio(part: np.ndarray, whole: np.ndarray, *, undefined: float) -> np.ndarray:
    """Divide, giving ``undefined`` where the whole is 0."""
    out = np.full(np.shape(whole), undefined, dtype=np.float64)
    return np.divide(part, whole, out=out, where=np.asarray(whole) > 0)
