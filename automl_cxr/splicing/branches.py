"""The branches of a spliced network: published backbones or trained networks of trials."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.architectures import BACKBONES
from automl_cxr.config import SCRATCH, TrialConfig
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.records import SplitRecord
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore, read_record

_MODEL = "model.keras"
# Hyperparameters of a convolution stack from scratch, which are shared by both branches of a network.
_SCRATCH_FIELDS = (
    *("layers", "n_blocks", "convs_per_block", "filters", "filter_growth", "kernel_size", "batch_norm", "block_dropout"),
    *("input_channels", "scaling"),
)


@dataclass(frozen=True, kw_only=True)
class TrainedTrial:
    """A trial whose network can be a branch.

    Attributes:
        number: Number of the trial in its study.
        folder: Folder of its files.
        spec: Specification of its study.
        split: Split of its study.
        config: Its configuration.
    """

    number: int
    folder: Path
    spec: StudySpec
    split: SplitRecord
    config: TrialConfig

    @property
    def model(self) -> Path:
        return self.folder / _MODEL

    @property
    def predictions(self) -> Path:
        """File of the network's predictions for the validation part of its study."""
        return self.folder / "valid.npz"


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One of the two networks to splice.

    Attributes:
        name: Name in tables, figures and study names.
        backbone: Name of a published backbone, or "scratch".
        cut: Last layer of the network that is used; "" for all layers.
        weights: "imagenet", or the model file of the trial.
        fields: Hyperparameters that this branch requires.
        trial: Trial that trained the network; None for a published backbone.
    """

    name: str
    backbone: str
    cut: str = ""
    weights: str = "imagenet"
    fields: Mapping[str, Any]
    trial: TrainedTrial | None = None


def find_branch(name: str | os.PathLike[str], *, runs: Path, storage: str) -> Branch:
    """Find the branch with a name.

    Args:
        name: A backbone, the folder of a trial, STUDY/NUMBER, or a study, whose best trial with a model is used.
        runs: Folder of all studies' files.
        storage: Optuna storage URL.

    Raises:
        StudyError: The study or trial does not exist, or its model was removed.
        UsageError: The trial's network cannot be a branch.
    """
    name = os.fspath(name)
    if name in BACKBONES:
        return Branch(name=name, backbone=name, fields={})
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return _branch_of(_read_trial(folder.absolute()))
    study, slash, number = name.rpartition("/")
    if slash and study and number.isdecimal() and not folder.is_dir():
        store = StudyStore.open(study, runs=runs, storage=storage)
        store.record(int(number))  # raises StudyError if the trial does not exist
        return _branch_of(_read_trial(store.trial_folder(int(number))))
    if slash:
        raise UsageError(
            f"A branch must be a backbone, a study, STUDY/NUMBER or the folder of a trial; received '{name}'. "
            "An example of a trial's folder is automl_runs/STUDY/trials/00007."
        )
    return _branch_of(_best_of(_open_study(name, runs=runs, storage=storage)))


def _open_study(name: str, *, runs: Path, storage: str) -> StudyStore:
    try:
        return StudyStore.open(name, runs=runs, storage=storage)
    except StudyError as error:
        raise StudyError(f"'{name}' is neither a backbone ({', '.join(BACKBONES)}) nor a study: {error}") from error


def _best_of(store: StudyStore) -> TrainedTrial:
    with_model = [record.number for record in store.eligible() if store.has_model(record.number)]
    if not with_model:
        raise StudyError(f"A branch needs a finished trial with its model; study '{store.name}' has none. Continue its search.")
    return _read_trial(store.trial_folder(with_model[0]))


def _read_trial(folder: Path) -> TrainedTrial:
    """Read a trial from its folder, which is in the folder of its study.

    Raises:
        StudyError: Its model was removed, or a file of the study is damaged or missing.
    """
    study = folder.parent.parent
    if not (folder / _MODEL).is_file():
        others = sorted(int(path.parent.name) for path in folder.parent.glob(f"[0-9]*/{_MODEL}"))
        remedy = f"Trials with a model: {', '.join(map(str, others))}." if others else "No trial of the study has one."
        raise StudyError(
            f"A branch needs the model of its trial; {folder} has none. {remedy} A search keeps the best --keep-models models."
        )
    return TrainedTrial(
        number=int(folder.name),
        folder=folder,
        spec=read_record(study / "study.json", StudySpec.from_json),
        split=read_record(study / "split.json", SplitRecord.from_json),
        config=read_record(folder / "config.json", TrialConfig.from_json),
    )


def _branch_of(trial: TrainedTrial) -> Branch:
    """Return the branch of a trial: its convolution stack from scratch, or its (first) backbone.

    Raises:
        UsageError: The network has no such part, or its input pipeline cannot be shared with the other branch.
    """
    config, name = trial.config, f"{trial.spec.name}/{trial.number}"
    if trial.split.folds:
        raise UsageError(
            f"A branch must be a single network; trial {name} has one for each of {trial.split.n_folds} folds. "
            "Choose a trial of a search without --folds."
        )
    if config.resizer > 0:
        raise UsageError(
            f"A branch cannot have a resizer; trial {name} has a resizer of {config.resizer:g}. Choose another trial."
        )
    if config.family == "scratch":
        backbone, cut = SCRATCH, ""
    elif config.family == "transfer":
        backbone, cut = config.backbone, config.cut
    elif config.family == "concat" and (config.backbone, config.second_backbone) != (SCRATCH, SCRATCH):
        is_first = config.backbone != SCRATCH
        backbone, cut = (config.backbone, config.cut) if is_first else (config.second_backbone, config.second_cut)
    else:
        raise UsageError(
            f"A branch is a network of family scratch or transfer, or the backbone of a concat; trial {name} is of family "
            f"{config.family}. Choose another trial."
        )
    shared = (*_SCRATCH_FIELDS, "otsu") if backbone == SCRATCH else ("otsu",)
    return Branch(
        name=name,
        backbone=backbone,
        cut=cut,
        weights=str(trial.model),
        fields={field: getattr(config, field) for field in shared},
        trial=trial,
    )


def join_branches(first: Branch, second: Branch) -> dict[str, Any]:
    """Return the hyperparameters of a network with both branches, each with its full length.

    Raises:
        UsageError: The branches have different values of a shared hyperparameter.
    """
    for field in sorted(first.fields.keys() & second.fields.keys()):
        if first.fields[field] != second.fields[field]:
            raise UsageError(
                f"Both branches must have the same {field}; {first.name} was trained with {first.fields[field]!r}, "
                f"{second.name} with {second.fields[field]!r}. Choose trials with equal values, or a published backbone."
            )
    return {
        "family": "concat",
        "backbone": first.backbone,
        "cut": first.cut,
        "weights": first.weights,
        "second_backbone": second.backbone,
        "second_cut": second.cut,
        "second_weights": second.weights,
        **first.fields,
        **second.fields,
    }
