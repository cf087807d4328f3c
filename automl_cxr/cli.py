"""The command line: each command parses words, makes one call, and prints. Heavy libraries load inside the commands."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from automl_cxr import __version__
from automl_cxr.errors import AutomlCxrError, UnknownNameError, UsageError

if TYPE_CHECKING:
    import pandas as pd

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 1 failed, 2 wrong words, 130 interrupted."""
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return commands.main(arguments, prog_name="automl-cxr", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("Interrupted. What was finished is kept; the same command continues.")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has left; so do we, quietly
        return 0
    except AutomlCxrError as error:
        _explain(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the border: a stranger gets a sentence, --debug the rest
        _explain(f"{type(error).__name__}: {error}" + ("" if _wants_debug() else " (--debug shows where)"))
        return 1


def _explain(message: str) -> None:
    if _wants_debug():
        traceback.print_exc()
    _say(f"automl-cxr: {message}")


def _say(message: str) -> None:
    click.echo(message, err=True)


# ---------------------------------------------------------------------------------------------- words that recur


_debug = False


def _wants_debug() -> bool:
    return _debug


def _set_debug(_context: click.Context, _parameter: click.Parameter, is_set: bool) -> None:
    global _debug
    _debug = _debug or is_set


_debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show tracebacks of errors."
)
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
_trial_option = click.option("--trial", type=click.IntRange(0), help="A trial of the study instead of its best one.")


def _place_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option(
        "--storage", metavar="URL", help="Optuna storage  [default: $AUTOML_CXR_STORAGE, else sqlite in --runs]"
    )(command)
    return click.option("--runs", metavar="DIR", help="Folder of all studies  [default: $AUTOML_CXR_RUNS, else automl_runs]")(
        command
    )


def _data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--patients",
            metavar="REGEX",
            help="Finds the patient in a file name: group 'patient', group 1, or the match.",
        ),
        click.option("--classes", type=_Names(), help="Classes to use, in the order of their columns."),
        click.option("--layout", metavar="NAME", help="folders, split-folders or csv  [default: found by itself]"),
    ):
        command = option(command)
    return command


class _Names(click.ParamType[list[str]]):
    """Names separated by commas."""

    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        names = value if isinstance(value, list) else [name.strip() for name in value.split(",")]
        if not all(names):
            self.fail(f"names must not be empty; received {value!r}.", param, ctx)
        return names


