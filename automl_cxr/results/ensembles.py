"""Builds ensembles of the best trials of a study, of the predictions of other programs, or of both."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from automl_cxr.ensemble.build import AUTO, DEFAULT_METHOD, METHODS, build_weight_scorer, check_method
from automl_cxr.ensemble.combiners import combiner_from_record
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.member_selection import choose_diverse
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import Combination, combine_members
from automl_cxr.errors import DataError, StudyError, UnknownNameError, UsageError
from automl_cxr.html_tables import note_line, rows_table, title_line
from automl_cxr.results.classifier import ENSEMBLE_FILE, explain_no_model, load_ensemble
from automl_cxr.results.corrected_best import correct_best_of_study
from automl_cxr.results.ensemble_folder import EnsembleFolder
from automl_cxr.results.ensemble_record import copy_members, table_row, trial_row, write_ensemble
from automl_cxr.results.export import Export, export_classifier
from automl_cxr.results.study_data import load_trial_config
from automl_cxr.scoring.aims import DEFAULT_CONFIDENCE, Request
from automl_cxr.scoring.metrics import find_normal_class
from automl_cxr.scoring.operating_points import OperatingPoint, check_confidence, point_from_record
from automl_cxr.scoring.prediction_tables import PredictionTable, read_prediction_tables
from automl_cxr.scoring.predictions import Predictions, align
from automl_cxr.study.provenance import describe_versions
from automl_cxr.study.source_overlap import source_warnings
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_audit import load_audit
from automl_cxr.tasks import MULTICLASS, MULTILABEL
from automl_cxr.text_records import parse_json_object

_DIVERSE_CANDIDATES = 50  # best trials from which diverse members are selected


@dataclass(frozen=True, repr=False, eq=False)
class BuiltEnsemble:
    """An ensemble on disk with its scores.

    Attributes:
        folder: Folder of the ensemble, for ``predict`` and ``evaluate``, or for ``apply_ensemble`` if members are tables.
        trials: Trial numbers, in the order of the members; without the members that are tables.
        combination: Members, rule, comparison of the methods, out-of-fold scores and calibration.
        notes: Messages about the columns that are used of tables, and conversions of their scores.
    """

    folder: Path
    trials: tuple[int, ...]
    combination: Combination
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return the members, the comparison with the best member and the folder, for notebooks."""
        members = ", ".join(f"{name} ({weight:.2f})" for name, weight in zip(self.combination.names, self.weights, strict=True))
        return f"Ensemble of {members}\n{self.combination.verdict()}\nin {self.folder}"

    def _repr_html_(self) -> str:
        members = zip(self.combination.names, self.weights, self.member_scores, strict=True)
        parts = [
            title_line(f"Ensemble {self.folder.name} ({self.method})"),
            rows_table(("member", "weight", "validation score"), members),
            note_line(self.combination.verdict()),
            *map(note_line, self.notes),
        ]
        return "".join(parts)

    @property
    def method(self) -> str:
        """Method that fitted the rule."""
        return self.combination.method

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each member; the sum is 1."""
        return tuple(self.combination.combiner.shares.tolist())

    @property
    def member_scores(self) -> tuple[float, ...]:
        """Validation score of each member by the metric of the objective."""
        return self.combination.member_scores

    @property
    def scores(self) -> dict[str, float]:
        """Score of every method on the images on which it was fitted; optimistic."""
        return {name: fitted.score for name, fitted in self.combination.fitted.items()}

    @property
    def score(self) -> float:
        """Score of the ensemble on the images on which it was fitted; optimistic."""
        return self.scores[self.method]

    @property
    def methods(self) -> pd.DataFrame:
        """One row for each method, with the fitted and the out-of-fold score."""
        return pd.DataFrame(self.combination.methods_table())

    @property
    def recommended(self) -> str:
        """The simplest method whose score is not significantly worse than that of this ensemble."""
        return self.combination.recommended

    def export(self, out: str | os.PathLike[str] | None = None, *, file_format: str | None = None) -> Export:
        """Write the ensemble with its members as one file; see ``results.export.export_classifier``."""
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
    mirrored: bool = False,
    operating_point: str | Sequence[str] = (),
    confidence: float = DEFAULT_CONFIDENCE,
) -> BuiltEnsemble:
    """Combine trials of a study that have a model, and write the ensemble's folder.

    Args:
        store: The study.
        top: Maximum number of members; fewer if fewer trials are finished.
        members: Trial numbers; by default the best trials.
        diverse: Select members from the 50 best trials by score, diversity and kind of network; see ``choose_diverse``.
        predictions: Tables of other programs for the same images, added as members. The ensemble then contains no models.
        method: "auto", or a name in ``ensemble.build.METHODS``.
        objective: Metric to optimise; by default the study's first objective.
        settings: Settings of the genetic algorithm.
        seed: Seed of the genetic algorithm; by default the seed of the study.
        name: Name of the folder in the study's ``ensembles``; by default the method and the number of members, followed by a
            number if an ensemble of other members has this name. An ensemble of the same members is replaced.
        mirrored: Whether the ensemble averages the probabilities of each network over an image and its mirror image. The
            weights are fitted to the stored predictions, which are those of the images alone.
        operating_point: Aims for which thresholds are chosen and stored, such as "sensitivity>=0.95"; see ``scoring.aims``.
        confidence: Probability with which new patients meet an aim for sensitivity or specificity; 0: no margin for chance.

    Raises:
        UsageError: An aim is unknown or cannot be reached, ``top`` is below 1, both ``members`` and ``diverse`` are given, the
            method is unknown, the name is not a valid folder name, or its folder contains something else than an ensemble of
            the same members.
        StudyError: No finished trial that satisfies the requirements of the study has a model, or a trial in ``members`` has
            none.
        DataError: A table cannot be read, or has other images or classes.
    """
    if top < 1:
        raise UsageError(f"An ensemble needs at least one member; received --top {top}.")
    if diverse and members is not None:
        raise UsageError("--members and --diverse exclude each other; received both. Omit one of them.")
    if mirrored and predictions:
        raise UsageError("--mirrored needs the models of all members; received --predictions. Omit one of them.")
    if method not in (AUTO, *METHODS):
        raise UnknownNameError("ensemble method", method, (AUTO, *METHODS))
    _check_name(name)
    aims = _parse_aims(operating_point, confidence)
    if mirrored and aims:
        raise UsageError(
            "Thresholds are chosen on stored predictions, which are those of the images alone; received --operating-point and "
            "--mirrored. Omit one of them."
        )
    seed = store.spec.seed if seed is None else seed
    resolved_objective = objective_of_study(store, objective)
    trials = _choose_trials(store, top, members, diverse, resolved_objective)
    tables = read_prediction_tables(
        predictions, classes=store.spec.classes, whose=f"study '{store.name}'", task=store.spec.task
    )
    check_method(method, len(trials) + len(tables))
    destination = EnsembleFolder(store.folder / "ensembles", name, default_name=f"{method}-{len(trials) + len(tables)}")
    with destination.staged() as partial:
        # The models are copied first, because a running search may remove them while the weights are fitted.
        rows = [trial_row(store, number) for number in trials] if tables else copy_members(store, trials, partial)
        rows += [table_row(table) for table in tables]
        destination.check(rows)
        combination = combine_members(
            [*(store.predictions(number) for number in trials), *(table.predictions for table in tables)],
            names=[*(f"trial {number}" for number in trials), *(table.name for table in tables)],
            method=method,
            objective=resolved_objective,
            settings=_seeded(settings, seed),
            aims=aims,
            confidence=confidence,
        )
        write_ensemble(partial, combination, rows, {**study_context(store), "mirrored": mirrored})
        folder = destination.publish(partial)
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
    operating_point: str | Sequence[str] = (),
    confidence: float = DEFAULT_CONFIDENCE,
) -> BuiltEnsemble:
    """Combine tables of predictions without models, and write ``ensembles/<name>`` in the current folder.

    Args:
        predictions: Tables of labelled predictions for the same images, on which no model was trained; see
            ``scoring.prediction_tables``.
        method: "auto", or a name in ``ensemble.build.METHODS``.
        objective: Metric to optimise.
        normal_class: Name of the class without a finding, for metrics that need it; by default detected by name.
        settings: Settings of the genetic algorithm.
        seed: Seed of the genetic algorithm.
        name: Name of the folder, as for ``build_ensemble``.
        operating_point: Aims for which thresholds are chosen, as for ``build_ensemble``.
        confidence: Probability with which new patients meet an aim, as for ``build_ensemble``.

    Raises:
        UsageError: An aim is unknown or cannot be reached, there is no table, the method, objective or class is unknown, the
            name is not a valid folder name, or its folder contains something else than an ensemble of the same members.
        DataError: A table cannot be read, has no labels, or has other images, labels or classes than the first.
        StudyError: The folder cannot be written.
    """
    _check_name(name)
    aims = _parse_aims(operating_point, confidence)
    tables = read_prediction_tables(predictions)
    check_method(method, len(tables))
    classes = tables[0].predictions.classes if tables else ()
    if normal_class is not None and normal_class not in classes:
        raise UnknownNameError("class", normal_class, classes)
    task = tables[0].predictions.task if tables else MULTICLASS
    normal = _normal_class(classes, normal_class, task)
    destination = EnsembleFolder(Path("ensembles"), name, default_name=f"{method}-{len(tables)}")
    rows = [table_row(table) for table in tables]
    destination.check(rows)
    combination = combine_members(
        [table.predictions for table in tables],
        names=[table.name for table in tables],
        method=method,
        objective=Objective.named(objective, normal_class=normal, task=task, classes=classes),
        settings=_seeded(settings, seed),
        aims=aims,
        confidence=confidence,
    )
    with destination.staged() as partial:
        context = {
            "study": None,
            "normal_class": None if normal is None else classes[normal],
            "versions": describe_versions(),
        }
        write_ensemble(partial, combination, rows, context)
        folder = destination.publish(partial)
    return BuiltEnsemble(folder, (), combination, _notes(tables))


def _normal_class(classes: tuple[str, ...], name: str | None, task: str) -> int | None:
    """Return the index of the class without a finding, found by its name unless it is given; None for findings."""
    if task == MULTILABEL:
        return None
    return find_normal_class(classes) if name is None else classes.index(name)


def apply_ensemble(
    folder: Path, predictions: Sequence[str | os.PathLike[str]]
) -> tuple[Predictions, tuple[OperatingPoint, ...], tuple[str, ...]]:
    """Combine the predictions of the members for other images by the rule of an ensemble.

    Args:
        folder: Folder of the ensemble.
        predictions: One table for each member, in the order in which the ensemble was built; labels are optional.

    Returns:
        The predictions of the ensemble, its operating points, and messages about the columns that are used of tables and
        conversions of their scores.

    Raises:
        DataError: The folder contains no ensemble, or a table cannot be read or has other images or classes.
        UsageError: The number of tables differs from the number of members.
    """
    try:
        record = parse_json_object((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))
        names, classes = [str(row["name"]) for row in record["members"]], tuple(map(str, record["classes"]))
        rule = combiner_from_record(record["rule"], n_members=len(names), n_classes=len(classes))
        task, thresholds = str(record.get("task", MULTICLASS)), record.get("thresholds")
        points = tuple(map(point_from_record, record.get("operating_points", ())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder} is not an ensemble folder ({error}). Create one with `automl-cxr ensemble build`."
        ) from error
    if len(predictions) != len(names):
        raise UsageError(
            f"This ensemble needs one table for each member, in the order {', '.join(names)}; received {len(predictions)}."
        )
    tables = read_prediction_tables(predictions, classes=classes, whose=f"the ensemble {folder.name}", task=task)
    probabilities, images = align([table.predictions for table in tables], names=[table.name for table in tables])
    combined = Predictions(
        images.ids, images.labels, rule.combine(probabilities), images.classes, images.patients, thresholds=thresholds
    )
    return combined, points, _notes(tables)


def objective_of_study(store: StudyStore, name: str | None = None) -> Objective:
    """Return the metric for which the ensembles of a study are optimised; by default the study's first objective.

    Raises:
        UnknownNameError: There is no such metric.
        UsageError: The metric is not defined for the study.
    """
    spec = store.spec
    return Objective.named(name or spec.objective, normal_class=spec.normal_index, task=spec.task, classes=spec.classes)


def _choose_trials(
    store: StudyStore, top: int, members: Sequence[int] | None, diverse: bool, objective: Objective
) -> list[int]:
    if members is not None:
        for number in members:
            store.model_file(store.record(number).number)  # raises an error for a trial without a model
        if not members or len(set(members)) < len(members):
            raise UsageError(
                f"Members must be one or more different trials; received {', '.join(map(str, members)) or 'none'}."
            )
        return list(members)
    trials = [record.number for record in store.eligible() if store.has_model(record.number)]
    if not trials:
        raise StudyError(explain_no_model(store))
    if not diverse:
        return trials[:top]
    candidates = trials[:_DIVERSE_CANDIDATES]
    scorer, _ = build_weight_scorer([store.predictions(number) for number in candidates], objective)
    kinds = [load_trial_config(store, number).kind for number in candidates]
    return [candidates[index] for index in choose_diverse(scorer, top, kinds=kinds)]


def study_context(store: StudyStore) -> dict[str, Any]:
    """Return the entries of an ensemble record that describe the study; images of folds are counted as training images."""
    spec, split = store.spec, store.split
    context: dict[str, Any] = {
        "study": store.name,
        "split_digest": store.split_digest,
        "data_digest": spec.data_digest,
        "data": spec.data,
        "split": {
            "train": len(split.train.images),
            "valid": len(split.valid.images),
            "test": len(split.test),
            "folds": spec.folds,
            "seed": spec.seed,
        },
        "normal_class": spec.normal_class,
        "versions": spec.versions,
        "warnings": source_warnings(store.folder),
    }
    corrected = correct_best_of_study(store)
    if corrected is not None:
        context["corrected_best"] = corrected.sentence()
    audit = load_audit(store)
    if audit is not None:
        context |= {"shortcut_baseline": audit.baseline, "warnings": [*context["warnings"], *audit.warnings]}
    return context


def _seeded(settings: GeneticSettings | None, seed: int) -> GeneticSettings:
    return GeneticSettings(**{**asdict(settings or DEFAULT_SETTINGS), "seed": seed})


def _parse_aims(texts: str | Sequence[str], confidence: float) -> list[Request]:
    check_confidence(confidence)
    return [Request.parse(text) for text in ([texts] if isinstance(texts, str) else texts)]


def _check_name(name: str | None) -> None:
    if name is not None and (not name or name.startswith(".") or Path(name).name != name):
        raise UsageError(f"The name of an ensemble must be a valid folder name; received {name!r}. Choose another --name.")


def _notes(tables: Sequence[PredictionTable]) -> tuple[str, ...]:
    return tuple(f"{table.name}: {table.note}" for table in tables if table.note)
