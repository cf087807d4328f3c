"""Builds an ensemble of a study's best trials, of other programs' predictions, or of both, and writes its folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from automl_cxr.ensemble.build import DEFAULT_METHOD, METHODS, check_method, expand_weights
from automl_cxr.ensemble.combiners import combiner_from_record
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.member_selection import choose_diverse
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import Combination, combine_members
from automl_cxr.errors import DataError, StudyError, UnknownNameError, UsageError
from automl_cxr.results.classifier import ENSEMBLE_FILE, explain_no_model, load_ensemble, member_of_trial
from automl_cxr.results.export import Export, export_classifier
from automl_cxr.results.model_card import write_record
from automl_cxr.scoring.intervals import bootstrap_intervals
from automl_cxr.scoring.metrics import METRICS, find_normal_class
from automl_cxr.scoring.prediction_tables import PredictionTable, read_prediction_tables
from automl_cxr.scoring.predictions import Predictions, align
from automl_cxr.study.provenance import describe_versions
from automl_cxr.study.store import PREDICTIONS_FILE, StudyStore
from automl_cxr.study.study_audit import load_audit

_DIVERSE_CANDIDATES = 50  # best trials among which diverse members are looked for


@dataclass(frozen=True, repr=False, eq=False)
class BuiltEnsemble:
    """An ensemble on disk and what it is worth.

    Attributes:
        folder: Its folder, which ``predict`` and ``evaluate`` take, or ``apply_ensemble`` if tables are among its members.
        trials: Number of each member's trial, in the order of the members; none for those of tables.
        combination: Members, rule, methods beside each other, judgement out of fold, calibration.
        notes: What was done to the scores of tables, for people.
    """

    folder: Path
    trials: tuple[int, ...]
    combination: Combination
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Say what it is made of and how good, as a notebook shows it."""
        members = ", ".join(f"{name} ({weight:.2f})" for name, weight in zip(self.combination.names, self.weights, strict=True))
        return f"Ensemble of {members}\n{self.combination.verdict()}\nin {self.folder}"

    @property
    def method(self) -> str:
        """How the rule was found."""
        return self.combination.method

    @property
    def weights(self) -> tuple[float, ...]:
        """How much each member counts; they sum to 1."""
        return tuple(self.combination.combiner.shares.tolist())

    @property
    def member_scores(self) -> tuple[float, ...]:
        """Each member's score by the objective's metric on the validation part."""
        return self.combination.member_scores

    @property
    def scores(self) -> dict[str, float]:
        """Every method's score on the images that it was fitted on: optimistic."""
        return {name: fitted.score for name, fitted in self.combination.fitted.items()}

    @property
    def score(self) -> float:
        """The ensemble's score on the images that it was fitted on."""
        return self.scores[self.method]

    @property
    def methods(self) -> pd.DataFrame:
        """Every method, fitted and out of fold, a row each."""
        return pd.DataFrame(self.combination.methods_table())

    @property
    def recommended(self) -> str:
        """The method to take: the simplest that cannot be told apart from this one."""
        return self.combination.recommended

    def export(self, out: str | os.PathLike[str] | None = None, *, file_format: str | None = None) -> Export:
        """Write it with its members as one file; see ``results.export.export_classifier``."""
        return export_classifier(load_ensemble(self.folder), out, file_format=file_format)


def build_ensemble(
    store: StudyStore,
    *,
    top: int = 6,
    members: Sequence[int] | None = None,
    diverse: bool = False,
    predictions: Sequence[str | os.PathLike[str]] = (),
    method: str = DEFAULT_METHOD,
    objective: str | None = None,
    settings: GeneticSettings | None = None,
    seed: int | None = None,
    name: str | None = None,
) -> BuiltEnsemble:
    """Combine trials of a study that have their model, and write the ensemble's folder.

    Args:
        store: The study.
        top: Members at most; fewer if fewer trials are finished.
        members: Numbers of trials to take, instead of the best.
        diverse: Choose among the 50 best for being good together and disagreeing, instead of the best.
        predictions: Tables of other programs for the same images, to join; the ensemble then has no models of its own.
        method: A name in ``ensemble.build.METHODS``.
        objective: Metric that decides; by default the study's first objective.
        settings: Of the genetic algorithm.
        seed: Takes the place of the settings' seed; by default the study's.
        name: Of the folder below the study's ``ensembles``; by default the method and the number of members.

    Raises:
        UsageError: ``top`` below 1, members named and ``diverse`` asked for, an unknown method, or a name that is no folder's.
        StudyError: No finished trial that keeps what the study requires has its model, or a named one has none.
        DataError: A table cannot be read, or is for other images or classes.
    """
    if top < 1:
        raise UsageError(f"An ensemble needs at least one member; received --top {top}.")
    if diverse and members is not None:
        raise UsageError("Members are named or chosen by --diverse, not both. Leave one out.")
    if method not in METHODS:
        raise UnknownNameError("ensemble method", method, METHODS)
    _check_name(name)
    seed = store.spec.seed if seed is None else seed
    aim = Objective.named(objective or store.spec.objective, normal_class=store.spec.normal_index)
    trials = _choose_trials(store, top, members, diverse, aim)
    tables = read_prediction_tables(predictions)
    check_method(method, len(trials) + len(tables))
    folder = store.folder / "ensembles" / (name or f"{method}-{len(trials) + len(tables)}")
    with _written_whole(folder) as partial:
        # The models first: a search that goes on may remove them while the weights are fitted.
        rows = [_table_row(table) for table in tables]
        rows = ([_trial_row(store, number) for number in trials] if tables else _copy_members(store, trials, partial)) + rows
        combination = combine_members(
            [*(store.predictions(number) for number in trials), *(_like(store, table) for table in tables)],
            names=[*(f"trial {number}" for number in trials), *(table.name for table in tables)],
            method=method,
            objective=aim,
            settings=_seeded(settings, seed),
        )
        spec = store.spec
        about: dict[str, Any] = {"study": store.name, "split_digest": store.split_digest, "data_digest": spec.data_digest}
        about |= {"data": spec.data, "split": _sizes(store), "normal_class": spec.normal_class, "versions": spec.versions}
        audit = load_audit(store)
        if audit is not None:
            about |= {"shortcut_baseline": audit.baseline, "warnings": list(audit.warnings)}
        _write(partial, combination, rows, about)
    return BuiltEnsemble(folder, tuple(trials), combination, _notes(tables))


