"""The front door for Python: what the command line does, in a few lines from a notebook.

For example::

study = automl_cxr.search("fused", data="covid/", trials=20)
study.leaderboard()
study.figures.learning_curves()
ensemble = study.ensemble(top=6)
study.evaluate(ensemble)
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import pandas as pd

from automl_cxr.data.dataset import load_image_paths
from automl_cxr.engine.proposers import ENDING_SAMPLERS, most_together
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.records import TrialRecord, TrialState
from automl_cxr.results import ensembles
from automl_cxr.results.classifier import ENSEMBLE_FILE, Classifier, classifier_of_trial, load_ensemble
from automl_cxr.results.ensembles import BuiltEnsemble
from automl_cxr.results.evaluation import Evaluation, evaluate
from automl_cxr.results.export import Export, export_classifier
from automl_cxr.results.figures import Figures
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.results.leaderboard import build_leaderboard
from automl_cxr.results.replay import TOLERANCE, Replay, replay_trial
from automl_cxr.results.splices import describe_splices, plot_splices
from automl_cxr.results.verification import Verification, verify_study
from automl_cxr.splicing.branches import find_branch
from automl_cxr.splicing.search import SpliceScores, score_splices
from automl_cxr.splicing.study import prepare_splice_study, study_name
from automl_cxr.splicing.table import front_of
from automl_cxr.study import catalogue, copying, deletion
from automl_cxr.study.prepare import OnProgress, PreparedStudy, StudyRequest, prepare_study
from automl_cxr.study.progress import SearchProgress
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.runner import Budget, Execute, run_search
from automl_cxr.study.storages import absolute_storage, default_storage
from automl_cxr.study.store import StudyStore, check_study_name
from automl_cxr.study.systems import NamedSystem, find_system
from automl_cxr.study.tally import Tally, tally_trials

if TYPE_CHECKING:
    from automl_cxr.engine.ray_execution import RayResources
    from automl_cxr.model.memory import MemoryEstimate
    from automl_cxr.model.summary import ModelSummary

EXECUTORS = ("ray", "inline")
_TRIALS_BY_DEFAULT = 20
_MODELS_BY_DEFAULT = 10
_STUDY_COLUMNS = (
    *("name", "space", "data", "objective"),
    *map(str, TrialState),
    *("best", "best_trial", "changed", "folder"),
)


def locate(runs: str | Path | None = None, storage: str | None = None) -> tuple[Path, str]:
    """Settle where studies are kept.

    Args:
        runs: Folder of their files; by default $AUTOML_CXR_RUNS, else ``automl_runs``.
        storage: Optuna storage URL; by default $AUTOML_CXR_STORAGE, else an SQLite file in ``runs``.
    """
    folder = Path(runs or os.environ.get("AUTOML_CXR_RUNS") or "automl_runs").expanduser().absolute()  # workers start elsewhere
    url = storage or os.environ.get("AUTOML_CXR_STORAGE")
    return folder, absolute_storage(url) if url else default_storage(folder)


class Study:
    """A study as people use it. It reads the record at every call, so it may be watched while a search runs."""

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        spec, states = self._store.spec, [str(record.state) for record in self._store.records()]
        best = self.best
        counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)) or "none yet"
        told = f"best {spec.objective} {best.score:.4f} (trial {best.number})" if best else self._why_none()
        return f"Study '{self.name}': space {spec.space_name}, {spec.image_size} pixels; trials: {counts}; {told}"

    def _why_none(self) -> str:
        requirements = self._store.spec.requirements
        return f"no trial meets {', '.join(requirements)}" if requirements and self._store.ranked() else "no score yet"

    @property
    def name(self) -> str:
        return self._store.name

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._store.folder

    @property
    def trials(self) -> list[TrialRecord]:
        """Every trial, by number."""
        return self._store.records()

    @property
    def best(self) -> TrialRecord | None:
        """The best finished trial on the validation part that keeps what the study requires, or None."""
        eligible = self._store.eligible()
        return eligible[0] if eligible else None

    @property
    def objectives(self) -> tuple[str, ...]:
        """What is optimised, the first of them ranking."""
        return self._store.spec.objectives

    @property
    def pareto_front(self) -> list[TrialRecord]:
        """The finished trials that no other one beats in every objective, best first by the first one."""
        return self._store.pareto_front()

    @property
    def figures(self) -> Figures:
        """Plotly pictures: ``history()``, ``learning_curves()``, ``confusion()``, ``pareto()``, ``importance()``."""
        return Figures(self._store)

    def leaderboard(self) -> pd.DataFrame:
        """Rank the finished trials; see ``results.leaderboard.build_leaderboard``."""
        return build_leaderboard(self._store)

    def importance(self, *, evaluator: str = PED_ANOVA) -> pd.DataFrame:
        """Tell how much each hyperparameter mattered; see ``results.importance.importance_table``."""
        return importance_table(self._store, evaluator=evaluator)

    def details(self) -> catalogue.StudyDetails:
        """Collect settings, images, trials, searches and files; see ``study.catalogue.StudyDetails``."""
        return catalogue.describe_study(self._store)

    def ensemble(self, **choices: Any) -> BuiltEnsemble:
        """Build an ensemble of the best trials.

        Keywords are those of ``results.ensembles.build_ensemble``: ``top``, ``members``, ``diverse``, ``predictions``,
        ``method``, ``objective``, ``settings``, ``seed`` and ``name``.
        """
        return ensembles.build_ensemble(self._store, **choices)

    def evaluate(
        self,
        what: int | BuiltEnsemble | Classifier | str | Path | None = None,
        *,
        part: str = "test",
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Evaluation:
        """Score a classifier, by default the best trial, on a part; opening the test part is recorded.

        ``what`` may be a trial's number, an ensemble or its folder, or a classifier. Errors as in
        ``results.evaluation.evaluate``.
        """
        match what:
            case None | int():
                classifier = classifier_of_trial(self._store, what)
            case BuiltEnsemble():
                classifier = load_ensemble(what.folder)
            case Classifier():
                classifier = what
            case _:
                classifier = load_ensemble(Path(what))
        return evaluate(self._store, classifier, part=part, data=data, on_progress=on_progress)

    def replay(
        self,
        trial: int,
        *,
        tolerance: float = TOLERANCE,
        data: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> Replay:
        """Train a trial again and compare; see ``results.replay.replay_trial``."""
        return replay_trial(self._store, trial, tolerance=tolerance, data=data, on_progress=on_progress)

    def verify(
        self, trial: int | None = None, *, data: str | None = None, on_progress: OnProgress | None = None
    ) -> Verification:
        """Check that the finished trials are what the record says; see ``results.verification.verify_study``."""
        return verify_study(self._store, trial, data=data, on_progress=on_progress)

    def tally(self) -> Tally:
        """Count what became of the trials so far; see ``study.tally.Tally``."""
        return tally_trials(self._store)

    def searches(self) -> list[SearchEntry]:
        """Every search that was begun on the study, in order: when, command, versions, code, machine."""
        return self._store.searches()

    def classifier(self, trial: int | None = None) -> Classifier:
        """Open a trial's model, by default the best one's, for ``predict``."""
        return classifier_of_trial(self._store, trial)

    def export(
        self, out: str | os.PathLike[str] | None = None, *, trial: int | None = None, file_format: str | None = None
    ) -> Export:
        """Write a trial's model, by default the best one's, as one file; see ``results.export.export_classifier``."""
        return export_classifier(self.classifier(trial), out, file_format=file_format)


def search(
    space: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    name: str | None = None,
    trials: int | None = None,
    seconds: float | None = None,
    total_epochs: int | None = None,
    target: float | None = None,
    trial_seconds: float | None = None,
    disk_budget: int | None = None,
    layout: str | None = None,
    classes: Sequence[str] | None = None,
    patients: str | None = None,
    fixed: Mapping[str, Any] | None = None,
    weights_folder: str | Path | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    objective: str | Sequence[str] | None = None,
    require: str | Sequence[str] | None = None,
    normal_class: str | None = None,
    sampler: str | None = None,
    pruner: str | None = None,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
    folds: int | None = None,
    seed: int | None = None,
    fidelity: str | None = None,
    warm_start: str | None = None,
    warm_start_top: int | None = None,
    keep_models: int = _MODELS_BY_DEFAULT,
    executor: str = "ray",
    resources: RayResources | None = None,
    together: int | None = None,
    runs: str | Path | None = None,
    storage: str | None = None,
    command: str = "",
    stream: TextIO | None = None,
    decoding: AbstractContextManager[OnProgress] | None = None,
) -> Study:
    """Begin a study or continue one of the same name until its budget ends.

    Settings left at None are the study's own when it is continued, and defaults when it is new.

    Args:
        space: Name of a shipped search space, or path of a TOML file.
        data: Folder or table of images; None searches on phantom radiographs and says so.
        name: Name of the study; by default made of the space and the data folder.
        trials: Trials in total, those of earlier searches included; 20 where nothing else ends the search (neither time,
            epochs, a target, nor the sampler itself).
        seconds: Wall seconds of this search.
        total_epochs: Epochs of all trials together, after which no further trial begins.
        target: Score of the objective that is good enough: the search ends when a trial reaches it.
        trial_seconds: Wall seconds that a trial may take. One that takes longer is stopped there.
        disk_budget: Bytes of models and checkpoints; beyond them models are removed, the worst first.
        layout: Name of the data's layout; found by itself when None.
        classes: Classes to use, in the order of their indices.
        patients: Regular expression that finds the patient in a file name.
        fixed: Hyperparameters set by hand, whatever the space says of them.
        weights_folder: Folder that pretrained weights are looked for in first.
        image_size: Height and width in pixels.
        fit: How an image meets its square: "stretch", "pad" or "crop".
        batch_size: Images a gradient step.
        epochs: Passes over the training images at most, a trial.
        objective: Metric that ranks trials; or several metrics and costs (parameters, multiply_adds, latency), of which the
            first, a metric, ranks where one ranking is needed.
        require: Bounds that a trial must keep, such as "parameters<=10e6" or "fnfr<=0.05".
        normal_class: Class without a finding, for the False No-Finding Rate and sensitivities.
        sampler: Who proposes.
        pruner: Who stops trials early.
        valid_fraction: Share of the images that chooses epochs and trials.
        test_fraction: Share of the images that stays sealed.
        folds: Folds that each trial trains a network for each, judged by the images that it did not learn from; None or 0
            for one network and one validation part.
        seed: Decides split, proposals and weights.
        fidelity: "image_size" lets the rungs of kt-hyperband raise the resolution together with the epochs; see
            ``study.fidelity``.
        warm_start: An earlier study of the same storage, whose best configurations are tried first and whose scores teach
            the sampler where they compare; see ``study.warm_start``.
        warm_start_top: How many of its best; 5 if left out.
        keep_models: Number of best trials that keep their model on disk.
        executor: "ray", or "inline" for this process.
        resources: What Ray may use.
        together: Trials at most that run as one where they are cheap enough; 1 runs each alone. By default as many as leave
            the sampler something to learn, see ``engine.proposers.most_together``.
        runs: Folder of all studies; see ``locate``.
        storage: Optuna storage URL; see ``locate``.
        command: What was typed, for the record.
        stream: Where progress is written; by default stderr.
        decoding: A context whose value is told how far decoding has come.

    Raises:
        UsageError: An impossible setting, or another one than the study was begun with.
        DataError: The data cannot serve.
        StudyError: Every trial failed, or the record cannot be written.
    """
    if executor not in EXECUTORS:
        raise UnknownNameError("executor", executor, EXECUTORS)
    limits = {
        "trials": trials,
        "seconds": seconds,
        "total_epochs": total_epochs,
        "trial_seconds": trial_seconds,
        "disk_budget": disk_budget,
        "keep_models": keep_models,
        "together": together,
    }
    for what, value in limits.items():
        if value is not None and not value > 0:
            raise UsageError(f"{what} must be above 0; received {value}.")
    folder, url = locate(runs, storage)
    request = StudyRequest(
        space=space,
        data=None if data is None else os.fspath(data),
        name=name,
        layout=layout,
        classes=classes,
        patients=patients,
        fixed=fixed,
        weights_folder=None if weights_folder is None else os.fspath(weights_folder),
        image_size=image_size,
        fit=fit,
        batch_size=batch_size,
        epochs=epochs,
        objectives=_as_names(objective),
        requirements=_as_names(require),
        normal_class=normal_class,
        sampler=sampler,
        pruner=pruner,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        folds=folds,
        seed=seed,
        fidelity=fidelity,
        warm_start=warm_start,
        warm_start_top=warm_start_top,
        command=command,
    )
    prepared = _prepare(request, folder, url, decoding)
    sampler = sampler or prepared.store.spec.sampler
    is_open = {trials, seconds, total_epochs, target} == {None} and sampler not in ENDING_SAMPLERS
    budget = Budget(
        n_trials=_TRIALS_BY_DEFAULT if is_open else trials,
        seconds=seconds,
        keep_models=keep_models,
        n_epochs=total_epochs,
        target=target,
        disk_bytes=disk_budget,
    )
    execute = _executor(executor, resources, trial_seconds, together or most_together(sampler, n_trials=budget.n_trials))
    _run(prepared, budget, execute, sampler=sampler, command=command, stream=stream)
    return Study(prepared.store)


def _run(
    prepared: PreparedStudy,
    budget: Budget,
    execute: Execute,
    *,
    sampler: str | None = None,
    command: str,
    stream: TextIO | None,
) -> None:
    """Search a study and show how far it is; the sampler is by default the study's."""
    with SearchProgress(prepared.store, budget, stream=stream) as progress:
        progress.tell_study(prepared)
        run_search(
            prepared.store,
            prepared.images,
            weights_folder=prepared.weights_folder,
            sampler=sampler or prepared.store.spec.sampler,
            budget=budget,
            execute=execute,
            listener=progress,
            command=command,
        )


