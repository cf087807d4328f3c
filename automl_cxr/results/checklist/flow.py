"""The flow of images and patients from the data to the parts of a study, with the exclusions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from automl_cxr.data.audit.record import Audit
from automl_cxr.data.dataset import Dataset
from automl_cxr.data.exclusions import Exclusion
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.results.html_page import Box, Diagram

_WIDTH, _GAP, _LINE, _PADDING = 250, 40, 18, 10  # pixels
_CHARACTERS = 34  # of a line in a box


@dataclass(frozen=True)
class Step:
    """A set of images on their way to the parts.

    Attributes:
        name: What the images are.
        n_images: Number of images.
        n_patients: Number of patients; None where it is unknown or sealed.
        excluded: The images that are left out after this step.
    """

    name: str
    n_images: int
    n_patients: int | None = None
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True)
class Flow:
    """The flow of a study.

    Attributes:
        steps: The steps before the split, in order.
        parts: The parts of the split.
        notes: Sentences on files that are not used and on duplicates, which are not excluded.
    """

    steps: tuple[Step, ...]
    parts: tuple[Step, ...]
    notes: tuple[str, ...]

    def table(self) -> pd.DataFrame:
        """Return the flow as a table: step, images, patients, and excluded (numbers of images with the reasons)."""
        return pd.DataFrame(
            [
                {
                    "step": step.name,
                    "images": f"{step.n_images:,}",
                    "patients": "" if step.n_patients is None else f"{step.n_patients:,}",
                    "excluded": "; ".join(f"{one.n_images:,}: {one.reason}" for one in step.excluded),
                }
                for step in (*self.steps, *self.parts)
            ]
        )


def flow_of_study(
    split: SplitRecord, dataset: Dataset | None, audit: Audit | None, *, n_test_patients: int | None = None
) -> Flow:
    """Return the flow of a study.

    Args:
        split: The parts of the study.
        dataset: The images of the study; None if they are not available, so that exclusions before the split are unknown.
        audit: The audit of the training and validation images, if there is one.
        n_test_patients: Number of patients of the test part; None while it is sealed.
    """
    parts = []
    unreadable = (Exclusion("unreadable", len(split.unreadable)),) if split.unreadable else ()
    if split.folds:
        parts.append(_part(f"Cross-validation, {split.n_folds} folds", split.train, split))
    else:
        parts += [_part("Training", split.train, split), _part("Validation", split.valid, split)]
    if split.test:
        parts.append(Step("Test, sealed" if n_test_patients is None else "Test", len(split.test), n_test_patients))
    n_used = sum(part.n_images for part in parts) + len(split.unreadable)
    if dataset is None:
        note = ("The data are not available, so the images that were left out before the split are not known.",)
        return Flow((Step("Images of the study", n_used, None, unreadable),), tuple(parts), (*note, *_duplicates(audit)))
    n_patients = dataset.table["patient_id"].nunique() if dataset.patients_known else None
    n_listed = n_used + sum(one.n_images for one in dataset.exclusions)
    steps = (
        *([Step("Images found", n_listed, None, dataset.exclusions)] if dataset.exclusions else []),
        Step("Images of the study", n_used, n_patients, unreadable),
    )
    return Flow(steps, tuple(parts), (*_unused_files(dataset), *_duplicates(audit)))


def _part(name: str, part: PartRecord, split: SplitRecord) -> Step:
    return Step(name, len(part.images), len(set(part.patients)) if split.grouped else None)


def _unused_files(dataset: Dataset) -> list[str]:
    if not dataset.ignored:
        return []
    name, reason = next(iter(dataset.ignored.items()))
    return [f"Files that were not used: {len(dataset.ignored):,}, such as {name} ({reason})."]


def _duplicates(audit: Audit | None) -> list[str]:
    if audit is None:
        return ["The study has no audit, so duplicates are not known."]
    n_duplicates = len(audit.found_duplicates)
    note = (
        f"Training and validation images that show the same picture as another one: {n_duplicates:,}. The search does not "
        "exclude duplicates; `automl-cxr data audit --fix` writes a table without them."
    )
    return [note]


def flow_diagram(flow: Flow) -> Diagram:
    """Draw the flow: the steps from top to bottom, their exclusions on the right, and the parts in a row below."""
    boxes: list[Box] = []
    arrows: list[tuple[int, int, int, int]] = []
    downwards: list[tuple[int, int, int, int]] = []  # from each step; the last one ends at the line above the parts
    n_columns = max(2 if any(step.excluded for step in flow.steps) else 1, len(flow.parts))
    width = n_columns * (_WIDTH + _GAP) - _GAP
    x = 0 if any(step.excluded for step in flow.steps) and n_columns == 2 else (width - _WIDTH) // 2
    top = 0
    for step in flow.steps:
        box = _box(x, top, _lines(step))
        boxes.append(box)
        bottom = top + box.height
        if step.excluded:
            side = _box(min(x + _WIDTH + _GAP, width - _WIDTH), bottom + _GAP // 2, _exclusion_lines(step.excluded))
            boxes.append(side)
            middle = side.y + side.height // 2
            arrows.append((x + _WIDTH // 2, middle, side.x, middle))
            next_top = side.y + side.height + _GAP // 2
        else:
            next_top = bottom + _GAP
        downwards.append((x + _WIDTH // 2, bottom, x + _WIDTH // 2, next_top))
        top = next_top
    rail = top
    top = rail + _GAP // 2
    left = (width - (len(flow.parts) * (_WIDTH + _GAP) - _GAP)) // 2
    for number, part in enumerate(flow.parts):
        box = _box(left + number * (_WIDTH + _GAP), top, _lines(part))
        boxes.append(box)
        centre = box.x + _WIDTH // 2
        arrows.append((centre, rail, centre, top))
    centres = [box.x + _WIDTH // 2 for box in boxes[-len(flow.parts) :]]
    ends = [*centres, x + _WIDTH // 2]
    height = max(box.y + box.height for box in boxes)
    lines = (downwards.pop(), (min(ends), rail, max(ends), rail))
    return Diagram(width, height, tuple(boxes), (*downwards, *arrows), lines)


def _box(x: int, y: int, lines: Sequence[str]) -> Box:
    return Box(x, y, _WIDTH, _LINE * len(lines) + 2 * _PADDING, tuple(lines))


def _lines(step: Step) -> list[str]:
    patients = "" if step.n_patients is None else f", {step.n_patients:,} patients"
    return [*textwrap.wrap(step.name, _CHARACTERS), f"{step.n_images:,} images{patients}"]


def _exclusion_lines(excluded: Sequence[Exclusion]) -> list[str]:
    texts = [f"{one.n_images:,}: {one.reason}" for one in excluded]
    return ["Excluded images:", *(line for text in texts for line in textwrap.wrap(text, _CHARACTERS))]
