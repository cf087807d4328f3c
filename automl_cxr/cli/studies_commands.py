"""The commands of `automl-cxr studies`."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import debug_option, json_option, location_options
from automl_cxr.cli.output import human_bytes, print_json, print_line, print_message, print_table, print_text
from automl_cxr.cli.sections import CommandSection, SectionedGroup
from automl_cxr.errors import UsageError

if TYPE_CHECKING:
    from automl_cxr.study.deletion import Loss
    from automl_cxr.study.study_info import StudyDetails

_NOT_IN_TABLE = ("name", "space_toml", "versions", "command")  # settings that are too long for the table


@click.group(
    cls=SectionedGroup,
    section=CommandSection.MAINTAIN,
    short_help="List your studies; or show, copy or delete one.",
    invoke_without_command=True,
)
@location_options
@json_option
@debug_option
@click.pass_context
def studies(context: click.Context, runs: str | None, storage: str | None, as_json: bool) -> None:
    """List the studies of the storage; or show, copy or delete one."""
    if context.invoked_subcommand is not None:
        if runs is not None or storage is not None or as_json:
            raise UsageError(
                f"Options must follow `studies {context.invoked_subcommand}`; received options before it. Move them."
            )
        return
    from automl_cxr import api

    table = api.list_studies(runs=runs, storage=storage)
    if as_json:
        print_json({row["name"]: row for row in table.to_dict(orient="records")})
        return
    if table.empty:
        print_message("There are no studies in this storage yet.")
        return
    elsewhere = [str(name) for name, folder in zip(table["name"], table["folder"], strict=True) if folder is None]
    shown = table.drop(columns=["folder"]).assign(
        changed=[f"{when:%Y-%m-%d %H:%M}" if when else "" for when in table["changed"]]
    )
    print_table(shown.rename(columns={"best_trial": "trial"}), title="studies")
    if elsewhere:
        print_message(f"The files of {', '.join(elsewhere)} are not in the runs folder. Specify their folder with --runs.")


@studies.command("show")
@click.argument("name")
@location_options
@json_option
@debug_option
def show(name: str, runs: str | None, storage: str | None, as_json: bool) -> None:
    """Show all settings of study NAME, its images, trials, searches and files."""
    from automl_cxr import api

    study = api.open_study(name, runs=runs, storage=storage)
    details = study.details()
    if as_json:
        print_json(dataclasses.asdict(details))
    else:
        _print_details(details)


def _print_details(details: StudyDetails) -> None:
    import pandas as pd

    summary, spec = details.summary, dataclasses.asdict(details.spec)
    settings = [{"setting": key, "value": _format_value(value)} for key, value in spec.items() if key not in _NOT_IN_TABLE]
    print_table(pd.DataFrame(settings), title=summary.name)
    by = "by patient" if details.grouped else "by image"
    print_line(f"images, split {by}: " + ", ".join(f"{count:,} {part}" for part, count in details.images.items()))
    if details.n_without_patient:
        treated = "not used" if details.spec.unknown_patients == "drop" else "each treated as a patient of its own"
        print_line(f"images without a patient: {details.n_without_patient:,}, {treated}")
    print_line("trials: " + (", ".join(f"{count} {state}" for state, count in summary.trials.items()) or "none yet"))
    if summary.best is not None:
        print_line(f"best {summary.objective}: {summary.best:.4f} (trial {summary.best_trial})")
    for search in details.searches:
        end = f", the last ended {search.last_ended:%Y-%m-%d %H:%M}" if search.last_ended else ""
        now = ", running" if search.at_work else ""
        began = search.began[:16].replace("T", " ")
        print_line(f"search {search.driver} with {search.sampler}, started {began}: trials {search.trials}{end}{now}")
    print_line(f"test part: {f'evaluated {details.test_opened} times' if details.test_opened else 'not evaluated'}")
    print_line(f"files: {human_bytes(details.n_bytes)} in {summary.folder}, models of trials: {details.models}")
    print_line(f"ensembles: {', '.join(details.ensembles) or 'none'}")
    print_line(f"versions: {', '.join(f'{package} {version}' for package, version in spec['versions'].items())}")
    print_line(f"started with: automl-cxr {spec['command']}" if spec["command"] else "started from Python")


def _format_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return "" if value is None else str(value)


@studies.command("copy")
@click.argument("name")
@click.argument("new_name", metavar="NEW")
@click.option("--storage-to", metavar="URL", help="Storage for the record of the copy  [default: the same]")
@click.option("--runs-to", metavar="DIR", help="Folder for the files of the copy  [default: the same]")
@location_options
@json_option
@debug_option
def copy(
    name: str,
    new_name: str,
    storage_to: str | None,
    runs_to: str | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Copy study NAME, with its trials, models and ensembles, to a study NEW that can be continued separately.

    Running trials of NAME are copied as waiting trials with the same hyperparameters.
    """
    from automl_cxr import api

    copied = api.copy_study(name, new_name, runs=runs, storage=storage, runs_to=runs_to, storage_to=storage_to)
    if as_json:
        print_json(dataclasses.asdict(copied.details().summary))
        return
    print_text(repr(copied))
    print_line(f"files: {copied.folder}")
    locations = {"--runs": runs_to or runs, "--storage": storage_to or storage}
    arguments = [text for option, value in locations.items() if value is not None for text in (option, value)]
    print_line(f"next: automl-cxr search {shlex.join(['--name', new_name, *arguments])}")


@studies.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Delete without asking for confirmation.")
@location_options
@json_option
@debug_option
def delete(name: str, yes: bool, runs: str | None, storage: str | None, as_json: bool) -> None:
    """Delete study NAME permanently, with its trials, models and ensembles."""
    from automl_cxr import api
    from automl_cxr.study.deletion import preview_deletion

    if not yes:
        folder, url = api.locate(runs, storage)
        print_message(_describe_loss(preview_deletion(name, runs=folder, storage=url), "This deletes"))
        print_message("Type the name of the study to delete it:")
        typed = sys.stdin.readline().rstrip("\n")
        if typed != name:
            raise UsageError(
                f"Nothing was deleted. Confirm with the name of the study; received {typed!r}. --yes skips the confirmation."
            )
    loss = api.delete_study(name, runs=runs, storage=storage)
    if as_json:
        print_json(dataclasses.asdict(loss))
    else:
        print_line(_describe_loss(loss, "Deleted"))


def _describe_loss(loss: Loss, verb: str) -> str:
    trials = ", ".join(f"{count} {state}" for state, count in loss.trials.items()) or "none"
    text = f"{verb} study '{loss.name}': trials: {trials}"
    if loss.folder is None:
        return f"{text}. Its files are not in the runs folder and are not deleted."
    ensembles = f"ensembles {', '.join(loss.ensembles)}" if loss.ensembles else "no ensembles"
    return f"{text}; models {loss.models}, {ensembles}; {human_bytes(loss.n_bytes)} in {loss.folder}."
