"""Runs in Weights & Biases: a run for each trial, in the group of its study."""

from __future__ import annotations

import hashlib

import wandb

from automl_cxr.tracking.tracked_trial import TrackedTrial


class WandbTracker:
    """A project of Weights & Biases. Its environment variables, such as WANDB_API_KEY and WANDB_MODE=offline, apply.

    Args:
        project: Name of the project.
    """

    def __init__(self, project: str) -> None:
        self._project = project

    def send(self, trial: TrackedTrial) -> None:
        """Write a trial as a run. Errors: ``wandb.Error``."""
        with wandb.init(
            project=self._project,
            group=trial.study,
            name=trial.name,
            id=hashlib.sha256(trial.name.encode()).hexdigest()[:16],  # the same for a trial that is sent again
            resume="allow",
            config=dict(trial.params),
            notes="\n".join(f"{name}: {text}" for name, text in trial.tags.items()),
            tags=[trial.tags["state"]],
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True),
        ) as run:
            for step, values in trial.curves:
                run.log(dict(values), step=step)
            run.summary.update({f"final.{name}": value for name, value in trial.scores.items()})
            for file in trial.files:
                run.save(str(file), base_path=str(file.parent), policy="now")
