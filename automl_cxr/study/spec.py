"""What a study is: everything that decides its trials and scores, resolved once and then never changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from automl_cxr.engine.space import Space, Value, parse_space
from automl_cxr.errors import StudyMismatchError

# Files may move; the digests of data may not change.
_FREE_TO_CHANGE = frozenset({"data", "weights_folder", "versions", "command", "sampler"})
_CONTENTS = {"space_toml": "search space", "data_digest": "data", "pixels_digest": "data"}


@dataclass(frozen=True, kw_only=True)
class StudySpec:
    """The resolved description of a study, as study.json.

    Attributes:
        name: The study's name in its storage and folder.
        space_name: Name of the space.
        space_toml: Text of the space, so that the study does not change when the file does.
        data: Absolute path of the data folder or table.
        layout: Name of its layout.
        classes: Class names in the order of their indices.
        patients: Regular expression that names patients, or None.
        data_digest: Digest of the table: image ids, labels and patients.
        pixels_digest: Digest of the training and validation files' contents.
        fixed: Hyperparameters that were set by hand, whatever the space says of them.
        weights_folder: Absolute path of the folder that pretrained weights are looked for in, or None.
        image_size: Pixels; fit: how an image meets its square; batch_size: images; epochs: at most, a trial.
        objectives: Metrics and costs that are optimised; the first, a metric, ranks trials where one ranking is needed.
        requirements: Bounds that a trial must keep, such as "parameters<=10000000".
        normal_class: Name of the class without a finding, or None.
        sampler: Who proposes; pruner: who stops early.
        fidelity: What the rungs of a sampler raise: "epochs", or "image_size" together with them.
        valid_fraction, test_fraction: Shares of the images.
        folds: Folds that every trial trains a network for each; 0 where one validation part judges it.
        seed: Decides the split, the proposals and every trial's seed.
        warm_start: Name of the earlier study that it began with, or None; warm_start_top: how many of its best were tried.
        versions: Version of this package and of what decides numbers.
        command: What was typed, for the record.
    """

    name: str
    space_name: str
    space_toml: str
    data: str
    layout: str
    classes: tuple[str, ...]
    patients: str | None
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
    folds: int = 0
    fit: str = "stretch"
    requirements: tuple[str, ...] = ()
    fixed: Mapping[str, Value] = field(default_factory=dict)
    weights_folder: str | None = None
    fidelity: str = "epochs"
    warm_start: str | None = None
    warm_start_top: int = 5
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""

    @classmethod
    def from_json(cls, text: str) -> StudySpec:
        values = json.loads(text)
        return cls(**{**values, **{name: tuple(values[name]) for name in ("classes", "objectives", "requirements")}})

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False)

    @property
    def space(self) -> Space:
        return parse_space(self.space_toml, name=self.space_name).fix(self.fixed)

    @property
    def constants(self) -> dict[str, Value]:
        """Hyperparameters that all trials share: settings of the study, and what its space fixes."""
        return {
            "image_size": self.image_size,
            "fit": self.fit,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            **self.space.constants,
        }

    @property
    def objective(self) -> str:
        """The metric that ranks trials and chooses their epochs: the first objective."""
        return self.objectives[0]

    @property
    def normal_index(self) -> int | None:
        """Index of the normal class."""
        return None if self.normal_class is None else self.classes.index(self.normal_class)

    def _compared(self, name: str) -> object:
        """Give what has to stay the same of a setting: of a space what it searches and fixes, not its comments."""
        if name == "space_toml":
            return self.space.constants, self.space.parameters
        return getattr(self, name)

    def require_same(self, existing: StudySpec) -> None:
        """Refuse to continue a study with other settings than it was begun with.

        Raises:
            StudyMismatchError: Naming the first setting that differs.
        """
        names = [item.name for item in dataclasses.fields(self) if item.name not in _FREE_TO_CHANGE]
        settings = [name for name in names if name not in _CONTENTS]
        for name in (*settings, *_CONTENTS):  # contents last: they differ because a setting does
            asked, had = self._compared(name), existing._compared(name)
            if asked != had:
                how = (
                    f"and its {_CONTENTS[name]} changed since"
                    if name in _CONTENTS
                    else f"with {name} {_told(had)}; received {_told(asked)}"
                )
                raise StudyMismatchError(
                    f"Study '{self.name}' was begun {how}. Continue it as it was, or begin another with --name."
                )


def _told(value: object) -> str:
    return (", ".join(map(str, value)) or "none") if isinstance(value, tuple) else repr(value)


def resolve_path(path: str | Path) -> str:
    """Make a path absolute without following links, as the record keeps it."""
    return str(Path(path).expanduser().absolute())
