"""The rules by which a server on this machine accepts requests of browsers and programs.

A page of another site can send requests to a server on this machine: directly, or, after its own name was bound to the address
of this machine (DNS rebinding), as if it were the same site. Therefore a request needs a host name of this server, and from a
page the origin of this server.
"""

from __future__ import annotations

import functools
import ipaddress
import secrets
import socket
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class RequestRules:
    """Host names, origins and the token of a server.

    Attributes:
        host: Address on which the server listens.
        port: Port on which the server listens.
        other_hosts: Further host names under which browsers may open the server, such as that of a reverse proxy.
        token: Secret that a request needs; "" if none is needed.
    """

    host: str
    port: int
    other_hosts: Collection[str] = ()
    token: str = ""

    def is_host(self, host: str) -> bool:
        """Return whether a Host header names this server. A literal address is safe: no other site can be bound to it."""
        name = name_in_url(f"//{host}")
        return name is not None and (_is_address(name) or name in self._names)

    @functools.cached_property
    def _names(self) -> frozenset[str]:
        names = ("localhost", self.host, socket.gethostname(), socket.getfqdn(), *self.other_hosts)
        return frozenset(name.lower() for name in names if name)

    def is_origin(self, origin: str, host: str) -> bool:
        """Return whether an Origin header is that of a page of this server. A reverse proxy may change the Host header."""
        is_same = origin.lower() in (f"http://{host}".lower(), f"https://{host}".lower())
        return is_same or name_in_url(origin) in {one.lower() for one in self.other_hosts}

    def is_token(self, token: str) -> bool:
        """Compare a token in constant time."""
        return secrets.compare_digest(token.encode("utf-8", "replace"), self.token.encode())


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine can reach an address on which a server listens."""
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def name_in_url(url: str) -> str | None:
    """Return the host name of a URL in lower case; None if there is none."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
