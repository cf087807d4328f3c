"""Which images models get wrong, together and alone, and how sure they are of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.compared_models import ComparedModels, select_models
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

ORDERS = ("confident", "uncertain")


class Group(StrEnum):
    """What models had in common on an image."""

    ALL_WRONG = "all wrong"
    ALL_RIGHT = "all right"
    ONE_WRONG = "only one wrong"
    ONE_RIGHT = "only one right"


@dataclass(frozen=True, repr=False, eq=False)
class ErrorAnalysis:
    """What some models got wrong on the same images.

    Attributes:
        study: Name of the study.
        place: What the images are: "valid part", "out of fold", "test part" or "train part".
        models: Names of the models.
        images: Ids, labels, patients and classes of the images.
        probabilities: float32 (n_models, n, n_classes).
        unreadable: Images that could not be read, with the reason.
        n_opened: How often the test part has now been opened; 0 for the other parts.
    """

    study: str
    place: str
    models: tuple[str, ...]
    images: Predictions
    probabilities: np.ndarray
    unreadable: Mapping[str, str]
    n_opened: int = 0

    def __repr__(self) -> str:
        """Say how many, as a notebook shows it."""
        counts = ", ".join(f"{group} {int(self.mask(group).sum())}" for group in self.groups)
        return f"Errors of {', '.join(self.models)} on {self.study}, {self.place}, {len(self.images)} images: {counts}"

    @cached_property
    def predicted(self) -> np.ndarray:
        """The class that each model calls, int64 (n_models, n)."""
        return self.probabilities.argmax(axis=2)

    @cached_property
    def is_wrong(self) -> np.ndarray:
        """Whether that is not the label, bool (n_models, n)."""
        return self.predicted != self.images.labels

    @cached_property
    def n_wrong(self) -> np.ndarray:
        """How many models are wrong about each image, int64 (n,)."""
        return self.is_wrong.sum(axis=0)

    @cached_property
    def trust_in_label(self) -> np.ndarray:
        """The probability of the label, averaged over the models, float32 (n,)."""
        return self.probabilities[:, np.arange(len(self.images)), self.images.labels].mean(axis=0)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that differ: one model has no lone errors, and of two models one is right wherever only one is wrong."""
        n_groups = {1: 2, 2: 3}.get(len(self.models), 4)
        return tuple(Group)[:n_groups]

    def mask(self, group: Group | str) -> np.ndarray:
        """Tell which images belong to a group, bool (n,).

        Raises:
            UnknownNameError: There is no such group.
        """
        if group not in tuple(Group):
            raise UnknownNameError("group", str(group), tuple(Group))
        n_models = len(self.models)
        n_wrong = {Group.ALL_WRONG: n_models, Group.ALL_RIGHT: 0, Group.ONE_WRONG: 1, Group.ONE_RIGHT: n_models - 1}
        is_alone = group in (Group.ONE_WRONG, Group.ONE_RIGHT)
        return (self.n_wrong == n_wrong[Group(group)]) & (n_models > 1 or not is_alone)

    def rows(self, group: Group | str, class_index: int) -> np.ndarray:
        """Give a group's images of a class, the lowest probability of the label first, int64 (n_found,)."""
        found = np.flatnonzero(self.mask(group) & (self.images.labels == class_index))
        return found[np.argsort(self.trust_in_label[found], kind="stable")]

    @property
    def by_class(self) -> pd.DataFrame:
        """Count the images of each class: class, images, and one column for each of ``groups``."""
        labels, n_classes = self.images.labels, len(self.images.classes)
        counted = {str(group): np.bincount(labels[self.mask(group)], minlength=n_classes) for group in self.groups}
        return pd.DataFrame({"class": self.images.classes, "images": np.bincount(labels, minlength=n_classes), **counted})

    @property
    def by_model(self) -> pd.DataFrame:
        """Count the errors of each model: model, wrong, wrong_share; of several models also only_wrong and only_right.

        ``only_wrong`` counts the images that this model alone gets wrong, ``only_right`` those that it alone gets right.
        """
        wrong = self.is_wrong.sum(axis=1)
        columns: dict[str, Any] = {"model": self.models, "wrong": wrong, "wrong_share": wrong / max(1, len(self.images))}
        if len(self.models) > 1:
            columns["only_wrong"] = (self.is_wrong & self.mask(Group.ONE_WRONG)).sum(axis=1)
            columns["only_right"] = (~self.is_wrong & self.mask(Group.ONE_RIGHT)).sum(axis=1)
        return pd.DataFrame(columns)

    @property
    def pairs(self) -> pd.DataFrame:
        """Count which class was called which: label, predicted and the images of each model, the most frequent pair first."""
        classes = self.images.classes
        counts = np.stack([confusion_matrix(self.images.labels, said, len(classes)) for said in self.predicted])
        told = [(label, said) for label, said in np.ndindex(len(classes), len(classes)) if label != said]
        told = sorted((pair for pair in told if counts[:, *pair].any()), key=lambda pair: -counts[:, *pair].sum())
        named = {
            "label": [classes[label] for label, _ in told],
            "predicted": [classes[said] for _, said in told],
        }
        return pd.DataFrame(named | {name: [counts[m, *pair] for pair in told] for m, name in enumerate(self.models)})

    def confusions(self, *, order: str = "confident") -> pd.DataFrame:
        """List every wrong answer.

        Args:
            order: "confident": the highest probability of the wrong class first. "uncertain": the smallest margin, from the
                wrong class to the next probable one, first.

        Returns:
            image, patient_id, label, model, predicted, probability (of the predicted class), probability_of_label and margin,
            one row for each image and model.

        Raises:
            UnknownNameError: There is no such order.
        """
        if order not in ORDERS:
            raise UnknownNameError("order", order, ORDERS)
        models, rows = np.nonzero(self.is_wrong)
        said = self.probabilities[models, rows]
        highest = np.sort(said, axis=1)[:, :-3:-1]
        margin = highest[:, 0] - highest[:, 1]
        places = np.argsort(-highest[:, 0] if order == "confident" else margin, kind="stable")
        models, rows, said, margin = models[places], rows[places], said[places], margin[places]
        images = self.images
        return pd.DataFrame(
            {
                "image": [images.ids[row] for row in rows],
                "patient_id": [images.patients[row] for row in rows],
                "label": [images.classes[label] for label in images.labels[rows]],
                "model": [self.models[model] for model in models],
                "predicted": [images.classes[column] for column in said.argmax(axis=1)],
                "probability": said.max(axis=1).astype(float),
                "probability_of_label": said[np.arange(len(rows)), images.labels[rows]].astype(float),
                "margin": margin.astype(float),
            }
        )

    def table(self) -> pd.DataFrame:
        """Tabulate every image, those that most models get wrong first, then by the probability of the label.

        Returns:
            image, patient_id, label, n_wrong, probability_of_label (the models' mean); of several models only_wrong and
            only_right (the name of the one model, or nothing); and of each model predicted_..., probability_... (of what it
            predicted), its name written with underscores.
        """
        order = np.lexsort((self.trust_in_label, -self.n_wrong))
        images = self.images
        columns: dict[str, Any] = {
            "image": [images.ids[row] for row in order],
            "patient_id": [images.patients[row] for row in order],
            "label": [images.classes[label] for label in images.labels[order]],
            "n_wrong": self.n_wrong[order],
            "probability_of_label": self.trust_in_label[order].astype(float),
        }
        if len(self.models) > 1:
            columns["only_wrong"] = self._names_of_one(self.is_wrong, Group.ONE_WRONG)[order]
            columns["only_right"] = self._names_of_one(~self.is_wrong, Group.ONE_RIGHT)[order]
        for model, name in enumerate(self.models):
            key = name.replace(" ", "_")
            columns[f"predicted_{key}"] = [images.classes[said] for said in self.predicted[model][order]]
            columns[f"probability_{key}"] = self.probabilities[model].max(axis=1)[order].astype(float)
        return pd.DataFrame(columns)

    def _names_of_one(self, is_so: np.ndarray, group: Group) -> np.ndarray:
        """Name the one model of a group's images, (n,) of texts; nothing for the other images."""
        return np.where(self.mask(group), np.array(self.models, dtype=object)[is_so.argmax(axis=0)], "")


def analyse_errors(store: StudyStore, **choices: Any) -> ErrorAnalysis:
    """Compare what some models of a study get wrong, by default its best trial on the validation part.

    Keywords and errors are those of ``results.chosen_models.select_models``: ``trials``, ``top``, ``ensembles``,
    ``predictions``, ``part``, ``data`` and ``on_progress``.

    Raises:
        DataError: An image has no label.
    """
    return compare_errors(store.name, select_models(store, **choices))


def compare_errors(study: str, chosen: ComparedModels) -> ErrorAnalysis:
    """Compare what models get wrong of which the predictions are known.

    Raises:
        DataError: There is no image, or one without a label.
    """
    chosen.images.require_labels()
    return ErrorAnalysis(
        study, chosen.place, chosen.names, chosen.images, chosen.probabilities, chosen.unreadable, chosen.n_opened
    )
