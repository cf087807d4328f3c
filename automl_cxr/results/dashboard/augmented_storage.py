"""A studies' storage as the dashboard is to see it: with pictures, notes and figures that stand in no storage.

The dashboard finds these as Optuna's artifacts and as attributes that its own functions would have written. Here they are
made when a study is looked at, and only for who looks: no trial waits for them, no search competes with their writing, no
sampler reads past them, and copies and deletions of a study have nothing to carry along. What a user writes into the
dashboard, a note or a file, is kept in the storage and in the runs folder as ever, and goes before what would stand here.
"""

from __future__ import annotations

import copy
import io
import json
import threading
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from automl_cxr.errors import AutomlCxrError, StudyError
from automl_cxr.optuna_private import FrozenStudy, study_id_of, trial_id_of
from automl_cxr.results.dashboard.notes import note_of_study, notes_of_trials
from automl_cxr.results.dashboard.trial_pictures import PICTURES, pictures_of
from automl_cxr.results.figures import Figures
from automl_cxr.storage.storage_proxy import StorageProxy
from automl_cxr.study.store import StudyStore

_OLDEST = 20.0  # seconds that what is shown of a study may lag behind a search
_UPLOADS = ".artifacts"  # files that users attach in the dashboard; no study's folder begins with a dot
_FIGURES = ("learning_curves", "parallel_coordinates", "cost", "pareto", "confusion", "roc", "precision_recall", "reliability")


@dataclass(frozen=True)
class _AugmentedStudy:
    """What is shown of a study beyond its storage, as attributes: of the study, and of its trials by their ids."""

    n_ended: int = -1
    made: float = -1e9
    of_study: Mapping[str, Any] = field(default_factory=dict)
    of_trials: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


class AugmentedStorage(StorageProxy):
    """Answers as its backend does, and adds what ``load_augmented_study`` has made.

    Args:
        backend: The storage.
        runs: Folder of the studies' files; to a study that has none there, nothing is added.
    """

    def __init__(self, backend: BaseStorage, runs: Path) -> None:
        super().__init__(backend)
        self._runs = runs
        self._shown: dict[int, _AugmentedStudy] = {}
        self._lock = threading.Lock()

    def load_augmented_study(self, study_id: int) -> None:
        """Make what is to be shown of a study, if trials have ended since it was made."""
        with self._lock:
            shown = self._shown.get(study_id, _AugmentedStudy())
            if time.monotonic() - shown.made < _OLDEST:
                return
            try:
                self._shown[study_id] = self._made(study_id, shown)
            except (AutomlCxrError, OSError, KeyError, ValueError):  # a damaged or foreign study is shown as Optuna has it
                self._shown[study_id] = _AugmentedStudy(made=time.monotonic())

    def open_store(self, study_id: int) -> StudyStore | None:
        """Open a study of this program by its number in the storage; None where its files are not in the runs folder."""
        name = self._backend.get_study_name_from_id(study_id)
        folder = self._runs / name
        if not (folder / "study.json").is_file():
            return None
        return StudyStore(name, optuna.load_study(study_name=name, storage=self._backend), folder)

    def _made(self, study_id: int, before: _AugmentedStudy) -> _AugmentedStudy:
        store = self.open_store(study_id)
        if store is None:
            return _AugmentedStudy(made=time.monotonic())
        trials = store.study.get_trials(deepcopy=False)
        n_ended = sum(trial.state.is_finished() for trial in trials)
        if n_ended == before.n_ended:
            return _AugmentedStudy(n_ended, time.monotonic(), before.of_study, before.of_trials)
        ids = {trial.number: trial_id_of(trial) for trial in trials}
        notes = {ids[number]: text for number, text in notes_of_trials(store).items()}
        of_study = _note(None, note_of_study(store)) | _figures(store)
        for trial_id, text in notes.items():
            of_study |= _note(trial_id, text)
        of_trials = {
            ids[record.number]: _artifacts(study_id, record.number, pictures_of(store, record)) for record in store.records()
        }
        return _AugmentedStudy(n_ended, time.monotonic(), of_study, of_trials)

    # ------------------------------------------------------------------------------- answers with more than the backend's

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = [copy.copy(study) for study in super().get_all_studies()]
        for study in studies:
            study.system_attrs = self._with_shown(study_id_of(study), study.system_attrs)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._with_shown(study_id, super().get_study_system_attrs(study_id))

    def _with_shown(self, study_id: int, attrs: dict[str, Any]) -> dict[str, Any]:
        shown = self._shown.get(study_id, _AugmentedStudy()).of_study
        written = {key.rpartition(":note_ver")[0] for key in attrs if key.endswith(":note_ver")}
        return {key: value for key, value in shown.items() if key.rpartition(":note_")[0] not in written} | attrs

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy, states)
        shown = self._shown.get(study_id, _AugmentedStudy()).of_trials
        return [_with_attrs(trial, attrs) if (attrs := shown.get(trial_id_of(trial))) else trial for trial in trials]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        trial = super().get_trial(trial_id)
        found = next((shown.of_trials[trial_id] for shown in self._shown.values() if trial_id in shown.of_trials), {})
        return _with_attrs(trial, found) if found else trial


