"""The specification of a study: all settings that determine its trials and scores. It is immutable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from automl_cxr.config import DEFAULTS_OF_TASK, TrialConfig
from automl_cxr.data.data_options import DataOptions
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.space import Space
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import StudyMismatchError
from automl_cxr.scoring.objectives import Requirement, check_objectives
from automl_cxr.tasks import MULTICLASS, MULTILABEL
from automl_cxr.text_records import build_record, parse_json

# Files may be moved, but the digests of the data must not change. Further columns of metadata do not affect trials.
_CHANGEABLE = frozenset(
    {"data", "labels", "images", "features", "weights_folder", "versions", "command", "sampler", "subgroups"}
)
TRIAL_SETTINGS = ("image_size", "fit", "batch_size", "epochs", "seed")
"""Settings of a study that are also hyperparameters of all its trials."""
_CONTENTS = {
    "space_toml": "search space",
    "data_digest": "data",
    "pixels_digest": "data",
    "features_digest": "table of features",
}


@dataclass(frozen=True, kw_only=True)
class StudySpec(DataOptions):
    """The resolved specification of a study, as study.json. The choices of ``DataOptions`` are some of its settings.

    Attributes:
        name: The study's name in its storage and folder.
        space_name: Name of the space.
        space_toml: Text of the space, so that the study does not depend on later changes of the file.
        data: Absolute path of the data folder or table.
        layout: Name of its layout. The other choices of ``DataOptions`` are recorded as the user made them.
        task: What is predicted. Studies of earlier versions, whose records have no task, are "multiclass".
        classes: Names of the classes or findings in the order of their indices.
        data_digest: Digest of the table: image ids, labels and patients.
        pixels_digest: Digest of the training and validation files' contents.
        features: Absolute path of the table of features that the networks take instead of images, or None.
        features_digest: SHA-256 digest of this file; "" without one.
        n_features: Number of its columns; 0 without one.
        fixed: Hyperparameters that the user fixed; they take precedence over the space.
        weights_folder: Absolute path of the folder that is searched for pretrained weights, or None.
        image_size: Height and width of images, in pixels.
        fit: How an image is fitted into a square.
        batch_size: Number of images in a batch.
        epochs: Maximum number of epochs of a trial.
        objectives: Metrics and costs to optimise. The first one, a metric, ranks trials where one ranking is needed.
        requirements: Constraints on a trial, such as "parameters<=10000000".
        normal_class: Name of the class without a finding, or None.
        sampler: Name of the sampler.
        pruner: Name of the pruner.
        fidelity: Resource that increases from rung to rung: "epochs", or "image_size" for both.
        valid_fraction: Fraction of the images in the validation part.
        test_fraction: Fraction of the images in the test part.
        folds: Number of folds of cross-validation; 0 for one validation part.
        seed: Seed of the split, the proposals and the trials.
        warm_start: Name of the earlier study of a warm start, or None.
        warm_start_top: Maximum number of best configurations of the earlier study that are enqueued.
        versions: Versions of this package and of the packages that affect results.
        command: Command line that created the study, for the record.
    """

    name: str
    space_name: str
    space_toml: str
    data: str
    layout: str
    classes: tuple[str, ...]
    data_digest: str
    pixels_digest: str
    image_size: int
    batch_size: int
    epochs: int
    objectives: tuple[str, ...]
    normal_class: str | None
    sampler: str
    pruner: str
    valid_fraction: float
    test_fraction: float
    seed: int
    task: str = MULTICLASS
    folds: int = 0
    fit: str = "stretch"
    requirements: tuple[str, ...] = ()
    fixed: Mapping[str, Value] = field(default_factory=dict)
    features: str | None = None
    features_digest: str = ""
    n_features: int = 0
    weights_folder: str | None = None
    fidelity: str = "epochs"
    warm_start: str | None = None
    warm_start_top: int = 5
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @classmethod
    def from_json(cls, text: str) -> StudySpec:
        """Restore a specification from ``to_json``.

        Raises:
            ValueError: The text is not such a record, or a setting is impossible.
        """
        spec: StudySpec = build_record(cls, parse_json(text))
        TrialConfig.from_values({name: getattr(spec, name) for name in TRIAL_SETTINGS})
        check_objectives(spec.objectives)
        for requirement in spec.requirements:
            Requirement.parse(requirement)
        if spec.normal_class not in (None, *spec.classes):
            raise ValueError(f"the normal class '{spec.normal_class}' is not one of the classes {', '.join(spec.classes)}")
        return spec

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @property
    def data_options(self) -> DataOptions:
        """The choices with which the data are read."""
        return DataOptions.select(vars(self))

    @property
    def space(self) -> Space:
        return parse_space(self.space_toml, name=self.space_name).fix(self.fixed)

    @property
    def constants(self) -> dict[str, Value]:
        """Hyperparameters with the same value in all trials: settings of the study, and constants of its space."""
        return {
            "task": self.task,
            **DEFAULTS_OF_TASK[self.task],
            "image_size": self.image_size,
            "fit": self.fit,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            **({"n_features": self.n_features} if self.features else {}),
            **self.space.constants,
        }

    @property
    def is_multilabel(self) -> bool:
        """Whether the trials predict several findings, instead of one class."""
        return self.task == MULTILABEL

    @property
    def objective(self) -> str:
        """The first objective: the metric that ranks trials and selects their epochs."""
        return self.objectives[0]

    @property
    def normal_index(self) -> int | None:
        """Index of the class without a finding, or None."""
        return None if self.normal_class is None else self.classes.index(self.normal_class)

    def _comparable(self, name: str) -> object:
        """Return the value of a setting for comparison. Spaces are compared by parameters and constants, not by text."""
        if name == "unknown_patients":
            return self.unknown_patients or "separate"
        if name == "space_toml":
            return self.space.constants, self.space.parameters
        return getattr(self, name)

    def require_same(self, existing: StudySpec) -> None:
        """Check that an existing study has the same settings.

        Raises:
            StudyMismatchError: A setting differs. The message names the first one.
        """
        names = [item.name for item in dataclasses.fields(self) if item.name not in _CHANGEABLE]
        settings = [name for name in names if name not in _CONTENTS]
        for name in (*settings, *_CONTENTS):  # contents are compared last, because they also differ if another setting differs
            requested, stored = self._comparable(name), existing._comparable(name)
            if requested != stored:
                difference = (
                    f"and its {_CONTENTS[name]} changed since"
                    if name in _CONTENTS
                    else f"with {name} {_format(stored)}; received {_format(requested)}"
                )
                raise StudyMismatchError(
                    f"Study '{self.name}' was created {difference}. Repeat its settings, or create another study with --name."
                )


def _format(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else repr(value)


def resolve_path(path: str | Path) -> str:
    """Return the absolute path, without resolving symbolic links, as it is stored in the record."""
    return str(Path(path).expanduser().absolute())
