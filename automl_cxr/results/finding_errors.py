"""Error analysis for findings: the findings of each image that one or several models miss or wrongly report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.auc_differences import auc_differences
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import ABSENT, FINDING_SEPARATOR, PRESENT

CONFIDENT, UNCERTAIN = ORDERS = ("confident", "uncertain")


class ErrorKind(StrEnum):
    """The two kinds of wrong decisions on a finding."""

    MISSED = "missed"
    FALSE = "false"


@dataclass(frozen=True, repr=False, eq=False)
class FindingErrors:
    """The wrong decisions of some models on the same images. A decision on an unknown label is neither right nor wrong.

    Attributes:
        study: Name of the study.
        place: Description of the images: "valid part", "out of fold", "test part" or "train part".
        models: Names of the models.
        images: Ids, labels, patients and findings (``classes``) of the images.
        probabilities: float32 (n_models, n, n_findings).
        thresholds: Probability from which each model reports each finding, float64 (n_models, n_findings).
        unreadable: Images that cannot be read, with the reason.
        n_opened: Number of evaluations on the test part so far, including this one; 0 for the other parts.
        notes: Messages about the columns that are used of tables, and conversions of their scores.
    """

    study: str
    place: str
    models: tuple[str, ...]
    images: Predictions
    probabilities: np.ndarray
    thresholds: np.ndarray
    unreadable: Mapping[str, str]
    n_opened: int = 0
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the numbers of wrong decisions, for notebooks."""
        counts = ", ".join(
            f"{name} {int(missed)} missed, {int(false)} false"
            for name, missed, false in zip(
                self.models, self.is_missed.sum(axis=(1, 2)), self.is_false.sum(axis=(1, 2)), strict=True
            )
        )
        return f"Errors of {', '.join(self.models)} on {self.study}, {self.place}, {len(self.images)} images: {counts}"

    @cached_property
    def decided(self) -> np.ndarray:
        """Whether each model reports each finding, bool (n_models, n, n_findings)."""
        return self.probabilities >= self.thresholds[:, np.newaxis]

    @cached_property
    def is_missed(self) -> np.ndarray:
        """Whether a finding that is present is not reported, bool (n_models, n, n_findings)."""
        return ~self.decided & (self.images.labels == PRESENT)

    @cached_property
    def is_false(self) -> np.ndarray:
        """Whether a finding that is absent is reported, bool (n_models, n, n_findings)."""
        return self.decided & (self.images.labels == ABSENT)

    def errors_of(self, kind: ErrorKind | str) -> np.ndarray:
        """Return the wrong decisions of a kind, bool (n_models, n, n_findings).

        Raises:
            UnknownNameError: There is no such kind.
        """
        if kind not in tuple(ErrorKind):
            raise UnknownNameError("kind of error", str(kind), tuple(ErrorKind))
        return self.is_missed if kind == ErrorKind.MISSED else self.is_false

    @cached_property
    def is_wrong(self) -> np.ndarray:
        """Whether each decision is wrong, bool (n_models, n, n_findings)."""
        return self.is_missed | self.is_false

    def rows(self, kind: ErrorKind | str, finding: int) -> np.ndarray:
        """Return the rows of the images on which at least one model makes an error on a finding, int64 (n_rows,).

        Images on which more models are wrong come first, then those with the largest mean distance between probability and
        threshold.

        Args:
            kind: "missed" or "false".
            finding: Number of the finding.
        """
        n_models = self.errors_of(kind)[..., finding].sum(axis=0)
        rows = np.flatnonzero(n_models)
        distance = np.abs(self.probabilities[:, rows, finding] - self.thresholds[:, np.newaxis, finding]).mean(axis=0)
        return rows[np.lexsort((-distance, -n_models[rows]))]

    @property
    def by_finding(self) -> pd.DataFrame:
        """Number of errors on each finding.

        Returns:
            finding, present and absent (numbers of images with these labels), and for each model missed and false; with the
            model's name in the column if there are several models, and then also missed_by_all and false_by_all.
        """
        labels = self.images.labels
        columns: dict[str, Any] = {
            "finding": self.images.classes,
            "present": (labels == PRESENT).sum(axis=0),
            "absent": (labels == ABSENT).sum(axis=0),
        }
        for model, name in enumerate(self.models):
            suffix = f"_{name.replace(' ', '_')}" if len(self.models) > 1 else ""
            columns[f"missed{suffix}"] = self.is_missed[model].sum(axis=0)
            columns[f"false{suffix}"] = self.is_false[model].sum(axis=0)
        if len(self.models) > 1:
            columns["missed_by_all"] = self.is_missed.all(axis=0).sum(axis=0)
            columns["false_by_all"] = self.is_false.all(axis=0).sum(axis=0)
        return pd.DataFrame(columns)

    @property
    def by_model(self) -> pd.DataFrame:
        """Number of errors of each model: model, missed, false, wrong_share (of the known labels) and images_with_errors."""
        n_known = max(1, int((self.images.labels >= 0).sum()))
        return pd.DataFrame(
            {
                "model": self.models,
                "missed": self.is_missed.sum(axis=(1, 2)),
                "false": self.is_false.sum(axis=(1, 2)),
                "wrong_share": self.is_wrong.sum(axis=(1, 2)) / n_known,
                "images_with_errors": self.is_wrong.any(axis=2).sum(axis=1),
            }
        )

    @cached_property
    def auc_differences(self) -> pd.DataFrame:
        """AUC of each finding by the first model against each other one; see ``results.auc_differences.auc_differences``.

        The table has no rows for a single model.
        """
        return auc_differences(self.images, self.models, self.probabilities)

    @property
    def pairs(self) -> pd.DataFrame:
        """Number of images with two wrong decisions, for each pair of findings, most frequent first.

        A finding that is missed where another one is falsely reported may be confused with it.

        Returns:
            error, finding, other_error, other_finding, and one column of counts for each model. Pairs without images are
            omitted.
        """
        counts = {
            (kind, other_kind): np.einsum(
                "mnf,mng->mfg", self.errors_of(kind).astype(np.int64), self.errors_of(other_kind).astype(np.int64)
            )
            for kind, other_kind in self._kinds_of_pairs()
        }
        rows: list[dict[str, Any]] = []
        for (kind, other_kind), of_models in counts.items():
            for finding, other in itertools.product(range(len(self.images.classes)), repeat=2):
                is_repeated = kind == other_kind and finding >= other
                if is_repeated or not of_models[:, finding, other].any():
                    continue
                rows.append(
                    {
                        "error": str(kind),
                        "finding": self.images.classes[finding],
                        "other_error": str(other_kind),
                        "other_finding": self.images.classes[other],
                        **{name: int(of_models[model, finding, other]) for model, name in enumerate(self.models)},
                    }
                )
        rows.sort(key=lambda row: -sum(row[name] for name in self.models))
        return pd.DataFrame(rows, columns=["error", "finding", "other_error", "other_finding", *self.models])

    @staticmethod
    def _kinds_of_pairs() -> Iterator[tuple[ErrorKind, ErrorKind]]:
        return itertools.combinations_with_replacement(ErrorKind, 2)

    def confusions(self, *, order: str = CONFIDENT, n_images: int | None = None) -> pd.DataFrame:
        """List every wrong decision, or the first one of each of some images.

        Args:
            order: "confident": the largest distance between probability and threshold first. "uncertain": the smallest first.
            n_images: Number of images, of each of which only the first wrong decision is listed; by default all decisions.

        Returns:
            image, patient_id, finding, error ("missed" or "false"), model, probability, threshold and margin (the distance),
            one row for each image, finding and model.

        Raises:
            UnknownNameError: The order is unknown.
        """
        if order not in ORDERS:
            raise UnknownNameError("order", order, ORDERS)
        models, rows, findings = np.nonzero(self.is_wrong)
        probability = self.probabilities[models, rows, findings].astype(np.float64)
        threshold = self.thresholds[models, findings]
        margin = np.abs(probability - threshold)
        ranking = np.argsort(-margin if order == CONFIDENT else margin, kind="stable")
        if n_images is not None:
            first = np.unique(rows[ranking], return_index=True)[1]
            ranking = ranking[np.sort(first)[:n_images]]
        images, is_missed = self.images, self.is_missed[models, rows, findings]
        return pd.DataFrame(
            {
                "image": [images.ids[row] for row in rows[ranking]],
                "patient_id": [images.patients[row] for row in rows[ranking]],
                "finding": [images.classes[finding] for finding in findings[ranking]],
                "error": [str(ErrorKind.MISSED if missed else ErrorKind.FALSE) for missed in is_missed[ranking]],
                "model": [self.models[model] for model in models[ranking]],
                "probability": probability[ranking],
                "threshold": threshold[ranking],
                "margin": margin[ranking],
            }
        )

    def table(self) -> pd.DataFrame:
        """List every image, those with the most wrong decisions first.

        Returns:
            image, patient_id, findings (those that are present, as "A|B"), n_wrong (decisions of all models), and for each
            model missed_... and false_..., the findings on which it is wrong, with underscores in the model's name.
        """
        n_wrong = self.is_wrong.sum(axis=(0, 2))
        order = np.argsort(-n_wrong, kind="stable")
        images = self.images
        columns: dict[str, Any] = {
            "image": [images.ids[row] for row in order],
            "patient_id": [images.patients[row] for row in order],
            "findings": [self.names(images.labels[row] == PRESENT) for row in order],
            "n_wrong": n_wrong[order],
        }
        for model, name in enumerate(self.models):
            key = name.replace(" ", "_")
            columns[f"missed_{key}"] = [self.names(self.is_missed[model, row]) for row in order]
            columns[f"false_{key}"] = [self.names(self.is_false[model, row]) for row in order]
        return pd.DataFrame(columns)

    def names(self, chosen: np.ndarray) -> str:
        """Join the names of some findings, bool (n_findings,), as "A|B"; "" for none."""
        return FINDING_SEPARATOR.join(compress(self.images.classes, chosen.tolist()))