class _Duration(click.ParamType[float]):
    """Seconds, written as 45s, 90m, 2h, 1h30m or a bare number of seconds."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text)
        if not text or match is None:
            self.fail(f"a time is written like 45s, 90m, 2h or 1h30m; received {value!r}.", param, ctx)
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        total = hours * 3600 + minutes * 60 + seconds
        if total <= 0:
            self.fail(f"a time must be above 0; received {value!r}.", param, ctx)
        return total


def _use_study_file(context: click.Context, _parameter: click.Parameter, name: str | None) -> None:
    """Make the settings of a study file the defaults of the options, so that words typed beside it win."""
    if name is None:
        return
    from automl_cxr.study.spec import load_study_file

    options = {
        text.removeprefix("--"): str(option.name)
        for option in context.command.params
        for text in option.opts
        if option.expose_value
    }
    settings = load_study_file(name, options)
    context.default_map = {options[key]: value for key, value in settings.items()}


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="automl-cxr")
@_debug_option
def commands() -> None:
    """Find the best chest X-ray classifier that a budget allows.

    Begin with `automl-cxr search`, which explains itself on phantom images, or with `automl-cxr data inspect DIR`.
    """


# ---------------------------------------------------------------------------------------------------------- search


@commands.command()
@click.option(
    "--study",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=_use_study_file,
    help="TOML file with values for the options below; words typed here win.",
)
@click.option(
    "--space",
    metavar="NAME|FILE",
    help="Search space: a name of `automl-cxr spaces`, or a TOML file  [default: scratch]",
)
@click.option("--data", metavar="DIR", help="Folder or CSV table of radiographs  [default: phantom images]")
@click.option("--name", help="Name of the study; the same name continues it  [default: made of space and data]")
@click.option("--trials", type=click.IntRange(1), help="Trials in total, those of earlier searches included  [default: 20]")
@click.option("--time", "seconds", type=_Duration(), help="Wall time of this search, such as 45m, 2h or 1h30m.")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images at most, a trial  [default: 30]")
@click.option("--image-size", type=click.IntRange(16, 2048), help="Height and width in pixels  [default: 112]")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Images a gradient step  [default: 32]")
@click.option(
    "--objective",
    metavar="METRIC",
    help="Validation score that ranks trials: macro_f1, accuracy, balanced_accuracy, macro_auc, log_loss or fnfr"
    "  [default: macro_f1]",
)
@click.option("--normal-class", metavar="CLASS", help="Class without a finding, for FNFR  [default: guessed from the names]")
@click.option("--sampler", metavar="NAME", help="Who proposes trials: tpe or random  [default: tpe]")
@click.option("--pruner", metavar="NAME", help="Who stops trials early: asha, median or none  [default: asha]")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Decides split, proposals and weights  [default: 0]")
@click.option("--valid-fraction", type=float, help="Share of the images that chooses epochs and trials  [default: 0.15]")
@click.option("--test-fraction", type=float, help="Share of the images that stays sealed  [default: 0.15]")
@_data_options
@click.option(
    "--executor", default="ray", show_default=True, metavar="NAME", help="ray, or inline: one by one in this process."
)
@click.option("--concurrency", type=click.IntRange(1), help="Trials at once  [default: what the machine holds]")
@click.option("--cpus-per-trial", type=click.FloatRange(0.1), help="CPU cores of each trial.")
@click.option("--gpus-per-trial", type=click.FloatRange(0), help="GPUs of each trial; 0.5 puts two on one.")
@click.option("--address", help="Address of a running Ray cluster  [default: Ray starts on this machine]")
@click.option(
    "--keep-models",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Best trials that keep their model on disk.",
)
@_place_options
@_json_option
@_debug_option
def search(
    as_json: bool,
    concurrency: int | None,
    cpus_per_trial: float | None,
    gpus_per_trial: float | None,
    address: str | None,
    executor: str,
    **settings: Any,
) -> None:
    """Search for the best classifier; the same command continues a search that was stopped."""
    from automl_cxr import api

    resources = None
    if executor == "ray":
        from automl_cxr.engine.ray_execution import RayResources

        resources = RayResources(
            concurrency=concurrency, cpus_per_trial=cpus_per_trial, gpus_per_trial=gpus_per_trial, address=address
        )
    elif any(value is not None for value in (concurrency, cpus_per_trial, gpus_per_trial, address)):
        raise UsageError(
            f"--concurrency, --cpus-per-trial, --gpus-per-trial and --address are Ray's; received --executor {executor}."
        )
    study = api.search(
        **settings,
        executor=executor,
        resources=resources,
        command=" ".join(sys.argv[1:]),
        decoding=_progress_bar("decoding"),
    )
    _print_search(study, as_json)


def _print_search(study: Any, as_json: bool) -> None:
    states = [str(trial.state) for trial in study.trials]
    best = study.best
    if as_json:
        _print_json(
            {
                "study": study.name,
                "trials": {state: states.count(state) for state in sorted(set(states))},
                "best": None if best is None else {"trial": best.number, "score": best.score, "params": dict(best.params)},
            }
        )
        return
    click.echo(repr(study))
    for trial in study.trials:
        if trial.error:
            click.echo(f"trial {trial.number} failed: {trial.error}")
    if best is not None:
        click.echo("best parameters: " + ", ".join(f"{name}={_short(value)}" for name, value in best.params.items()))
        click.echo(f"next: automl-cxr leaderboard {_quoted(study.name)}    automl-cxr ensemble build {_quoted(study.name)}")


def _quoted(word: str) -> str:
    import shlex

    return shlex.quote(word)


# ------------------------------------------------------------------------------------------------------------ data


@commands.group()
def data() -> None:
    """Look at data, or draw phantom radiographs."""


@data.command("inspect")
@click.argument("directory", metavar="DIR")
@_data_options
@_json_option
@_debug_option
def inspect(directory: str, layout: str | None, classes: list[str] | None, patients: str | None, as_json: bool) -> None:
    """Show classes, patients, sizes and splits of DIR, and every file that cannot be read."""
    from automl_cxr.data.inspection import inspect_data

    with _progress_bar("decoding") as on_progress:
        found = inspect_data(directory, layout=layout, classes=classes, patients=patients, on_progress=on_progress)
    if as_json:
        tables = {name: getattr(found, name).to_dict(orient="records") for name in ("classes", "splits")}
        _print_json({**vars(found), **tables, "root": str(found.root)})
        return
    patients_text = "unknown" if found.n_patients is None else f"{found.n_patients}"
    click.echo(f"{found.root}: layout {found.layout}, {found.classes['images'].sum()} images, patients: {patients_text}")
    _print_table(found.classes, title="classes")
    if not found.splits.empty:
        _print_table(found.splits, title="given split, images")
    click.echo("sizes (height x width): " + ", ".join(f"{name} {h}x{w}" for name, (h, w) in found.sizes.items()))
    if found.n_patients_in_classes:
        click.echo(f"{found.n_patients_in_classes} patients have images in more than one class")
    for what, reasons in (("cannot be read", found.unreadable), ("left out", found.ignored)):
        if reasons:
            click.echo(f"{what}: {len(reasons)}")
        for path, reason in reasons.items():
            click.echo(f"  {_shown_path(path)}: {reason}")
    for note in found.notes:
        click.echo(f"note: {note}")


@data.command("demo")
@click.argument("directory", metavar="DIR")
@click.option("--images", "n_images", type=click.IntRange(12), default=600, show_default=True, help="Images in all.")
@click.option("--image-size", type=click.IntRange(32, 1024), default=128, show_default=True, help="Pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@_debug_option
def demo(directory: str, n_images: int, image_size: int, seed: int) -> None:
    """Draw phantom radiographs into DIR: normal, with an opacity, or with an effusion."""
    from automl_cxr.data.phantoms import draw_phantoms

    folder = draw_phantoms(directory, n_images=n_images, image_size=image_size, seed=seed)
    click.echo(f"{n_images} phantom radiographs in {folder}")


# ---------------------------------------------------------------------------------------------------------- spaces


@commands.group(invoke_without_command=True)
@_json_option
@click.pass_context
def spaces(context: click.Context, as_json: bool) -> None:
    """List the search spaces, or show one."""
    if context.invoked_subcommand is not None:
        return
    from automl_cxr.study.spaces import load_space, shipped

    loaded = {name: load_space(name) for name in shipped("search_spaces")}
    if as_json:
        _print_json(
            {
                name: {"description": space.description, "searched": [p.name for p in space.parameters]}
                for name, space in loaded.items()
            }
        )
        return
    for name, space in loaded.items():
        click.echo(f"{name:10} {space.description} ({len(space.parameters)} hyperparameters)")


@spaces.command("show")
@click.argument("name")
@_debug_option
def show_space(name: str) -> None:
    """Print the TOML of a space, to copy and change."""
    from automl_cxr.study.spaces import find_shipped, load_space

    load_space(name)
    click.echo(find_shipped("search_spaces", "search space", name).read_text(encoding="utf-8"), nl=False)


# ----------------------------------------------------------------------------------------------------- leaderboard


@commands.command()
@click.argument("study")
@click.option("--format", "kind", default="table", show_default=True, metavar="KIND", help="table, csv, json, md or html.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to a file instead of the screen.")
@_place_options
@_json_option
@_debug_option
def leaderboard(study: str, kind: str, out: Path | None, runs: str | None, storage: str | None, as_json: bool) -> None:
    """Rank the finished trials of STUDY on the validation part, with 95% intervals by patient."""
    from automl_cxr import api
    from automl_cxr.results.leaderboard import FORMATS, format_table

    kind = "json" if as_json else kind
    if kind == "table" and out is not None:
        kind = {".md": "md", ".json": "json", ".html": "html"}.get(out.suffix.lower(), "csv")
    if kind not in ("table", *FORMATS):
        raise UnknownNameError("format", kind, ("table", *FORMATS))
    table = api.open_study(study, runs=runs, storage=storage).leaderboard()
    if out is not None:
        _write(out, format_table(table, kind))
        _say(f"{len(table)} trials written to {out}")
    elif kind == "table":
        _print_table(
            _fold_intervals(table.drop(columns=[c for c in table if str(c).startswith("params_") or c == "has_model"])),
            title=study,
        )
        if table.empty:
            _say("No trial is finished yet.")
    else:
        click.echo(format_table(table, kind), nl=False)


def _fold_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Write each pair of ``_low`` and ``_high`` columns as one text, for the screen."""
    folded = {}
    for column in map(str, table.columns):
        if column.endswith("_low"):
            pairs = zip(table[column], table[column.removesuffix("_low") + "_high"], strict=True)
            folded[column.removesuffix("_low") + " 95%"] = [f"{low:.3f}..{high:.3f}" for low, high in pairs]
        elif not column.endswith("_high"):
            folded[column] = list(table[column])
    return table.assign(**folded)[list(folded)]