class Splices:
    """A splice search as people use it.

    Attributes:
        scores: All pairs of cuts, their branches and what was asked for.
        study: The study that holds the fine-tuned pairs; None where there is none yet.
    """

    def __init__(self, scores: SpliceScores, *, runs: Path, storage: str) -> None:
        self.scores = scores
        self.study: Study | None = None
        self._runs = runs
        self._storage = storage

    def __repr__(self) -> str:
        return "\n".join(describe_splices(self.scores))

    @property
    def table(self) -> pd.DataFrame:
        """Every pair of cuts and every cut alone, best first; see ``splicing.table.tabulate``."""
        return self.scores.table

    @property
    def parents(self) -> pd.DataFrame:
        """The best pair beside whole networks; see ``splicing.table.compare_with_parents``."""
        return self.scores.parents

    @property
    def figure(self) -> Any:
        """A Plotly picture: the scores over both cuts, and over the parameters with the Pareto front."""
        return plot_splices(self.scores)

    def finetune(
        self,
        n: int = 3,
        *,
        name: str | None = None,
        executor: str = "inline",
        command: str = "",
        stream: TextIO | None = None,
    ) -> Study:
        """Train the best pairs of the Pareto front as trials of a study, and what else waits in it.

        Args:
            n: How many pairs, best first; fewer if the front is shorter. Those that the study has already are not repeated.
            name: Name of the study; by default made of both branches.
            executor: "inline" in this process, or "ray".
            command: What was typed, for the record.
            stream: Where progress is written; by default stderr.

        Raises:
            UsageError: No pair was asked for, or a study of this name exists with other settings.
            StudyError: Every trial failed, or the record cannot be written.
        """
        if n < 1:
            raise UsageError(f"At least one pair is fine-tuned; received {n}.")
        prepared = prepare_splice_study(
            self.scores,
            front_of(self.scores.table, n),
            name=study_name(self.scores.first, self.scores.second) if name is None else name,
            runs=self._runs,
            storage=self._storage,
        )
        budget = Budget(n_trials=len(prepared.store.records()), seconds=None, keep_models=max(_MODELS_BY_DEFAULT, n))
        _run(prepared, budget, _executor(executor, None, None, 1), command=command, stream=stream)
        self.study = Study(prepared.store)
        return self.study


