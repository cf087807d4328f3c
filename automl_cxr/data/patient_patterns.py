"""Patients in the paths of images: the pattern of --patients, and proposals of one."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.data.path_patterns import compile_pattern, text_in_path
from automl_cxr.errors import UsageError

# Words before the number of a person, and patterns of public data sets, in the order of preference
_WORDS = ("patient", "subject", "person", "participant", "pat", "pid", "case")
_PATTERNS = (r"\bsub-[A-Za-z0-9]+", r"\bp\d{8}\b")  # BIDS, MIMIC-CXR
_COUNTED_PATTERNS = (r"(?:^|/)(\d+)[-_ ][^/]*$", r"([^/]*\d[^/]*?)[-_ ]\d+\.[^./]+$")  # any number before a counter
_MIN_COVERED = 0.3  # of the images; below it a pattern is not proposed
_MIN_GROUPS_PER_CLASS = 2
_MIN_GROUPS = 4
_MAX_SAMPLE = 4000  # images on which patterns are tried
_MIN_DOUBTFUL = 20  # images; fewer may well be of different patients
_MEAN_IMAGES = (1.2, 20.0)  # of a patient; outside of it groups are single images, or folders that only store images


def set_patients(rows: Sequence[ImageRow], pattern: str, notes: list[str]) -> list[ImageRow]:
    """Set the patient of each image from its path.

    Args:
        rows: All images.
        pattern: Regular expression as in ``text_in_path``, with the group "patient".
        notes: Notes for the user, to which a note may be appended.

    Raises:
        UsageError: The pattern is not a regular expression, or matches no path.
    """
    compiled = compile_pattern(pattern, "--patients")
    named = [replace(row, patient_id=text_in_path(row.image, compiled, "patient")) for row in rows]
    n_unnamed = sum(not row.patient_id for row in named)
    if n_unnamed == len(named):
        raise UsageError(
            f"--patients must match paths below the data folder; received '{pattern}', which gives no patient for any of "
            f"{len(named)}, such as '{rows[0].image}'. Correct it."
        )
    if n_unnamed:
        notes.append(f"{n_unnamed} of {len(named)} paths do not match --patients.")
    return named


@dataclass(frozen=True)
class PatientPattern:
    """A pattern that groups images, perhaps by patient.

    Attributes:
        pattern: Value for ``--patients``.
        n_patients: Number of groups.
        n_named: Number of images in a group.
        n_images: Number of all images.
        example: Path of an image and its group.
    """

    pattern: str
    n_patients: int
    n_named: int
    n_images: int
    example: tuple[str, str]

    def sentence(self, root: Path | str) -> str:
        """Return a proposal for the user with the command that applies the pattern."""
        command = f"automl-cxr data inspect {shlex.quote(str(root))} --patients {shlex.quote(self.pattern)}"
        covered, others = "all", ""
        if self.n_named < self.n_images:
            covered, others = f"{self.n_named} of {self.n_images}", " --unknown-patients separate keeps the other images."
        return (
            f"The paths group {covered} images into {self.n_patients} patients, if '{self.example[1]}' in "
            f"'{self.example[0]}' is one: `{command}` uses them. Add the option to the search if they are patients.{others}"
        )


def propose_pattern(rows: Sequence[ImageRow]) -> PatientPattern | None:
    """Return the first pattern that groups images in a way that is plausible for patients; None if there is none."""
    sample = _sample(rows)
    for pattern in _candidates(sample):
        if _is_plausible(sample, _group(sample, pattern)):
            named = _group(rows, pattern)
            return PatientPattern(pattern, len(set(named.values())), len(named), len(rows), next(iter(named.items())))
    return None


def _sample(rows: Sequence[ImageRow]) -> list[ImageRow]:
    """Return the first rows of each class, in which images of one folder or of similar names are still together."""
    n_of_class: Counter[str] = Counter()
    limit = max(1, _MAX_SAMPLE // len({row.label for row in rows}))
    sample = []
    for row in rows:
        n_of_class[row.label] += 1
        if n_of_class[row.label] <= limit:
            sample.append(row)
    return sample


def _group(rows: Sequence[ImageRow], pattern: str) -> dict[str, str]:
    compiled = re.compile(pattern)
    return {row.image: patient for row in rows if (patient := text_in_path(row.image, compiled, "patient"))}


def _is_plausible(rows: Sequence[ImageRow], named: Mapping[str, str]) -> bool:
    n_classes, n_patients = len({row.label for row in rows}), len(set(named.values()))
    if len(named) < _MIN_COVERED * len(rows) or n_patients < max(_MIN_GROUPS, _MIN_GROUPS_PER_CLASS * n_classes):
        return False
    # Numbers that begin again in each class group one image of each class, which are of different patients.
    n_in_classes = len({(row.label, named[row.image]) for row in rows if row.image in named})
    return _MEAN_IMAGES[0] <= len(named) / n_in_classes <= _MEAN_IMAGES[1]


def _candidates(rows: Sequence[ImageRow]) -> Iterator[str]:
    for word in _WORDS:
        compiled = re.compile(rf"(?<![A-Za-z])(?i:{word})[-_ ]?(?=\d)")
        spellings = Counter(match[0] for row in rows if (match := compiled.search(row.image)))
        yield from (f"{spelling}\\d+" for spelling, _ in spellings.most_common(1))
    yield from _PATTERNS
    depth = _depth_of_class(rows)
    if depth is not None:
        yield f"^{'[^/]+/' * (depth + 1)}([^/]+)/"  # the folder below the class
    yield from _COUNTED_PATTERNS


def _depth_of_class(rows: Sequence[ImageRow]) -> int | None:
    """Return the position of the class folder in most paths, counted from 0; None if classes are not folders."""
    positions = [row.image.split("/")[:-1].index(row.label) for row in rows if row.label in row.image.split("/")[:-1]]
    depths = Counter(positions)
    if not depths:
        return None
    depth, n_images = depths.most_common(1)[0]
    return depth if 2 * n_images > len(rows) else None


def doubtful_patients_note(rows: Sequence[ImageRow]) -> str:
    """Return a note if each image has a patient of its own, as if the id were that of the image; else ""."""
    named = [row.patient_id for row in rows if row.patient_id]
    if len(named) < _MIN_DOUBTFUL or len(set(named)) < len(named):
        return ""
    return (
        f"Each of the {len(named)} images with a patient has another one, such as '{named[0]}'. If this id is that of an "
        "image or a study and not of a person, images of one person may be in two parts. Name the patients with "
        "--patient-column or --patients REGEX."
    )