def build_ensemble_of_tables(
    predictions: Sequence[str | os.PathLike[str]],
    *,
    method: str = DEFAULT_METHOD,
    objective: str = "macro_f1",
    normal_class: str | None = None,
    settings: GeneticSettings | None = None,
    seed: int = 0,
    name: str | None = None,
) -> BuiltEnsemble:
    """Combine models of which only predictions are known, and write the ensemble to ``ensembles/<name>`` where we are.

    Args:
        predictions: Tables with labels, of the same images, which no model was trained on; see ``scoring.prediction_tables``.
        method: A name in ``ensemble.build.METHODS``.
        objective: Metric that decides.
        normal_class: Name of the class without a finding, for metrics that need it; by default found by the names.
        settings: Of the genetic algorithm.
        seed: Takes the place of the settings' seed.
        name: Of the folder; by default the method and the number of members.

    Raises:
        UsageError: No table, an unknown method, objective or class, or a name that is no folder's.
        DataError: A table cannot be read or has no labels, or they are for other images, labels or classes.
        StudyError: The folder cannot be written.
    """
    _check_name(name)
    tables = read_prediction_tables(predictions)
    check_method(method, len(tables))
    classes = tables[0].predictions.classes if tables else ()
    if normal_class is not None and normal_class not in classes:
        raise UnknownNameError("class", normal_class, classes)
    normal = find_normal_class(classes) if normal_class is None else classes.index(normal_class)
    combination = combine_members(
        [table.predictions for table in tables],
        names=[table.name for table in tables],
        method=method,
        objective=Objective.named(objective, normal_class=normal),
        settings=_seeded(settings, seed),
    )
    folder = Path("ensembles") / (name or f"{method}-{len(tables)}")
    with _written_whole(folder) as partial:
        partial.mkdir(parents=True)
        about = {
            "study": None,
            "normal_class": None if normal is None else classes[normal],
            "versions": describe_versions(),
        }
        _write(partial, combination, [_table_row(table) for table in tables], about)
    return BuiltEnsemble(folder, (), combination, _notes(tables))


def apply_ensemble(folder: Path, predictions: Sequence[str | os.PathLike[str]]) -> tuple[Predictions, tuple[str, ...]]:
    """Combine members' predictions of other images by an ensemble's rule.

    Args:
        folder: The ensemble's.
        predictions: A table for each member, in the order that the ensemble was built in; labels may be missing.

    Returns:
        The ensemble's predictions, and what was done to the scores of tables.

    Raises:
        DataError: The folder is no ensemble's, or a table cannot be read or is for other images or classes.
        UsageError: There are not as many tables as members.
    """
    try:
        record = json.loads((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))
        names, classes = [str(row["name"]) for row in record["members"]], tuple(map(str, record["classes"]))
        rule = combiner_from_record(record["rule"], n_members=len(names), n_classes=len(classes))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} is not an ensemble's folder ({error}). `automl-cxr ensemble build` makes one.") from error
    if len(predictions) != len(names):
        raise UsageError(
            f"This ensemble needs a table for each member, {', '.join(names)}, in this order; received {len(predictions)}."
        )
    tables = read_prediction_tables(predictions, classes=classes)
    probabilities, images = align([table.predictions for table in tables], names=[table.name for table in tables])
    combined = Predictions(images.ids, images.labels, rule.combine(probabilities), images.classes, images.patients)
    return combined, _notes(tables)