def splice(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    cuts: Sequence[str] = (),
    second_cuts: Sequence[str] = (),
    finetune: int = 3,
    name: str | None = None,
    layout: str | None = None,
    classes: Sequence[str] | None = None,
    patients: str | None = None,
    fixed: Mapping[str, Any] | None = None,
    weights_folder: str | Path | None = None,
    image_size: int | None = None,
    fit: str | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    normal_class: str | None = None,
    valid_fraction: float | None = None,
    test_fraction: float | None = None,
    seed: int | None = None,
    executor: str = "inline",
    runs: str | Path | None = None,
    storage: str | None = None,
    command: str = "",
    stream: TextIO | None = None,
    decoding: AbstractContextManager[OnProgress] | None = None,
    scoring: AbstractContextManager[OnProgress] | None = None,
) -> Splices:
    """Score every pair of cuts of two networks with a quick head each, then fine-tune the best of the Pareto front.

    Args:
        first: A backbone's name, a study (its best trial), STUDY/NUMBER or the folder of a trial.
        second: The same; the same network twice tries two cuts of one.
        data: Folder or table of images; by default that of a trained branch's study, else phantoms.
        cuts: Layers of the first network, or numbers of its splice points; by default all of these.
        second_cuts: The same of the second.
        finetune: How many pairs of the front, best first, are trained and put into a study; 0 for none.
        name: Name of that study; by default made of both branches.
        layout: Name of the data's layout; found by itself when None.
        classes: Classes to use, in the order of their indices.
        patients: Regular expression that finds the patient in a file name.
        fixed: Hyperparameters of the spliced networks set by hand, such as projection, n_dense, weights or second_weights.
        weights_folder: Folder that pretrained weights are looked for in first.
        image_size: Height and width in pixels.
        fit: How an image meets its square: "stretch", "pad" or "crop".
        batch_size: Images a gradient step.
        epochs: Passes over the training images at most, a pair.
        normal_class: Class without a finding.
        valid_fraction: Share of the images that pairs are scored on.
        test_fraction: Share of the images that stays sealed.
        seed: Decides split and weights.
        executor: How pairs are trained: "inline" in this process, or "ray".
        runs: Folder of all studies; see ``locate``.
        storage: Optuna storage URL; see ``locate``.
        command: What was typed, for the record.
        stream: Where progress is written; by default stderr.
        decoding: A context whose value is told how far decoding has come.
        scoring: A context whose value is told how many heads are fitted.

    Settings that are left out are those of the study that a branch was trained in, so that its sealed images stay sealed.

    Raises:
        UsageError: Branches that do not fit together, a cut that there is not, or an impossible setting.
        DataError: The data cannot serve, or a branch has learnt from the images that are to judge it.
        StudyError: A branch's study or model is not there, or every trial failed.
        TrialError: A branch cannot be built.
    """
    if executor not in EXECUTORS:
        raise UnknownNameError("executor", executor, EXECUTORS)
    if finetune < 0:
        raise UsageError(f"finetune must be 0 or more; received {finetune}.")
    folder, url = locate(runs, storage)
    one, other = (find_branch(word, runs=folder, storage=url) for word in (first, second))
    check_study_name(study_name(one, other) if name is None else name)
    request = StudyRequest(
        data=None if data is None else os.fspath(data),
        layout=layout,
        classes=classes,
        patients=patients,
        fixed=fixed,
        weights_folder=None if weights_folder is None else os.fspath(weights_folder),
        image_size=image_size,
        fit=fit,
        batch_size=batch_size,
        epochs=epochs,
        normal_class=normal_class,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        seed=seed,
        command=command,
    )
    with decoding or nullcontext() as on_decoding, scoring or nullcontext() as on_pair:
        scores = score_splices(
            one, other, request, cuts=cuts, second_cuts=second_cuts, on_decoding=on_decoding, on_pair=on_pair
        )
    splices = Splices(scores, runs=folder, storage=url)
    if finetune:
        splices.finetune(finetune, name=name, executor=executor, command=command, stream=stream)
    return splices


