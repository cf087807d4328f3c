"""Serves the Optuna dashboard over a studies' storage, on which trials have pictures, notes and figures."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from automl_cxr.errors import UsageError
from automl_cxr.storage.urls import open_existing_storage


class _ThreadedServer(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread, so that a slow page holds up neither the others nor Ctrl-C."""

    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    """Does not write a line for every request."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def serve_dashboard(storage: str, *, runs: Path, host: str, port: int, on_ready: Callable[[], None]) -> None:
    """Serve until the process is interrupted.

    Args:
        storage: Optuna storage URL, which must exist.
        runs: Folder of the studies' files, of which the pictures of trials are made.
        host: Address to listen on. The dashboard has no login: others than 127.0.0.1 let the network in.
        port: Port to listen on.
        on_ready: Called when requests are answered.

    Raises:
        StudyError: There is no such storage.
        UsageError: The address cannot be listened on.
    """
    from optuna_dashboard import wsgi  # two seconds to load

    from automl_cxr.results.dashboard.augmented_storage import AugmentedStorage, TrialArtifacts

    warnings.filterwarnings("ignore", module="optuna")  # remarks on the numbers of trials that pages ask figures of
    shown = AugmentedStorage(open_existing_storage(storage), runs)
    app = _looking(wsgi(shown, artifact_store=TrialArtifacts(shown, runs)), shown.load_augmented_study)
    try:
        server = make_server(host, port, app, server_class=_ThreadedServer, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        raise UsageError(f"The dashboard cannot listen on {host}:{port} ({error}). Choose another --port or --host.") from error
    with server:
        on_ready()
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it
            server.serve_forever()


_Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]  # WSGI


def _looking(app: _Application, load_augmented_study: Callable[[int], None]) -> _Application:
    """Have a study looked at whenever a page asks for its details."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = re.fullmatch(r"/api/studies/(\d+)/?", environ.get("PATH_INFO", ""))
        if found is not None and environ.get("REQUEST_METHOD") == "GET":
            load_augmented_study(int(found[1]))
        return app(environ, start_response)

    return answer
