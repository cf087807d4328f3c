"""The findings of a multi-label data set: which are used, in which order, and the label code of each finding of each image."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from automl_cxr.data.class_names import is_placeholder, similar_names
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.findings import NO_FINDING, UNLABELLED, Findings, is_normal
from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

MISSING = ("unknown", "absent")
_CODE_OF_UNCERTAIN = {"drop": UNCERTAIN, "zeros": ABSENT, "ones": PRESENT}


@dataclass(frozen=True)
class ChosenFindings:
    """The findings to use.

    Attributes:
        names: Their names, in the order of the outputs.
        rows: The images of which at least one label is known or uncertain; ``label`` is a text for display.
        codes: The label code of each finding of each image (``tasks``), int8 (n_images, n_findings).
        n_uncertain: Number of images with an uncertain label.
        n_missing: Number of images with a missing label.
    """

    names: tuple[str, ...]
    rows: list[ImageRow]
    codes: np.ndarray
    n_uncertain: int
    n_missing: int


def from_classes(rows: Sequence[ImageRow]) -> tuple[list[ImageRow], tuple[str, ...]]:
    """Convert images with one class each to images with one finding each, and return the names of the findings."""
    findings = {label: Findings(frozenset({label})) for label in {row.label for row in rows}}
    return [replace(row, label="", findings=findings[row.label]) for row in rows], tuple(sorted(findings))


def rename_findings(
    rows: Sequence[ImageRow], names: Sequence[str], class_map: Mapping[str, str] | None, notes: list[str]
) -> tuple[list[ImageRow], tuple[str, ...]]:
    """Give findings other names, join those with equal names, and leave out those without a new name. Add a note.

    A joined finding is present if one of its findings is; otherwise uncertain or missing if one of them is.

    Args:
        rows: All images.
        names: Names of the findings in the data.
        class_map: The new name by the name in the data, as ``class_map.load_class_map`` returns it.
        notes: Notes for the user.

    Raises:
        UnknownNameError: The data have no finding of the map.
    """
    if not class_map:
        return list(rows), tuple(names)
    for name in class_map:
        if name not in names:
            raise UnknownNameError("finding in --class-map", name, names)
    listed = ", ".join(f"'{name}' is '{new}'" if new else f"'{name}' is not used" for name, new in class_map.items())
    notes.append(f"Names of the findings in the data (--class-map): {listed}.")
    renamed = {found: _renamed(found, class_map) for found in {_known(row) for row in rows}}
    new_names = tuple(dict.fromkeys(new for name in names if (new := class_map.get(name, name))))
    return [replace(row, findings=renamed[_known(row)]) for row in rows], new_names


def _known(row: ImageRow) -> Findings:
    findings = row.findings or UNLABELLED
    is_stated = any(not is_placeholder(name) for name in findings.present)
    return UNLABELLED if findings.present and not is_stated else findings


def _renamed(findings: Findings, class_map: Mapping[str, str]) -> Findings:
    present, uncertain, missing = (
        frozenset(new for name in names if (new := class_map.get(name, name)))
        for names in (findings.present, findings.uncertain, findings.missing)
    )
    uncertain -= present
    return Findings(present, uncertain, missing - present - uncertain, findings.is_unlabelled)


def choose_findings(rows: Sequence[ImageRow], names: Sequence[str], options: DataOptions, notes: list[str]) -> ChosenFindings:
    """Choose the findings with enough patients, and convert the labels of the images to codes. Add notes.

    Args:
        rows: All images with their findings and patients. An image without a patient is a patient of its own.
        names: Names of the findings in the data.
        options: The chosen findings, ``min_positives``, and the meaning of uncertain and missing labels.
        notes: Notes for the user.

    Raises:
        UnknownNameError: A chosen finding does not exist, or there is no such choice for uncertain or missing labels.
        UsageError: A finding is chosen twice.
        DataError: No finding has enough patients, or two findings differ only in case.
    """
    for kind, chosen, accepted in (
        ("choice for uncertain labels", options.uncertain, _CODE_OF_UNCERTAIN),
        ("choice for missing labels", options.missing, MISSING),
    ):
        if chosen not in accepted:
            raise UnknownNameError(kind, chosen, tuple(accepted))
    requested = _requested(names, options.chosen_findings)
    candidates = tuple(name for name in names if not is_normal(name)) if requested is None else requested
    _check_distinct(candidates)
    codes = _codes(rows, candidates, names, options)
    frequent = _frequent(rows, candidates, codes, options.min_positives, notes)
    codes = codes[:, frequent]
    chosen_names = tuple(name for name, is_used in zip(candidates, frequent, strict=True) if is_used)
    is_labelled = (codes != UNKNOWN).any(axis=1)
    if not is_labelled.all():
        notes.append(f"{int((~is_labelled).sum())} of {len(rows)} images have no label of a used finding and are not used.")
    codes = codes[is_labelled]
    labelled = [row for row, is_used in zip(rows, is_labelled.tolist(), strict=True) if is_used]
    texts = describe_findings(codes, chosen_names)
    return ChosenFindings(
        names=chosen_names,
        rows=[replace(row, label=_shown(row, text)) for row, text in zip(labelled, texts, strict=True)],
        codes=codes,
        n_uncertain=int((codes == UNCERTAIN).any(axis=1).sum()),
        n_missing=int((codes == UNKNOWN).any(axis=1).sum()),
    )


def _shown(row: ImageRow, text: str) -> str:
    """Return the text of an image for display; empty instead of "No Finding" if it has a finding that is left out."""
    return "" if text == NO_FINDING and not all(map(is_normal, _known(row).present)) else text


def _requested(names: Sequence[str], chosen: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the names in the data of the chosen findings. "No Finding" can be chosen also if the data do not name it."""
    if chosen is None:
        return None
    by_folded = {name.casefold(): name for name in reversed(names)}
    found = []
    for name in chosen:
        known = name if name in names else by_folded.get(name.strip().casefold(), name if is_normal(name) else None)
        if known is None:
            raise UnknownNameError("finding", name, names)
        found.append(known)
    if len(set(found)) < len(found):
        raise UsageError(f"Each finding must be named once; received {', '.join(chosen)}. Remove the repeated one.")
    return tuple(found)


