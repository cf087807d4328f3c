"""Stated aims of operating points, such as "sensitivity>=0.95", and the classes or findings that they are for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from automl_cxr.errors import UnknownNameError, UsageError

SYNONYMS = {"recall": "sensitivity", "precision": "ppv"}
"""Names of scikit-learn."""
BOUNDED = ("sensitivity", "specificity", "ppv", "npv")
GUARANTEED = ("sensitivity", "specificity")
"""Aims that can be promised for new patients. The other ones depend on the prevalence, or have no lower bound."""
DEFAULT_CONFIDENCE = 0.95
_AIM = re.compile(
    rf"(?:(?P<names>.+?)\s*:)?\s*(?:(?P<bounded>{'|'.join((*BOUNDED, *SYNONYMS))})\s*>=\s*(?P<limit>[^\s:,]+)"
    r"|(?P<youden>youden)|cost\s*:\s*fn\s*/\s*fp\s*=\s*(?P<ratio>[^\s:,]+))\s*",
    re.IGNORECASE,
)
_FORMS = (
    "An operating point is sensitivity>=X, specificity>=X, ppv>=X or npv>=X with X between 0 and 1, youden, or cost:FN/FP=X "
    'with X above 0, after an optional class or finding, such as "covid: sensitivity>=0.95"'
)


@dataclass(frozen=True)
class Aim:
    """What a threshold must reach or optimise.

    Attributes:
        kind: A name in ``BOUNDED``, "youden" (the largest sum of sensitivity and specificity), or "cost" (the lowest sum of
            missed images times ``value`` and false alarms).
        value: Lower bound, between 0 and 1; or cost of a missed image relative to that of a false alarm, above 0; NaN for
            "youden".
    """

    kind: str
    value: float = math.nan

    def __str__(self) -> str:
        if self.kind == "youden":
            return "youden"
        return f"cost:FN/FP={self.value:g}" if self.kind == "cost" else f"{self.kind}>={self.value:g}"


@dataclass(frozen=True)
class Request:
    """An aim, and the classes or findings that it is for.

    Attributes:
        aim: The aim.
        names: Classes or findings; empty for the positive class of two classes, or for all findings.
    """

    aim: Aim
    names: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Request:
        """Parse a text such as "sensitivity>=0.95", "covid: youden" or "Mass, Edema: cost:FN/FP=10".

        Raises:
            UsageError: The text does not state an aim, or its number is out of range.
        """
        match = _AIM.fullmatch(text)
        if match is None:
            raise UsageError(f"{_FORMS}; received '{text}'.")
        names = tuple(name.strip() for name in (match["names"] or "").split(",") if name.strip())
        if match["youden"]:
            return cls(Aim("youden"), names)
        value = _number(match["limit"] or match["ratio"])
        if match["ratio"]:
            kind, is_valid = "cost", 0 < value < math.inf
        else:
            kind, is_valid = match["bounded"].lower(), 0 < value < 1
        if not is_valid:
            raise UsageError(f"{_FORMS}; received '{text}'.")
        return cls(Aim(SYNONYMS.get(kind, kind), value), names)


def assign_aims(
    requests: Sequence[Request], names: Sequence[str], *, is_multilabel: bool, normal_class: int | None
) -> dict[str, Aim]:
    """Return the aim of each class or finding that has one, in the order of the requests.

    Args:
        requests: The requests.
        names: Names of all classes or findings.
        is_multilabel: Whether they are findings. A request without names is then for all findings without a request of
            their own.
        normal_class: Index of the class without a finding, if it is known. A request without names is for the other one of two
            classes; if it is not known, for the second class, as in scikit-learn.

    Raises:
        UnknownNameError: There is no such class or finding.
        UsageError: Two requests are for the same class, or a request without names is for more than two classes.
    """
    aims: dict[str, Aim] = {}
    for request in sorted(requests, key=lambda one: not one.names):
        chosen = request.names or _default_names(request.aim, names, is_multilabel, normal_class, set(aims))
        for name in chosen:
            if name not in names:
                raise UnknownNameError("finding" if is_multilabel else "class", name, names)
            if name in aims:
                raise UsageError(
                    f"A class or finding has one operating point; received {aims[name]} and {request.aim} for {name}."
                )
            aims[name] = request.aim
    return aims


def _default_names(
    aim: Aim, names: Sequence[str], is_multilabel: bool, normal_class: int | None, named: set[str]
) -> tuple[str, ...]:
    if is_multilabel:
        return tuple(name for name in names if name not in named)
    if len(names) > 2:
        raise UsageError(
            f"With more than two classes, an operating point needs the class that is decided against the others; received "
            f"'{aim}' for {', '.join(names)}. "
            f'Write it first: "{names[0]}: {aim}".'
        )
    return (names[1 if normal_class is None else 1 - normal_class],)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
