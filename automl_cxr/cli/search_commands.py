"""`automl-cxr search`, `automl-cxr spaces` and `automl-cxr systems`."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import (
    Duration,
    Size,
    data_options,
    debug_option,
    json_option,
    place_options,
    set_option,
    use_study_file,
)
from automl_cxr.cli.output import print_json, progress_bar, short
from automl_cxr.errors import UsageError

if TYPE_CHECKING:
    from automl_cxr.study.trial_counts import TrialCounts

_REASONS_SHOWN = 5


@click.command()
@click.option(
    "--study",
    metavar="FILE",
    is_eager=True,
    expose_value=False,
    callback=use_study_file,
    help="TOML file with values for the options below; words typed here win.",
)
@click.option(
    "--space",
    metavar="NAME|FILE",
    help="Search space: a name of `automl-cxr spaces`, or a TOML file  [default: scratch]",
)
@set_option
@click.option("--weights", "weights_folder", metavar="DIR", help="Folder that pretrained weights are looked for in first.")
@click.option("--data", metavar="DIR", help="Folder or CSV table of radiographs  [default: phantom images]")
@click.option("--name", help="Name of the study; the same name continues it  [default: made of space and data]")
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Trials in total, those of earlier searches included  [default: 20 if nothing else ends the search]",
)
@click.option("--time", "seconds", type=Duration(), help="Wall time of this search, such as 45m, 2h or 1h30m.")
@click.option("--total-epochs", type=click.IntRange(1), help="No further trial begins once all took so many epochs together.")
@click.option("--target", type=float, metavar="SCORE", help="The search ends when a trial's score is as good as this.")
@click.option(
    "--trial-time",
    "trial_seconds",
    type=Duration(),
    help="Wall time of a trial; one that takes longer is stopped there, whatever hangs in it.",
)
@click.option("--epochs", type=click.IntRange(1), help="Passes over the training images at most, a trial  [default: 30]")
@click.option("--image-size", type=click.IntRange(16, 2048), help="Height and width in pixels  [default: 112]")
@click.option("--fit", metavar="NAME", help="How an image meets its square: stretch, pad or crop  [default: stretch]")
@click.option("--batch-size", type=click.IntRange(1, 4096), help="Images a gradient step  [default: 32]")
@click.option(
    "--views",
    type=click.IntRange(0, 100),
    help="Augmented views of each image that are drawn once and kept as features of frozen layers, for epochs to take in turn"
    "  [default: 0, drawn anew in each epoch, from pixels]",
)
@click.option(
    "--objective",
    metavar="METRIC",
    multiple=True,
    help="Validation score that ranks trials: macro_f1, accuracy, balanced_accuracy, cohen_kappa, macro_auc, "
    "macro_average_precision, log_loss, calibration_error, fnfr, sensitivity_at_90_specificity or "
    "sensitivity_at_95_specificity. Repeatable for a Pareto front, with costs too: "
    "parameters, multiply_adds, weight_bytes, latency; the first ranks  [default: macro_f1]",
)
@click.option(
    "--require",
    metavar="BOUND",
    multiple=True,
    help="Bound on a metric or a cost that the best trial must keep, such as parameters<=10e6 or fnfr<=0.05; repeatable.",
)
@click.option(
    "--normal-class",
    metavar="CLASS",
    help="Class without a finding, for FNFR and sensitivities  [default: guessed from the names]",
)
@click.option(
    "--sampler",
    metavar="NAME",
    help="Who proposes trials: tpe, random, gp, cmaes, qmc, grid, nsga2 or nsga3 of Optuna, "
    "kt-hyperband, kt-bayesian, kt-random or kt-grid of KerasTuner  [default: tpe]",
)
@click.option(
    "--pruner",
    metavar="NAME",
    help="Who stops trials early: asha, hyperband, median or none; with --folds wilcoxon, median or none; "
    "kt-hyperband stops by itself  [default: asha; with --folds wilcoxon]",
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Decides split, proposals and weights  [default: 0]")
@click.option(
    "--fidelity",
    metavar="NAME",
    help="What the rungs of kt-hyperband raise: epochs, or image_size together with them  [default: epochs]",
)
@click.option(
    "--warm-start", metavar="STUDY", help="Begin with the best configurations of an earlier study, and learn from it."
)
@click.option("--warm-start-top", type=click.IntRange(1), help="How many of its best configurations are tried  [default: 5]")
@click.option("--valid-fraction", type=float, help="Share of the images that chooses epochs and trials  [default: 0.15]")
@click.option("--test-fraction", type=float, help="Share of the images that stays sealed  [default: 0.15]")
@click.option(
    "--folds",
    type=click.IntRange(2),
    help="Cross-validate each trial: a network for each fold, judged by the images it did not learn from"
    "  [default: one network and one validation part]",
)
@data_options
@click.option(
    "--executor", default="ray", show_default=True, metavar="NAME", help="ray, or inline: one by one in this process."
)
@click.option("--concurrency", type=click.IntRange(1), help="Trials at once  [default: what the machine holds]")
@click.option(
    "--together",
    "batch_trials",
    type=click.IntRange(1),
    help="Trials at most that run as one where they are cheap, such as heads on frozen features; 1 runs each alone"
    "  [default: 16, or an eighth of --trials where the sampler learns]",
)
@click.option("--cpus-per-trial", type=click.FloatRange(0.1), help="CPU cores of each trial.")
@click.option(
    "--gpus-per-trial",
    type=click.FloatRange(0),
    help="GPUs of each trial; 0.5 puts two on one, with half of its memory each; 2 spreads one over two.",
)
@click.option(
    "--memory-per-trial", type=Size(), help="Main memory of each trial, such as 6GB  [default: its share of the machine's]"
)
@click.option("--address", help="Address of a running Ray cluster  [default: $RAY_ADDRESS, else Ray starts on this machine]")
@click.option(
    "--keep-models",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Best trials that keep their model on disk.",
)
@click.option(
    "--disk-budget", type=Size(), help="Room for models and checkpoints, such as 20GB; beyond it the worst models go."
)
@place_options
@json_option
@debug_option
def search(
    as_json: bool,
    fixed: tuple[tuple[str, Any], ...],
    views: int | None,
    concurrency: int | None,
    cpus_per_trial: float | None,
    gpus_per_trial: float | None,
    memory_per_trial: int | None,
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
            concurrency=concurrency,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
            memory_per_trial=memory_per_trial,
            address=address,
        )
    elif any(value is not None for value in (concurrency, cpus_per_trial, gpus_per_trial, memory_per_trial, address)):
        raise UsageError(
            "--concurrency, --cpus-per-trial, --gpus-per-trial, --memory-per-trial and --address are Ray's; "
            f"received --executor {executor}."
        )
    study = api.search(
        **settings,
        fixed={**dict(fixed), **({} if views is None else {"views": views})} or None,
        executor=executor,
        resources=resources,
        command=" ".join(sys.argv[1:]),
        decoding=progress_bar("decoding"),
    )
    _print_search(study, as_json)


def _print_search(study: Any, as_json: bool) -> None:
    states = [str(trial.state) for trial in study.trials]
    best, tally = study.best, study.tally()
    if as_json:
        print_json(
            {
                "study": study.name,
                "trials": {state: states.count(state) for state in sorted(set(states))},
                "tally": vars(tally),
                "best": None if best is None else {"trial": best.number, "score": best.score, "params": dict(best.params)},
                **_pareto_as_json(study),
            }
        )
        return
    click.echo(repr(study))
    _print_trial_counts(tally)
    if len(study.objectives) > 1:
        for trial in study.pareto_front:
            values = zip(study.objectives, trial.values, strict=True)
            click.echo(
                f"on the Pareto front: trial {trial.number}, {', '.join(f'{name} {value:,.6g}' for name, value in values)}"
            )
    if best is not None:
        if best.params:  # a published system searches none
            click.echo("best parameters: " + ", ".join(f"{name}={short(value)}" for name, value in best.params.items()))
        click.echo(
            f"next: automl-cxr leaderboard {shlex.quote(study.name)}    automl-cxr ensemble build {shlex.quote(study.name)}"
        )


def _print_trial_counts(tally: TrialCounts) -> None:
    counts = {
        "asked for": tally.asked,
        "complete": tally.complete,
        "pruned": tally.pruned,
        "of them refused before training": tally.refused,
        "failed": tally.n_failed,
        "promoted": tally.promoted,
        "run again": sum(tally.retried.values()),
        "running elsewhere": tally.running,
        "left by a dead search": tally.left,
        "waiting": tally.waiting,
    }
    click.echo("trials: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))
    if tally.asked_in_full is not None:
        click.echo(f"of {tally.asked_in_full} trials that the sampler plans to the last epoch, {tally.complete} are complete")
    for what, reasons in (("failed", tally.failed), ("run again", tally.retried)):
        for reason, count in list(reasons.items())[:_REASONS_SHOWN]:
            click.echo(f"{what}, {count} x: {reason}")
        if len(reasons) > _REASONS_SHOWN:
            click.echo(f"{what}: {len(reasons) - _REASONS_SHOWN} other reasons (--json tells them)")


def _pareto_as_json(study: Any) -> dict[str, Any]:
    if len(study.objectives) == 1:
        return {}
    front = [{"trial": trial.number, **dict(zip(study.objectives, trial.values, strict=True))} for trial in study.pareto_front]
    return {"pareto": front}


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def spaces(context: click.Context, as_json: bool) -> None:
    """List the search spaces, or show one."""
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
        click.echo(f"{name:10} {space.description} ({len(space.parameters)} hyperparameters)")


@spaces.command("show")
@click.argument("name")
@debug_option
def show_space(name: str) -> None:
    """Print the TOML of a space, to copy and change."""
    from automl_cxr.study.spaces import load_space, read_space

    load_space(name)
    click.echo(read_space(name), nl=False)


@click.command()
@json_option
@debug_option
def systems(as_json: bool) -> None:
    """List the published systems and examples: study files for `search --study` and `describe`."""
    from automl_cxr.study.spaces import shipped
    from automl_cxr.study.study_files import read_study_file

    files = {name: read_study_file(path) for name, path in shipped("studies").items()}
    if as_json:
        print_json({name: vars(file) for name, file in files.items()})
        return
    for name, file in files.items():
        click.echo(f"{name:24} {file.description}")
