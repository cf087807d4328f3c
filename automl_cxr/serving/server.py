"""Runs the server."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.errors import UsageError
from automl_cxr.request_rules import RequestRules, is_loopback
from automl_cxr.results.abstention import calibrate_classifier
from automl_cxr.results.classifier import Classifier
from automl_cxr.serving.known_images import KnownImages

TOKEN_VARIABLE = "AUTOML_CXR_TOKEN"  # noqa: S105 - the name of a variable
_MIN_TOKEN = 16  # characters
_SHUTDOWN_SECONDS = 30  # for the requests in progress


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of a server.

    Attributes:
        host: Address to listen on. Any other than a loopback address needs a token.
        port: Port to listen on.
        other_hosts: Further host names under which it may be opened, such as that of a reverse proxy.
        token: Secret that requests need; "" for none.
        abstain: Stated coverage of the conformal sets; None for no abstention.
        max_bytes: Largest upload, in bytes.
        max_waiting: Largest number of uploads in progress; others are refused with status 503.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    other_hosts: Collection[str] = ()
    token: str = ""
    abstain: float | None = None
    max_bytes: int = 64 * 2**20
    max_waiting: int = 256


def serve_classifier(
    classifier: Classifier,
    options: ServerOptions,
    *,
    record_test_use: Callable[[], list[str]],
    on_ready: Callable[[str], None],
) -> None:
    """Serve a classifier until the process is interrupted.

    Args:
        classifier: The classifier.
        options: Address, token and limits.
        record_test_use: See ``KnownImages``.
        on_ready: Called with the address when the server accepts requests.

    Raises:
        UsageError: A package is not installed, there is no token for an address beyond this machine, or the server cannot
            listen on the address.
    """
    check_token(options.host, options.token)
    try:
        import uvicorn

        from automl_cxr.serving.app import build_app
        from automl_cxr.serving.request_filter import Limits, RequestFilter
        from automl_cxr.serving.service import PredictionService, ServiceOptions
    except ImportError as error:
        raise UsageError(
            f"`automl-cxr serve` needs more packages; received {error}. Run: pip install 'automl-cxr[serve]'."
        ) from error

    with _listen(options.host, options.port) as listening:
        sets = None if options.abstain is None else calibrate_classifier(classifier, options.abstain)
        known = KnownImages(classifier, record_test_use)
        service = PredictionService(classifier, ServiceOptions(sets=sets, max_bytes=options.max_bytes), known)
        rules = RequestRules(host=options.host, port=options.port, other_hosts=options.other_hosts, token=options.token)
        app = RequestFilter(build_app(service), rules, Limits(options.max_bytes, options.max_waiting))
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=_SHUTDOWN_SECONDS
        )
        with service, contextlib.suppress(KeyboardInterrupt):  # Ctrl-C is the usual way to stop the server
            gc.freeze()  # no collection has to visit the networks, neither between requests nor at the end
            on_ready(_address(options.host, listening.getsockname()[1]))
            uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Open the socket before the networks are loaded, so that a wrong address is reported early.

    Raises:
        UsageError: The server cannot listen on the address.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(f"The server cannot listen on {host}:{port} ({error}). Choose another --port or --host.") from error


def _address(host: str, port: int) -> str:
    name = socket.gethostname() if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared only
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/"


def read_token(file: Path | None) -> str:
    """Return the token in a file, else that in the environment variable ``TOKEN_VARIABLE``; "" for none.

    Raises:
        UsageError: The file cannot be read, or contains no token.
    """
    if file is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot read the token in {file} ({error}). Choose another --token-file.") from error
    if not token:
        raise UsageError(f"A --token-file must contain a token; {file} is empty. Write one with `openssl rand -hex 24`.")
    return token


def check_token(host: str, token: str) -> None:
    """Check that a server beyond this machine has a token.

    Raises:
        UsageError: It has none, or a short one.
    """
    if not token and not is_loopback(host):
        raise UsageError(
            f"A server that other machines can reach needs a token; received --host {host} without one. Set the variable "
            f"{TOKEN_VARIABLE} or --token-file, for example to the output of `openssl rand -hex 24`."
        )
    if token and (len(token) < _MIN_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise UsageError(
            f"A token must have at least {_MIN_TOKEN} printable ASCII characters without spaces; received {len(token)} "
            "characters. Use the output of `openssl rand -hex 24`."
        )
