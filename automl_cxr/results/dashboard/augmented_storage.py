"""The storage of the dashboard: it adds computed notes, figures and trial pages to the storage of the studies.

Notes and figures are computed when a study is viewed and are never written to the storage: their thousands of attributes would
slow down every sampler that reads the study. Notes and files that a user saves in the dashboard are written to the storage and
to the runs folder, and replace the computed ones.
"""

from __future__ import annotations

import copy
import io
import logging
import threading
import time
from collections.abc import Container, Mapping, Sequence
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
from automl_cxr.results.dashboard.dashboard_attributes import Attributes, DashboardAttributes, parse_artifact_id
from automl_cxr.results.dashboard.notes import note_of_study, notes_of_trials
from automl_cxr.results.dashboard.trial_page import PAGE_FILE, has_page, render_problem_page, render_trial_page
from automl_cxr.results.figures import Figures
from automl_cxr.storage.storage_proxy import StorageProxy
from automl_cxr.study.store import StudyStore

_LOGGER = logging.getLogger(__name__)
_MAX_AGE = 20.0  # seconds during which computed notes and figures are reused while a search is running
_UPLOADS = ".artifacts"  # folder of the files that users attach; study names do not begin with a dot
_FIGURES = ("learning_curves", "parallel_coordinates", "cost", "pareto", "confusion", "roc", "precision_recall", "reliability")


@dataclass(frozen=True)
class _Augmentation:
    """The computed attributes of a study that the dashboard shows in addition to those in its storage.

    Attributes:
        n_ended: Number of finished trials at the time of the computation.
        computed_at: Time of the computation, in seconds of ``time.monotonic``.
        of_study: Attributes of the study, one mapping for each note and figure. The notes of trials are among them.
        of_trials: Attributes of each trial by trial id, one mapping for each artifact.
        problem: The reason why they cannot be computed, or "".
    """

    n_ended: int = -1
    computed_at: float = -1e9
    of_study: Sequence[Attributes] = ()
    of_trials: Mapping[int, Sequence[Attributes]] = field(default_factory=dict)
    problem: str = ""


_NO_AUGMENTATION = _Augmentation()


class AugmentedStorage(StorageProxy):
    """A storage that adds the notes, figures and artifacts computed by ``load_augmented_study``.

    Args:
        backend: The studies' storage.
        runs: Folder of the studies' files. Nothing is added to a study without a folder there.
    """

    def __init__(self, backend: BaseStorage, runs: Path) -> None:
        super().__init__(backend)
        self._runs = runs
        self._augmentations: dict[int, _Augmentation] = {}
        self._lock = threading.Lock()

    def load_augmented_study(self, study_id: int) -> None:
        """Compute the notes and figures of a study, if trials have finished since the last computation.

        Nothing is added to a study that was created by another program. A damaged study gets a note with the reason, which is
        also logged once.
        """
        with self._lock:
            previous = self._augmentations.get(study_id, _NO_AUGMENTATION)
            if time.monotonic() - previous.computed_at < _MAX_AGE:
                return
            try:
                self._augmentations[study_id] = self._augment(study_id, previous)
            except Exception as error:  # noqa: BLE001 - whatever is damaged, the dashboard shows the study itself
                self._augmentations[study_id] = self._explain(study_id, previous, error)

    def _explain(self, study_id: int, previous: _Augmentation, error: Exception) -> _Augmentation:
        """Return a note with the reason why the notes and figures of a study cannot be computed."""
        reason = str(error) if isinstance(error, AutomlCxrError) else f"{type(error).__name__}: {error}"
        name = self._backend.get_study_name_from_id(study_id)
        if reason != previous.problem:
            _LOGGER.warning("The notes and figures of study '%s' cannot be computed. %s", name, reason)
        study = optuna.load_study(study_name=name, storage=self._backend)
        note = DashboardAttributes(study, []).note(f"**The notes and figures of this study cannot be computed.** {reason}")
        return _Augmentation(computed_at=time.monotonic(), of_study=[note], problem=reason)

    def open_store(self, study_id: int) -> StudyStore | None:
        """Open the study with this id. Return None if its files are not in the runs folder."""
        name = self._backend.get_study_name_from_id(study_id)
        folder = self._runs / name
        if not (folder / "study.json").is_file():
            return None
        return StudyStore(name, optuna.load_study(study_name=name, storage=self._backend), folder)

    def _augment(self, study_id: int, previous: _Augmentation) -> _Augmentation:
        store = self.open_store(study_id)
        if store is None:
            return _Augmentation(computed_at=time.monotonic())
        trials = store.study.get_trials(deepcopy=False)
        n_ended = sum(trial.state.is_finished() for trial in trials)
        if n_ended == previous.n_ended:
            return _Augmentation(n_ended, time.monotonic(), previous.of_study, previous.of_trials)
        attributes = DashboardAttributes(store.study, trials)
        with_page = [record.number for record in store.records() if has_page(record)]
        links = {number: f"[Figures of this trial]({attributes.artifact_path(number)})" for number in with_page}
        notes = notes_of_trials(store, links=links)
        of_study = [
            attributes.note(note_of_study(store)),
            *(attributes.note(text, trial=number) for number, text in notes.items()),
            *_record_figures(store, attributes),
        ]
        ids = {trial.number: trial_id_of(trial) for trial in trials}
        of_trials = {ids[number]: [attributes.artifact(number, PAGE_FILE)] for number in with_page}
        return _Augmentation(n_ended, time.monotonic(), of_study, of_trials)

    # ------------------------------------------------------------------------- methods that add attributes to the backend's

    def get_all_studies(self) -> list[FrozenStudy]:
        studies = [copy.copy(study) for study in super().get_all_studies()]
        for study in studies:
            study.system_attrs = self._augmented_attributes(study_id_of(study), study.system_attrs)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._augmented_attributes(study_id, super().get_study_system_attrs(study_id))

    def _augmented_attributes(self, study_id: int, stored: dict[str, Any]) -> dict[str, Any]:
        return _merge(stored, self._augmentations.get(study_id, _NO_AUGMENTATION).of_study)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = super().get_all_trials(study_id, deepcopy, states)
        of_trials = self._augmentations.get(study_id, _NO_AUGMENTATION).of_trials
        return [_with_attributes(trial, of_trials.get(trial_id_of(trial), ())) for trial in trials]

    def get_trial(self, trial_id: int) -> FrozenTrial:
        augmentations = self._augmentations.values()
        added = next((one.of_trials[trial_id] for one in augmentations if trial_id in one.of_trials), ())
        return _with_attributes(super().get_trial(trial_id), added)


