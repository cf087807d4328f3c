"""What a branch's name stands for: a published network, or one that a trial has trained."""

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
# What describes a trunk from scratch; the branches of a network share all of it.
TRUNK_FIELDS = (
    *("layers", "n_blocks", "convs_per_block", "filters", "filter_growth", "kernel_size", "batch_norm", "block_dropout"),
    *("input_channels", "scaling"),
)


@dataclass(frozen=True, kw_only=True)
class TrainedTrial:
    """A trial whose network may serve as a branch.

    Attributes:
        number: In its study.
        folder: Its files.
        spec: What its study is.
        split: Which images served for what.
        config: What was trained.
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
        """What the whole network said of its study's validation part."""
        return self.folder / "valid.npz"


@dataclass(frozen=True, kw_only=True)
class Branch:
    """One of the two networks that are to be spliced.

    Attributes:
        name: What it is called in tables, pictures and names of studies.
        backbone: A published network, or "scratch".
        cut: Where it ends; "" for its own end.
        weights: "imagenet", or the model of its trial.
        fields: Hyperparameters that a network with this branch must have.
        trial: Where it was trained; None for a published network.
    """

    name: str
    backbone: str
    cut: str = ""
    weights: str = "imagenet"
    fields: Mapping[str, Any]
    trial: TrainedTrial | None = None


def find_branch(word: str | os.PathLike[str], *, runs: Path, storage: str) -> Branch:
    """Find what a word names: a backbone, the folder of a trial, STUDY/NUMBER, or a study, whose best trial it is.

    Raises:
        StudyError: There is no such study or trial, or its model was not kept.
        UsageError: The trial's network cannot be a branch.
    """
    word = os.fspath(word)
    if word in BACKBONES:
        return Branch(name=word, backbone=word, fields={})
    folder = Path(word).expanduser()
    if (folder / "config.json").is_file():
        return _branch_of(_read_trial(folder.absolute()))
    study, slash, number = word.rpartition("/")
    if slash and study and number.isdecimal() and not folder.is_dir():
        store = StudyStore.open(study, runs=runs, storage=storage)
        store.record(int(number))  # refuses a number that no trial has
        return _branch_of(_read_trial(store.trial_folder(int(number))))
    if slash:
        raise UsageError(
            f"A branch must be a backbone, a study, STUDY/NUMBER or the folder of a trial; received '{word}'. "
            "A trial's folder is like automl_runs/STUDY/trials/00007."
        )
    return _branch_of(_best_of(_open_study(word, runs=runs, storage=storage)))


def _open_study(name: str, *, runs: Path, storage: str) -> StudyStore:
    try:
        return StudyStore.open(name, runs=runs, storage=storage)
    except StudyError as error:
        raise StudyError(
            f"'{name}' is no backbone ({', '.join(BACKBONES)}), and there is no such study either: {error}"
        ) from error


def _best_of(store: StudyStore) -> TrainedTrial:
    kept = [record.number for record in store.eligible() if store.has_model(record.number)]
    if not kept:
        raise StudyError(f"A branch needs a finished trial with its model; study '{store.name}' has none. Continue its search.")
    return _read_trial(store.trial_folder(kept[0]))


def _read_trial(folder: Path) -> TrainedTrial:
    """Read a trial from its folder, which lies in that of its study.

    Raises:
        StudyError: Its model was not kept, or a file of the study is damaged or missing.
    """
    study = folder.parent.parent
    if not (folder / _MODEL).is_file():
        others = sorted(int(path.parent.name) for path in folder.parent.glob(f"[0-9]*/{_MODEL}"))
        kept = f"Kept are those of trials {', '.join(map(str, others))}." if others else "None is kept."
        raise StudyError(
            f"A branch needs its trial's model; {folder} has none. {kept} --keep-models of a search says how many are."
        )
    return TrainedTrial(
        number=int(folder.name),
        folder=folder,
        spec=read_record(study / "study.json", StudySpec.from_json),
        split=read_record(study / "split.json", SplitRecord.from_json),
        config=read_record(folder / "config.json", TrialConfig.from_json),
    )


def _branch_of(trial: TrainedTrial) -> Branch:
    """Tell which part of a trial's network is the branch: its trunk from scratch, or its (first) backbone.

    Raises:
        UsageError: It has none, or sees its images in a way that the other branch cannot share.
    """
    config, name = trial.config, f"{trial.spec.name}/{trial.number}"
    if trial.split.folds:
        raise UsageError(
            f"A branch is one network; trial {name} holds one for each of {trial.split.n_folds} folds. "
            "Search without --folds for a branch."
        )
    if config.resizer > 0:
        raise UsageError(f"A branch takes images as they are; trial {name} has a resizer of {config.resizer:g}. Take another.")
    if config.family == "scratch":
        chosen, cut = SCRATCH, ""
    elif config.family == "transfer":
        chosen, cut = config.backbone, config.cut
    elif config.family == "concat" and (config.backbone, config.second_backbone) != (SCRATCH, SCRATCH):
        is_first = config.backbone != SCRATCH
        chosen, cut = (config.backbone, config.cut) if is_first else (config.second_backbone, config.second_cut)
    else:
        raise UsageError(
            f"A branch is a network of family scratch or transfer, or the backbone of a concat; trial {name} is of family "
            f"{config.family}. Take another trial."
        )
    shared = (*TRUNK_FIELDS, "otsu") if chosen == SCRATCH else ("otsu",)
    return Branch(
        name=name,
        backbone=chosen,
        cut=cut,
        weights=str(trial.model),
        fields={field: getattr(config, field) for field in shared},
        trial=trial,
    )


def join_branches(first: Branch, second: Branch) -> dict[str, Any]:
    """Give the hyperparameters of a network with both branches, each as long as it may be.

    Raises:
        UsageError: The branches need different values of what they share.
    """
    for field in sorted(first.fields.keys() & second.fields.keys()):
        if first.fields[field] != second.fields[field]:
            raise UsageError(
                f"The branches of a network share {field}; {first.name} was trained with {first.fields[field]!r}, "
                f"{second.name} with {second.fields[field]!r}. Take trials that agree, or a published backbone."
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
