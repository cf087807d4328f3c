"""Trains a trial again, from its configuration, and compares: a score that cannot be had again is no figure to repeat."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.engine.protocol import Ending, Facts, Outcome, Proposal, Report
from automl_cxr.engine.worker import Worker, WorkerLimits
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.results.study_data import decode_study_images, load_study_dataset
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.provenance import describe_code, describe_versions
from automl_cxr.study.store import StudyStore

TOLERANCE = 1e-6
"""How far two trainings with the same seed on one CPU may lie apart."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A trial beside its repetition. Differences are absolute.

    Attributes:
        trial: Number of the trial.
        score: What the record has: the final score of a trial that has one, otherwise the last epoch's or fold's.
        replayed_score: The same of the repetition.
        scores: Score of each epoch (of each fold) in the record, those of the trials that it continues included.
        replayed_scores: The same of the repetition.
        predictions_differ_by: Largest difference between two probabilities; None where the trial saved none.
        tolerance: Difference that counts as none.
        notes: What is not as it was when the trial ran.
        step: What the scores are of: "epoch" or "fold".
    """

    trial: int
    score: float
    replayed_score: float
    scores: Mapping[int, float]
    replayed_scores: Mapping[int, float]
    predictions_differ_by: float | None
    tolerance: float
    notes: tuple[str, ...]
    step: str = "epoch"

    @property
    def differs_by(self) -> float:
        """The largest of all differences; infinite where the epochs are not the same ones."""
        if self.scores.keys() != self.replayed_scores.keys():
            return float("inf")
        epochs = (abs(score - self.replayed_scores[epoch]) for epoch, score in self.scores.items())
        return max(abs(self.score - self.replayed_score), self.predictions_differ_by or 0.0, *epochs)

    @property
    def is_same(self) -> bool:
        """Whether score, epochs and predictions are the same within the tolerance."""
        return self.differs_by <= self.tolerance


def replay_trial(
    store: StudyStore,
    number: int,
    *,
    tolerance: float = TOLERANCE,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Train a trial again in a process of its own, with the threads that it had, and compare. The study is not touched.

    A trial that continued others is trained in one piece, or, where they ran at lower resolutions, from rung to rung; one that
    was stopped early to the epoch or fold where it ended.

    Args:
        store: The study.
        number: A COMPLETE or PRUNED trial of it.
        tolerance: Difference that counts as none.
        data: Where the data are now; by default where they were.
        on_progress: Told (epochs done, epochs in all), or folds.

    Raises:
        StudyError: There is no such trial, it has no score to compare with, or it cannot be trained any more.
        DataError: The data are gone or no longer those of the study.
    """
    record, facts = store.record(number), store.facts(number)
    scores = {epoch: score for one in store.lineage(number) for epoch, score in one.scores.items()}
    if record.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not scores:
        raise StudyError(
            f"Only a complete or pruned trial can be replayed; trial {number} of study '{store.name}' is {record.state}."
        )
    if record.folds is not None and facts.get("cut_short", False):
        raise StudyError(
            f"A trial of folds can be replayed only where each had all its epochs; trial {number} of study '{store.name}' was "
            "cut short by the time. Replay another one."
        )
    spec, config, last = store.spec, trial_config(store, number), max(scores)
    whole = dataclasses.replace(config, image_size=spec.image_size)  # of which a trial makes its smaller images
    images = decode_study_images(store, load_study_dataset(store, data), whole)
    runs_to_its_end = record.state is TrialState.COMPLETE and not facts.get("cut_short", False)
    with tempfile.TemporaryDirectory(prefix="automl-cxr-replay-") as scratch:
        folder = Path(scratch) / "trial"
        folder.mkdir()
        objective = _ReplayObjective(
            config=config,
            rungs=_lower_rungs(store, number, config),
            images=images,
            split=store.folder / "split.json",
            folder=folder,
            weights_folder=None if spec.weights_folder is None else Path(spec.weights_folder),
            objectives=(spec.objective,),
            normal_class=spec.normal_index,
            folds=spec.folds,
        )
        proposal = Proposal(number, {}, epochs=None if runs_to_its_end else last)
        replayed, again = _train(
            objective, proposal, _environment(facts), lambda epoch: on_progress and on_progress(epoch, last)
        )
        saved = store.trial_folder(number) / "valid.npz"
        differ_by = _compare(saved, folder / "valid.npz") if saved.is_file() else None
    has_final_score = "score" in facts
    return Replay(
        trial=number,
        score=facts["score"] if has_final_score else scores[last],
        replayed_score=again["score"] if has_final_score else replayed[max(replayed)],
        scores=scores,
        replayed_scores=replayed,
        predictions_differ_by=differ_by,
        tolerance=tolerance,
        notes=tuple(_tell_changes(store, facts, again)),
        step="fold" if spec.folds else "epoch",
    )


