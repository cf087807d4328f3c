"""Regular expressions of the user for a text in the path of an image."""

from __future__ import annotations

import re

from automl_cxr.errors import UsageError


def compile_pattern(pattern: str, option: str) -> re.Pattern[str]:
    """Compile the regular expression of an option.

    Raises:
        UsageError: It is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise UsageError(
            f"{option} must be a regular expression; received '{pattern}' ({error}). Correct or quote it."
        ) from error


def text_in_path(path: str, pattern: re.Pattern[str], group: str) -> str:
    """Return what a pattern finds in a path, without outer spaces; empty without a match.

    If the path does not match, the name of the file is searched, so that ``^`` may also be its start. The text is the group of
    the given name, else the first group that is not empty, as in ``a_(\\d)|b_(\\d)``, else the whole match.
    """
    match = pattern.search(path) or pattern.search(path.rpartition("/")[2])
    if match is None:
        return ""
    if group in pattern.groupindex:
        return (match[group] or "").strip()
    texts = match.groups() if pattern.groups else (match[0],)
    return next((text.strip() for text in texts if text and text.strip()), "")