def _as_names(said: str | Sequence[str] | None) -> Sequence[str] | None:
    """Take one name for a list of one, and an empty list for nothing said."""
    return [said] if isinstance(said, str) else said or None


def open_study(name: str, *, runs: str | Path | None = None, storage: str | None = None) -> Study:
    """Open an existing study.

    Raises:
        StudyError: There is none of that name.
    """
    folder, url = locate(runs, storage)
    return Study(StudyStore.open(name, runs=folder, storage=url))


def list_studies(*, runs: str | Path | None = None, storage: str | None = None) -> pd.DataFrame:
    """Tabulate the studies of a storage, one row each, by name.

    Returns:
        name, space, data, objective, the number of trials by state (``waiting`` to ``failed``), best, best_trial, changed
        (local time at which a trial last began or ended) and folder (None where the files are not in ``runs``).

    Raises:
        StudyError: There is no such storage.
    """
    folder, url = locate(runs, storage)
    rows = []
    for study in catalogue.list_studies(runs=folder, storage=url):
        row = {**vars(study), **{str(state): study.trials.get(state, 0) for state in TrialState}}
        rows.append({column: row[column] for column in _STUDY_COLUMNS})
    return pd.DataFrame(rows, columns=_STUDY_COLUMNS).astype(dict.fromkeys(("best_trial", "changed", "folder"), object))


