"""A study as people use it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from automl_cxr.records import TrialRecord
from automl_cxr.results import ensembles
from automl_cxr.results.classifier import Classifier, classifier_of_trial, load_ensemble
from automl_cxr.results.ensembles import BuiltEnsemble
from automl_cxr.results.evaluation import Evaluation, evaluate
from automl_cxr.results.export import Export, export_classifier
from automl_cxr.results.external import open_sites
from automl_cxr.results.figures import Figures
from automl_cxr.results.importance import PED_ANOVA, importance_table
from automl_cxr.results.leaderboard import build_leaderboard
from automl_cxr.results.replay import TOLERANCE, Replay, replay_trial
from automl_cxr.results.verification import Verification, verify_study
from automl_cxr.study import catalogue
from automl_cxr.study.prepare import OnProgress
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.store import StudyStore
from automl_cxr.study.tally import Tally, tally_trials


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

    def leaderboard(self, *others: Study, external: Sequence[str | Path] = (), **choices: Any) -> pd.DataFrame:
        """Rank the finished trials, together with those of other studies.

        ``external`` names the data of other places by which every kept model is scored. Further keywords are those of
        ``results.leaderboard.build_leaderboard``: ``metric``, ``intervals``, ``latency``, ``sort``, ``n_resamples`` and
        ``on_progress``. Figures and errors as there and in ``results.external``.
        """
        stores = [study._store for study in (self, *others)]
        return build_leaderboard(*stores, sites=open_sites(external), **choices)

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
