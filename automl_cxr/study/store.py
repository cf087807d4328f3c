"""A study: small values are stored in an Optuna study, and files in a folder.

The Optuna storage is the commit point. A trial's files are moved into place before the trial is marked COMPLETE. Therefore,
at any time, a trial is either COMPLETE with all its files or will be run again.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

import optuna
from filelock import FileLock

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.io import sha256_of_file, write_text
from automl_cxr.optuna_private import storage_of, study_id_of, uncached_storage
from automl_cxr.records import SplitRecord, TrialState
from automl_cxr.scoring.metric_table import Direction
from automl_cxr.scoring.prediction_files import PREDICTIONS_FILE as PREDICTIONS_FILE
from automl_cxr.storage.cached_storage import CachedDriverStorage
from automl_cxr.storage.passwords import without_password
from automl_cxr.storage.retrying_storage import PATIENCE_SECONDS
from automl_cxr.storage.urls import is_missing, open_existing_storage, open_storage
from automl_cxr.study.sealed_test_set import SealedTestSetMixin
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.trial_files import TrialFilesMixin
from automl_cxr.study.trial_records import TrialRecordsMixin

_Record = TypeVar("_Record")
_SPLIT_DIGEST = "split_digest"
_SPLIT_FILE, _SPEC_FILE = "split.json", "study.json"
_COPIED_TO_STORAGE = ("space_name", "data", "classes", "image_size", "epochs", "seed", "data_digest", "versions")


class StudyStore(TrialRecordsMixin, TrialFilesMixin, SealedTestSetMixin):
    """One study: its record and its files. It has no state except the connection to the storage.

    Attributes:
        name: Name of the study.
        study: The Optuna study.
        folder: Folder of the study's files.
    """

    def __init__(self, name: str, study: optuna.Study, folder: Path) -> None:
        self.name = name
        self.study = study
        self.folder = folder

    @classmethod
    def create(
        cls, spec: StudySpec, split: SplitRecord, *, runs: Path, storage: str, directions: Sequence[Direction]
    ) -> StudyStore:
        """Create a study that does not exist. The caller holds the lock ``creation_lock`` and has called ``claim_folder``.

        The files are written before the study is created in the storage. Therefore every study in the storage has its files.

        Raises:
            StudyError: The folder cannot be written.
        """
        folder = runs / spec.name
        with explained_disk_errors(folder):
            (folder / "trials").mkdir(parents=True, exist_ok=True)
            write_text(folder / _SPLIT_FILE, split.to_json())
            write_text(folder / _SPEC_FILE, spec.to_json())
        study = optuna.create_study(
            study_name=spec.name,
            storage=open_storage(storage),
            directions=directions,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names(list(spec.objectives))
        store = cls(spec.name, study, folder)
        study.set_user_attr(_SPLIT_DIGEST, store.split_digest)
        for key in _COPIED_TO_STORAGE:
            study.set_user_attr(key, getattr(spec, key))
        return store

    @classmethod
    def find(cls, name: str, *, runs: Path, storage: str) -> StudyStore | None:
        """Open a study, or return None if the storage has no study of that name.

        Raises:
            StudyError: The storage has the study, but its files are not in ``runs``.
        """
        if is_missing(storage):
            return None
        backend = open_storage(storage)
        if name not in optuna.study.get_all_study_names(backend):
            return None
        store = cls(name, optuna.load_study(study_name=name, storage=backend), runs / name)
        if not (store.folder / _SPEC_FILE).is_file():
            raise StudyError(
                f"Study '{name}' is in {without_password(storage)}, but its files are not at {store.folder}. "
                "Pass the folder that contains them with --runs, or choose another name."
            )
        if store.study.user_attrs.get(_SPLIT_DIGEST, store.split_digest) != store.split_digest:
            raise StudyError(
                f"The files at {store.folder} do not belong to study '{name}' in {without_password(storage)}. "
                f"Pass the matching --runs or --storage, or restore {_SPLIT_FILE} if it was changed."
            )
        return store

    @classmethod
    def open(cls, name: str, *, runs: Path, storage: str) -> StudyStore:
        """Open a study.

        Raises:
            StudyError: The storage has no study of that name, or its files are not in ``runs``.
        """
        backend = open_existing_storage(storage)
        store = cls.find(name, runs=runs, storage=storage)
        if store is None:
            raise unknown_study_error(name, backend, storage)
        return store

    def for_driver(self, *, on_away: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> StudyStore:
        """Return the same study with a storage for a driver: it caches the driver's trials and waits for the backend.

        Args:
            on_away: Called with the reason whenever the driver starts to wait for the storage.
            patience: Seconds to wait for a storage that does not respond.
        """
        backend = uncached_storage(storage_of(self.study))
        storage = CachedDriverStorage(backend, study_id_of(self.study), patience=patience, on_away=on_away)
        return StudyStore(self.name, optuna.load_study(study_name=self.name, storage=storage), self.folder)

    def batch_writes(self) -> AbstractContextManager[None]:
        """Defer a driver's writes to its trials until the end of the block, see ``CachedDriverStorage.batch_writes``."""
        storage = storage_of(self.study)
        return storage.batch_writes() if isinstance(storage, CachedDriverStorage) else contextlib.nullcontext()

    @property
    def split_digest(self) -> str:
        """SHA-256 digest of split.json. Ensembles and storages compare it to verify that they belong to this study."""
        return sha256_of_file(self.folder / _SPLIT_FILE)

    @property
    def spec(self) -> StudySpec:
        """The study's specification.

        Raises:
            StudyError: study.json is damaged.
        """
        return read_record(self.folder / _SPEC_FILE, StudySpec.from_json)

    @property
    def split(self) -> SplitRecord:
        """The study's split into training, validation and test images.

        Raises:
            StudyError: split.json is damaged.
        """
        return read_record(self.folder / _SPLIT_FILE, SplitRecord.from_json)

    def remove_other_checkpoints(self, continuable: Callable[[], Collection[int]]) -> None:
        """Remove the checkpoints that no trial needs.

        A checkpoint is needed if its trial is running, is the parent of a running trial, or may be continued.

        Args:
            continuable: Returns the numbers of the trials that may be continued. It is called only if there are checkpoints.
        """
        numbers = self.checkpoint_trials()
        if not numbers:
            return
        running = self.records(TrialState.RUNNING)
        needed = {*continuable(), *(record.number for record in running), *(record.parent for record in running)}
        for path, number in numbers.items():
            if number not in needed:
                path.unlink(missing_ok=True)


