"""The objective of a search: it converts a proposal into a configuration and runs it as a trial, in any process."""

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

from automl_cxr.architectures import FAMILIES
from automl_cxr.config import TrialConfig
from automl_cxr.data.image_rows import as_one_file
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
    """The objective of a study. It contains only values and paths, so that it can be sent to worker processes.

    Keras is imported only in the process that runs a trial.

    Attributes:
        fixed: Hyperparameters that the study or the space fixes.
        study_seed: Seed of the study, from which the seeds of trials are derived.
        images: File of the decoded training and validation images.
        weights_folder: Folder that is searched first for pretrained weights, or None.
        split: The study's split.json.
        trials: Folder of the study's trials, in which the staging folders of running trials are created.
        checkpoints: Folder of the study's checkpoints.
        driver: Name of the driver.
        objectives: Names of the objectives; the first one, a metric, selects the epoch.
        requirements: Constraints on a trial.
        normal_class: Index of the class without a finding, or None.
        folds: Number of folds of cross-validation; 0 for one validation part.
        fidelity: Fidelity of the rungs, a name in ``fidelity.FIDELITIES``.
        classes: Names of the classes or findings, for metrics of one of them.
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
    classes: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files that may be copied to other machines. The folder of the study must be accessible from all machines."""
        return (self.images,)

    def reading(self, places: Mapping[Path, Path]) -> TrialObjective:
        """Return the same objective with copied input files.

        Args:
            places: Path of the copy by path of the original.
        """
        return dataclasses.replace(self, images=places.get(self.images, self.images))

    def as_one_file(self, path: Path) -> Path:
        """Return a file with the content of an input that can be copied to another machine."""
        return as_one_file(path)

    def __call__(self, proposal: Proposal) -> Run:
        # Imported here, because the modules import Keras, which the driver does not need.
        from automl_cxr.training.cross_validation import cross_validate
        from automl_cxr.training.probe import run_probe
        from automl_cxr.training.trial import run_trial

        task = self._create_task(proposal)
        run_in_epochs = cross_validate if self.folds else run_trial
        run = run_in_epochs if FAMILIES[task.config.family].has_gradient_steps else run_probe
        return (yield from self._run_task(task, run(task)))

    def load_libraries(self) -> None:
        """Import Keras and its backend, which takes about ten seconds."""
        from automl_cxr.training.cross_validation import cross_validate  # noqa: F401
        from automl_cxr.training.probe import run_probe  # noqa: F401
        from automl_cxr.training.stacked_trials import run_stacked_trials  # noqa: F401

    def can_batch(self, proposal: Proposal) -> bool:
        """Return whether a trial trains only a head. In a batch, an epoch of such a trial takes milliseconds."""
        return self.folds == 0 and self.fidelity == "epochs" and self.config_of(proposal).trains_head_only

    def run_batch(self, proposals: Sequence[Proposal]) -> list[Run]:
        """Run several trials for which ``can_batch`` is true. Their heads are trained in one computation."""
        from automl_cxr.training.stacked_trials import run_stacked_trials  # imports Keras

        tasks = [self._create_task(proposal) for proposal in proposals]
        return [self._run_task(task, records) for task, records in zip(tasks, run_stacked_trials(tasks), strict=True)]

    def _create_task(self, proposal: Proposal) -> TrialTask:
        """Create the task of a trial and its staging folder.

        Raises:
            WorkerDiedError: The study's folder is not accessible on this machine.
        """
        from automl_cxr.training.trial import TrialTask  # imports Keras

        if not self.split.exists():
            raise WorkerDiedError(
                f"All machines need access to the folder of a study, because trials write to it; {self.split.parent} "
                f"does not exist on {platform.node()}. Set --runs to a folder that all machines share."
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
            classes=self.classes,
            seconds=proposal.seconds,
            until=proposal.epochs,
            checkpoint=checkpoint_file(self.checkpoints, proposal.number),
            resume=self._latest_checkpoint(proposal),
            reported=0 if proposal.parent is None else self._count_epochs(proposal.parent),
            largest_image=self.fixed["image_size"],
        )

    def _run_task(self, task: TrialTask, records: Generator[EpochRecord | FoldRecord, None, TrialResult]) -> Run:
        """Convert the records of a trial into reports. Remove its staging folder if it does not finish."""
        from automl_cxr.model.precision import resolved_precision  # imports Keras
        from automl_cxr.training.trial import describe_worker

        facts = {"worker": describe_worker(), "precision": resolved_precision(task.config)}
        if task.config.gradient_accumulation > 1:
            facts["gradient_accumulation"] = task.config.gradient_accumulation
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
                    facts["image_size"] = record.image_size
                yield Report(record.step, record.score, facts={**record.facts, **facts}, values=record.values)
        finally:
            if not is_finished:
                records.close()
                shutil.rmtree(task.folder, ignore_errors=True)

    def config_of(self, proposal: Proposal) -> TrialConfig:
        """Return the complete configuration. A trial that continues another one uses its seed and gradient accumulation."""
        if proposal.parent is None:
            overrides: dict[str, Any] = {"seed": trial_seed(self.study_seed, proposal.number)}
        else:
            text = (self.trials / f"{proposal.parent:05d}" / "config.json").read_text(encoding="utf-8")
            parent = TrialConfig.from_json(text)
            overrides = {"seed": parent.seed, "gradient_accumulation": parent.gradient_accumulation}
        if self.fidelity == "image_size" and proposal.epochs is not None:
            overrides["image_size"] = rung_image_size(self.fixed["image_size"], proposal.epochs, self.fixed["epochs"])
        config = TrialConfig.from_values({**self.fixed, **proposal.values, **overrides})
        return dataclasses.replace(config, gradient_accumulation=config.gradient_accumulation * 2**proposal.halvings)

    def _count_epochs(self, number: int) -> int:
        """Return the number of epochs of a trial that ended at a rung, including those of the trials that it continued."""
        with (self.trials / f"{number:05d}" / "history.csv").open(newline="", encoding="utf-8") as file:
            return sum(1 for _ in csv.DictReader(file))

    def _latest_checkpoint(self, proposal: Proposal) -> Path | None:
        """Return the checkpoint of an earlier attempt at this trial, or otherwise that of the trial that it continues."""
        own = checkpoint_file(self.checkpoints, proposal.number)
        if own.is_file() or proposal.parent is None:
            return own if own.is_file() else None
        return checkpoint_file(self.checkpoints, proposal.parent)


def staging_folder(trials: Path, number: int, driver: str) -> Path:
    """Return the folder into which a driver's worker writes a trial's files before they are committed."""
    return trials / f".{number:05d}-{driver}"


def checkpoint_file(checkpoints: Path, number: int) -> Path:
    """Return the checkpoint file of a trial. The names of its folds' checkpoints begin with the same number."""
    return checkpoints / f"{number:05d}.npz"


def trial_seed(study_seed: int, number: int) -> int:
    """Derive a trial's seed from the study's seed. Different trials have different seeds."""
    return int(np.random.SeedSequence((study_seed, number)).generate_state(1)[0] >> 1)
