"""The record of a study: an Optuna study for what is small, a folder beside it for what is large.

The storage is the commit point. A trial's files are moved into place before the trial is told COMPLETE, so that at any
instant a trial is either complete with all its files or will be run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import optuna
from filelock import FileLock

from automl_cxr.engine.intermediate_values import read_scores
from automl_cxr.engine.pareto import is_on_front
from automl_cxr.errors import StudyError, UsageError
from automl_cxr.optuna_private import storage_of, study_id_of, uncached_storage
from automl_cxr.records import SplitRecord, TrialRecord, TrialState
from automl_cxr.scoring.metrics import Direction
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.storage.cached_storage import CachedDriverStorage
from automl_cxr.storage.retrying_storage import PATIENCE_SECONDS
from automl_cxr.storage.urls import is_missing, open_existing_storage, open_storage, without_password
from automl_cxr.study.heartbeat import DriverMonitor
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.spec import StudySpec

_Record = TypeVar("_Record")
_STATES = {
    optuna.trial.TrialState.WAITING: TrialState.WAITING,
    optuna.trial.TrialState.RUNNING: TrialState.RUNNING,
    optuna.trial.TrialState.COMPLETE: TrialState.COMPLETE,
    optuna.trial.TrialState.PRUNED: TrialState.PRUNED,
    optuna.trial.TrialState.FAIL: TrialState.FAILED,
}
PREDICTIONS_FILE = "valid.npz"
_MODEL = "model.keras"
_SPLIT_DIGEST = "split_digest"
_SEARCH = "search "  # and the name of its driver: an attribute each, so that two searches cannot lose one another's


def unknown_study(name: str, backend: optuna.storages.BaseStorage, url: str) -> StudyError:
    """Say that a storage has no study of a name, and which it has."""
    names = optuna.study.get_all_study_names(backend)
    known = f"It holds: {', '.join(sorted(names))}." if names else "It holds none yet."
    return StudyError(f"No study '{name}' in {without_password(url)}. {known}")


def founding(name: str, runs: Path) -> FileLock:
    """Lock under which a study is looked for and begun, so that two processes do not begin it at once."""
    with explained_disk_errors(runs):
        runs.mkdir(parents=True, exist_ok=True)
    return FileLock(runs / f".{name}.lock")


def check_study_name(name: str) -> str:
    """Refuse a name that cannot be a folder.

    Raises:
        UsageError: The name is empty, begins with a dot, or holds a slash or a control character.
    """
    if not name or name.startswith(".") or re.search(r"[/\\\x00-\x1f]", name) or len(name.encode()) > 200:
        raise UsageError(
            f"A study's name must do as a folder's name (no slash, no dot in front, at most 200 bytes); received {name!r}."
        )
    return name


class StudyStore:
    """One study's record. Holds no state of its own but the connection.

    Attributes:
        name: The study's name.
        study: The Optuna study.
        folder: Where its files lie.
    """

    def __init__(self, name: str, study: optuna.Study, folder: Path) -> None:
        self.name = name
        self.study = study
        self.folder = folder

    @classmethod
    def create(
        cls, spec: StudySpec, split: SplitRecord, *, runs: Path, storage: str, directions: Sequence[Direction]
    ) -> StudyStore:
        """Begin a study that does not exist; call it under ``founding``.

        The files are written before the study exists in the storage: a study that exists has them.

        Raises:
            StudyError: The folder holds the trials of another study, or cannot be written.
        """
        folder = runs / spec.name
        if any((folder / "trials").glob("[0-9]*")):
            raise StudyError(
                f"The folder {folder} holds trials of a study that {without_password(storage)} does not know. "
                "Name its --storage, or another --runs or --name."
            )
        with explained_disk_errors(folder):
            (folder / "trials").mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "split.json", split.to_json())
            write_atomically(folder / "study.json", spec.to_json())
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
        for key in ("space_name", "data", "classes", "image_size", "epochs", "seed", "data_digest", "versions"):
            study.set_user_attr(key, getattr(spec, key))
        return store

    @classmethod
    def find(cls, name: str, *, runs: Path, storage: str) -> StudyStore | None:
        """Open a study if there is one of that name in the storage.

        Raises:
            StudyError: There is, but the files in ``runs`` are not its own.
        """
        if is_missing(storage):
            return None
        backend = open_storage(storage)
        if name not in optuna.study.get_all_study_names(backend):
            return None
        store = cls(name, optuna.load_study(study_name=name, storage=backend), runs / name)
        if not (store.folder / "study.json").is_file():
            raise StudyError(
                f"Study '{name}' stands in {without_password(storage)}, but its files are not at {store.folder}. "
                "Name their folder with --runs, or take another name."
            )
        if store.study.user_attrs.get(_SPLIT_DIGEST, store.split_digest) != store.split_digest:
            raise StudyError(
                f"The files at {store.folder} are those of another study than '{name}' in {without_password(storage)}. "
                "Name the right --runs or --storage."
            )
        return store

    @classmethod
    def open(cls, name: str, *, runs: Path, storage: str) -> StudyStore:
        """Open a study.

        Raises:
            StudyError: There is none of that name, or its files are not in ``runs``.
        """
        backend = open_existing_storage(storage)
        store = cls.find(name, runs=runs, storage=storage)
        if store is None:
            raise unknown_study(name, backend, storage)
        return store

    def driven(self, *, on_away: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> StudyStore:
        """Give the same study as a driver should see it: fast for who runs its trials, and patient with its storage.

        Args:
            on_away: Told why the storage is waited for, once each time.
            patience: Seconds to wait for a storage that does not answer.
        """
        backend = uncached_storage(storage_of(self.study))
        storage = CachedDriverStorage(backend, study_id_of(self.study), patience=patience, on_away=on_away)
        return StudyStore(self.name, optuna.load_study(study_name=self.name, storage=storage), self.folder)

    def batch_writes(self) -> AbstractContextManager[None]:
        """Defer a driver's writes to its trials until the end of the block; see ``CachedDriverStorage.batch_writes``."""
        storage = storage_of(self.study)
        return storage.batch_writes() if isinstance(storage, CachedDriverStorage) else contextlib.nullcontext()

    @property
    def split_digest(self) -> str:
        """Digest of the split's file, by which ensembles and storages know that they belong to this study."""
        return hashlib.sha256((self.folder / "split.json").read_bytes()).hexdigest()

    @property
    def spec(self) -> StudySpec:
        """What the study is.

        Raises:
            StudyError: Its file is damaged.
        """
        return read_record(self.folder / "study.json", StudySpec.from_json)

    @property
    def split(self) -> SplitRecord:
        """Which images serve for what.

        Raises:
            StudyError: Its file is damaged.
        """
        return read_record(self.folder / "split.json", SplitRecord.from_json)

    def records(self, *states: TrialState) -> list[TrialRecord]:
        """Read the trials of some states (of all, if none is named), by number."""
        wanted = _to_optuna(states) if states else None
        return [_to_record(trial) for trial in self.study.get_trials(deepcopy=False, states=wanted)]

    def has_any(self, *states: TrialState) -> bool:
        """Tell whether the study has a trial in one of some states."""
        return bool(self.study.get_trials(deepcopy=False, states=_to_optuna(states)))

    def ranked(self) -> list[TrialRecord]:
        """Read the COMPLETE trials, best first by the first objective; of equals the earlier.

        Trials that break a constraint stand below all others, the one that breaks it least first (Deb 2000).
        """
        return sorted(self.records(TrialState.COMPLETE), key=self._place)

    def _place(self, record: TrialRecord) -> tuple[float, float, int]:
        sign = -1 if self._is_maximized else 1
        return record.violation, sign * record.score, record.number  # type: ignore[operator]

    def eligible(self) -> list[TrialRecord]:
        """Read the COMPLETE trials that break no constraint, best first: those that may be chosen."""
        return [record for record in self.ranked() if record.is_feasible]

    def pareto_front(self) -> list[TrialRecord]:
        """Read the eligible trials that no other one beats in every objective, best first by the first one."""
        return self._undominated(self.eligible())

    def _undominated(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        signs = [-1.0 if direction == optuna.study.StudyDirection.MAXIMIZE else 1.0 for direction in self.study.directions]
        values = [record.values or (record.score,) for record in records]
        losses = np.array(values, dtype=np.float64).reshape(-1, len(signs)) * signs
        return [record for record, is_optimal in zip(records, is_on_front(losses), strict=True) if is_optimal]

    def is_better(self, score: float, other: float) -> bool:
        """Compare two scores in the direction of the study's first objective."""
        return score > other if self._is_maximized else score < other

    def record(self, number: int) -> TrialRecord:
        """Read one trial.

        Raises:
            StudyError: There is no such trial.
        """
        return _to_record(self._trial(number))

    def facts(self, number: int) -> dict[str, Any]:
        """Read what else stands on a trial: its ``driver``, ``worker``, ``rung``, the ``sha256`` of its files and the like."""
        return dict(self._trial(number).user_attrs)

    def _trial(self, number: int) -> optuna.trial.FrozenTrial:
        storage, study_id = storage_of(self.study), study_id_of(self.study)
        with contextlib.suppress(KeyError):
            if number >= 0:  # some storages would count others from the end
                return storage.get_trial(storage.get_trial_id_from_study_id_trial_number(study_id, number))
        last = len(self.study.get_trials(deepcopy=False)) - 1
        raise StudyError(f"Study '{self.name}' has trials 0 to {last}; received {number}.")

    def lineage(self, number: int) -> list[TrialRecord]:
        """Read a trial and those that it continues, the first one first."""
        records = [self.record(number)]
        while records[0].parent is not None:
            records.insert(0, self.record(records[0].parent))
        return records

    def n_begun(self) -> int:
        """Count the trials that were begun, whatever became of them."""
        waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        return len(self.study.get_trials(deepcopy=False)) - len(waiting)

    def n_epochs(self) -> int:
        """Count the epochs that all trials together were trained for; a trial of folds tells its own at each fold."""
        return sum(
            trial.user_attrs["epochs"] if "folds" in trial.user_attrs else len(read_scores(trial))
            for trial in self.study.get_trials(deepcopy=False)
        )

    def abandoned(self, watch: DriverMonitor) -> list[TrialRecord]:
        """Read the running trials whose search is dead."""
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        alive = watch.alive()
        return [_to_record(trial) for trial in running if trial.user_attrs.get("driver") not in alive]

    def has_unverified_driver(self, watch: DriverMonitor) -> bool:
        """Tell whether a trial is running whose search has shown no life since the watch began, and may be dead."""
        running = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
        watch.alive()
        return any(not watch.is_verified(trial.user_attrs.get("driver", "")) for trial in running)

    def owns(self, number: int, driver: str) -> bool:
        """Tell whether a trial is running in the hands of a search, as the storage has it at this moment."""
        return number in self.owned([number], driver)

    def owned(self, numbers: Sequence[int], driver: str) -> set[int]:
        """Tell which of some trials are running in the hands of a search, as the storage has it at this moment."""
        storage, study_id = storage_of(self.study), study_id_of(self.study)
        ids = [storage.get_trial_id_from_study_id_trial_number(study_id, number) for number in numbers]
        if isinstance(storage, CachedDriverStorage):
            signed = storage.signed_trials(ids, driver)
            return {number for number, trial_id in zip(numbers, ids, strict=True) if trial_id in signed}
        trials = [storage.get_trial(trial_id) for trial_id in ids]
        running = (trial for trial in trials if trial.state is optuna.trial.TrialState.RUNNING)
        return {trial.number for trial in running if trial.user_attrs.get("driver") == driver}

    @property
    def _is_maximized(self) -> bool:
        return self.study.directions[0] == optuna.study.StudyDirection.MAXIMIZE

    # ------------------------------------------------------------------------------------------------- trial files

    def trial_folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:05d}"

    def model_file(self, number: int) -> Path:
        """Find a trial's model.

        Raises:
            StudyError: It was removed, or the trial never finished.
        """
        path = self.trial_folder(number) / _MODEL
        if not path.is_file():
            raise StudyError(
                f"Trial {number} of study '{self.name}' has no model on disk. Only the best --keep-models keep theirs."
            )
        return path

    def has_model(self, number: int) -> bool:
        return (self.trial_folder(number) / _MODEL).is_file()

    def predictions(self, number: int) -> Predictions:
        """Read a COMPLETE trial's predictions of the validation part, or out of fold."""
        return Predictions.from_npz(self.trial_folder(number) / PREDICTIONS_FILE)

    def commit_files(self, number: int, staged: Path) -> None:
        """Move a trial's finished files to where they belong; a repeated trial replaces what an earlier attempt left.

        Raises:
            OSError: They cannot be moved.
        """
        target = self.trial_folder(number)
        if target.exists():
            shutil.rmtree(target)
        os.replace(staged, target)
        _sync_folder(target.parent)

    @property
    def checkpoints(self) -> Path:
        """Folder of the states that trials may go on from."""
        return self.folder / "checkpoints"

    def drop_checkpoints_but(self, continuable: Callable[[], Collection[int]]) -> None:
        """Remove the checkpoints of ended trials, but of those that may be continued and those that are being continued."""
        # Those that begin with a dot are halves, left by workers that were killed.
        files = {path: int(path.name.lstrip(".")[:5]) for path in self.checkpoints.iterdir() if ".npz" in path.name}
        if not files:
            return
        running = self.records(TrialState.RUNNING)
        needed = {*continuable(), *(record.number for record in running), *(record.parent for record in running)}
        for path, number in files.items():
            if number not in needed:
                path.unlink(missing_ok=True)

    def keep_within(self, n_bytes: int) -> None:
        """Remove models, the worst first and never the best, until models and checkpoints take no more than some bytes."""
        models = [self.trial_folder(record.number) / _MODEL for record in self.by_worth(self.records(TrialState.COMPLETE))]
        sizes = {path: path.stat().st_size for path in models if path.is_file()}
        excess = sum(sizes.values()) + sum(path.stat().st_size for path in self.checkpoints.glob("*.npz")) - n_bytes
        for path in reversed(list(sizes)[1:]):
            if excess > 0:
                path.unlink(missing_ok=True)
                excess -= sizes[path]

    def drop_model(self, number: int) -> None:
        """Remove a trial's model; its predictions, history and configuration stay."""
        (self.trial_folder(number) / _MODEL).unlink(missing_ok=True)

    def write_log(self, number: int, text: str) -> None:
        """Keep what a failed trial had to say."""
        folder = self.trial_folder(number)
        with contextlib.suppress(OSError):  # the reason stands on the trial; a full disk must not hide it
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "train.log").write_text(text, encoding="utf-8")

    def drop_models_beyond(self, n_kept: int) -> None:
        """Remove the models of all but the best trials; predictions, history and configurations stay."""
        for record in self.by_worth(self.records(TrialState.COMPLETE))[n_kept:]:
            self.drop_model(record.number)

    def by_worth(self, records: Sequence[TrialRecord]) -> list[TrialRecord]:
        """Order COMPLETE trials by what their models are worth: their Pareto front, then the best by the first objective."""
        front = {record.number for record in self._undominated([record for record in records if record.is_feasible])}
        return sorted(records, key=lambda record: (record.number not in front, *self._place(record)))

    def clear_leftovers(self, watch: DriverMonitor) -> None:
        """Remove the half-written files of searches that are no longer alive."""
        found = list((self.folder / "trials").glob(".*"))
        alive = watch.alive()  # asked after looking: a search signs in before it writes
        for path in found:
            if not any(driver in path.name for driver in alive):
                shutil.rmtree(path, ignore_errors=True)

    def record_search(self, entry: SearchEntry) -> None:
        """Keep what a search says of itself."""
        self.study.set_user_attr(_SEARCH + entry.driver, dataclasses.asdict(entry))

    def searches(self) -> list[SearchEntry]:
        """Read every search that was begun on the study, in order."""
        attrs = self.study.user_attrs
        entries = [SearchEntry(**told) for name, told in attrs.items() if name.startswith(_SEARCH)]
        return sorted(entries, key=lambda entry: (entry.position, entry.when))

    # ---------------------------------------------------------------------------------------------- the sealed part

    def record_test_opening(self, what: str, scores: Mapping[str, Any]) -> int:
        """Record that the test part was looked at; return how many times it now has been."""
        entry = {"when": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "what": what, "scores": dict(scores)}
        with FileLock(self.folder / "test_opened.lock"):  # two evaluations at once must both be counted
            opened = [*self.test_opened(), entry]
            self.study.set_user_attr("test_opened", opened)
        return len(opened)

    def test_opened(self) -> list[dict[str, Any]]:
        """Read every look at the test part, in order: ``when``, ``what`` was judged, and its ``scores``."""
        return list(self.study.user_attrs.get("test_opened", []))