def _with_attrs(trial: FrozenTrial, attrs: Mapping[str, Any]) -> FrozenTrial:
    """Give a trial with more attributes; the backend's own, which it keeps, stays as it is."""
    shown = copy.copy(trial)
    shown.system_attrs = {**trial.system_attrs, **attrs}
    return shown


# The keys are those of optuna_dashboard's save_note and save_plotly_graph_object and of optuna.artifacts.upload_artifact, which
# cut long texts into attributes of 2,045 letters for databases; what stands in no database stands in one piece.


def _note(trial_id: int | None, text: str) -> dict[str, Any]:
    prefix = "dashboard" if trial_id is None else f"dashboard:{trial_id}"
    return {f"{prefix}:note_ver": 1, f"{prefix}:note_str:0": text} if text else {}


def _figures(store: StudyStore) -> dict[str, str]:
    figures, attrs = Figures(store), {}
    for name in _FIGURES:
        try:
            figure = getattr(figures, name)().update_layout(height=None)  # that of the dashboard's cards
            attrs[f"dashboard:plot_data:{name.replace('_', '-')}:0"] = figure.to_json()
        except StudyError:
            continue  # the study has not got what would be drawn
    return attrs


def _artifacts(study_id: int, number: int, names: list[str]) -> dict[str, str]:
    kinds = list(PICTURES)
    attrs = {}
    for name in names:
        # Hexadecimal numbers, as the dashboard's address of an artifact asks for; an uploaded file has a UUID, of five parts.
        artifact_id = f"{study_id:x}-{number:x}-{kinds.index(name):x}"
        meta = {"artifact_id": artifact_id, "filename": name, "mimetype": "image/svg+xml", "encoding": None}
        attrs[f"artifacts:{artifact_id}"] = json.dumps(meta)
    return attrs


class TrialArtifacts:
    """Optuna's artifact store of the dashboard: draws the pictures of trials, and keeps the files that users attach."""

    def __init__(self, storage: AugmentedStorage, runs: Path) -> None:
        self._storage = storage
        self._folder = runs / _UPLOADS
        self._files = FileSystemArtifactStore(self._folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        place = _place(artifact_id)
        if place is None:
            return self._files.open_reader(artifact_id)
        study_id, number, kind = place
        try:
            store = self._storage.open_store(study_id)
            if store is None:
                raise ArtifactNotFound(artifact_id)
            return io.BytesIO(list(PICTURES.values())[kind](store, number).encode())
        except (AutomlCxrError, OSError, KeyError, IndexError, ValueError) as error:
            raise ArtifactNotFound(artifact_id) from error

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._folder.mkdir(exist_ok=True)
        self._files.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        if _place(artifact_id) is None:
            self._files.remove(artifact_id)


def _place(artifact_id: str) -> tuple[int, int, int] | None:
    """Read which study, trial and picture an artifact is; None for an uploaded file."""
    parts = artifact_id.split("-")
    return (int(parts[0], 16), int(parts[1], 16), int(parts[2], 16)) if len(parts) == 3 else None
