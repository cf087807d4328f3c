"""Which images models get wrong, together and alone, and how sure they are of it: numbers first, then sections of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.chosen_models import ChosenModels, choose_models
from automl_cxr.results.page import Picture, Pictures, Section, Table, Text
from automl_cxr.scoring.metrics import confusion_matrix
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

ORDERS = ("confident", "uncertain")
N_SHOWN = 6  # pictures of each class in each group on a page


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

    Keywords and errors are those of ``results.chosen_models.choose_models``: ``trials``, ``top``, ``ensembles``,
    ``predictions``, ``part``, ``data`` and ``on_progress``.

    Raises:
        DataError: An image has no label.
    """
    return compare_errors(store.name, choose_models(store, **choices))


def compare_errors(study: str, chosen: ChosenModels) -> ErrorAnalysis:
    """Compare what models get wrong of which the predictions are known.

    Raises:
        DataError: There is no image, or one without a label.
    """
    chosen.images.require_labels()
    return ErrorAnalysis(
        study, chosen.place, chosen.names, chosen.images, chosen.probabilities, chosen.unreadable, chosen.n_opened
    )


def images_to_show(analysis: ErrorAnalysis, *, n_shown: int = N_SHOWN) -> list[str]:
    """Name the images whose pictures ``error_sections`` puts on a page, each once."""
    rows = [
        row
        for group in analysis.groups
        for class_index in range(len(analysis.images.classes))
        for row in analysis.rows(group, class_index)[:n_shown]
    ]
    names = [analysis.images.ids[row] for row in rows]
    for order in ORDERS:
        names += _first_of_images(analysis.confusions(order=order), 2 * n_shown)["image"].tolist()
    return list(dict.fromkeys(names))


def error_sections(analysis: ErrorAnalysis, pictures: Mapping[str, np.ndarray], *, n_shown: int = N_SHOWN) -> list[Section]:
    """Lay out an analysis for a page: counts, the confusions in both orders, and a grid of pictures for each group and class.

    Args:
        analysis: The numbers.
        pictures: Pixels of the images of ``images_to_show``, by id; an image that is missing here is left out of its grid.
        n_shown: Pictures of each class in each group; of confusions twice as many.
    """
    return [
        Section("Errors", _counts(analysis)),
        Section("Errors: most confident", _confusion_parts(analysis, "confident", pictures, 2 * n_shown)),
        Section("Errors: most uncertain", _confusion_parts(analysis, "uncertain", pictures, 2 * n_shown)),
        *(
            Section(_title(group, len(analysis.models)), _group_parts(analysis, group, pictures, n_shown))
            for group in analysis.groups
        ),
    ]


def _counts(analysis: ErrorAnalysis) -> list[Any]:
    images = analysis.images
    parts: list[Any] = [
        Text(
            f"{', '.join(analysis.models)}; {analysis.place} of study '{analysis.study}': {len(images)} images of "
            f"{len(set(images.patients))} patients."
        ),
        Table(analysis.by_model, "Errors of each model; of several models also those that it alone makes, or alone avoids."),
        Table(analysis.by_class, "Images of each class, by what the models have in common."),
    ]
    if not analysis.pairs.empty:
        parts.append(Table(analysis.pairs, "What was called what, images of each model."))
    parts += [Text(f"Left out, since it cannot be read: {image} ({why}).") for image, why in analysis.unreadable.items()]
    return parts


def _confusion_parts(analysis: ErrorAnalysis, order: str, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Any]:
    worst = _first_of_images(analysis.confusions(order=order), n_shown)
    if worst.empty:
        return []
    told = {
        "confident": "The highest probabilities of a wrong class. Where every model is as sure, look at the label first.",
        "uncertain": "The smallest margins between the wrong class and the next probable one.",
    }
    captions = [
        f"{row.image}: {row.label}, called {row.predicted} {row.probability:.2f} by {row.model} (margin {row.margin:.2f})"
        for row in worst.itertuples()
    ]
    grid = _grid(worst["image"].tolist(), captions, pictures)
    return [Text(told[order]), *grid, Table(worst)]


def _group_parts(analysis: ErrorAnalysis, group: Group, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Any]:
    parts: list[Any] = []
    for class_index, name in enumerate(analysis.images.classes):
        rows = analysis.rows(group, class_index)
        n_of_class = int((analysis.images.labels == class_index).sum())
        first = ", the least probable labels first" if len(rows) > n_shown else ""
        parts.append(Text(f"{name}: {len(rows)} of {n_of_class} images{first}"))
        captions = [f"{analysis.images.ids[row]}: {_answers(analysis, row)}" for row in rows[:n_shown]]
        parts += _grid([analysis.images.ids[row] for row in rows[:n_shown]], captions, pictures)
    return parts


def _grid(images: Sequence[str], captions: Sequence[str], pictures: Mapping[str, np.ndarray]) -> list[Pictures]:
    shown = [Picture(pictures[image], caption) for image, caption in zip(images, captions, strict=True) if image in pictures]
    return [Pictures(shown)] if shown else []


def _answers(analysis: ErrorAnalysis, row: int) -> str:
    """Say what an image was called, the most frequent answer first: "normal 0.71..0.97 by 4, effusion 0.52 by trial 3"."""
    said = analysis.predicted[:, row]
    answers = []
    for column in sorted(set(said.tolist()), key=lambda column: -int((said == column).sum())):
        models = np.flatnonzero(said == column)
        values = analysis.probabilities[models, row, column]
        span = f"{values.min():.2f}" if len(models) == 1 else f"{values.min():.2f}..{values.max():.2f}"
        whose = analysis.models[models[0]] if len(models) == 1 else str(len(models))
        answers.append(f"{analysis.images.classes[column]} {span} by {whose}")
    return ", ".join(answers)


def _title(group: Group, n_models: int) -> str:
    if n_models == 1:
        return "Wrong" if group is Group.ALL_WRONG else "Right"
    return {
        Group.ALL_WRONG: f"Wrong by all {n_models} models",
        Group.ALL_RIGHT: f"Right by all {n_models} models",
        Group.ONE_WRONG: "Wrong by one model only",
        Group.ONE_RIGHT: "Right by one model only",
    }[group]


def _first_of_images(confusions: pd.DataFrame, n_images: int) -> pd.DataFrame:
    """Take the first wrong answer of each image."""
    return confusions.drop_duplicates("image").head(n_images)
