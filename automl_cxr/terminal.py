"""Escapes control characters in text for a terminal.

Names of files, classes and studies come from data of others. Control characters in them could move the cursor, change the title
or the clipboard of a terminal, or make one line look like two.
"""

from __future__ import annotations

import re

# C0 and C1 controls, line and paragraph separators, marks that reverse the direction of text, and undecodable bytes.
_UNSAFE = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNSAFE_IN_TEXT = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINE = re.compile(rf"[{_UNSAFE}\t\n]")


def printable_text(text: str) -> str:
    r"""Escape control characters as in Python (``\x1b``), except line breaks and tabs."""
    return _UNSAFE_IN_TEXT.sub(_escape, text)


def printable_line(text: str) -> str:
    r"""Escape control characters as in Python, including line breaks (``\n``) and tabs (``\t``)."""
    return _UNSAFE_IN_LINE.sub(_escape, text)


def printable_json(text: str) -> str:
    r"""Escape the control characters that JSON permits in strings as ``\u009b``. The meaning of the JSON is unchanged."""
    return _UNSAFE_IN_TEXT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