def copy_study(
    name: str,
    new_name: str,
    *,
    runs: str | Path | None = None,
    storage: str | None = None,
    runs_to: str | Path | None = None,
    storage_to: str | None = None,
) -> Study:
    """Copy a study, record and files; the copy can be continued. See ``study.copying.copy_study``.

    Args:
        name: The study.
        new_name: Name of the copy.
        runs: Folder of all studies; see ``locate``.
        storage: Optuna storage URL; see ``locate``.
        runs_to: Folder that gets the copy's files; by default ``runs``.
        storage_to: Storage that gets the copy's record; by default ``storage``.

    Raises:
        UsageError: The new name is taken, or is no folder's.
        StudyError: There is no such study, or something cannot be written.
    """
    folder, url = locate(runs, storage)
    original = StudyStore.open(name, runs=folder, storage=url)
    there = folder if runs_to is None else Path(runs_to).expanduser().absolute()
    return Study(copying.copy_study(original, new_name, runs=there, storage=storage_to or url))


def delete_study(name: str, *, runs: str | Path | None = None, storage: str | None = None) -> deletion.Loss:
    """Delete a study for good, with its trials, models and ensembles, and tell what was lost. Nothing is asked.

    Raises:
        StudyError: There is no such study, or a search is at work on it.
    """
    folder, url = locate(runs, storage)
    return deletion.delete_study(name, runs=folder, storage=url)