def trial_config(store: StudyStore, number: int) -> TrialConfig:
    """Give what a trial was trained with: the configuration that it saved, else the one that its record describes."""
    file = store.trial_folder(number) / "config.json"
    if file.is_file():
        return TrialConfig.from_json(file.read_text(encoding="utf-8"))
    record, facts = store.record(number), store.facts(number)
    own: dict[str, Any] = {name: facts[name] for name in ("seed", "gradient_accumulation", "image_size") if name in facts}
    return TrialConfig.from_values({**store.spec.constants, **record.params, **own})


def _lower_rungs(store: StudyStore, number: int, config: TrialConfig) -> tuple[tuple[TrialConfig, int], ...]:
    """Give configuration and last epoch of the trials that one continues, where their image sizes were others."""
    rungs = [(trial_config(store, one.number), max(one.scores)) for one in store.lineage(number)[:-1]]
    return tuple(rungs) if any(rung.image_size != config.image_size for rung, _ in rungs) else ()


@dataclass(frozen=True, kw_only=True)
class _ReplayObjective:
    """Trains one configuration into one folder, in the process that it is sent to."""

    config: TrialConfig
    rungs: tuple[tuple[TrialConfig, int], ...]
    images: Path
    split: Path
    folder: Path
    weights_folder: Path | None
    objectives: tuple[str, ...]
    normal_class: int | None
    folds: int

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        from automl_cxr.training.cross_validation import cross_validate  # here: loads Keras
        from automl_cxr.training.trial import TrialTask, describe_worker, run_trial

        settings = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name not in ("folds", "rungs")
        }
        below: Path | None = None
        for config, until in self.rungs:
            folder = self.folder.with_name(f"rung-{until}")
            folder.mkdir()
            rung = {**settings, "config": config, "folder": folder, "until": until}
            checkpoint = folder / "checkpoint.npz"
            for epoch in run_trial(TrialTask(**rung, resume=below, checkpoint=checkpoint)):
                yield Report(epoch.epoch, epoch.score)
            below = checkpoint
        if self.folds:
            records = cross_validate(TrialTask(**settings))
        else:
            records = run_trial(TrialTask(**settings, until=proposal.epochs, resume=below))
        while True:
            try:
                record = next(records)
            except StopIteration as end:
                return {**dataclasses.asdict(end.value), "worker": describe_worker()}
            yield Report(record.step, record.score)
            if self.folds and record.step == proposal.epochs:
                return {"worker": describe_worker()}  # it was stopped there, and left nothing


def _train(
    objective: _ReplayObjective, proposal: Proposal, environment: Mapping[str, str], on_epoch: Callable[[int], object]
) -> tuple[dict[int, float], Facts]:
    """Train in a process of its own; give the score of each epoch and what the trial came to."""
    worker = Worker(objective, limits=WorkerLimits(), environment=environment)
    scores: dict[int, float] = {}
    try:
        worker.begin([proposal])
        while not isinstance(event := worker.advance()[0][1], Ending):
            scores[event.epoch] = event.score
            on_epoch(event.epoch)
    finally:
        worker.close()
    if event.outcome is not Outcome.FINISHED:
        raise StudyError(f"Trial {proposal.number} could not be trained again: {event.error}")
    return scores, event.facts


def _environment(facts: Facts) -> dict[str, str]:
    """Give a process the threads that a trial had, which decide the order of sums, and no GPU where it had none."""
    worker = facts.get("worker", {})
    environment = {}
    if worker.get("threads") is not None:
        environment = {name: str(worker["threads"]) for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if worker.get("device") == "cpu" else {})


def _compare(saved: Path, replayed: Path) -> float:
    before, again = Predictions.from_npz(saved), Predictions.from_npz(replayed)
    if before.ids != again.ids:
        return float("inf")
    return float(np.abs(before.probabilities - again.probabilities).max())


def _tell_changes(store: StudyStore, facts: Mapping[str, Any], again: Facts) -> list[str]:
    """Say what may explain a difference: another machine, other versions, other code, other pretrained weights."""
    notes = _differences("it ran with", facts.get("worker", {}), again["worker"])
    entry = next((entry for entry in store.searches() if entry.driver == facts.get("driver")), None)
    if entry is not None:
        notes += _differences("it ran with", entry.versions, describe_versions())
        code = describe_code()
        if entry.code["digest"] != code["digest"]:
            names = [os.fspath(one.get("commit", one["version"])) for one in (entry.code, code)]
            notes.append(f"it ran with other code of this package ({names[0]}; here {names[1]})")
    if "weights_sha256" in facts and facts["weights_sha256"] != again["weights_sha256"]:
        notes.append("it began from other pretrained weights")
    if facts.get("features", "") != again.get("features", facts.get("features", "")):
        notes.append(f"it read {facts.get('features') or 'pixels'}; here {again['features'] or 'pixels'}")
    if facts.get("halvings"):
        notes.append("it ran out of memory on the way: its first epochs may have computed whole batches at once")
    return notes


def _differences(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{what} {name} {before.get(name, 'none')}; here {now.get(name, 'none')}"
        for name in sorted({*before, *now})
        if before and before.get(name) != now.get(name)
    ]
