"""A splice search as people use it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from automl_cxr.api.locations import locate
from automl_cxr.api.search import EXECUTORS, MODELS_BY_DEFAULT, choose_executor, run_prepared
from automl_cxr.api.study import Study
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.splice_plots import describe_splices, plot_splices
from automl_cxr.splicing.branches import find_branch
from automl_cxr.splicing.search import SpliceScores, score_splices
from automl_cxr.splicing.study import prepare_splice_study, study_name
from automl_cxr.splicing.table import front_of
from automl_cxr.study.budget import Budget
from automl_cxr.study.prepare import OnProgress, StudyRequest
from automl_cxr.study.store import check_study_name


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
        return "\n".join(describe_splices(self.scores.record))

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
        return plot_splices(self.scores.record)

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
        budget = Budget(n_trials=len(prepared.store.records()), seconds=None, keep_models=max(MODELS_BY_DEFAULT, n))
        run_prepared(prepared, budget, choose_executor(executor, None, None, 1), command=command, stream=stream)
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
