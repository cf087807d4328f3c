"""Serves the Optuna dashboard over a studies' storage."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from automl_cxr.errors import UsageError
from automl_cxr.study.storages import open_existing_storage


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread, so that a slow page holds up neither the others nor Ctrl-C."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Does not write a line for every request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve_dashboard(storage: str, *, host: str, port: int, on_ready: Callable[[], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        storage: Optuna storage URL, which must exist.
        host: Address to listen on. The dashboard has no login: others than 127.0.0.1 let the network in.
        port: Port to listen on.
        on_ready: Called when requests are answered.

    Raises:
        StudyError: There is no such storage.
        UsageError: The address cannot be listened on.
    """
    from optuna_dashboard import wsgi  # two seconds to load

    warnings.filterwarnings("ignore", module="optuna")  # remarks on the numbers of trials that pages ask figures of
    app = wsgi(open_existing_storage(storage))
    try:
        server = make_server(host, port, app, server_class=_ThreadedServer, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"The dashboard cannot listen on {host}:{port} ({error}). Choose another --port or --host.") from error
    with server:
        on_ready()
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.serve_forever()
