"""Event files for TensorBoard: a folder for each trial, with its curves and a row of the table of hyperparameters."""

from __future__ import annotations

import shutil
from pathlib import Path

from tensorboardX import SummaryWriter

from automl_cxr.tracking.tracked_trial import TrackedTrial


class TensorboardTracker:
    """A folder that TensorBoard shows.

    Args:
        folder: The folder, which is created if it does not exist.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder).expanduser()

    def send(self, trial: TrackedTrial) -> None:
        """Write the event files of a trial. Errors: OSError."""
        folder = self._folder / trial.study / f"{trial.number:05d}"
        shutil.rmtree(folder, ignore_errors=True)
        with SummaryWriter(str(folder)) as writer:
            for step, values in trial.curves:
                for name, value in values.items():
                    writer.add_scalar(name, value, step)
            writer.add_text("trial", "\n\n".join(f"{name}: {text}" for name, text in trial.tags.items()))
            writer.add_hparams(
                dict(trial.params), {f"final/{name}": value for name, value in trial.scores.items()}, name="hyperparameters"
            )