def open_classifier(
    target: str | Path, *, trial: int | None = None, runs: str | Path | None = None, storage: str | None = None
) -> Classifier:
    """Open what a user names: an ensemble's folder, a trial's folder, or a study's best trial (or ``trial``).

    Raises:
        UsageError: A trial of an ensemble or of a trial was asked for, or the path is neither's.
        StudyError: It is neither a folder of an ensemble nor a study, or the trial has no model.
    """
    if (Path(target) / ENSEMBLE_FILE).is_file():
        if trial is not None:
            raise UsageError(f"A trial belongs to a study; {target} is an ensemble. Leave --trial out.")
        return load_ensemble(Path(target))
    if os.sep in str(target):
        folder = Path(target).absolute()
        if folder.parent.name == "trials" and folder.name.isdecimal() and trial is None:
            study = folder.parents[1]
            return open_study(study.name, runs=runs or study.parent, storage=storage).classifier(int(folder.name))
        raise UsageError(
            f"An ensemble's folder holds {ENSEMBLE_FILE}, and a trial's lies in trials/; received {target}, which is neither. "
            "A study is named, not located."
        )
    return open_study(str(target), runs=runs, storage=storage).classifier(trial)


def describe(
    name: str, fixed: Mapping[str, Any] | None = None, *, n_classes: int | None = None
) -> tuple[NamedSystem, ModelSummary, MemoryEstimate]:
    """Count the layers of the network that a name stands for, and the memory to train it; no data and no weights are needed.

    Args:
        name: A shipped study or search space (its preset), the path of such a TOML file, or a backbone.
        fixed: Hyperparameters to set to other values.
        n_classes: Outputs; by default those of its publication, else 2.

    Raises:
        UsageError: An unknown name or an impossible value.
        ImpossibleModelError: There is no such network.
    """
    system = find_system(name, fixed or {})
    from automl_cxr.model.memory import estimate_memory  # Keras, which an unknown name need not wait for
    from automl_cxr.model.summary import describe_model

    summary = describe_model(system.config, n_classes or system.n_classes or 2)
    return system, summary, estimate_memory(summary, system.config)