def _check_distinct(names: Sequence[str]) -> None:
    for similar in similar_names(names):
        listed = " and ".join(f"'{name}'" for name in similar)
        raise DataError(
            f"Names of findings must differ in more than case, spaces and quotation marks; received {listed}. Give them "
            f"one name, such as --class-map {shlex.quote(f'{similar[0]}={similar[1]}')}, or name the findings to use with "
            "--findings."
        )


def _codes(rows: Sequence[ImageRow], candidates: Sequence[str], names: Sequence[str], options: DataOptions) -> np.ndarray:
    """Return the label code of each candidate for each image, int8 (n_images, n_candidates)."""
    others = frozenset(name for name in names if not is_normal(name))
    of_uncertain = _CODE_OF_UNCERTAIN[options.uncertain]
    of_missing = UNKNOWN if options.missing == "unknown" else ABSENT

    def code(findings: Findings, name: str) -> int:
        if findings.is_unlabelled:
            return UNKNOWN
        if is_normal(name):
            return _code_of_normal(findings, name, others, is_stated=name in names)
        if name in findings.present:
            return PRESENT
        if name in findings.uncertain:
            return of_uncertain
        return of_missing if name in findings.missing else ABSENT

    known = {findings: [code(findings, name) for name in candidates] for findings in {_known(row) for row in rows}}
    return np.array([known[_known(row)] for row in rows], np.int8).reshape(len(rows), len(candidates))


def _code_of_normal(findings: Findings, name: str, others: frozenset[str], *, is_stated: bool) -> int:
    """Return the label code of the finding that means that there is none, derived from the others where it is not stated."""
    if name in findings.present:
        return PRESENT
    if findings.present & others:
        return ABSENT
    if is_stated:
        return UNCERTAIN if name in findings.uncertain else UNKNOWN if name in findings.missing else ABSENT
    return UNCERTAIN if findings.uncertain else UNKNOWN if findings.missing else PRESENT


def _frequent(
    rows: Sequence[ImageRow], candidates: Sequence[str], codes: np.ndarray, minimum: int, notes: list[str]
) -> np.ndarray:
    """Return whether each candidate has enough patients with it and without it; add a note on the others.

    Raises:
        DataError: No candidate has.
    """
    patients = np.array([row.patient_id or row.image for row in rows], dtype=object)
    counts = {
        name: tuple(len(set(patients[column == state].tolist())) for state in (PRESENT, ABSENT))
        for name, column in zip(candidates, codes.T, strict=True)
    }
    is_frequent = np.array([min(counts[name]) >= minimum for name in candidates], bool)
    rare = [name for name in candidates if min(counts[name]) < minimum]
    if not is_frequent.any():
        largest = max(map(min, counts.values()), default=0)
        way = f"Keep rarer findings with --min-positives {largest}" if largest else "Add images, or name other labels"
        raise DataError(
            f"A finding needs {minimum} patients with it and {minimum} without it; received {_list_rare(rare, counts)}. {way}."
        )
    if rare:
        notes.append(
            f"Findings with fewer than {minimum} patients with them, or without them, are left out (--min-positives changes "
            f"this number): {_list_rare(rare, counts)}."
        )
    return is_frequent


def _list_rare(rare: Sequence[str], counts: Mapping[str, tuple[int, ...]]) -> str:
    """List findings with their numbers of patients, the most frequent first, and those without a patient together."""
    ordered = sorted((name for name in rare if counts[name][0]), key=lambda name: -min(counts[name]))
    listed = [f"'{name}' (patients with it: {counts[name][0]}, without it: {counts[name][1]})" for name in ordered]
    none = [f"'{name}'" for name in rare if not counts[name][0]]
    listed += [f"no patient with {', '.join(none)}"] if none else []
    return "; ".join(listed) or "no finding"


def describe_findings(codes: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return a text for each image, for display: the findings that are present, or "No Finding" if all are absent.

    Args:
        codes: Label codes, (n_images, n_findings).
        names: Names of the findings.
    """
    texts = {
        row: "|".join(name for name, code in zip(names, row, strict=True) if code == PRESENT)
        or (NO_FINDING if set(row) == {ABSENT} else "")
        for row in set(map(tuple, codes.tolist()))
    }
    return [texts[row] for row in map(tuple, codes.tolist())]
