"""The token of Ray's authentication on this machine. This module does not import Ray, which reads its settings at import."""

from __future__ import annotations

import os
from pathlib import Path

_TOKEN, _TOKEN_PATH = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_DEFAULT_PATH = Path("~/.ray/auth_token")


def has_ray_token() -> bool:
    """Return whether Ray would find a token, in the places that its documentation lists."""
    if os.environ.get(_TOKEN):
        return True
    path = Path(os.environ.get(_TOKEN_PATH) or _DEFAULT_PATH.expanduser())
    return path.is_file() and path.stat().st_size > 0
