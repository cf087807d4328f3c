"""Removes passwords from URLs, commands and error messages before they are printed or recorded.

The rules hide more than a password rather than less: a password may contain spaces, colons and at signs.
"""

from __future__ import annotations

import re
import shlex
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_IN_URL = re.compile(r"(://[^:/?\n]*):(?:(?!://).)*@")  # up to the last at sign before the next URL
_NAMES = r"[^=&?\s]*(?:passw|passphrase|pwd|secret|token)[^=&?\s]*|pass"
_IN_QUERY = re.compile(rf"([?&;](?:{_NAMES})=)[^&\n]*", re.IGNORECASE)


def without_password(text: str) -> str:
    """Replace the passwords of a URL, or of the URLs in a message, by asterisks.

    Passwords are those before the host, and the values of parameters such as ``password``, ``sslpassword`` and ``token``.
    """
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1:***@", text))


def command_without_passwords(command: str) -> str:
    """Replace the passwords in the arguments of a command line, as ``shlex.join`` returns it, by asterisks."""
    try:
        arguments = shlex.split(command)
    except ValueError:  # not quoted for a shell
        return without_password(command)
    hidden = [without_password(argument) for argument in arguments]
    return command if hidden == arguments else shlex.join(hidden)


def without_password_of(url: str, message: str) -> str:
    """Remove the passwords of a URL from a driver's message, which may repeat them in another form or without the URL."""
    found = [match[0][len(match[1]) + 1 : -1] for match in _IN_URL.finditer(url)]
    found += [match[0][len(match[1]) :] for match in _IN_QUERY.finditer(url)]
    decoded = {decode(secret) for secret in found for decode in (str, unquote, unquote_plus)}
    forms = decoded | {encode(secret) for secret in decoded for encode in (quote, quote_plus)}
    for secret in sorted(forms - {""}, key=len, reverse=True):
        message = message.replace(secret, "***")
    return without_password(message)
