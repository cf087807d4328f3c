"""Formatting of numbers, lists and durations in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from automl_cxr.records import SplitRecord

_NUMBER_WORDS = (
    "no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun, such as "three classes", "1,204 images" or "one trial"."""
    return f"{number_word(n)} {noun if n == 1 else plural or noun + 's'}"


def number_word(n: int) -> str:
    """Format a number for a sentence: up to twelve as a word ("no" for 0), larger ones as digits."""
    return _NUMBER_WORDS[n] if 0 <= n < len(_NUMBER_WORDS) else f"{n:,}"


def listed(words: Sequence[str]) -> str:
    """Join words for a sentence: "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def times(n: int) -> str:
    """Format a frequency: "once", "twice", "three times"."""
    return {1: "once", 2: "twice"}.get(n, counted(n, "time"))


def duration(seconds: float) -> str:
    """Format a duration in its two largest units up to hours, such as "2 h 5 min" or "41 s"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min" if minutes % 60 else f"{minutes // 60:,} h"


def images_without_patient(split: SplitRecord, choice: str | None) -> str:
    """State what was done with the images of a study that have no patient although others have one; "" if there are none.

    Args:
        split: Split of the study.
        choice: Its setting ``unknown_patients``.
    """
    n = split.n_without_patient
    if not n:
        return ""
    were = "was" if n == 1 else "were"
    treated = f"{were} excluded" if choice == "drop" else f"{were} {'' if n == 1 else 'each '}treated as a separate patient"
    return f"{capitalised(counted(n, 'image'))} without a known patient {treated}."


def capitalised(sentence: str) -> str:
    """Return the sentence with a capital first letter; the rest is unchanged."""
    return sentence[:1].upper() + sentence[1:]
