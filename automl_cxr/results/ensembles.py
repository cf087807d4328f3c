"""Builds an ensemble of a study's best trials: weights fitted on the validation part, models copied to one folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.ensemble.build import METHODS, compare_methods, ensemble_predictions
from automl_cxr.errors import StudyError, UnknownNameError, UsageError
from automl_cxr.results.classifier import ENSEMBLE_FILE, explain_no_model, member_of_trial
from automl_cxr.scoring.intervals import Interval, bootstrap_interval
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True, repr=False)
class BuiltEnsemble:
    """An ensemble on disk and how it compares on the validation part.

    Attributes:
        folder: Its folder, which ``predict`` and ``evaluate`` take.
        trials: Number of each member's trial, best first.
        weights: Weight of each member.
        member_scores: Validation macro-F1 of each member.
        method: How the weights were fitted.
        scores: Validation macro-F1 of every method of fitting, this one's among them.
        interval: 95 % bootstrap interval by patient of this one's. Fitted and judged on the same images, so optimistic.
    """

    folder: Path
    trials: tuple[int, ...]
    weights: tuple[float, ...]
    member_scores: tuple[float, ...]
    method: str
    scores: Mapping[str, float]
    interval: Interval

    def __repr__(self) -> str:
        """Say what it is made of and how good, as a notebook shows it."""
        members = ", ".join(f"{number} ({weight:.2f})" for number, weight in zip(self.trials, self.weights, strict=True))
        return f"Ensemble of trials {members}\n{describe_ensemble(self)}\nin {self.folder}"

    @property
    def score(self) -> float:
        """Validation macro-F1 of the ensemble."""
        return self.scores[self.method]


def build_ensemble(
    store: StudyStore, *, top: int = 6, method: str = "ga", seed: int | None = None, name: str | None = None
) -> BuiltEnsemble:
    """Fit weights over the best ``top`` eligible trials that have their model, and write the ensemble's folder.

    Args:
        store: The study.
        top: Members at most; fewer if fewer trials are finished.
        method: A name in ``ensemble.build.METHODS``.
        seed: Of the genetic algorithm; by default the study's.
        name: Of the folder below the study's ``ensembles``; by default the method and the number of members.

    Raises:
        UsageError: ``top`` below 1, an unknown method, or a name that is no folder's.
        StudyError: No finished trial that keeps what the study requires has its model.
    """
    if top < 1:
        raise UsageError(f"An ensemble needs at least one member; received --top {top}.")
    if method not in METHODS:
        raise UnknownNameError("ensemble method", method, METHODS)
    if name is not None and (not name or name.startswith(".") or Path(name).name != name):
        raise UsageError(f"An ensemble's name must do as a folder's name; received {name!r}.")
    trials = [record.number for record in store.eligible() if store.has_model(record.number)][:top]
    if not trials:
        raise StudyError(explain_no_model(store))
    folder = store.folder / "ensembles" / (name or f"{method}-{len(trials)}")
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        # The models first: a search that goes on may remove them while the weights are fitted.
        rows = _copy_members(store, trials, partial)
        members = [store.predictions(number) for number in trials]
        fitted = compare_methods(members, seed=store.spec.seed if seed is None else seed)
        combined = ensemble_predictions(members, fitted[method].weights)
        macro_f1 = METRICS["macro_f1"].function
        built = BuiltEnsemble(
            folder=folder,
            trials=tuple(trials),
            weights=tuple(float(weight) for weight in fitted[method].weights),
            member_scores=tuple(macro_f1(one.labels, one.probabilities, None) for one in members),
            method=method,
            scores={each: ensemble.score for each, ensemble in fitted.items()},
            interval=bootstrap_interval(combined, seed=store.spec.seed),
        )
        combined.to_npz(partial / "valid.npz")
        record = json.dumps(_describe_on_disk(store, built, rows), indent=1, ensure_ascii=False)
        (partial / ENSEMBLE_FILE).write_text(record, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise StudyError(f"Cannot write the ensemble to {folder} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # a half-written ensemble is never seen
    return built


def _copy_members(store: StudyStore, trials: Sequence[int], partial: Path) -> list[dict[str, Any]]:
    """Copy the trials' models; return what the ensemble's record says of each file."""
    (partial / "members").mkdir(parents=True)
    rows = []
    for number in trials:
        member = member_of_trial(store, number)
        content = member.file.read_bytes()
        file = Path("members") / f"{number:05d}.keras"
        (partial / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        how = {"image_size": member.image_size, "fit": member.fit}
        rows.append({"trial": number, "file": file.as_posix(), **how, "sha256": digest})
    return rows


def _describe_on_disk(store: StudyStore, built: BuiltEnsemble, rows: list[dict[str, Any]]) -> dict[str, Any]:
    spec = store.spec
    return {
        "study": store.name,
        "split_digest": store.split_digest,
        "data_digest": spec.data_digest,
        "method": built.method,
        "classes": spec.classes,
        "normal_class": spec.normal_class,
        "members": [
            {**row, "weight": weight, "macro_f1": score}
            for row, weight, score in zip(rows, built.weights, built.member_scores, strict=True)
        ],
        "valid_macro_f1": built.scores,
        "versions": spec.versions,
    }


def describe_ensemble(built: BuiltEnsemble) -> str:
    """Say in a sentence how the ensemble stands to its best member and to the simple average on validation."""
    best = max(built.member_scores)
    gain = built.score - best
    return (
        f"{built.method} {built.score:.4f} ({built.interval.low:.4f} to {built.interval.high:.4f}) on validation, "
        f"{gain:+.4f} against the best member; the weights were fitted on these images, so expect less on new ones."
    )
