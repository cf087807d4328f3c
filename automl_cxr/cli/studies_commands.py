"""`automl-cxr studies`: list, show, copy and delete the studies of a storage."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import debug_option, json_option, location_options
from automl_cxr.cli.output import human_bytes, print_json, print_table, say
from automl_cxr.cli.sections import CommandSection, SectionedGroup
from automl_cxr.errors import UsageError

if TYPE_CHECKING:
    from automl_cxr.study.deletion import Loss
    from automl_cxr.study.study_info import StudyDetails

_LONG = ("name", "space_toml", "versions", "command")  # of the settings: what a table has no room for


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
    """List your studies; or show, copy or delete one."""
    if context.invoked_subcommand is not None:
        if runs is not None or storage is not None or as_json:
            raise UsageError(f"Options of `studies {context.invoked_subcommand}` stand behind that word. Move them there.")
        return
    from automl_cxr import api

    table = api.list_studies(runs=runs, storage=storage)
    if as_json:
        print_json({row["name"]: row for row in table.to_dict(orient="records")})
        return
    if table.empty:
        say("There are no studies in this storage yet.")
        return
    elsewhere = [str(name) for name, folder in zip(table["name"], table["folder"], strict=True) if folder is None]
    shown = table.drop(columns=["folder"]).assign(
        changed=[f"{when:%Y-%m-%d %H:%M}" if when else "" for when in table["changed"]]
    )
    print_table(shown.rename(columns={"best_trial": "trial"}), title="studies")
    if elsewhere:
        say(f"The files of {', '.join(elsewhere)} are not in the runs folder; --runs names another.")


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
    settings = [{"setting": key, "value": _written(value)} for key, value in spec.items() if key not in _LONG]
    print_table(pd.DataFrame(settings), title=summary.name)
    by = "by patient" if details.grouped else "by image"
    click.echo(f"images, split {by}: " + ", ".join(f"{count:,} {part}" for part, count in details.images.items()))
    click.echo("trials: " + (", ".join(f"{count} {state}" for state, count in summary.trials.items()) or "none yet"))
    if summary.best is not None:
        click.echo(f"best {summary.objective}: {summary.best:.4f} (trial {summary.best_trial})")
    for search in details.searches:
        end = f", the last ended {search.last_ended:%Y-%m-%d %H:%M}" if search.last_ended else ""
        now = ", at work" if search.at_work else ""
        began = search.began[:16].replace("T", " ")
        click.echo(f"search {search.driver} by {search.sampler}, begun {began}: trials {search.trials}{end}{now}")
    click.echo(f"test part: {f'opened, looks {details.test_opened}' if details.test_opened else 'sealed'}")
    click.echo(f"files: {human_bytes(details.n_bytes)} in {summary.folder}, models of trials: {details.models}")
    click.echo(f"ensembles: {', '.join(details.ensembles) or 'none'}")
    click.echo(f"versions: {', '.join(f'{package} {version}' for package, version in spec['versions'].items())}")
    click.echo(f"begun with: automl-cxr {spec['command']}" if spec["command"] else "begun from Python")


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key}={one}" for key, one in value.items())
    return "" if value is None else str(value)


@studies.command("copy")
@click.argument("name")
@click.argument("new_name", metavar="NEW")
@click.option("--storage-to", metavar="URL", help="Storage that gets the copy's record  [default: the same]")
@click.option("--runs-to", metavar="DIR", help="Folder that gets the copy's files  [default: the same]")
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
    """Copy study NAME to NEW, trials, models and ensembles, to continue it apart.

    Trials that are running in NAME wait in NEW with the values that they have.
    """
    from automl_cxr import api

    copied = api.copy_study(name, new_name, runs=runs, storage=storage, runs_to=runs_to, storage_to=storage_to)
    if as_json:
        print_json(dataclasses.asdict(copied.details().summary))
        return
    click.echo(repr(copied))
    click.echo(f"files: {copied.folder}")
    places = {"--runs": runs_to or runs, "--storage": storage_to or storage}
    words = [word for option, place in places.items() if place is not None for word in (option, place)]
    click.echo(f"next: automl-cxr search {shlex.join(['--name', new_name, *words])}")


@studies.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for the name.")
@location_options
@json_option
@debug_option
def delete(name: str, yes: bool, runs: str | None, storage: str | None, as_json: bool) -> None:
    """Delete study NAME for good: its trials, models and ensembles."""
    from automl_cxr import api
    from automl_cxr.study.deletion import weigh_deletion

    if not yes:
        folder, url = api.locate(runs, storage)
        say(_tell(weigh_deletion(name, runs=folder, storage=url), "This deletes"))
        click.echo("Type its name to delete it: ", nl=False, err=True)
        typed = sys.stdin.readline().rstrip("\n")
        if typed != name:
            raise UsageError(f"Nothing is deleted: the study's name must be typed; received {typed!r}. --yes does not ask.")
    loss = api.delete_study(name, runs=runs, storage=storage)
    if as_json:
        print_json(dataclasses.asdict(loss))
    else:
        click.echo(_tell(loss, "Deleted"))


def _tell(loss: Loss, verb: str) -> str:
    trials = ", ".join(f"{count} {state}" for state, count in loss.trials.items()) or "none"
    told = f"{verb} study '{loss.name}': trials: {trials}"
    if loss.folder is None:
        return f"{told}. Its files are not in the runs folder and stay where they are, if there are any."
    ensembles = f"ensembles {', '.join(loss.ensembles)}" if loss.ensembles else "no ensembles"
    return f"{told}; models {loss.models}, {ensembles}; {human_bytes(loss.n_bytes)} in {loss.folder}."
