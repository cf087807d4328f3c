"""Checks of a request before its body is read: host name, origin, token, size, and the number of open requests."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException

from automl_cxr.request_rules import RequestRules

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]  # ASGI

OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json")  # without a token: pages and the schema, which contain no results
_OPEN_FOLDERS = ("/static/", "/docs-assets/")
_RETRY_SECONDS = 2
_DISCARDED_UPLOADS = 4  # size up to which the rest of a too large upload of unknown length is received, in largest uploads
_MULTIPART_BYTES = 2**16  # of the parts of a form that surround a file
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",  # results and pictures are those of patients
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'",
}
# The page of the API contains a script and styles in its text.
_DOCS_POLICY = (
    "default-src 'self'; img-src 'self' data:; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_bytes: Largest upload, in bytes.
        max_waiting: Largest number of uploads that are received or wait for their prediction.
        upload_seconds: Longest time in which an upload must arrive.
    """

    max_bytes: int
    max_waiting: int
    upload_seconds: float = 60.0


class RequestFilter:
    """An ASGI application that passes on only the requests that the rules and limits accept.

    Args:
        app: The application.
        rules: Host names, origins and token.
        limits: Limits of uploads.
    """

    def __init__(self, app: Application, rules: RequestRules, limits: Limits) -> None:
        self._app = app
        self._rules = rules
        self._limits = limits
        self._n_open = 0  # uploads; changed only in the thread of the event loop

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        send = _with_headers(send, scope["path"])
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refuse(scope, headers)
        if refusal is not None:
            await _answer(send, *refusal)
        elif scope["method"] == "POST":
            await self._pass_upload(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refuse(self, scope: Message, headers: dict[str, str]) -> tuple[HTTPStatus, str, dict[str, str]] | None:
        """Return status, reason and headers if a request is refused."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._rules.is_host(host):
            reason = (
                f"The server answers only under the names of its machine; received the host name {host!r}. If it is right, "
                "start the server with --allow-host NAME."
            )
            return HTTPStatus.FORBIDDEN, reason, {}
        if origin is not None and not self._rules.is_origin(origin, host):
            return HTTPStatus.FORBIDDEN, "The server refuses requests from pages of other sites.", {}
        if not _is_open(scope["path"]) and self._rules.token and not self._rules.is_token(_bearer_token(headers)):
            reason = "The request needs the token of the server, in the header `Authorization: Bearer TOKEN`."
            return HTTPStatus.UNAUTHORIZED, reason, {"WWW-Authenticate": "Bearer"}
        length = headers.get("content-length", "0")
        if scope["method"] == "POST" and length.isdecimal() and int(length) > self._max_body:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large, {"Connection": "close"}
        if scope["method"] == "POST" and self._n_open >= self._limits.max_waiting:
            reason = f"{self._n_open} uploads are in progress, which is the limit. Repeat the request later."
            return HTTPStatus.SERVICE_UNAVAILABLE, reason, {"Retry-After": str(_RETRY_SECONDS), "Connection": "close"}
        return None

    @property
    def _max_body(self) -> int:
        return self._limits.max_bytes + _MULTIPART_BYTES

    @property
    def _too_large(self) -> str:
        return f"An upload may have at most {self._limits.max_bytes:,} bytes. Send a smaller file."

    async def _pass_upload(self, scope: Message, receive: Receive, send: Send) -> None:
        self._n_open += 1
        n_bytes, deadline = 0, time.monotonic() + self._limits.upload_seconds
        is_complete = False

        async def receive_in_time() -> Message:
            nonlocal n_bytes, is_complete
            try:
                message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError as error:
                reason = f"An upload must arrive within {self._limits.upload_seconds:g} seconds."
                raise HTTPException(HTTPStatus.REQUEST_TIMEOUT, reason, {"Connection": "close"}) from error
            n_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            return message

        async def receive_limited() -> Message:
            if is_complete:
                return await receive()  # waits until the client has gone
            message = await receive_in_time()
            if n_bytes > self._max_body:
                # Many clients read the answer only after the upload, and lose it if the connection is closed before.
                while not is_complete and n_bytes <= _DISCARDED_UPLOADS * self._max_body:
                    await receive_in_time()
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large, {"Connection": "close"})
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            self._n_open -= 1


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


def _bearer_token(headers: dict[str, str]) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _with_headers(send: Send, path: str) -> Send:
    """Return a function that adds the headers for browsers to an answer."""
    added = _HEADERS | ({"Content-Security-Policy": _DOCS_POLICY} if path == "/docs" else {})

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_encode(added)]}
        await send(message)

    return send_with_headers


async def _answer(send: Send, status: HTTPStatus, reason: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": reason}).encode()
    sent = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    await send({"type": "http.response.start", "status": status.value, "headers": _encode(sent)})
    await send({"type": "http.response.body", "body": body})


def _encode(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
