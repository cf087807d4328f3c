"""The study that the best pairs are put into: a concat network whose cuts are searched, its first trials the front's best.

It is a study like any other: continued, it searches on over the cuts. The weights of trained branches are copied into its
folder, since the trials that they come from may lose their models, and the quick heads lie there, from which training begins.
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

from automl_cxr.splicing.branches import Branch, join_branches
from automl_cxr.splicing.record import save_splices
from automl_cxr.splicing.search import SETTINGS, SpliceScores
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.prepare import PreparedStudy, prepare_study
from automl_cxr.study.store import StudyStore, check_study_name, explained_disk_errors, founding

_MARK = "splice"  # on an enqueued trial


def study_name(first: Branch, second: Branch) -> str:
    """Name the study of two branches, such as "splice-squeezenet-covid2-cnn-7"."""
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
    """Begin the study, or find it again, and have some pairs of cuts wait in it that are not among its trials yet.

    Args:
        scores: What was scored.
        pairs: Cuts of the first and the second branch, in the order in which they are to be trained.
        name: Of the study.
        runs: Folder of all studies' files.
        storage: Optuna storage URL.
        command: Command line as typed, for the record.
        on_progress: Told (images decoded, images in all).

    Raises:
        StudyMismatchError: A study of this name exists with other branches, cuts, data or settings.
        StudyError: Its files cannot be written.
    """
    folder = runs / check_study_name(name)
    first = _with_own_weights(scores.first, folder / "branches" / "first.keras")
    second = _with_own_weights(scores.second, folder / "branches" / "second.keras")
    if StudyStore.find(name, runs=runs, storage=storage) is None:
        _copy_weights(scores.first, first)
        _copy_weights(scores.second, second)
        _save_heads(scores, folder / "heads")
        save_splices(folder, scores.record)
    with tempfile.TemporaryDirectory() as place:
        space = Path(place) / "splice.toml"
        space.write_text(write_space(first, second, scores.cuts, heads=folder / "heads"), encoding="utf-8")
        request = dataclasses.replace(scores.request, space=str(space), name=name)
        prepared = prepare_study(request, runs=runs, storage=storage, command=command, on_progress=on_progress)
    with founding(name, runs):
        _enqueue_missing(prepared.store, pairs)
    return prepared


def write_space(first: Branch, second: Branch, cuts: tuple[Sequence[str], Sequence[str]], *, heads: Path) -> str:
    """Write the search space of two branches as TOML: everything is fixed but where they are cut."""
    constants: dict[str, Any] = {**SETTINGS, **join_branches(first, second), "heads": str(heads)}
    searched = dict(zip(("cut", "second_cut"), cuts, strict=True))
    lines = [f"description = {_toml(f'{first.name} and {second.name}, cut where a splice search says and joined')}"]
    lines += [f"{name} = {_toml(value)}" for name, value in constants.items() if name not in searched]
    for name, values in searched.items():
        lines += ["", f"[{name}]", 'type = "choice"', f"values = [{', '.join(map(_toml, values))}]"]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Write a value as TOML, whose texts, numbers and booleans are those of JSON."""
    return json.dumps(value, ensure_ascii=False)


def _with_own_weights(branch: Branch, file: Path) -> Branch:
    return branch if branch.trial is None else dataclasses.replace(branch, weights=str(file))


def _copy_weights(original: Branch, copied: Branch) -> None:
    if original.weights == copied.weights:
        return
    target = Path(copied.weights)
    with explained_disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(original.weights, target)


def _save_heads(scores: SpliceScores, folder: Path) -> None:
    """Write the quick head of each pair where its network will look for it."""
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for (first, second), head in scores.heads.items():
            config = dataclasses.replace(scores.config, heads=str(folder), cut=first or "", second_cut=second or "")
            if config.head_file is not None:
                np.savez(config.head_file, allow_pickle=False, **head.on_standardised())


def _enqueue_missing(store: StudyStore, pairs: Sequence[tuple[str, str]]) -> None:
    """Let pairs wait that no trial has; call it under ``founding``."""
    trials = store.study.get_trials(deepcopy=False)
    there = [{**trial.system_attrs.get("fixed_params", {}), **trial.params} for trial in trials]
    for first, second in pairs:
        point = {"cut": first, "second_cut": second}
        if point not in there:
            store.study.enqueue_trial(point, user_attrs={_MARK: True})
