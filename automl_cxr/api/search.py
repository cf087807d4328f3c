"""The function `search`: starts or continues a study."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TextIO

from automl_cxr.api.keywords import document_options, with_keywords
from automl_cxr.api.locations import locate
from automl_cxr.api.study import Study
from automl_cxr.engine.registry import FINITE_SAMPLERS, default_batch_trials
from automl_cxr.notebook_bars import bar_in_notebook
from automl_cxr.results.recommendation import recommend
from automl_cxr.study.budget import Budget, trial_deadline
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.options import DEFAULT_TRIALS, SearchOptions
from automl_cxr.study.prepare import PreparedStudy, prepare_study
from automl_cxr.study.progress import SearchProgress
from automl_cxr.study.runner import Execute, run_search
from automl_cxr.tracking.mirror import MirroringListener, TrialMirror


@document_options(SearchOptions)
def search(  # noqa: D417 - the keywords are the options
    space: str | None = None,
    data: str | os.PathLike[str] | None = None,
    *,
    options: SearchOptions | None = None,
    command: str = "",
    stream: TextIO | None = None,
    decoding: AbstractContextManager[OnProgress] | None = None,
    **keywords: Any,
) -> Study:
    """Search for the best classifier: start a study, or continue the study of the same name, until the budget is spent.

    The options are those of `automl-cxr search`. For options that are None, a continued study uses the recorded values, and a
    new study uses the defaults.

    Args:
        space: Search space: a name listed by `automl-cxr spaces`, or the path of a TOML file. [default: auto]
        data: Folder or CSV table of radiographs. [default: phantom images, drawn by this program]
        {options}
        options: Options as one object. Keywords take precedence.
        command: Command line, for the record of the study.
        stream: Text stream that receives the progress. [default: one output of the cell in a notebook, else stderr]
        decoding: Context manager whose value is called with the number of images that are done and of all images, first of
            decoding, then of each step of the audit that reads images.

    Returns:
        The study, with all its trials and the recommended classifier (``Study.recommended``).

    Raises:
        UnknownNameError: A keyword, or a name such as that of a sampler or a metric, does not exist.
        UsageError: A value is impossible, or differs from the setting of the existing study.
        DataError: The data are unusable.
        StudyError: Every trial failed, or the record cannot be written.
    """
    started = time.monotonic()
    given = with_keywords(SearchOptions, options, {"space": space, "data": data, **keywords})
    execute = bind_executor(given.executor, given.ray_resources)
    folder, url = locate(given.runs, given.storage)
    with decoding or bar_in_notebook("reading images") as on_progress:
        prepared = prepare_study(given, runs=folder, storage=url, command=command, on_progress=on_progress, started=started)
    sampler = given.sampler or prepared.store.spec.sampler
    budget = _budget_of(given, sampler)
    batch_trials = given.batch_trials or default_batch_trials(sampler, n_trials=budget.n_trials)
    execute = partial(execute, seconds_per_trial=given.trial_seconds, batch_trials=batch_trials)
    run_prepared(
        prepared, budget, execute, sampler=sampler, command=command, stream=stream, started=started, track=_targets(given.track)
    )
    recommend(prepared.store)
    return Study(prepared.store)


def _targets(track: str | Sequence[str] | None) -> Sequence[str]:
    return [track] if isinstance(track, str) else track or ()


def _budget_of(options: SearchOptions, sampler: str) -> Budget:
    limits = (options.trials, options.seconds, options.total_epochs, options.target)
    has_end = any(limit is not None for limit in limits) or sampler in FINITE_SAMPLERS
    return Budget(
        n_trials=options.trials if has_end else DEFAULT_TRIALS,
        seconds=options.seconds,
        keep_models=options.keep_models,
        n_epochs=options.total_epochs,
        target=options.target,
        disk_bytes=options.disk_budget,
    )


def run_prepared(
    prepared: PreparedStudy,
    budget: Budget,
    execute: Execute,
    *,
    sampler: str | None = None,
    command: str,
    stream: TextIO | None,
    started: float | None = None,
    track: Sequence[str] = (),
) -> None:
    """Search a prepared study and report the progress.

    Args:
        prepared: The study.
        budget: Limits of the search.
        execute: Executor; see ``bind_executor``.
        sampler: Name of the sampler. [default: that of the study]
        command: Command line, for the record.
        stream: Text stream that receives the progress. [default: stderr]
        started: ``time.monotonic()`` from which the wall time of the budget counts. [default: now]
        track: Experiment trackers to which finished trials are sent.

    Raises:
        StudyError: Every trial failed, or the record cannot be written.
        UnknownNameError: There is no such tracker.
        UsageError: The library of a tracker is not installed.
    """
    started = time.monotonic() if started is None else started
    deadline = None if budget.seconds is None else trial_deadline(budget.seconds, started)
    with SearchProgress(prepared.store, budget, stream=stream, deadline=deadline) as progress:
        progress.print_study(prepared)
        with TrialMirror(prepared.store, track) as mirror:
            run_search(
                prepared.store,
                prepared.images,
                weights_folder=prepared.weights_folder,
                sampler=sampler or prepared.store.spec.sampler,
                budget=budget,
                execute=execute,
                listener=MirroringListener(progress, mirror),
                command=command,
                deadline=deadline,
                planned_seconds=prepared.planned_seconds,
            )
        for sentence in mirror.describe():
            progress.print_note(sentence)


def bind_executor(name: str, ray_resources: Mapping[str, Any] | None = None) -> Callable[..., None]:
    """Return the function that runs trials, ``run_inline`` or ``run_with_ray``.

    Args:
        name: A name in ``EXECUTORS``.
        ray_resources: Keywords of ``RayResources``; for "ray" only.

    Raises:
        UsageError: A resource is out of its range.
    """
    if name == "inline":
        from automl_cxr.engine.inline_execution import run_inline

        return run_inline
    from automl_cxr.engine.placement import RayResources
    from automl_cxr.engine.ray_execution import run_with_ray  # importing Ray takes three seconds

    return partial(run_with_ray, resources=RayResources(**(ray_resources or {})))
