"""The files of a study's trials: their folders, models, predictions, logs and checkpoints."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from automl_cxr.errors import StudyError
from automl_cxr.io import sync_folder
from automl_cxr.scoring.prediction_files import PREDICTIONS_FILE, Members, contents_of
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.score_files import load_scores
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.image_hashes import hashes_file_of, link_hashes

_MODEL_FILE = "model.keras"


class TrialFilesMixin:
    """The methods of a study that read and write the files of its trials.

    Attributes:
        name: Name of the study.
        folder: Folder of the study's files.
    """

    name: str
    folder: Path

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:05d}"

    def model_file(self, number: int) -> Path:
        """Return the path of a trial's model.

        Raises:
            StudyError: The model was removed, or the trial is not COMPLETE.
        """
        path = self._model_path(number)
        if not path.is_file():
            raise StudyError(
                f"Trial {number} of study '{self.name}' has no model on disk. A search keeps the best --keep-models models."
            )
        return path

    def has_model(self, number: int) -> bool:
        return self._model_path(number).is_file()

    def model_bytes(self, number: int) -> int:
        """Return the size of a trial's model in bytes; 0 if it has none."""
        path = self._model_path(number)
        return path.stat().st_size if path.is_file() else 0

    def drop_model(self, number: int) -> None:
        """Remove a trial's model. Its predictions, history and configuration are kept."""
        model = self._model_path(number)
        for path in (model, hashes_file_of(model)):
            path.unlink(missing_ok=True)

    def _model_path(self, number: int) -> Path:
        return self.trial_folder(number) / _MODEL_FILE

    def predictions(self, number: int) -> Predictions:
        """Read a COMPLETE trial's predictions for the validation part, or its out-of-fold predictions."""
        return Predictions.from_npz(self.trial_folder(number) / PREDICTIONS_FILE)

    def scores(self, number: int, *, normal_class: int | None) -> dict[str, float]:
        """Return all metrics of a COMPLETE trial's predictions, see ``scoring.score_files.load_scores``."""
        return load_scores(self.trial_folder(number) / PREDICTIONS_FILE, normal_class=normal_class)

    def scored_images(self, number: int) -> Members:
        """Return checksums of the ids, classes, patients and labels of a COMPLETE trial's predictions."""
        return contents_of(self.trial_folder(number) / PREDICTIONS_FILE).of_images

    def commit_files(self, number: int, staged: Path) -> None:
        """Move a finished trial's files from the staging folder to the trial folder, replacing those of an earlier attempt.

        Raises:
            OSError: The files cannot be moved.
        """
        target = self.trial_folder(number)
        if (staged / _MODEL_FILE).is_file():
            link_hashes(self.folder, staged / _MODEL_FILE)
        if target.exists():
            shutil.rmtree(target)
        staged.replace(target)
        sync_folder(target.parent)

    def write_log(self, number: int, text: str) -> None:
        """Write the log of a failed trial."""
        folder = self.trial_folder(number)
        with contextlib.suppress(OSError):  # the reason is also in the record; a full disk must not raise an error here
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train.log").write_text(text, encoding="utf-8")

    def clear_leftovers(self, monitor: DriverMonitor) -> None:
        """Remove the staging folders of dead drivers."""
        found = list((self.folder / "trials").glob(".*"))
        alive = monitor.alive()  # listed after the folders, because a driver creates its heartbeat before its folders
        for path in found:
            if not any(driver in path.name for driver in alive):
                shutil.rmtree(path, ignore_errors=True)

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints from which trials are continued."""
        return self.folder / "checkpoints"

    def checkpoint_trials(self) -> dict[Path, int]:
        """Return the trial number of each checkpoint file, including hidden incomplete files of killed workers."""
        return {path: int(path.name.lstrip(".")[:5]) for path in self.checkpoints.iterdir() if ".npz" in path.name}

    def checkpoint_bytes(self) -> int:
        """Return the size of all complete checkpoints in bytes."""
        return sum(path.stat().st_size for path in self.checkpoints.glob("*.npz"))
