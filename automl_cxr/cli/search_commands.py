"""The commands `search`, `spaces` and `systems`."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import add_options, debug_option, json_option, use_study_file
from automl_cxr.cli.output import print_data, print_json, print_line, print_message, print_text, progress_bar, short
from automl_cxr.cli.sections import CommandSection, SectionedCommand, SectionedGroup
from automl_cxr.errors import AutomlCxrError
from automl_cxr.study.options import SearchOptions

if TYPE_CHECKING:
    from automl_cxr.api.recommended import Recommended
    from automl_cxr.api.study import Study
    from automl_cxr.results.corrected_best import CorrectedBest
    from automl_cxr.study.trial_counts import TrialCounts

_REASONS_SHOWN = 5


@click.command(
    cls=SectionedCommand, section=CommandSection.SEARCH, short_help="Search for the best classifier, or continue a search."
)
@click.option(
    "--study",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=use_study_file,
    help="TOML file with values for these options: a name listed by `automl-cxr systems`, or a path. Options on the command "
    "line take precedence.",
)
@add_options(SearchOptions)
@json_option
@debug_option
def search(as_json: bool, **options: Any) -> None:
    """Search for the best classifier. The same command continues an interrupted search."""
    from automl_cxr import api

    study = api.search(**options, command=shlex.join(sys.argv[1:]), decoding=progress_bar("reading images"))
    _print_search(study, as_json)


def _print_search(study: Any, as_json: bool) -> None:
    states = [str(trial.state) for trial in study.trials]
    best, counts, recommended = study.best, study.trial_counts(), study.recommended
    corrected = _corrected_score(study)
    if as_json:
        print_json(
            {
                "study": study.name,
                "trials": {state: states.count(state) for state in sorted(set(states))},
                "trial_counts": vars(counts),
                "best": None if best is None else {"trial": best.number, "score": best.score, "params": dict(best.params)},
                "corrected": None if corrected is None else corrected.fields(),
                "recommended": None if recommended is None else _recommended_as_json(recommended),
                **_pareto_as_json(study),
            }
        )
        return
    print_text(repr(study))
    _print_trial_counts(counts)
    if len(study.objectives) > 1:
        for trial in study.pareto_front:
            values = zip(study.objectives, trial.values, strict=True)
            print_line(
                f"on the Pareto front: trial {trial.number}, {', '.join(f'{name} {value:,.6g}' for name, value in values)}"
            )
    if best is not None and best.params:  # a published system has no searched hyperparameters
        print_line("best parameters: " + ", ".join(f"{name}={short(value)}" for name, value in best.params.items()))
    if corrected is not None and (sentence := corrected.sentence()):
        print_line(sentence)
    if recommended is not None:
        print_line(recommended.sentence)
        name = shlex.quote(study.name)
        print_line(f"next: automl-cxr leaderboard {name}    automl-cxr evaluate {name}")


def _corrected_score(study: Study) -> CorrectedBest | None:
    """Return the corrected score of the best trial; a damaged file of a trial must not make a finished search fail."""
    try:
        return study.corrected_score()
    except AutomlCxrError as error:
        print_message(f"The best score cannot be corrected for the choice among the trials: {error}")
        return None


def _print_trial_counts(counts: TrialCounts) -> None:
    shown = {
        "requested": counts.asked,
        "complete": counts.complete,
        "pruned": counts.pruned,
        "of them refused before training": counts.refused,
        "failed": counts.n_failed,
        "promoted": counts.promoted,
        "repeated": sum(counts.retried.values()),
        "running in another search": counts.running,
        "interrupted in an earlier search": counts.left,
        "waiting": counts.waiting,
    }
    print_line("trials: " + ", ".join(f"{count} {outcome}" for outcome, count in shown.items() if count))
    if counts.asked_in_full is not None:
        print_line(f"{counts.complete} of {counts.asked_in_full} trials that the sampler plans to the last epoch are complete")
    for outcome, reasons in (("failed", counts.failed), ("repeated", counts.retried)):
        for reason, count in list(reasons.items())[:_REASONS_SHOWN]:
            print_line(f"{outcome}, {count} x: {reason}")
        if len(reasons) > _REASONS_SHOWN:
            print_line(f"{outcome}: {len(reasons) - _REASONS_SHOWN} other reasons (--json lists them)")


def _recommended_as_json(recommended: Recommended) -> dict[str, Any]:
    return {
        "kind": recommended.kind,
        "trials": recommended.members,
        "ensemble": recommended.ensemble,
        "metric": recommended.metric,
        "score": recommended.score,
        "interval": vars(recommended.interval),
        "sentence": recommended.sentence,
    }


def _pareto_as_json(study: Any) -> dict[str, Any]:
    if len(study.objectives) == 1:
        return {}
    front = [{"trial": trial.number, **dict(zip(study.objectives, trial.values, strict=True))} for trial in study.pareto_front]
    return {"pareto": front}


@click.group(
    cls=SectionedGroup,
    section=CommandSection.SEARCH,
    short_help="List the search spaces, or show one.",
    invoke_without_command=True,
)
@json_option
@click.pass_context
def spaces(context: click.Context, as_json: bool) -> None:
    """List the search spaces with the number of hyperparameters that each searches, or show one."""
    if context.invoked_subcommand is not None:
        return
    from automl_cxr.study.spaces import load_space, shipped

    loaded = {name: load_space(name) for name in shipped("search_spaces")}
    if as_json:
        print_json(
            {
                name: {"description": space.description, "searched": [p.name for p in space.parameters]}
                for name, space in loaded.items()
            }
        )
        return
    for name, space in loaded.items():
        print_line(f"{name:10} {space.description} ({len(space.parameters)} hyperparameters)")


@spaces.command("show")
@click.argument("name")
@debug_option
def show_space(name: str) -> None:
    """Print the TOML text of space NAME, as a template for other spaces."""
    from automl_cxr.study.spaces import load_space, read_space

    load_space(name)
    print_data(read_space(name))


@click.command(
    cls=SectionedCommand, section=CommandSection.SEARCH, short_help="List published systems to search or train by name."
)
@json_option
@debug_option
def systems(as_json: bool) -> None:
    """List the published systems and examples: names for `automl-cxr search --study` and `automl-cxr describe`."""
    from automl_cxr.study.spaces import shipped
    from automl_cxr.study.study_files import read_study_file

    files = {name: read_study_file(path) for name, path in shipped("studies").items()}
    if as_json:
        print_json({name: vars(file) for name, file in files.items()})
        return
    for name, file in files.items():
        print_line(f"{name:24} {file.description}")