def unknown_study_error(name: str, backend: optuna.storages.BaseStorage, url: str) -> StudyError:
    """Return the error for a name that no study in the storage has. Its message lists the existing names."""
    names = optuna.study.get_all_study_names(backend)
    known = f"Its studies: {', '.join(sorted(names))}." if names else "It contains no studies."
    return StudyError(f"No study '{name}' in {without_password(url)}. {known}")


def creation_lock(name: str, runs: Path) -> FileLock:
    """Return the lock for finding and creating a study, so that two processes cannot create it at the same time."""
    with explained_disk_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
    return FileLock(runs / f".{name}.lock")


def check_study_name(name: str) -> str:
    """Return the name if it is valid as the name of a folder.

    Raises:
        UsageError: The name is empty, begins with a dot, is longer than 200 bytes, or contains a slash or control character.
    """
    if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name) or len(name.encode()) > 200:
        raise UsageError(
            "The name of a study must be a valid folder name (no slash, no control character, no leading dot, at most 200 "
            f"bytes); received {name!r}. Choose another name."
        )
    return name


@contextlib.contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Convert an OSError, such as a full disk or a missing permission, into a StudyError."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"Cannot write {path} ({error.strerror or error}). Free disk space or change the permissions, then run the same "
            "command again."
        ) from error


def read_record(path: Path, parse: Callable[[str], _Record]) -> _Record:
    """Read one of a study's JSON files. ``parse`` raises ValueError for damaged text.

    Raises:
        StudyError: The file is missing or damaged.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"The study's file {path} is damaged ({error}). Restore it, or create another study.") from error
