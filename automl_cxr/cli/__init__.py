"""The command line. Each command parses its arguments, makes one call, and prints the result.

Heavy libraries are imported inside the commands, so that `automl-cxr --help` is fast.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from automl_cxr.cli.cache_commands import cache
from automl_cxr.cli.data_commands import data
from automl_cxr.cli.ensemble_commands import ensemble
from automl_cxr.cli.error_command import errors
from automl_cxr.cli.explain_command import explain
from automl_cxr.cli.export_commands import export
from automl_cxr.cli.leaderboard_command import leaderboard
from automl_cxr.cli.model_commands import describe
from automl_cxr.cli.options import debug_option, is_debug
from automl_cxr.cli.output import escape_messages_of_libraries, print_message, print_text
from automl_cxr.cli.report_command import report
from automl_cxr.cli.results_commands import dashboard, evaluate, importance, predict
from automl_cxr.cli.search_commands import search, spaces, systems
from automl_cxr.cli.sections import SectionedGroup
from automl_cxr.cli.serve_command import serve
from automl_cxr.cli.splice_command import splice
from automl_cxr.cli.storage_commands import storage
from automl_cxr.cli.studies_commands import studies
from automl_cxr.cli.subgroups_command import subgroups
from automl_cxr.cli.track_command import track
from automl_cxr.cli.unexpected_errors import describe_unexpected
from automl_cxr.cli.verify_commands import replay, verify
from automl_cxr.cli.weights_command import weights
from automl_cxr.errors import AutomlCxrError, UsageError
from automl_cxr.version import __version__

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 success, 1 the operation failed, 2 usage error, 130 interrupted by Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # job schedulers send SIGTERM; handle it like Ctrl-C
    escape_messages_of_libraries()
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        return commands.main(arguments, prog_name="automl-cxr", standalone_mode=False) or 0
    except click.ClickException as error:
        with io.StringIO() as text:
            error.show(text)
            print_text(text.getvalue(), err=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        typed = sys.argv[1:] if arguments is None else arguments
        is_search = "search" in typed[:2]
        message = "Interrupted. Finished trials are stored; the same command continues the search."
        print_message(message if is_search else "Interrupted.")
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of stdout has closed it, such as `head`
        return 0
    except AutomlCxrError as error:
        _print_error(str(error))
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - users get one line; --debug shows the traceback
        _print_error(describe_unexpected(error) + ("" if is_debug() else " (--debug shows the traceback)"))
        return 1


def _print_error(message: str) -> None:
    if is_debug():
        print_text(traceback.format_exc(), err=True)
    print_message(f"automl-cxr: {message}")


@click.group(cls=SectionedGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="automl-cxr")
@debug_option
def commands() -> None:
    """Find the best chest X-ray classifier that a budget allows.

    Start with `automl-cxr search`, which uses phantom images if no data are given, or with `automl-cxr data inspect DIR`.
    """
    try:
        Path.cwd()
    except OSError as error:  # relative paths cannot be resolved, and no process of Ray starts
        raise UsageError(
            f"The working directory must exist and be accessible ({error.strerror or error}). Change to another one with `cd`."
        ) from error


for command in (
    *(data,),
    *(search, splice, spaces, systems, describe, weights),
    *(leaderboard, importance, report, ensemble, evaluate, errors, subgroups, explain, dashboard, track),
    *(predict, serve, export),
    *(studies, replay, verify, cache, storage),
):
    commands.add_command(command)
