"""The command line: each command parses words, makes one call, and prints. Heavy libraries load inside the commands."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Sequence

import click

from automl_cxr.cli.cache_commands import cache
from automl_cxr.cli.data_commands import data
from automl_cxr.cli.ensemble_commands import ensemble
from automl_cxr.cli.error_command import errors
from automl_cxr.cli.explain_command import explain
from automl_cxr.cli.export_commands import export
from automl_cxr.cli.leaderboard_command import leaderboard
from automl_cxr.cli.model_commands import describe
from automl_cxr.cli.options import debug_option, wants_debug
from automl_cxr.cli.output import say
from automl_cxr.cli.report_command import report
from automl_cxr.cli.results_commands import dashboard, evaluate, importance, predict
from automl_cxr.cli.search_commands import search, spaces, systems
from automl_cxr.cli.splice_command import splice
from automl_cxr.cli.storage_commands import storage
from automl_cxr.cli.studies_commands import studies
from automl_cxr.cli.verify_commands import replay, verify
from automl_cxr.errors import AutomlCxrError
from automl_cxr.version import __version__

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code: 0 done, 1 failed, 2 wrong words, 130 interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's way to say Ctrl-C
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return commands.main(arguments, prog_name="automl-cxr", standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        words = sys.argv[1:] if arguments is None else arguments
        is_search = "search" in words[:2]
        say("Interrupted. What was finished is kept; the same command continues." if is_search else "Interrupted.")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has left; so do we, quietly
        return 0
    except AutomlCxrError as error:
        _explain(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the border: a stranger gets a sentence, --debug the rest
        _explain(f"{type(error).__name__}: {error}" + ("" if wants_debug() else " (--debug shows where)"))
        return 1


def _explain(message: str) -> None:
    if wants_debug():
        traceback.print_exc()
    say(f"automl-cxr: {message}")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="automl-cxr")
@debug_option
def commands() -> None:
    """Find the best chest X-ray classifier that a budget allows.

    Begin with `automl-cxr search`, which explains itself on phantom images, or with `automl-cxr data inspect DIR`.
    """


# Lists of commands are narrow: a line each, shorter than the sentence that a command's own help begins with.
SUMMARIES = {
    search: "Search for the best classifier, or go on searching.",
    splice: "Score every pair of cuts of two networks.",
    spaces: "List the search spaces, or show one.",
    systems: "List published systems to search or train by name.",
    studies: "List your studies; or show, copy or delete one.",
    describe: "Show the layers and the cost of a network.",
    data: "Look at data, audit them, or draw phantoms.",
    cache: "Show or clear what is kept of images.",
    leaderboard: "Rank the finished trials, with intervals.",
    importance: "Tell which hyperparameters decided.",
    report: "Write a report of a study as one HTML file.",
    ensemble: "Combine trials, or other programs' models.",
    evaluate: "Score a trial or an ensemble on the test part.",
    errors: "Show what trials and ensembles get wrong.",
    predict: "Classify image files and folders of them.",
    explain: "Show where a classifier finds its evidence.",
    export: "Write a trial or an ensemble as one model file.",
    replay: "Train a trial again and compare.",
    verify: "Check files, models and scores of a study.",
    dashboard: "Browse all studies in the Optuna dashboard.",
    storage: "Let other machines reach the studies.",
}
for command, summary in SUMMARIES.items():
    command.short_help = summary
    commands.add_command(command)
