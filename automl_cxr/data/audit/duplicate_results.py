"""Results of an audit: duplicates, and patients in several parts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """An image that shows the same picture as another one.

    Attributes:
        image: Id of the image.
        of: Id of the other image; three copies of a picture are two duplicates.
        kind: "identical" pixels, "near" or "mirrored".
        correlation: Correlation of the fine structure, at most 1.
        label: Class of the image; of several findings, those that are present.
        of_label: The same of the other image.
        part: "train", "valid", "test", or "" where no split is given.
        of_part: Part of the other image.
        patient: Patient of the image; the image id where patients are unknown.
        of_patient: Patient of the other image.
        conflicting: The findings that are present in one of the images and absent in the other; None for classes.
    """

    image: str
    of: str
    kind: str
    correlation: float
    label: str
    of_label: str
    part: str
    of_part: str
    patient: str
    of_patient: str
    conflicting: tuple[str, ...] | None = None

    @property
    def is_conflict(self) -> bool:
        """Whether the labels of the two images contradict each other."""
        return self.label != self.of_label if self.conflicting is None else bool(self.conflicting)

    @property
    def crosses_parts(self) -> bool:
        """Whether the two images are in different parts."""
        return self.part != self.of_part


@dataclass(frozen=True, kw_only=True)
class SharedPatient:
    """A patient with images in more than one part."""

    patient: str
    parts: tuple[str, ...]
    n_images: int
