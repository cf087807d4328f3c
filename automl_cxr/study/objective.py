"""What a worker is sent: how a proposal becomes a trial of a study. Values and paths only; Keras loads where it runs."""

from __future__ import annotations

import csv
import dataclasses
import platform
import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.engine.protocol import Proposal, Report, Run
from automl_cxr.errors import WorkerDiedError
from automl_cxr.records import EpochRecord, FoldRecord
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.study.fidelity import rung_image_size
from automl_cxr.study.resource_errors import explained_resource_errors

if TYPE_CHECKING:
    from automl_cxr.training.trial import TrialResult, TrialTask


@dataclass(frozen=True, kw_only=True)
class TrialObjective:
    """Turns a proposal into a configuration and runs it, in whatever process it is called.

    Attributes:
        fixed: Hyperparameters that the study or the space fixes.
        study_seed: From which every trial's seed follows.
        images: The decoded array of training and validation images.
        weights_folder: Where pretrained weights are looked for first, or None.
        split: The study's split.json.
        trials: Folder of the study's trials; a trial writes beside its final place, under the driver's name.
        checkpoints: Folder of the study's checkpoints.
        driver: Name of the search that asks.
        objectives: What is optimised; the first, a metric, chooses the epoch.
        requirements: Bounds that the trial must keep.
        normal_class: Index of the class without a finding, or None.
        folds: Folds that a trial trains a network for each; 0 where it trains one.
        fidelity: What a rung of fewer epochs has less of, a name in ``fidelity.FIDELITIES``.
    """

    fixed: Mapping[str, Any]
    study_seed: int
    images: Path
    weights_folder: Path | None
    split: Path
    trials: Path
    checkpoints: Path
    driver: str
    objectives: tuple[str, ...]
    requirements: tuple[Requirement, ...]
    normal_class: int | None
    folds: int = 0
    fidelity: str = "epochs"

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that may have to be brought to another machine. The study's own folder has to be seen by all."""
        return (self.images,)

    def reading(self, places: Mapping[Path, Path]) -> TrialObjective:
        """Give the same objective that reads its images elsewhere."""
        return dataclasses.replace(self, images=places.get(self.images, self.images))

    def __call__(self, proposal: Proposal) -> Run:
        # Here, because they load Keras, which the driver must not pay for.
        from automl_cxr.training.cross_validation import cross_validate
        from automl_cxr.training.trial import run_trial

        task = self._begin(proposal)
        return (yield from self._reports(task, cross_validate(task) if self.folds else run_trial(task)))

    def can_batch(self, proposal: Proposal) -> bool:
        """Tell whether a trial trains nothing but a head, which takes milliseconds an epoch beside others."""
        return self.folds == 0 and self.fidelity == "epochs" and self.config_of(proposal).trains_head_only

    def run_batch(self, proposals: Sequence[Proposal]) -> list[Run]:
        """Run trials that gather; their heads are trained as one computation."""
        from automl_cxr.training.stacked_trials import run_stacked_trials  # here: loads Keras

        tasks = [self._begin(proposal) for proposal in proposals]
        return [self._reports(task, records) for task, records in zip(tasks, run_stacked_trials(tasks), strict=True)]

    def _begin(self, proposal: Proposal) -> TrialTask:
        """Say what a trial is to do, and make the folder that it writes into."""
        from automl_cxr.training.trial import TrialTask  # here: loads Keras

        if not self.split.exists():
            raise WorkerDiedError(
                f"The machine {platform.node()} does not see the study's folder {self.split.parent}, where trials leave their "
                "files. Put --runs on a folder that all machines share."
            )
        folder = staging_folder(self.trials, proposal.number, self.driver)
        shutil.rmtree(folder, ignore_errors=True)
        with explained_resource_errors():
            folder.mkdir()
        return TrialTask(
            config=self.config_of(proposal),
            images=self.images,
            weights_folder=self.weights_folder,
            split=self.split,
            folder=folder,
            objectives=self.objectives,
            requirements=self.requirements,
            normal_class=self.normal_class,
            seconds=proposal.seconds,
            until=proposal.epochs,
            checkpoint=checkpoint_file(self.checkpoints, proposal.number),
            resume=self._latest_checkpoint(proposal),
            reported=0 if proposal.parent is None else self._epochs_of(proposal.parent),
            largest_image=self.fixed["image_size"],
        )

    def _reports(self, task: TrialTask, records: Generator[EpochRecord | FoldRecord, None, TrialResult]) -> Run:
        """Report what a trial yields, and clear its folder up where it does not come to its end."""
        from automl_cxr.training.trial import describe_worker  # here: loads Keras

        known = {"worker": describe_worker()}
        if task.config.gradient_accumulation > 1:
            known["gradient_accumulation"] = task.config.gradient_accumulation
        is_finished = False
        try:
            while True:
                try:
                    with explained_resource_errors():
                        record = next(records)
                except StopIteration as end:
                    is_finished = True
                    return dataclasses.asdict(end.value)
                if self.fidelity == "image_size" and isinstance(record, EpochRecord):
                    known["image_size"] = record.image_size
                yield Report(record.step, record.score, facts={**record.facts, **known}, values=record.values)
        finally:
            if not is_finished:
                records.close()
                shutil.rmtree(task.folder, ignore_errors=True)

    def config_of(self, proposal: Proposal) -> TrialConfig:
        """Complete a proposal's values; a trial that continues another has its seed and computes batches as it did."""
        if proposal.parent is None:
            own: dict[str, Any] = {"seed": trial_seed(self.study_seed, proposal.number)}
        else:
            text = (self.trials / f"{proposal.parent:05d}" / "config.json").read_text(encoding="utf-8")
            parent = TrialConfig.from_json(text)
            own = {"seed": parent.seed, "gradient_accumulation": parent.gradient_accumulation}
        if self.fidelity == "image_size" and proposal.epochs is not None:
            own["image_size"] = rung_image_size(self.fixed["image_size"], proposal.epochs, self.fixed["epochs"])
        config = TrialConfig.from_values({**self.fixed, **proposal.values, **own})
        return dataclasses.replace(config, gradient_accumulation=config.gradient_accumulation * 2**proposal.halvings)

    def _epochs_of(self, number: int) -> int:
        """Count the epochs of a trial that ended at a rung, with those of the trials that it continued."""
        with (self.trials / f"{number:05d}" / "history.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))

    def _latest_checkpoint(self, proposal: Proposal) -> Path | None:
        """Choose where to go on from: what an earlier attempt at this trial left, else the trial that it continues."""
        own = checkpoint_file(self.checkpoints, proposal.number)
        if own.is_file() or proposal.parent is None:
            return own if own.is_file() else None
        return checkpoint_file(self.checkpoints, proposal.parent)


def staging_folder(trials: Path, number: int, driver: str) -> Path:
    """Name the folder that a trial writes into before it is complete."""
    return trials / f".{number:05d}-{driver}"


def checkpoint_file(checkpoints: Path, number: int) -> Path:
    """Name the file of a trial's checkpoint; the names of those of its folds begin with it."""
    return checkpoints / f"{number:05d}.npz"


def trial_seed(study_seed: int, number: int) -> int:
    """Derive a trial's seed, so that one seed decides a study and no two trials share theirs."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0] >> 1)
