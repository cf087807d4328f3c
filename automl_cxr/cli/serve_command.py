"""The command `serve`."""

from __future__ import annotations

from pathlib import Path

import click

from automl_cxr.cli.options import Size, debug_option, location_options, mirrored_option, trial_option
from automl_cxr.cli.output import print_message
from automl_cxr.cli.sections import CommandSection, SectionedCommand
from automl_cxr.cli.targets import open_target


@click.command(cls=SectionedCommand, section=CommandSection.SHIP, short_help="Serve a classifier over HTTP, with a web page.")
@click.argument("target", metavar="STUDY|ENSEMBLE")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Network address to listen on. Any other address than the default is reachable from the network, and needs a token.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="TCP port to listen on.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File with the token that requests need  [default: the variable AUTOML_CXR_TOKEN, else no token]",
)
@click.option(
    "--allow-host",
    "other_hosts",
    multiple=True,
    metavar="NAME",
    help="Another host name of the server, such as that of a reverse proxy. Repeatable.",
)
@click.option(
    "--abstain",
    type=float,
    metavar="SHARE",
    help="Add the decision by conformal sets with this coverage of each class, such as 0.9, to each answer.",
)
@click.option("--max-upload", type=Size(), default="64MiB", show_default=True, help="Largest upload.")
@click.option(
    "--max-waiting",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Largest number of uploads in progress; further ones are refused with status 503 until some are finished.",
)
@trial_option
@mirrored_option
@location_options
@debug_option
def serve(
    target: str,
    host: str,
    port: int,
    token_file: Path | None,
    other_hosts: tuple[str, ...],
    abstain: float | None,
    max_upload: int,
    max_waiting: int,
    trial: int | None,
    mirrored: bool,
    runs: str | None,
    storage: str | None,
) -> None:
    """Serve a study's recommended classifier, or an ensemble, over HTTP until Ctrl-C. For research only.

    The printed address is a page on which a person drops an image. Programs send images to /predict; /docs describes the API.
    """
    from automl_cxr import api
    from automl_cxr.serving.server import ServerOptions, check_token, read_token

    token = read_token(token_file)
    check_token(host, token)
    classifier = open_target(target, trial=trial, runs=runs, storage=storage, mirrored=mirrored)
    options = ServerOptions(
        host=host,
        port=port,
        other_hosts=other_hosts,
        token=token,
        abstain=abstain,
        max_bytes=max_upload,
        max_waiting=max_waiting,
    )
    api.serve(
        classifier,
        options,
        runs=runs,
        storage=storage,
        on_ready=lambda address: print_message(f"Serving at {address} (stop with Ctrl-C)"),
    )
