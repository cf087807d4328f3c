"""What the labels of an image state: findings that are present, uncertain or missing."""

from __future__ import annotations

from dataclasses import dataclass

NO_FINDING = "No Finding"
"""The name of the derived label of images without a finding, as in ChestX-ray14 and CheXpert."""

NORMAL_FINDINGS = frozenset({"nofinding", "nofindings", "normal", "healthy"})


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of an image. A finding in none of the sets is absent.

    Attributes:
        present: Findings of the image.
        uncertain: Findings that may be present.
        missing: Findings of which nothing is known.
        is_unlabelled: Whether nothing is known of the image.
    """

    present: frozenset[str] = frozenset()
    uncertain: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()
    is_unlabelled: bool = False


UNLABELLED = Findings(is_unlabelled=True)


def is_normal(name: str) -> bool:
    """Return whether a finding means that there is none."""
    return "".join(character for character in name.casefold() if character.isalpha()) in NORMAL_FINDINGS
