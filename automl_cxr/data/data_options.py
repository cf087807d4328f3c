"""The choices with which a data set is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from automl_cxr.data.class_map import load_class_map
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.tasks import MULTICLASS, MULTILABEL, TASKS

DEFAULT_MIN_POSITIVES = 5
"""Patients with a finding, so that each of five folds can contain one."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """How a data set is read. Studies record these values, so that they read their data again in the same way.

    ``study/options.py`` has a field of the same name for each field, which is the option of the command line, of the Python
    functions and of study files.

    Attributes:
        layout: Name of a layout; None for the first that recognises the data.
        task: What is predicted: "multiclass" (one class for each image) or "multilabel" (several findings, each of which is
            present, absent or unknown); None for the task that fits the labels.
        classes: The classes to use, in the order of their indices; None for all, sorted. If the task is "multilabel", the
            findings to use.
        class_map: The name to use by the name of the class in the data, where they differ; "" for images that are not used.
            Text and tables are accepted, too (``class_map.load_class_map``). ``classes`` contains the names to use.
        labels: Table of the images and their labels, if it is not found in the data folder.
        images: Folder of the images that the table lists, if it is not the data folder.
        path_column: Name of the column of the table that names the images; None for one of the accepted names.
        label_column: Name of the column that contains the labels; None for one of the accepted names.
        patient_column: Name of the column that contains the patients; None for one of the accepted names.
        split_column: Name of the column that contains the parts; None for one of the accepted names.
        view_column: Name of the column that contains the projections; None for one of the accepted names.
        label_regex: Regular expression for the label in the path of an image below the data folder: its group "label", else its
            first group that is not empty, else the whole match.
        finding: The positive class, against all images without it, if images may have several findings.
        findings: The findings to use of images that may have several, in the order of the outputs; None for all with enough
            patients. Images without any finding are no finding of their own unless their label is named here.
        min_positives: Number of patients with, and of patients without a finding below which it is left out of several.
        uncertain: What to do with uncertain and missing labels: "drop" (the images are not used), "zeros" (they count as images
            without the finding) or "ones" (uncertain ones count as images with it, missing ones as images without it). Of
            several findings, it concerns uncertain labels only, which "drop" leaves uncertain.
        missing: What a missing label of one of several findings means: "unknown" or "absent". If an image has the label that
            states that it has no finding, missing labels are absent in either case.
        resplit: Whether parts that the data give are not used, so that a split by patient is made.
        patients: Regular expression for the patient in a path below the root: its group "patient", else its first group, else
            the whole match. It overrides patients from a table or from DICOM headers.
        unknown_patients: What to do with images without a patient if others have one: "separate" (each is a patient of its
            own) or "drop" (they are not used). Without a choice they are separate, and a split refuses more than a few.
        projections: Projections of the images to use, names of ``projections.PROJECTIONS``; None for all.
        subgroups: Columns of the table that are read as metadata for analyses of subgroups, beside sex, age, site and scanner.
    """

    layout: str | None = None
    task: str | None = None
    classes: tuple[str, ...] | None = None
    class_map: Mapping[str, str] | None = None
    labels: str | None = None
    images: str | None = None
    path_column: str | None = None
    label_column: str | None = None
    patient_column: str | None = None
    split_column: str | None = None
    view_column: str | None = None
    label_regex: str | None = None
    finding: str | None = None
    findings: tuple[str, ...] | None = None
    min_positives: int = DEFAULT_MIN_POSITIVES
    uncertain: str = "drop"
    missing: str = "unknown"
    resplit: bool = False
    patients: str | None = None
    unknown_patients: str | None = None
    projections: tuple[str, ...] | None = None
    subgroups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("classes", "findings", "projections", "subgroups"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "class_map", load_class_map(self.class_map) or None)
        for name in ("labels", "images"):
            if getattr(self, name):
                object.__setattr__(self, name, str(Path(getattr(self, name)).expanduser().absolute()))

    @property
    def wants_findings(self) -> bool:
        """Whether the user has chosen several findings, instead of the task that fits the labels."""
        return self.task == MULTILABEL or self.findings is not None

    @property
    def chosen_findings(self) -> tuple[str, ...] | None:
        """The findings to use, in the order of the outputs; None for all with enough patients."""
        return self.findings if self.classes is None else self.classes

    def check_task(self) -> None:
        """Check that the task exists and fits the other choices.

        Raises:
            UnknownNameError: There is no such task.
            UsageError: Two choices contradict each other, or the smallest number of patients is negative.
        """
        if self.task not in (None, *TASKS):
            raise UnknownNameError("task", self.task, TASKS)
        if self.min_positives < 0:
            raise UsageError(f"--min-positives must be 0 or more; received {self.min_positives}. Try {DEFAULT_MIN_POSITIVES}.")
        if self.wants_findings and self.finding is not None:
            raise UsageError(
                f"--finding chooses one class against all other images; received it with several findings (--task {MULTILABEL} "
                "or --findings). Omit it, or name the one finding with --findings."
            )
        if self.findings is not None and self.task == MULTICLASS:
            raise UsageError(
                f"--findings chooses several outputs; received --task {MULTICLASS}. Omit one, or choose one finding with "
                "--finding."
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """List the names of the choices."""
        return tuple(field.name for field in dataclasses.fields(DataOptions))

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> Self:
        """Select the choices among the values of a larger set of options, such as those of a search."""
        return cls(**{name: values[name] for name in cls.names() if values.get(name) is not None})
