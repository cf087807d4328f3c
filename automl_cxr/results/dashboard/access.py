"""Who may use the dashboard, and what they may change.

A request needs a host name of this server, the origin of this server (``RequestRules``), and the token in the printed address.
The token is moved into a cookie at the first visit.
"""

from __future__ import annotations

import json
import re
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from automl_cxr.request_rules import RequestRules

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]  # WSGI

_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_NOTE_ROUTE = re.compile(r"/api/studies/\d+(/\d+)?/note/?")
_TOKEN = "token"  # noqa: S105 - the name of a parameter


@dataclass(frozen=True, kw_only=True)
class Access(RequestRules):
    """The rules by which the dashboard accepts requests.

    Attributes:
        allow_changes: Whether studies may be created, renamed and deleted, trials changed and files attached. Otherwise only
            notes may be written.
        token: Secret that a browser needs.
    """

    allow_changes: bool = False
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """Address of the dashboard, with the token."""
        host = socket.gethostname() if self.host in ("0.0.0.0", "::", "") else self.host  # noqa: S104 - compared only
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/dashboard?{_TOKEN}={self.token}"

    @property
    def cookie(self) -> str:
        """Name of the cookie. Browsers share cookies between all ports of a host."""
        return f"automl-cxr-dashboard-{self.port}"


def protect(app: Application, access: Access) -> Application:
    """Return an application that passes on only the requests that the rules accept."""

    def protected_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        reason = _explain_refusal(environ, access)
        if reason is not None:
            return _refuse(environ, start_response, reason)
        parameters = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True)
        given = [value for name, value in parameters if name == _TOKEN]
        if given and access.is_token(given[-1]):
            others = [(name, value) for name, value in parameters if name != _TOKEN]
            return _set_cookie(environ, start_response, access, others)
        if not access.is_token(_read_cookie(environ, access.cookie)):
            return _refuse(
                environ,
                start_response,
                "The dashboard needs the address with the token that `automl-cxr dashboard` printed when it started. Open "
                "that address once; this browser then remembers the token.",
            )
        return app(environ, start_response)

    return protected_app


def _explain_refusal(environ: Mapping[str, Any], access: Access) -> str | None:
    """Return why a request is refused whatever its token; None if it is not."""
    host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
    if not access.is_host(host):
        return (
            f"The dashboard serves only the names of this machine; received the host name {host!r}. If it is right, start the "
            f"dashboard with --allow-host NAME."
        )
    if origin is not None and not access.is_origin(origin, host):
        return "The dashboard refuses requests from pages of other sites."
    method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
    writes_note = method == "PUT" and _NOTE_ROUTE.fullmatch(path) is not None
    if method not in _READING and not writes_note and not access.allow_changes:
        return "This dashboard changes only notes. Start it with --allow-changes to create, rename or delete."
    return None


def _read_cookie(environ: Mapping[str, Any], name: str) -> str:
    """Return the value of a cookie, or "". http.cookies would ignore all cookies if one of another server is malformed."""
    pairs = (pair.strip().partition("=") for pair in environ.get("HTTP_COOKIE", "").split(";"))
    return next((value for key, _, value in pairs if key == name), "")


def _set_cookie(
    environ: Mapping[str, Any], start_response: Callable[..., Any], access: Access, parameters: list[tuple[str, str]]
) -> Iterable[bytes]:
    """Redirect to the same address without the token, so that it is in no history, bookmark or Referer header."""
    path = "/" + environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace").lstrip("/\\")
    headers = [
        ("Location", quote(path) + (f"?{urlencode(parameters)}" if parameters else "")),
        # Lax: with Strict, a browser that follows a link to the dashboard would not send the cookie after this redirect.
        ("Set-Cookie", f"{access.cookie}={access.token}; Path=/; HttpOnly; SameSite=Lax"),
        ("Cache-Control", "no-store"),
        ("Referrer-Policy", "no-referrer"),
        ("Content-Length", "0"),
    ]
    start_response(_status(HTTPStatus.SEE_OTHER), headers)
    return []


def _refuse(environ: Mapping[str, Any], start_response: Callable[..., Any], reason: str) -> Iterable[bytes]:
    """Answer with the reason: as JSON, which the pages of the dashboard show, or as text for a person."""
    is_for_pages = environ.get("PATH_INFO", "").startswith("/api/")
    body = (json.dumps({"reason": reason}) if is_for_pages else f"{reason}\n").encode()
    content_type = "application/json" if is_for_pages else "text/plain; charset=utf-8"
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    start_response(_status(HTTPStatus.FORBIDDEN), headers)
    return [body]


def _status(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"
