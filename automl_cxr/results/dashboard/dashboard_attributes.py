"""Attributes that optuna-dashboard reads for notes, figures and artifacts.

The public functions of optuna-dashboard and Optuna write the attributes to a recorder, so their formats are not repeated here.
Two details of optuna-dashboard have no public function: ``STUDY_ROUTE`` and the format of artifact ids. If a new version
changes one of them, tests/results/test_dashboard.py fails with an explanation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import optuna
from optuna.artifacts import upload_artifact
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from automl_cxr.storage.storage_proxy import StorageProxy

if TYPE_CHECKING:
    import plotly.graph_objects as go

Attributes = Mapping[str, Any]
STUDY_ROUTE = re.compile(r"/api/studies/(\d+)/?")
"""Path of the request for the details of a study; the group is the study id."""
_ARTIFACT_ID = re.compile(r"([0-9a-f]+)-([0-9a-f]+)")  # the route of artifacts accepts hexadecimal digits and hyphens


def artifact_id_of(study_id: int, number: int) -> str:
    """Return the artifact id of the page of a trial. It does not change between runs of the dashboard, so links stay valid."""
    return f"{study_id:x}-{number:x}"


def parse_artifact_id(artifact_id: str) -> tuple[int, int] | None:
    """Return study id and trial number of a trial's page; None for an uploaded file, whose id is a UUID of five parts."""
    match = _ARTIFACT_ID.fullmatch(artifact_id)
    return None if match is None else (int(match[1], 16), int(match[2], 16))


class DashboardAttributes:
    """Recorder of the attributes of one study. Nothing is written to the study's storage.

    Each method returns the attributes of one note, figure or artifact.

    Args:
        study: The study.
        trials: All its trials.
    """

    def __init__(self, study: optuna.Study, trials: list[FrozenTrial]) -> None:
        self._recorder = _Recorder(study._storage, trials)
        self._study = optuna.Study(study.study_name, self._recorder, RandomSampler(), optuna.pruners.NopPruner())
        self._trials = {trial.number: trial for trial in trials}

    def note(self, text: str, *, trial: int | None = None) -> Attributes:
        """Record a Markdown note of the study, or of the trial with this number; an empty text is not recorded."""
        from optuna_dashboard import save_note

        if text:
            save_note(self._study if trial is None else self._live_trial(trial), text)
        return self._recorder.take()

    def figure(self, name: str, figure: go.Figure) -> Attributes:
        """Record a Plotly figure of the study. ``name`` contains letters, digits, hyphens and underscores."""
        from optuna_dashboard import save_plotly_graph_object

        save_plotly_graph_object(self._study, figure, graph_object_id=name)
        return self._recorder.take()

    def artifact(self, number: int, file_name: str) -> Attributes:
        """Record an artifact of a trial with the id of ``artifact_id_of``. The content is not needed."""
        with TemporaryDirectory() as folder:
            file = Path(folder) / file_name
            file.touch()
            uploaded_id = upload_artifact(
                artifact_store=_NullArtifactStore(),
                file_path=str(file),
                study_or_trial=self._trials[number],
                storage=self._recorder,
            )
        stable_id = artifact_id_of(self._study._study_id, number)
        attributes = self._recorder.take()
        return {key.replace(uploaded_id, stable_id): value.replace(uploaded_id, stable_id) for key, value in attributes.items()}

    def artifact_path(self, number: int) -> str:
        """Return the URL path of the artifact of a trial."""
        from optuna_dashboard.artifact import get_artifact_path

        return get_artifact_path(self._live_trial(number), artifact_id_of(self._study._study_id, number))

    def _live_trial(self, number: int) -> optuna.Trial:
        return optuna.Trial(self._study, self._trials[number]._trial_id)


class _Recorder(StorageProxy):
    """A storage that records system attributes instead of writing them, and reads trials from a list."""

    def __init__(self, backend: BaseStorage, trials: list[FrozenTrial]) -> None:
        super().__init__(backend)
        self._trials = {trial._trial_id: trial for trial in trials}
        self._recorded: dict[str, Any] = {}

    def take(self) -> Attributes:
        """Return the attributes recorded since the last call."""
        recorded, self._recorded = self._recorded, {}
        return recorded

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trials[trial_id]

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return dict(self._recorded)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._recorded[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._recorded[key] = value


class _NullArtifactStore:
    """An artifact store that discards files, because the pages of trials are rendered on request."""

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Ignore the file."""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        raise NotImplementedError

    def remove(self, artifact_id: str) -> None:
        raise NotImplementedError
