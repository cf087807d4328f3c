"""Error analysis: images that one or several models misclassify, and the confidence of the predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.auc_differences import auc_differences
from automl_cxr.results.compared_models import ComparedModels, select_models
from automl_cxr.results.finding_errors import FindingErrors
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

ORDERS = ("confident", "uncertain")


class Group(StrEnum):
    """Group of images by the number of models that misclassify them."""

    ALL_WRONG = "all wrong"
    ALL_RIGHT = "all right"
    ONE_WRONG = "only one wrong"
    ONE_RIGHT = "only one right"


@dataclass(frozen=True, repr=False, eq=False)
class ErrorAnalysis:
    """The errors of some models on the same images.

    Attributes:
        study: Name of the study.
        place: Description of the images: "valid part", "out of fold", "test part" or "train part".
        models: Names of the models.
        images: Ids, labels, patients and classes of the images.
        probabilities: float32 (n_models, n, n_classes).
        unreadable: Images that cannot be read, with the reason.
        n_opened: Number of evaluations on the test part so far, including this one; 0 for the other parts.
        notes: Messages about the columns that are used of tables, and conversions of their scores.
    """

    study: str
    place: str
    models: tuple[str, ...]
    images: Predictions
    probabilities: np.ndarray
    unreadable: Mapping[str, str]
    n_opened: int = 0
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the number of images in each group, for notebooks."""
        counts = ", ".join(f"{group} {int(self.mask(group).sum())}" for group in self.groups)
        return f"Errors of {', '.join(self.models)} on {self.study}, {self.place}, {len(self.images)} images: {counts}"

    @cached_property
    def predicted(self) -> np.ndarray:
        """Predicted class of each model, int64 (n_models, n)."""
        return self.probabilities.argmax(axis=2)

    @cached_property
    def is_wrong(self) -> np.ndarray:
        """Whether the predicted class differs from the label, bool (n_models, n)."""
        return self.predicted != self.images.labels

    @cached_property
    def n_wrong(self) -> np.ndarray:
        """Number of models that misclassify each image, int64 (n,)."""
        return self.is_wrong.sum(axis=0)

    @cached_property
    def label_probability(self) -> np.ndarray:
        """Probability of the label, averaged over the models, float32 (n,)."""
        return self.probabilities[:, np.arange(len(self.images)), self.images.labels].mean(axis=0)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The distinct groups: two for one model, three for two models (one wrong means one right), otherwise four."""
        n_groups = {1: 2, 2: 3}.get(len(self.models), 4)
        return tuple(Group)[:n_groups]

    def mask(self, group: Group | str) -> np.ndarray:
        """Return which images belong to a group, bool (n,).

        Raises:
            UnknownNameError: The group is unknown.
        """
        if group not in tuple(Group):
            raise UnknownNameError("group", str(group), tuple(Group))
        n_models = len(self.models)
        n_wrong = {Group.ALL_WRONG: n_models, Group.ALL_RIGHT: 0, Group.ONE_WRONG: 1, Group.ONE_RIGHT: n_models - 1}
        is_single = group in (Group.ONE_WRONG, Group.ONE_RIGHT)
        return (self.n_wrong == n_wrong[Group(group)]) & (n_models > 1 or not is_single)

    def rows(self, group: Group | str, class_index: int) -> np.ndarray:
        """Return the rows of the images of a group and a class, lowest probability of the label first, int64 (n_rows,)."""
        rows = np.flatnonzero(self.mask(group) & (self.images.labels == class_index))
        return rows[np.argsort(self.label_probability[rows], kind="stable")]

    @property
    def by_class(self) -> pd.DataFrame:
        """Number of images of each class: class, images, and one column for each of ``groups``."""
        labels, n_classes = self.images.labels, len(self.images.classes)
        counts = {str(group): np.bincount(labels[self.mask(group)], minlength=n_classes) for group in self.groups}
        return pd.DataFrame({"class": self.images.classes, "images": np.bincount(labels, minlength=n_classes), **counts})

    @property
    def by_model(self) -> pd.DataFrame:
        """Number of errors of each model: model, wrong, wrong_share; for several models also only_wrong and only_right.

        ``only_wrong`` is the number of images that only this model misclassifies, ``only_right`` of those that only this model
        classifies correctly.
        """
        wrong = self.is_wrong.sum(axis=1)
        columns: dict[str, Any] = {"model": self.models, "wrong": wrong, "wrong_share": wrong / max(1, len(self.images))}
        if len(self.models) > 1:
            columns["only_wrong"] = (self.is_wrong & self.mask(Group.ONE_WRONG)).sum(axis=1)
            columns["only_right"] = (~self.is_wrong & self.mask(Group.ONE_RIGHT)).sum(axis=1)
        return pd.DataFrame(columns)

    @cached_property
    def auc_differences(self) -> pd.DataFrame:
        """AUC of each class by the first model against each other one; see ``results.auc_differences.auc_differences``.

        The table has no rows for a single model.
        """
        return auc_differences(self.images, self.models, self.probabilities)

    @property
    def pairs(self) -> pd.DataFrame:
        """Number of confusions of each pair of classes: label, predicted and one column for each model, most frequent first."""
        classes = self.images.classes
        counts = np.stack([confusion_matrix(self.images.labels, predicted, len(classes)) for predicted in self.predicted])
        off_diagonal = [pair for pair in np.ndindex(len(classes), len(classes)) if pair[0] != pair[1]]
        pairs = sorted((pair for pair in off_diagonal if counts[:, *pair].any()), key=lambda pair: -counts[:, *pair].sum())
        columns = {
            "label": [classes[label] for label, _ in pairs],
            "predicted": [classes[predicted] for _, predicted in pairs],
        }
        return pd.DataFrame(columns | {name: [counts[m, *pair] for pair in pairs] for m, name in enumerate(self.models)})

    def confusions(self, *, order: str = "confident") -> pd.DataFrame:
        """List every wrong prediction.

        Args:
            order: "confident": the highest probability of the wrong class first. "uncertain": the smallest margin between
                the two most probable classes first.

        Returns:
            image, patient_id, label, model, predicted, probability (of the predicted class), probability_of_label and margin,
            one row for each image and model.

        Raises:
            UnknownNameError: The order is unknown.
        """
        if order not in ORDERS:
            raise UnknownNameError("order", order, ORDERS)
        models, rows = np.nonzero(self.is_wrong)
        probabilities = self.probabilities[models, rows]
        highest = np.sort(probabilities, axis=1)[:, :-3:-1]
        margin = highest[:, 0] - highest[:, 1]
        ranking = np.argsort(-highest[:, 0] if order == "confident" else margin, kind="stable")
        models, rows, probabilities, margin = models[ranking], rows[ranking], probabilities[ranking], margin[ranking]
        images = self.images
        return pd.DataFrame(
            {
                "image": [images.ids[row] for row in rows],
                "patient_id": [images.patients[row] for row in rows],
                "label": [images.classes[label] for label in images.labels[rows]],
                "model": [self.models[model] for model in models],
                "predicted": [images.classes[column] for column in probabilities.argmax(axis=1)],
                "probability": probabilities.max(axis=1).astype(float),
                "probability_of_label": probabilities[np.arange(len(rows)), images.labels[rows]].astype(float),
                "margin": margin.astype(float),
            }
        )

    def table(self) -> pd.DataFrame:
        """List every image, sorted by the number of wrong models, then by the probability of the label.

        Returns:
            image, patient_id, label, n_wrong, probability_of_label (the mean of the models); for several models only_wrong
            and only_right (the name of the model, or ""); and for each model predicted_... and probability_... (of the
            predicted class), with underscores in the model's name.
        """
        order = np.lexsort((self.label_probability, -self.n_wrong))
        images = self.images
        columns: dict[str, Any] = {
            "image": [images.ids[row] for row in order],
            "patient_id": [images.patients[row] for row in order],
            "label": [images.classes[label] for label in images.labels[order]],
            "n_wrong": self.n_wrong[order],
            "probability_of_label": self.label_probability[order].astype(float),
        }
        if len(self.models) > 1:
            columns["only_wrong"] = self._single_model(self.is_wrong, Group.ONE_WRONG)[order]
            columns["only_right"] = self._single_model(~self.is_wrong, Group.ONE_RIGHT)[order]
        for model, name in enumerate(self.models):
            key = name.replace(" ", "_")
            columns[f"predicted_{key}"] = [images.classes[predicted] for predicted in self.predicted[model][order]]
            columns[f"probability_{key}"] = self.probabilities[model].max(axis=1)[order].astype(float)
        return pd.DataFrame(columns)

    def _single_model(self, condition: np.ndarray, group: Group) -> np.ndarray:
        """Return the name of the only model that satisfies a condition, for the images of a group; "" for other images."""
        return np.where(self.mask(group), np.array(self.models, dtype=object)[condition.argmax(axis=0)], "")


def analyse_errors(store: StudyStore, **choices: Any) -> ErrorAnalysis | FindingErrors:
    """Analyse the errors of some models of a study, by default of the recommended one on the validation part.

    A study of findings has the wrong decisions on each finding.

    Keywords and errors are those of ``results.compared_models.select_models``: ``trials``, ``top``, ``ensembles``,
    ``predictions``, ``part``, ``data`` and ``on_progress``.

    Raises:
        DataError: An image has no label.
    """
    return compare_errors(store.name, select_models(store, **choices))


def compare_errors(study: str, models: ComparedModels) -> ErrorAnalysis | FindingErrors:
    """Analyse the errors of models whose predictions are known.

    Raises:
        DataError: There is no image, or an image has no label.
    """
    models.images.require_labels()
    if models.thresholds is not None:
        return FindingErrors(
            study,
            models.place,
            models.names,
            models.images,
            models.probabilities,
            models.thresholds,
            models.unreadable,
            models.n_opened,
            models.notes,
        )
    return ErrorAnalysis(
        study,
        models.place,
        models.names,
        models.images,
        models.probabilities,
        models.unreadable,
        models.n_opened,
        models.notes,
    )
