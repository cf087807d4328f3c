"""The commands of `automl-cxr storage`."""

from __future__ import annotations

import click

from automl_cxr.cli.options import debug_option, location_options
from automl_cxr.cli.output import print_message
from automl_cxr.cli.sections import CommandSection, SectionedGroup


@click.group(cls=SectionedGroup, section=CommandSection.MAINTAIN, short_help="Give other machines access to the studies.")
def storage() -> None:
    """Give other machines access to the storage of the studies."""


@storage.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Network address to listen on. Any other address than the default is reachable from the network, without a login.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True, help="TCP port to listen on.")
@location_options
@debug_option
def serve(host: str, port: int, runs: str | None, storage: str | None) -> None:
    """Serve the storage as Optuna's gRPC proxy until Ctrl-C. Other machines use --storage grpc://HOST:PORT."""
    from automl_cxr import api
    from automl_cxr.storage.urls import serve_storage, without_password

    _, url = api.locate(runs, storage)

    def print_address() -> None:
        print_message(f"Serving {without_password(url)} as grpc://{host}:{port} (stop with Ctrl-C)")

    serve_storage(url, host=host, port=port, on_ready=print_address)
