"""Numbers and lists in sentences."""

from __future__ import annotations

from collections.abc import Sequence

_SMALL = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Write how many there are, such as "three classes", "1,204 images" or "one trial"."""
    return f"{spelt(n)} {noun if n == 1 else plural or noun + 's'}"


def spelt(n: int) -> str:
    """Write a number as sentences do, small ones as words."""
    return _SMALL[n] if 0 <= n < len(_SMALL) else f"{n:,}"


def listed(words: Sequence[str]) -> str:
    """Join words as in a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def times(n: int) -> str:
    """Write how often: "once", "twice", "three times"."""
    return {1: "once", 2: "twice"}.get(n, counted(n, "time"))


def duration(seconds: float) -> str:
    """Write a span of time in the two units that matter, such as "2 h 5 min" or "41 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60:,} h"


def capitalised(sentence: str) -> str:
    """Begin a sentence with a capital letter and leave the rest."""
    return sentence[:1].upper() + sentence[1:]
