"""The study of the best pairs: it searches the cuts of a concat network. Its first trials are the best pairs.

The study can be continued like any other; the sampler then proposes further cuts. The weights of trained branches are copied to
its folder, because the models of their trials may be removed. The folder also contains the ridge heads, which are the initial
weights of training.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.optuna_private import enqueued_values
from automl_cxr.splicing.branches import Branch, join_branches
from automl_cxr.splicing.record import save_splices
from automl_cxr.splicing.search import SETTINGS, SpliceScores
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.image_hashes import hashes_file_of
from automl_cxr.study.model_sources import source_of_model
from automl_cxr.study.prepare import PreparedStudy, prepare_study
from automl_cxr.study.store import StudyStore, creation_lock, explained_disk_errors
from automl_cxr.study.study_folder import check_folder_name, claim_folder

_ENQUEUED = "splice"  # attribute of an enqueued trial


def study_name(first: Branch, second: Branch) -> str:
    """Return the name of the study of two branches, such as "splice-squeezenet-covid2-cnn-7"."""
    return re.sub(r"[^\w.+-]+", "-", f"splice-{first.name}-{second.name}")


def prepare_splice_study(
    scores: SpliceScores,
    pairs: Sequence[tuple[str, str]],
    *,
    name: str,
    runs: Path,
    storage: str,
    command: str = "",
    on_progress: OnProgress | None = None,
) -> PreparedStudy:
    """Create or open the study, and enqueue the pairs that are not yet among its trials.

    Args:
        scores: Scores of all pairs.
        pairs: Cuts of the first and the second branch, in the order of training.
        name: Name of the study.
        runs: Folder of all studies' files.
        storage: Optuna storage URL.
        command: Command line, for the record.
        on_progress: Called with the number of decoded images and the number of all images.

    Raises:
        StudyMismatchError: A study of this name exists with other branches, cuts, data or settings.
        StudyError: The files cannot be written.
    """
    folder = check_folder_name(name, runs=runs, storage=storage)
    first = _with_weights_file(scores.first, folder / "branches" / "first.keras")
    second = _with_weights_file(scores.second, folder / "branches" / "second.keras")
    if StudyStore.find(name, runs=runs, storage=storage) is None:
        claim_folder(name, runs=runs, storage=storage)
        _copy_weights(scores.first, first)
        _copy_weights(scores.second, second)
        _save_heads(scores, folder / "heads")
        save_splices(folder, scores.record)
    with tempfile.TemporaryDirectory() as folder_of_space:
        space = Path(folder_of_space) / "splice.toml"
        space.write_text(write_space(first, second, scores.cuts, heads=folder / "heads"), encoding="utf-8")
        request = dataclasses.replace(scores.request, space=str(space), name=name)
        prepared = prepare_study(request, runs=runs, storage=storage, command=command, on_progress=on_progress)
    with creation_lock(name, runs):
        _enqueue_missing(prepared.store, pairs)
    return prepared


def write_space(first: Branch, second: Branch, cuts: tuple[Sequence[str], Sequence[str]], *, heads: Path) -> str:
    """Return the search space of two branches as TOML: only their cuts are searched."""
    constants: dict[str, Any] = {**SETTINGS, **join_branches(first, second), "heads": str(heads)}
    searched = dict(zip(("cut", "second_cut"), cuts, strict=True))
    lines = [f"description = {_toml(f'{first.name} and {second.name}, joined at the cuts of a splice search')}"]
    config = TrialConfig.from_values(constants)
    used = [name for name in constants if name not in searched and config.reads(name)]  # a space rejects unused names
    lines += [f"{name} = {_toml(constants[name])}" for name in used]
    for name, values in searched.items():
        lines += ["", f"[{name}]", 'type = "choice"', f"values = [{', '.join(map(_toml, values))}]"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a value as TOML. TOML strings, numbers and booleans have the same syntax as in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _with_weights_file(branch: Branch, file: Path) -> Branch:
    return branch if branch.trial is None else dataclasses.replace(branch, weights=str(file))


def _copy_weights(original: Branch, copied: Branch) -> None:
    """Copy the weights of a branch, and the hashes of the images of its study, which the new study compares with its own."""
    if original.trial is None:
        return
    target = Path(copied.weights)
    with explained_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original.weights, target)
        images = source_of_model(original.trial.model).images
        if images is not None:
            images.save(hashes_file_of(target))


def _save_heads(scores: SpliceScores, folder: Path) -> None:
    """Write the ridge head of each pair to the file from which its network loads it."""
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for (first, second), head in scores.heads.items():
            config = dataclasses.replace(scores.config, heads=str(folder), cut=first or "", second_cut=second or "")
            if config.head_file is not None:
                np.savez(config.head_file, allow_pickle=False, **head.on_standardised())


def _enqueue_missing(store: StudyStore, pairs: Sequence[tuple[str, str]]) -> None:
    """Enqueue the pairs that are not yet among the trials. The caller holds the lock ``creation_lock``."""
    trials = store.study.get_trials(deepcopy=False)
    points = [{**enqueued_values(trial), **trial.params} for trial in trials]
    for first, second in pairs:
        point = {"cut": first, "second_cut": second}
        if point not in points:
            store.study.enqueue_trial(point, user_attrs={_ENQUEUED: True})