# -------------------------------------------------------------------------------------------------------- ensemble


@commands.group()
def ensemble() -> None:
    """Combine the best trials of a study."""


@ensemble.command("build")
@click.argument("study")
@click.option("--top", type=click.IntRange(1), default=6, show_default=True, help="Members at most, best trials first.")
@click.option("--method", default="ga", show_default=True, metavar="NAME", help="Weights by ga, greedy, average or best.")
@click.option("--name", help="Name of the ensemble  [default: method and members]")
@click.option("--seed", type=click.IntRange(0), help="Of the genetic algorithm  [default: the study's]")
@_place_options
@_json_option
@_debug_option
def build_ensemble(
    study: str,
    top: int,
    method: str,
    name: str | None,
    seed: int | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Fit ensemble weights over the best trials of STUDY on validation macro-F1."""
    import pandas as pd

    from automl_cxr import api
    from automl_cxr.results.ensembles import describe_ensemble

    built = api.open_study(study, runs=runs, storage=storage).ensemble(top=top, method=method, seed=seed, name=name)
    if as_json:
        _print_json({**vars(built), "folder": str(built.folder), "interval": vars(built.interval)})
        return
    if len(built.trials) < top:
        _say(f"Only {len(built.trials)} finished trials have a model, so there are fewer members than --top {top}.")
    members = {"trial": built.trials, "weight": built.weights, "validation macro-F1": built.member_scores}
    _print_table(pd.DataFrame(members), title="members")
    methods = {"method": list(built.scores), "validation macro-F1": list(built.scores.values())}
    _print_table(pd.DataFrame(methods), title="the same members by every method")
    click.echo(describe_ensemble(built))
    click.echo(f"ensemble: {built.folder}")


# ---------------------------------------------------------------------------------------- evaluate, predict, watch


@commands.command()
@click.argument("target", metavar="STUDY|ENSEMBLE")
@click.option(
    "--split",
    "part",
    default="test",
    show_default=True,
    metavar="PART",
    help="test, valid or train; opening test is recorded.",
)
@_trial_option
@click.option("--data", metavar="DIR", help="Where the data are now  [default: where they were]")
@_place_options
@_json_option
@_debug_option
def evaluate(
    target: str, part: str, trial: int | None, data: str | None, runs: str | None, storage: str | None, as_json: bool
) -> None:
    """Score a study's best trial, or an ensemble, on a part of the study's images."""
    from automl_cxr import api

    classifier = api.open_classifier(target, trial=trial, runs=runs, storage=storage)
    study = api.open_study(classifier.study, runs=runs, storage=storage)
    with _progress_bar("predicting") as on_progress:
        result = study.evaluate(classifier, part=part, data=data, on_progress=on_progress)
    if as_json:
        _print_json(
            {
                "study": study.name,
                "classifier": result.classifier,
                "split": result.part,
                "images": len(result.predictions),
                "scores": result.scores,
                "intervals": {name: vars(interval) for name, interval in result.intervals.items()},
                "confusion": result.confusion.to_dict(orient="index"),
                "unreadable": result.unreadable,
                "test_opened": result.n_opened,
            }
        )
        return
    _print_evaluation(study.name, result)


def _print_evaluation(study: str, result: Any) -> None:
    import pandas as pd

    n_patients = len(set(result.predictions.patients))
    click.echo(f"{study}, {result.classifier}, {result.part} part: {len(result.predictions)} images, {n_patients} patients")
    rows = [
        {"metric": name, "score": result.scores[name], "95% interval": f"{interval.low:.3f}..{interval.high:.3f}"}
        for name, interval in result.intervals.items()
    ]
    _print_table(pd.DataFrame(rows), title="scores")
    _print_table(result.per_class.reset_index(), title="per class")
    _print_table(result.confusion.reset_index(names="true \\ predicted"), title="confusion matrix")
    for image, reason in result.unreadable.items():
        _say(f"left out: {_shown_path(image)}: {reason}")
    if result.n_opened == 1:
        _say("The test part is now open; the study has recorded it.")
    elif result.n_opened > 1:
        _say(f"The test part has now been opened {result.n_opened} times; choosing by it makes its scores too good.")


@commands.command()
@click.argument("target", metavar="STUDY|ENSEMBLE")
@click.argument("paths", nargs=-1, required=True, metavar="PATHS...")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="CSV file to write  [default: the screen]")
@_trial_option
@_place_options
@_json_option
@_debug_option
def predict(
    target: str,
    paths: tuple[str, ...],
    out: Path | None,
    trial: int | None,
    runs: str | None,
    storage: str | None,
    as_json: bool,
) -> None:
    """Classify image files and all images in folders."""
    from automl_cxr import api
    from automl_cxr.results.leaderboard import format_table, safe_cells

    classifier = api.open_classifier(target, trial=trial, runs=runs, storage=storage)
    with _progress_bar("predicting") as on_progress:
        table, problems = api.predict(classifier, paths, on_progress=on_progress)
    for path, reason in problems.items():
        _say(f"not predicted: {_shown_path(path)}: {reason}")
    text = format_table(table, "json") if as_json else safe_cells(table).to_csv(index=False)
    if out is None:
        click.echo(text, nl=False)
    else:
        _write(out, text)
        _say(f"{len(table)} images predicted, {len(problems)} not; written to {out}")
    if table.empty:
        raise click.exceptions.Exit(1)


@commands.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on; others than this one are open to the network.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@_place_options
@_debug_option
def dashboard(host: str, port: int, runs: str | None, storage: str | None) -> None:
    """Browse all studies in the Optuna dashboard, until Ctrl-C."""
    from automl_cxr import api
    from automl_cxr.results.dashboard import serve_dashboard

    _, url = api.locate(runs, storage)
    serve_dashboard(url, host=host, port=port, on_ready=lambda: _say(f"Dashboard at http://{host}:{port} (Ctrl-C ends it)"))


# ------------------------------------------------------------------------------------------------------- words out


def _print_table(table: pd.DataFrame, *, title: str) -> None:
    """Draw a table on stdout at the width that it needs: a figure cut short is worse than a wrapped line."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in table:
        is_text = table[column].map(lambda cell: isinstance(cell, str)).all()
        drawn.add_column(Text(str(column)), justify="left" if is_text else "right", no_wrap=True)
    for row in table.itertuples(index=False):
        drawn.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    needed = console.measure(drawn, options=console.options.update(width=10_000)).maximum
    Console(width=max(console.width, needed)).print(drawn)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return f"{value:,}" if isinstance(value, Integral) else str(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown_path(path: str) -> str:
    """Write a path on one line, whatever it is made of."""
    return path.encode("utf-8", "backslashreplace").decode().translate({10: "\\n", 13: "\\r", 9: "\\t"})


def _print_json(value: Mapping[str, Any]) -> None:
    import json

    click.echo(json.dumps(value, indent=1, ensure_ascii=False, default=_plain))


def _plain(value: Any) -> Any:
    """Turn mappings, records and NumPy scalars into what JSON knows."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if hasattr(value, "item") else str(value)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot write {path} ({error.strerror or error}). Name another --out.") from error


def _progress_bar(what: str) -> Any:
    """Make a context whose value draws a bar on stderr, if that is a terminal and there is anything to do."""
    import contextlib

    @contextlib.contextmanager
    def bar() -> Any:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True), transient=True) as progress:
            tasks: list[Any] = []

            def on_progress(n_done: int, n_all: int) -> None:
                if not tasks:
                    tasks.append(progress.add_task(what, total=n_all))
                progress.update(tasks[0], completed=n_done, total=n_all)

            yield on_progress

    return bar()
