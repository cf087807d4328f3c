"""The function `splice` and its result."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from automl_cxr.api.keywords import document_options, with_keywords
from automl_cxr.api.locations import locate
from automl_cxr.api.search import bind_executor, run_prepared
from automl_cxr.api.study import Study
from automl_cxr.errors import UsageError
from automl_cxr.notebook_bars import bar_in_notebook
from automl_cxr.results.splice_plots import describe_splices, plot_splices
from automl_cxr.splicing.branches import find_branch
from automl_cxr.splicing.search import SpliceScores, score_splices
from automl_cxr.splicing.study import prepare_splice_study, study_name
from automl_cxr.splicing.table import front_of
from automl_cxr.study.budget import Budget
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.options import DEFAULT_KEEP_MODELS, SpliceOptions
from automl_cxr.study.store import check_study_name


class Splices:
    """Result of a splice search.

    Attributes:
        scores: Scores of all pairs of cuts, both branches, and the options.
        study: Study of the fine-tuned pairs; None before ``finetune``.
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
        """One row per pair of cuts and per single cut, best first; see ``splicing.table.tabulate``."""
        return self.scores.table

    @property
    def parents(self) -> pd.DataFrame:
        """The comparison of the best pair with complete networks; see ``splicing.table.compare_with_parents``."""
        return self.scores.parents

    @property
    def figure(self) -> Any:
        """A Plotly figure: scores over both cuts, and over the number of parameters with the Pareto front."""
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
        """Train the best pairs of the Pareto front, and all waiting trials, as trials of a study.

        Args:
            n: Maximum number of pairs, best first. Pairs that are already in the study are not repeated.
            name: Name of the study. [default: the names of both branches]
            executor: "inline" for this process, or "ray".
            command: Command line, for the record.
            stream: Text stream that receives the progress. [default: stderr]

        Raises:
            UsageError: ``n`` is below 1, or a study of this name exists with other settings.
            StudyError: Every trial failed, or the record cannot be written.
        """
        if n < 1:
            raise UsageError(f"The number of pairs to fine-tune must be at least 1; received {n}.")
        prepared = prepare_splice_study(
            self.scores,
            front_of(self.scores.table, n),
            name=study_name(self.scores.first, self.scores.second) if name is None else name,
            runs=self._runs,
            storage=self._storage,
            command=command,
        )
        budget = Budget(n_trials=len(prepared.store.records()), seconds=None, keep_models=max(DEFAULT_KEEP_MODELS, n))
        execute = partial(bind_executor(executor), batch_trials=1)
        run_prepared(prepared, budget, execute, command=command, stream=stream)
        self.study = Study(prepared.store)
        return self.study


@document_options(SpliceOptions)
def splice(  # noqa: D417 - the keywords are the options
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    options: SpliceOptions | None = None,
    command: str = "",
    stream: TextIO | None = None,
    decoding: AbstractContextManager[OnProgress] | None = None,
    scoring: AbstractContextManager[OnProgress] | None = None,
    **keywords: Any,
) -> Splices:
    """Score every pair of cuts of two networks with a closed-form head, then fine-tune the best pairs of the Pareto front.

    The options are those of `automl-cxr splice`. For options that are None, the values of the study in which a
    branch was trained are used, so that its test part is not read.

    Args:
        first: A backbone's name, a study (its best trial), STUDY/NUMBER, or the folder of a trial.
        second: As ``first``. If both are the same network, pairs of cuts of this network are scored.
        data: Folder or CSV table of radiographs. [default: those of a trained branch, else phantom images]
        {options}
        options: Options as one object. Keywords take precedence.
        command: Command line, for the record of the study.
        stream: Text stream that receives the progress. [default: stderr]
        decoding: Context manager whose value is called with the number of decoded images and of all images.
        scoring: Context manager whose value is called with the number of fitted heads and of all heads.

    Raises:
        UnknownNameError: A keyword, a backbone or another name does not exist.
        UsageError: The branches are incompatible, a cut does not exist, or a value is impossible.
        DataError: The data are unusable, or a branch was trained on images of the validation or test part.
        StudyError: The study or the model of a branch does not exist, or every trial failed.
        TrialError: A branch cannot be built.
    """
    given = with_keywords(SpliceOptions, options, {"data": data, **keywords})
    folder, url = locate(given.runs, given.storage)
    one, other = (find_branch(name, runs=folder, storage=url) for name in (first, second))
    check_study_name(study_name(one, other) if given.name is None else given.name)
    with decoding or bar_in_notebook("decoding") as on_decoding, scoring or bar_in_notebook("scoring pairs") as on_pair:
        scores = score_splices(
            one,
            other,
            given.study_options(),
            cuts=given.cuts or (),
            second_cuts=given.second_cuts or (),
            on_decoding=on_decoding,
            on_pair=on_pair,
        )
    splices = Splices(scores, runs=folder, storage=url)
    if given.finetune:
        splices.finetune(given.finetune, name=given.name, executor=given.executor, command=command, stream=stream)
    return splices