def _to_optuna(states: Sequence[TrialState]) -> tuple[optuna.trial.TrialState, ...]:
    return tuple(theirs for theirs, ours in _STATES.items() if ours in states)


def state_of(trial: optuna.trial.FrozenTrial) -> TrialState:
    """Name the state of an Optuna trial as records do."""
    return _STATES[trial.state]


def _to_record(trial: optuna.trial.FrozenTrial) -> TrialRecord:
    attrs, scores = trial.user_attrs, read_scores(trial)
    return TrialRecord(
        number=trial.number,
        state=state_of(trial),
        params=trial.params,
        score=_score(trial, scores),
        values=trial.values if trial.values is not None and len(trial.values) > 1 else (),
        violations=trial.constraints,
        scores=scores,
        n_parameters=attrs.get("n_parameters"),
        seconds=attrs.get("seconds"),
        error=attrs.get("error"),
        refusal=attrs.get("refusal"),
        seed=attrs.get("seed"),
        best_epoch=attrs.get("best_epoch"),
        folds=attrs.get("folds"),
        attempts=attrs.get("attempts", 1),
        parent=attrs.get("parent"),
        retries=tuple(attrs.get("retries", ())),
    )


def _score(trial: optuna.trial.FrozenTrial, scores: Mapping[int, float]) -> float | None:
    """Give the (first) objective. Of several, Optuna keeps none for a trial that was stopped: its last epoch has it."""
    if trial.values is not None:
        return trial.values[0]
    return scores[max(scores)] if scores and trial.state is optuna.trial.TrialState.PRUNED else None


@contextlib.contextmanager
def explained_disk_errors(path: Path) -> Iterator[None]:
    """Convert the errors of a disk that is full or not ours into a StudyError."""
    try:
        yield
    except OSError as error:
        raise StudyError(
            f"Cannot write {path} ({error.strerror or error}). Make room or rights there, then run the same command."
        ) from error


def read_record(path: Path, parse: Callable[[str], _Record]) -> _Record:
    """Read one of a study's files.

    Raises:
        StudyError: It is damaged or missing.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"The study's file {path} is damaged ({error}). Restore it, or begin another study.") from error


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one or the whole new one."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _sync_folder(folder: Path) -> None:
    """Make renames in a folder durable (POSIX asks for it; other systems cannot open folders and do not need it)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