def _choose_trials(
    store: StudyStore, top: int, members: Sequence[int] | None, diverse: bool, objective: Objective
) -> list[int]:
    if members is not None:
        for number in members:
            store.model_file(store.record(number).number)  # refuses what has no model
        if not members or len(set(members)) < len(members):
            raise UsageError(f"Members are different trials, one at least; received {', '.join(map(str, members)) or 'none'}.")
        return list(members)
    trials = [record.number for record in store.eligible() if store.has_model(record.number)]
    if not trials:
        raise StudyError(explain_no_model(store))
    if not diverse:
        return trials[:top]
    candidates = trials[:_DIVERSE_CANDIDATES]
    ballots, _ = expand_weights([store.predictions(number) for number in candidates], objective)
    return [candidates[index] for index in choose_diverse(ballots, top)]


def _sizes(store: StudyStore) -> dict[str, int]:
    """Count the images of each part, those of folds as training images."""
    split = store.split
    parts = {"train": len(split.train.images), "valid": len(split.valid.images), "test": len(split.test)}
    return {**parts, "folds": store.spec.folds, "seed": store.spec.seed}


def _like(store: StudyStore, table: PredictionTable) -> Predictions:
    """Bring a table's columns into the order of the study's classes."""
    return table.with_classes(store.spec.classes, f"study '{store.name}'").predictions


def _seeded(settings: GeneticSettings | None, seed: int) -> GeneticSettings:
    return GeneticSettings(**{**asdict(settings or DEFAULT_SETTINGS), "seed": seed})


def _check_name(name: str | None) -> None:
    if name is not None and (not name or name.startswith(".") or Path(name).name != name):
        raise UsageError(f"An ensemble's name must do as a folder's name; received {name!r}.")


@contextlib.contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """Give a hidden folder that takes the place of ``folder`` if all goes well: a half-written ensemble is never seen."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    except OSError as error:
        raise StudyError(f"Cannot write the ensemble to {folder} ({error.strerror or error}).") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _copy_members(store: StudyStore, trials: Sequence[int], partial: Path) -> list[dict[str, Any]]:
    """Copy the trials' models; return what the ensemble's record says of each file."""
    (partial / "members").mkdir(parents=True)
    rows = []
    for number in trials:
        member = member_of_trial(store, number)
        content = member.file.read_bytes()
        file = Path("members") / f"{number:05d}.keras"
        (partial / file).write_bytes(content)
        how = {"image_size": member.image_size, "fit": member.fit, "network": member.network}
        digests = {"sha256": hashlib.sha256(content).hexdigest(), "predictions_sha256": _digest_predictions(store, number)}
        rows.append({"trial": number, "file": file.as_posix(), **how, **digests})
    return rows


def _digest_predictions(store: StudyStore, number: int) -> str:
    return _digest(store.trial_folder(number) / PREDICTIONS_FILE)


def _trial_row(store: StudyStore, number: int) -> dict[str, Any]:
    return {"trial": number, "predictions_sha256": _digest_predictions(store, number)}


def _table_row(table: PredictionTable) -> dict[str, Any]:
    return {"table": str(table.path.absolute()), "predictions_sha256": _digest(table.path)}


def _notes(tables: Sequence[PredictionTable]) -> tuple[str, ...]:
    return tuple(f"{table.name}: {table.note}" for table in tables if table.note)


def _write(partial: Path, combination: Combination, rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> None:
    """Write the ensemble's record and card, and what it says of the images that it was fitted on."""
    partial.mkdir(parents=True, exist_ok=True)
    said = combination.predictions
    said.to_npz(partial / PREDICTIONS_FILE)
    shares = combination.combiner.shares.tolist()
    record = {
        **about,
        "method": combination.method,
        "recommended": combination.recommended,
        "objective": combination.objective.name,
        "classes": said.classes,
        "n_images": len(said),
        "n_patients": len(set(said.patients)),
        "rule": combination.combiner.to_record(),
        "members": [
            {"name": name, **row, "weight": share, "score": score}
            for name, row, share, score in zip(combination.names, rows, shares, combination.member_scores, strict=True)
        ],
        "methods": combination.methods_table(),
        "n_folds": 0 if combination.judgement is None else combination.judgement.n_folds,
        "metrics": _metrics(combination),
        "calibration": asdict(combination.calibration),
        "predictions_sha256": _digest(partial / PREDICTIONS_FILE),
    }
    write_record(partial, record)


def _metrics(combination: Combination) -> list[dict[str, Any]]:
    """Give a row for each metric, out of fold where there are folds, with its interval by patient."""
    judged = combination.judgement
    said = combination.predictions if judged is None else judged.methods[combination.method].predictions
    normal_class = combination.objective.normal_class
    defined = [name for name, row in METRICS.items() if normal_class is not None or not row.needs_normal_class]
    intervals = bootstrap_intervals(said, defined, normal_class=normal_class)
    return [
        {
            "metric": name,
            "score": METRICS[name].function(said.labels, said.probabilities, normal_class),
            "low": intervals[name].low,
            "high": intervals[name].high,
        }
        for name in defined
    ]


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