def predict(
    classifier: Classifier, paths: Sequence[str | Path], *, on_progress: OnProgress | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Classify image files and the images in folders.

    Returns:
        One row an image: image, class, and ``probability_<class>`` for each class; and the reason for each path that is
        missing, holds no image or cannot be read.

    Raises:
        TrialError: A model file is damaged.
    """
    files, problems = load_image_paths(paths)
    probabilities, unreadable = classifier.predict(files, on_progress=on_progress)
    readable = [str(path) for position, path in enumerate(files) if position not in unreadable]
    table = _prediction_table(readable, classifier.classes, probabilities)
    return table, problems | {str(files[position]): reason for position, reason in unreadable.items()}


def combine_predictions(predictions: Sequence[str | Path], **choices: Any) -> BuiltEnsemble:
    """Build an ensemble of models of which only tables of predictions are known.

    Keywords are those of ``results.ensembles.build_ensemble_of_tables``: ``method``, ``objective``, ``normal_class``,
    ``settings``, ``seed`` and ``name``.
    """
    return ensembles.build_ensemble_of_tables(predictions, **choices)


def apply_ensemble(folder: str | Path, predictions: Sequence[str | Path]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Combine members' predictions of other images; see ``results.ensembles.apply_ensemble``.

    Returns:
        One row an image, as ``predict`` gives it; and what was done to the scores of tables.
    """
    combined, notes = ensembles.apply_ensemble(Path(folder), predictions)
    return _prediction_table(list(combined.ids), combined.classes, combined.probabilities), notes


def _prediction_table(images: list[str], classes: tuple[str, ...], probabilities: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame({"image": images, "class": [classes[best] for best in probabilities.argmax(axis=1)]})
    for column, class_name in enumerate(classes):
        table[f"probability_{class_name}"] = probabilities[:, column]
    return table


def _prepare(
    request: StudyRequest, runs: Path, storage: str, decoding: AbstractContextManager[OnProgress] | None
) -> PreparedStudy:
    if decoding is None:
        return prepare_study(request, runs=runs, storage=storage)
    with decoding as on_progress:
        return prepare_study(request, runs=runs, storage=storage, on_progress=on_progress)


def _executor(name: str, resources: RayResources | None, seconds_per_trial: float | None, together: int) -> Execute:
    if name == "inline":
        from automl_cxr.engine.inline_execution import run_inline

        return partial(run_inline, seconds_per_trial=seconds_per_trial, together=together)
    from automl_cxr.engine.ray_execution import RayResources, run_with_ray  # three seconds to load

    return partial(run_with_ray, resources=resources or RayResources(), seconds_per_trial=seconds_per_trial, together=together)
