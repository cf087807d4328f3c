"""Serves the Optuna dashboard for the storage of studies, with notes, figures and trial pages."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from automl_cxr.errors import UsageError
from automl_cxr.results.dashboard.access import Access, Application, protect
from automl_cxr.storage.urls import open_existing_storage


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    """A server with one thread for each request, so that a slow page does not block other requests or Ctrl-C."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """A request handler without an access log."""

    def log_message(self, *_: object) -> None:
        """Ignore the message."""


def serve_dashboard(
    storage: str,
    *,
    runs: Path,
    host: str,
    port: int,
    other_hosts: Collection[str] = (),
    allow_changes: bool = False,
    on_ready: Callable[[str], None],
) -> None:
    """Serve the dashboard until the process is interrupted. A browser needs the token that the address contains.

    Args:
        storage: Optuna storage URL, which must exist.
        runs: Folder of the studies' files.
        host: Address to listen on. HTTP is not encrypted: on a network that others can read, use an SSH tunnel.
        port: Port to listen on.
        other_hosts: Further host names under which browsers may open the dashboard, such as that of a reverse proxy.
        allow_changes: Allow browsers to create, rename and delete studies, to change trials and to attach files. Otherwise
            only notes can be written.
        on_ready: Called with the address of the dashboard when the server accepts requests.

    Raises:
        StudyError: The storage does not exist.
        UsageError: The server cannot listen on the address.
    """
    access = Access(host=host, port=port, other_hosts=other_hosts, allow_changes=allow_changes)
    app = protect(dashboard_app(open_existing_storage(storage), runs), access)
    try:
        server = make_server(host, port, app, server_class=_ThreadedServer, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"The dashboard cannot listen on {host}:{port} ({error}). Choose another --port or --host.") from error
    with server:
        on_ready(access.url)
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the usual way to stop the server
            server.serve_forever()


def dashboard_app(backend: Any, runs: Path) -> Application:
    """Return the dashboard as a WSGI application that computes notes and figures when the details of a study are requested.

    Args:
        backend: The studies' Optuna storage.
        runs: Folder of the studies' files.
    """
    from optuna_dashboard import wsgi  # takes two seconds to import

    from automl_cxr.results.dashboard.augmented_storage import AugmentedStorage, TrialArtifacts
    from automl_cxr.results.dashboard.dashboard_attributes import STUDY_ROUTE

    warnings.filterwarnings("ignore", module="optuna")  # warnings about too few trials for a figure
    storage = AugmentedStorage(backend, runs)
    app = wsgi(storage, artifact_store=TrialArtifacts(storage, runs))

    def augmented_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match = STUDY_ROUTE.fullmatch(environ.get("PATH_INFO", ""))
        if match is not None and environ.get("REQUEST_METHOD") == "GET":
            storage.load_augmented_study(int(match[1]))
        return app(environ, start_response)

    return augmented_app
