"""Replay of a trial: it is trained again with its configuration, and scores and predictions are compared."""

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
from automl_cxr.engine.protocol import Facts, Outcome, Proposal, Report, TrialEnd
from automl_cxr.engine.worker import Worker, WorkerLimits
from automl_cxr.errors import StudyError
from automl_cxr.records import TrialState
from automl_cxr.results.study_data import decode_study_images, load_study_dataset
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.provenance import describe_code, describe_versions
from automl_cxr.study.store import StudyStore, read_record

TOLERANCE = 1e-6
"""Tolerance for two trainings with the same seed on one CPU."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A trial compared with its replay. Differences are absolute.

    Attributes:
        trial: Number of the trial.
        score: Recorded final score; without a final score, the score of the last epoch or fold.
        replayed_score: The same score of the replay.
        scores: Recorded score of each epoch (with folds: each fold), including those of the trials that it continues.
        replayed_scores: The same scores of the replay.
        predictions_differ_by: Largest difference between two probabilities; None if the trial has no saved predictions.
        tolerance: Largest difference that counts as equal.
        notes: Changes since the trial ran.
        step: "epoch" or "fold", the unit of the keys of the scores.
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
        """The largest of all differences; infinite if the epochs differ."""
        if self.scores.keys() != self.replayed_scores.keys():
            return float("inf")
        epochs = (abs(score - self.replayed_scores[epoch]) for epoch, score in self.scores.items())
        return max(abs(self.score - self.replayed_score), self.predictions_differ_by or 0.0, *epochs)

    @property
    def is_same(self) -> bool:
        """Whether score, epochs and predictions are equal within the tolerance."""
        return self.differs_by <= self.tolerance


def replay_trial(
    store: StudyStore,
    number: int,
    *,
    tolerance: float = TOLERANCE,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Replay:
    """Train a trial again in a separate process with the same number of threads, and compare. The study does not change.

    A trial that continues other trials is trained from the beginning; rung by rung if their image sizes are smaller. A trial
    that was stopped early is trained up to the epoch or fold at which it was stopped.

    Args:
        store: The study.
        number: A COMPLETE or PRUNED trial.
        tolerance: Largest difference that counts as equal.
        data: Current location of the data; by default the recorded one.
        on_progress: Called with (finished epochs, all epochs); with folds instead of epochs in cross-validation.

    Raises:
        StudyError: There is no such trial, it has no score to compare with, or it cannot be trained.
        DataError: The data are missing or have changed.
    """
    record, facts = store.record(number), store.facts(number)
    scores = {epoch: score for one in store.lineage(number) for epoch, score in one.scores.items()}
    if record.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not scores:
        raise StudyError(
            f"Only a complete or pruned trial can be replayed; trial {number} of study '{store.name}' is {record.state}."
        )
    if record.folds is not None and facts.get("cut_short", False):
        raise StudyError(
            f"A trial with folds can be replayed only if every fold had all its epochs; trial {number} of study '{store.name}' "
            "was stopped by the time limit. Replay another trial."
        )
    spec, config, last = store.spec, trial_config(store, number), max(scores)
    full_size = dataclasses.replace(config, image_size=spec.image_size)  # smaller images are downscaled from these
    images = decode_study_images(store, load_study_dataset(store, data), full_size)
    is_full_length = record.state is TrialState.COMPLETE and not facts.get("cut_short", False)
    with tempfile.TemporaryDirectory(prefix="automl-cxr-replay-") as temporary:
        folder = Path(temporary) / "trial"
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
            classes=spec.classes,
            folds=spec.folds,
        )
        proposal = Proposal(number, {}, epochs=None if is_full_length else last)
        replayed_scores, replayed_facts = _train(
            objective, proposal, _environment(facts), lambda epoch: on_progress and on_progress(epoch, last)
        )
        saved = store.trial_folder(number) / "valid.npz"
        differ_by = _compare(saved, folder / "valid.npz") if saved.is_file() else None
    has_final_score = "score" in facts
    return Replay(
        trial=number,
        score=facts["score"] if has_final_score else scores[last],
        replayed_score=replayed_facts["score"] if has_final_score else replayed_scores[max(replayed_scores)],
        scores=scores,
        replayed_scores=replayed_scores,
        predictions_differ_by=differ_by,
        tolerance=tolerance,
        notes=tuple(_describe_changes(store, facts, replayed_facts)),
        step="fold" if spec.folds else "epoch",
    )


def trial_config(store: StudyStore, number: int) -> TrialConfig:
    """Return the configuration of a trial from its file, or from the storage if there is no file."""
    file = store.trial_folder(number) / "config.json"
    if file.is_file():
        return read_record(file, TrialConfig.from_json)
    record, facts = store.record(number), store.facts(number)
    own: dict[str, Any] = {name: facts[name] for name in ("seed", "gradient_accumulation", "image_size") if name in facts}
    return TrialConfig.from_values({**store.spec.constants, **record.params, **own})


def _lower_rungs(store: StudyStore, number: int, config: TrialConfig) -> tuple[tuple[TrialConfig, int], ...]:
    """Return configuration and last epoch of the trials that a trial continues, if their image sizes differ."""
    rungs = [(trial_config(store, one.number), max(one.scores)) for one in store.lineage(number)[:-1]]
    return tuple(rungs) if any(rung.image_size != config.image_size for rung, _ in rungs) else ()


@dataclass(frozen=True, kw_only=True)
class _ReplayObjective:
    """Trains one configuration in a worker process and writes its files to a folder."""

    config: TrialConfig
    rungs: tuple[tuple[TrialConfig, int], ...]
    images: Path
    split: Path
    folder: Path
    weights_folder: Path | None
    objectives: tuple[str, ...]
    normal_class: int | None
    classes: tuple[str, ...]
    folds: int

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        from automl_cxr.training.cross_validation import cross_validate  # imports Keras
        from automl_cxr.training.trial import TrialTask, describe_worker, run_trial

        settings = {
            item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name not in ("folds", "rungs")
        }
        previous: Path | None = None
        for config, until in self.rungs:
            folder = self.folder.with_name(f"rung-{until}")
            folder.mkdir()
            rung = {**settings, "config": config, "folder": folder, "until": until}
            checkpoint = folder / "checkpoint.npz"
            for epoch in run_trial(TrialTask(**rung, resume=previous, checkpoint=checkpoint)):
                yield Report(epoch.epoch, epoch.score)
            previous = checkpoint
        if self.folds:
            records = cross_validate(TrialTask(**settings))
        else:
            records = run_trial(TrialTask(**settings, until=proposal.epochs, resume=previous))
        while True:
            try:
                record = next(records)
            except StopIteration as end:
                return {**dataclasses.asdict(end.value), "worker": describe_worker()}
            yield Report(record.step, record.score)
            if self.folds and record.step == proposal.epochs:
                return {"worker": describe_worker()}  # the trial was stopped here and has no result


def _train(
    objective: _ReplayObjective, proposal: Proposal, environment: Mapping[str, str], on_epoch: Callable[[int], object]
) -> tuple[dict[int, float], Facts]:
    """Train in a separate process; return the score of each epoch and the facts of the trial."""
    worker = Worker(objective, limits=WorkerLimits(), environment=environment)
    scores: dict[int, float] = {}
    try:
        worker.begin([proposal])
        while not isinstance(event := worker.advance()[0][1], TrialEnd):
            scores[event.epoch] = event.score
            on_epoch(event.epoch)
    finally:
        worker.close()
    if event.outcome is not Outcome.FINISHED:
        raise StudyError(f"Trial {proposal.number} cannot be trained again: {event.error}")
    return scores, event.facts


def _environment(facts: Facts) -> dict[str, str]:
    """Return the environment of a trial: its number of threads, which affects rounding, and no GPU if it used none."""
    worker = facts.get("worker", {})
    environment = {}
    if worker.get("threads") is not None:
        environment = {name: str(worker["threads"]) for name in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS")}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if worker.get("device") == "cpu" else {})


def _compare(saved: Path, replayed: Path) -> float:
    before, after = Predictions.from_npz(saved), Predictions.from_npz(replayed)
    if before.ids != after.ids:
        return float("inf")
    return float(np.abs(before.probabilities - after.probabilities).max())


def _describe_changes(store: StudyStore, facts: Mapping[str, Any], replayed: Facts) -> list[str]:
    """Return possible causes of a difference: another machine, other versions, other code or other pretrained weights."""
    notes = _differences(facts.get("worker", {}), replayed["worker"])
    entry = next((entry for entry in store.searches() if entry.driver == facts.get("driver")), None)
    if entry is not None:
        notes += _differences(entry.versions, describe_versions())
        code = describe_code()
        if entry.code["digest"] != code["digest"]:
            names = [os.fspath(one.get("commit", one["version"])) for one in (entry.code, code)]
            notes.append(f"it ran with other code of this package ({names[0]}; now {names[1]})")
    if "weights_sha256" in facts and facts["weights_sha256"] != replayed["weights_sha256"]:
        notes.append("it started from other pretrained weights")
    if facts.get("features", "") != replayed.get("features", facts.get("features", "")):
        notes.append(f"it was trained on {facts.get('features') or 'pixels'}; now on {replayed['features'] or 'pixels'}")
    if facts.get("halvings"):
        notes.append("it ran out of memory: the batches of its first epochs may not have been divided")
    return notes


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"it ran with {name} {before.get(name, 'none')}; now {now.get(name, 'none')}"
        for name in sorted({*before, *now})
        if before and before.get(name) != now.get(name)
    ]