def _merge(stored: dict[str, Any], added: Sequence[Attributes]) -> dict[str, Any]:
    """Add attributes to stored ones. If a key of a note, figure or artifact is stored, the user wrote it, and it is kept."""
    merged = dict(stored)
    for attributes in added:
        if stored.keys().isdisjoint(attributes):
            merged |= attributes
    return merged


def _with_attributes(trial: FrozenTrial, added: Sequence[Attributes]) -> FrozenTrial:
    """Return a copy of a trial with more attributes. The backend caches the original, which must not change."""
    if not added:
        return trial
    augmented = copy.copy(trial)
    augmented.system_attrs = _merge(trial.system_attrs, added)
    return augmented


def _record_figures(store: StudyStore, attributes: DashboardAttributes) -> list[Attributes]:
    figures, recorded = Figures(store), []
    for name in _FIGURES:
        try:
            figure = getattr(figures, name)()
        except StudyError:
            continue  # the study has no data for this figure
        figure.update_layout(height=None)  # the layout of the dashboard determines the height
        recorded.append(attributes.figure(name.replace("_", "-"), figure))
    return recorded


class TrialArtifacts:
    """The dashboard's artifact store: renders the pages of trials, and stores the files that users attach.

    Args:
        storage: The storage that the dashboard reads.
        runs: Folder of the studies' files.
    """

    def __init__(self, storage: AugmentedStorage, runs: Path) -> None:
        self._storage = storage
        self._folder = runs / _UPLOADS
        self._uploads = FileSystemArtifactStore(self._folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        trial = parse_artifact_id(artifact_id)
        if trial is None:
            return self._uploads.open_reader(artifact_id)
        study_id, number = trial
        try:
            store = self._storage.open_store(study_id)
            if store is None:
                raise ArtifactNotFound(artifact_id)
            return io.BytesIO(render_trial_page(store, number).encode())
        except (KeyError, IndexError) as error:  # there is no such study or trial
            raise ArtifactNotFound(artifact_id) from error
        except (AutomlCxrError, OSError, ValueError) as error:
            return io.BytesIO(render_problem_page(number, str(error)).encode())

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        self._folder.mkdir(exist_ok=True)
        self._uploads.write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        if parse_artifact_id(artifact_id) is None:
            self._uploads.remove(artifact_id)
