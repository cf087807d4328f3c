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
    help="Network address to listen on. The proxy has no login, so other addresses than the default need --insecure.",
)
@click.option("--port", type=click.IntRange(1, 65535), default=13000, show_default=True, help="TCP port to listen on.")
@click.option(
    "--insecure",
    is_flag=True,
    help="Accept that everyone who can reach the address can read, change and delete all studies.",
)
@location_options
@debug_option
def serve(host: str, port: int, insecure: bool, runs: str | None, storage: str | None) -> None:
    """Serve the storage as Optuna's gRPC proxy until Ctrl-C. Other machines use --storage grpc://HOST:PORT.

    The proxy has no login. By default, only users of this machine and of an SSH tunnel can reach it.
    """
    from automl_cxr import api
    from automl_cxr.storage.passwords import without_password
    from automl_cxr.storage.urls import is_loopback, serve_storage

    _, url = api.locate(runs, storage)

    def print_address() -> None:
        who = "every user of this machine" if is_loopback(host) else "everyone who can reach this address"
        print_message(
            f"Serving {without_password(url)} as grpc://{host}:{port} (stop with Ctrl-C). There is no login: {who} can read, "
            "change and delete all studies."
        )

    serve_storage(url, host=host, port=port, insecure=insecure, on_ready=print_address)
