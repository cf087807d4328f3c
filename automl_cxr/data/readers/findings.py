"""Findings of images: columns or lists of findings, uncertain and missing labels, and the majority of several readers.

Images with several findings are a multi-label data set. They become images with one label by the choice of one finding against
all images without it, or by the choice of classes, which uses the images with exactly one finding.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.data.class_names import is_placeholder
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.findings import UNLABELLED, Findings, is_normal
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.tasks import MULTICLASS

DROP, ZEROS, ONES = UNCERTAIN = ("drop", "zeros", "ones")
_PRESENT, _ABSENT, _UNCERTAIN, _MISSING = range(4)
_STATES = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), _PRESENT),
    **dict.fromkeys(("0", "0.0", "false", "no"), _ABSENT),
    **dict.fromkeys(("-1", "-1.0"), _UNCERTAIN),
    **dict.fromkeys(("", "nan", "na", "n/a", "none", "null"), _MISSING),
}
_NUMBER = re.compile(r"[\d.]+")
_NUMBERS = re.compile(r"-?[\d.]+(?:[\s,;]+-?[\d.]+)+")
_MIN_NUMBERS = 4  # of a box, or of the run lengths of a mask
_SHOWN = 8  # findings in a message
_MAX_BITS = 62  # of a signed integer of 64 bits


@dataclass(frozen=True)
class SettledLabels:
    """Labels of images.

    Attributes:
        labels: The label of each image; empty if the image is not used, or if it may have several findings.
        n_uncertain: Number of images whose label is uncertain.
        n_missing: Number of images whose label is missing.
        notes: Sentences for the user.
        findings: Names of all findings, if an image may have several of them; otherwise None.
    """

    labels: list[str]
    n_uncertain: int = 0
    n_missing: int = 0
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] | None = None


def finding_columns(columns: Mapping[int, Iterable[str]], *, fewest: int = 2) -> tuple[int, ...]:
    """Return the positions of the columns whose texts state whether a finding is present; none if they are too few.

    A finding that no image has is included, because another part of the data may have it.
    """
    states = {place: {_STATES.get(text.strip().casefold()) for text in set(texts)} for place, texts in columns.items()}
    found = [place for place, known in states.items() if None not in known and known & {_PRESENT, _ABSENT}]
    n_present = sum(_PRESENT in states[place] for place in found)
    return tuple(found) if len(found) >= fewest and n_present else ()


def states_finding(text: str) -> bool:
    """Return whether a text in a column of a finding states that it is present."""
    return _STATES.get(text.strip().casefold()) == _PRESENT


def from_columns(columns: Mapping[str, Sequence[str]]) -> list[Findings]:
    """Combine columns of findings, one text for each image, to the findings of each image.

    A finding without an entry is absent if the image has the finding that means that there is none.
    """
    names = list(columns)
    present, uncertain, missing = (_Sets(names), _Sets(names), _Sets(names))
    codes = [_state_codes(texts) for texts in columns.values()]
    masks = [_bit_masks(codes, state) for state in (_PRESENT, _UNCERTAIN, _MISSING)]
    normal = sum(1 << bit for bit, name in enumerate(names) if is_normal(name))
    everything = (1 << len(names)) - 1
    known: dict[tuple[int, int, int], Findings] = {}
    found = []
    for key in zip(*masks, strict=True):
        findings = known.get(key)
        if findings is None:
            is_unlabelled = key[2] == everything
            of_missing = 0 if key[0] & normal else key[2]
            findings = UNLABELLED if is_unlabelled else Findings(present[key[0]], uncertain[key[1]], missing[of_missing])
            known[key] = findings
        found.append(findings)
    return found


class _Sets(dict[int, frozenset[str]]):
    """The set of names for each bit mask, built once. Equal sets are one object in memory."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, mask: int) -> frozenset[str]:
        self[mask] = frozenset(name for bit, name in enumerate(self._names) if mask >> bit & 1)
        return self[mask]


def _state_codes(texts: Sequence[str]) -> np.ndarray:
    state_of = {text: _STATES.get(text.strip().casefold(), _MISSING) for text in set(texts)}
    return np.fromiter(map(state_of.__getitem__, texts), np.int8, len(texts))


def _bit_masks(codes: Sequence[np.ndarray], state: int) -> list[int]:
    """Return an integer for each image whose bits are the columns that have a state."""
    dtype = np.int64 if len(codes) <= _MAX_BITS else object
    masks = np.zeros(len(codes[0]), dtype)
    for bit, code in enumerate(codes):
        masks |= (code == state).astype(dtype) << bit
    listed: list[int] = masks.tolist()
    return listed


def from_texts(texts: Sequence[str]) -> list[Findings]:
    """Convert labels to findings: names with a separator between them, lists as Python writes them, or one name."""
    different = set(texts)
    separator = _find_separator(different)
    has_lists = any(map(_is_list, different))
    known = {text: _parse(text, separator, has_lists=has_lists) for text in different}
    return [known[text] for text in texts]


def are_regions(texts: Iterable[str]) -> bool:
    """Return whether the texts of a column are regions, such as boxes or run lengths of a mask: numbers, or empty, or -1."""
    stripped = {text.strip() for text in texts}
    regions = {text for text in stripped if _NUMBERS.fullmatch(text)}
    others = {_STATES.get(text.casefold()) for text in stripped - regions}
    return others <= {_UNCERTAIN, _MISSING} and any(len(_NUMBER.findall(text)) >= _MIN_NUMBERS for text in regions)


def from_regions(texts: Sequence[str], name: str) -> list[Findings]:
    """Convert a column of regions to the finding ``name``, where an image has a region, and ``no NAME``."""
    present, absent = Findings(frozenset({name})), Findings(frozenset({f"no {name}"}))
    return [present if _NUMBERS.fullmatch(text.strip()) else absent for text in texts]


def _find_separator(texts: Iterable[str]) -> str:
    """Return the character that separates several findings in a label; "" if each label is one name.

    A vertical bar always separates findings. A semicolon does if a part of a label occurs in another label, and other
    characters do if all parts of a label are labels of their own: "Pneumonia, viral" and "Nodule/Mass" are names.
    """
    labels = {text.strip() for text in texts if text.strip() and not _is_list(text)}
    if any("|" in label for label in labels):
        return "|"
    for separator in ";,+&/":
        split = {label: [part.strip() for part in label.split(separator)] for label in labels if separator in label}
        counts = Counter(part for label in labels for part in set(split.get(label, [label])) if part)
        if any(all(part in labels for part in parts) for parts in split.values()):
            return separator
        if separator == ";" and any(counts[part] > 1 for parts in split.values() for part in parts):
            return separator
    return ""


def _parse(text: str, separator: str, *, has_lists: bool) -> Findings:
    stripped = text.strip()
    if not (separator or has_lists):
        return Findings(frozenset({stripped})) if stripped else UNLABELLED
    names = _items(stripped) if _is_list(stripped) else stripped.split(separator) if separator else [stripped]
    present = frozenset(name.strip() for name in names if name.strip() and not is_placeholder(name))
    return Findings(present) if present else UNLABELLED


def _is_list(text: str) -> bool:
    return text.strip().startswith("[") and text.strip().endswith("]")


def _items(text: str) -> list[str]:
    try:
        values = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text.strip("[]").split(",")
    return [str(value) for value in values]


def majority(entries: Sequence[tuple[str, Findings]]) -> Findings:
    """Combine the findings of several readers of an image.

    Args:
        entries: Reader and findings; a reader may have several entries.

    Returns:
        The findings of more than half of the readers as present, and of exactly half as uncertain.
    """
    by_reader: dict[str, frozenset[str]] = {}
    for reader, findings in entries:
        by_reader[reader] = by_reader.get(reader, frozenset()) | findings.present
    votes = Counter(name for present in by_reader.values() for name in present)
    n = len(by_reader)
    return Findings(
        frozenset(name for name, count in votes.items() if 2 * count > n),
        frozenset(name for name, count in votes.items() if 2 * count == n),
    )


def union(entries: Sequence[Findings]) -> Findings:
    """Combine the rows of an image, each of which states findings."""
    present = frozenset().union(*(findings.present for findings in entries))
    uncertain = frozenset().union(*(findings.uncertain for findings in entries)) - present
    return Findings(present, uncertain) if present or uncertain else entries[0]


def settle_labels(
    entries: Sequence[Findings], options: DataOptions, table: str, *, columns: Iterable[str] = ()
) -> SettledLabels:
    """Choose the label of each image, or find that images may have several findings.

    Args:
        entries: The findings of each image.
        options: The chosen task, finding or classes, and what is done with uncertain labels.
        table: Name of the table, for messages.
        columns: Names of columns of findings, which need not be present in any image.

    Raises:
        UnknownNameError: The chosen finding does not exist, or there is no such choice for uncertain labels.
        DataError: Images have several findings, the chosen task is one class for each image, and neither a finding nor classes
            are chosen.
    """
    if options.uncertain not in UNCERTAIN:
        raise UnknownNameError("choice for uncertain labels", options.uncertain, UNCERTAIN)
    if options.finding is not None:
        return _one_against_rest(entries, options.finding, options.uncertain, columns)
    labelled = [findings for findings in entries if not findings.is_unlabelled]
    if options.wants_findings:
        return SettledLabels([""] * len(entries), findings=_names_of(labelled, columns))
    is_single = all(len(findings.present) == 1 and not findings.uncertain for findings in labelled)
    if is_single:
        return _settle_single(entries, options, table)
    if options.classes is None:
        if options.task == MULTICLASS:
            raise DataError(_several_message(labelled, table))
        note = f"{_count_several(labelled, table)}. Each finding gets an output of its own (--task multilabel)."
        return SettledLabels([""] * len(entries), notes=(note,), findings=_names_of(labelled, columns))
    labels = [
        next(iter(findings.present)) if len(findings.present) == 1 and not findings.uncertain else "" for findings in entries
    ]
    n_dropped = sum(not label for label, findings in zip(labels, entries, strict=True) if not findings.is_unlabelled)
    note = (
        f"{n_dropped} of {len(entries)} images have several findings, none or an uncertain one in {table} and are not used: an "
        "image needs exactly one label."
    )
    return SettledLabels(labels, 0, len(entries) - len(labelled), (note,) if n_dropped else ())


def _names_of(entries: Sequence[Findings], columns: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all findings: those of columns in their order, others sorted."""
    different = set(entries)
    return tuple(dict.fromkeys(columns)) or tuple(sorted({name for one in different for name in one.present | one.uncertain}))


def _count_several(entries: Sequence[Findings], table: str) -> str:
    counts = Counter(name for findings in entries for name in findings.present)
    n_several = sum(len(findings.present) > 1 for findings in entries)
    n_none = sum(not findings.present for findings in entries)
    n_uncertain = sum(bool(findings.uncertain) for findings in entries)
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    listed = ", ".join(f"'{name}' {counts[name]}" for name in ordered[:_SHOWN])
    more = f", ... ({len(counts)} findings)" if len(counts) > _SHOWN else ""
    none = f", {n_none} with none" if n_none else ""
    uncertain = f", {n_uncertain} with uncertain ones" if n_uncertain else ""
    return f"{len(entries)} images with findings in {table}, {n_several} of them with several{none}{uncertain} ({listed}{more})"


def _several_message(entries: Sequence[Findings], table: str) -> str:
    counts = Counter(name for findings in entries for name in findings.present if not is_normal(name))
    example = max(sorted(counts), key=lambda name: counts[name], default="NAME")
    return (
        f"Each image needs one label with --task {MULTICLASS}; received {_count_several(entries, table)}. Omit --task for an "
        f"output of each finding, choose one finding against all images without it, such as --finding '{example}', or use the "
        "images with exactly one finding with --classes A,B."
    )


def _one_against_rest(entries: Sequence[Findings], finding: str, uncertain: str, columns: Iterable[str]) -> SettledLabels:
    names = {*columns} or {name for findings in set(entries) for name in findings.present}
    by_folded = {name.casefold(): name for name in sorted(names)}
    chosen = finding if finding in names else by_folded.get(finding.strip().casefold())
    if chosen is None:
        raise UnknownNameError("finding", finding, sorted(names))
    rest = "any finding" if is_normal(chosen) else f"no {chosen}"
    of_uncertain = {DROP: "", ZEROS: rest, ONES: chosen}[uncertain]
    of_missing = "" if uncertain == DROP else rest
    labels, n_uncertain, n_missing = [], 0, 0
    for findings in entries:
        if chosen in findings.present:
            labels.append(chosen)
        elif findings.is_unlabelled:
            n_missing += 1
            labels.append("")
        elif chosen in findings.uncertain:
            n_uncertain += 1
            labels.append(of_uncertain)
        elif chosen in findings.missing:
            n_missing += 1
            labels.append(of_missing)
        else:
            labels.append(rest)
    return SettledLabels(
        labels, n_uncertain, n_missing, _uncertain_notes(n_uncertain, n_missing, len(entries), uncertain, chosen)
    )


def _uncertain_notes(n_uncertain: int, n_missing: int, n_images: int, uncertain: str, finding: str) -> tuple[str, ...]:
    if not n_uncertain + n_missing:
        return ()
    effect = {
        DROP: "they are not used",
        ZEROS: "they count as images without it, except images without any label",
        ONES: f"uncertain ones count as '{finding}' and missing ones as images without it, except images without any label",
    }[uncertain]
    note = (
        f"The label '{finding}' is uncertain for {n_uncertain} and missing for {n_missing} of {n_images} images: {effect} "
        f"(--uncertain {uncertain})."
    )
    return (note,)


def _settle_single(entries: Sequence[Findings], options: DataOptions, table: str) -> SettledLabels:
    """Choose among single labels, of which some may be uncertain or missing."""
    texts = ["" if findings.is_unlabelled else next(iter(findings.present)) for findings in entries]
    counts = Counter(texts)
    doubtful = {text for text in counts if text and is_placeholder(text)}
    others = {text for text in counts if text and text not in doubtful}
    doubtful -= {*(options.classes or ()), *(options.class_map or ())}
    if len(others) < 2 or not doubtful:
        return SettledLabels(texts, 0, counts[""])
    negative = {text for text in doubtful if _STATES.get(text.casefold()) == _UNCERTAIN}
    by_state = {_STATES.get(text.casefold()): text for text in others}
    is_binary = len(others) == 2 and {_PRESENT, _ABSENT} <= by_state.keys()
    if options.uncertain != DROP and not is_binary:
        raise UsageError(
            f"--uncertain {options.uncertain} needs the labels 0 and 1; received {', '.join(sorted(others)[:_SHOWN])} in "
            f"{table}. Omit it, or choose --uncertain {DROP}."
        )
    of_uncertain = {DROP: "", ZEROS: by_state.get(_ABSENT, ""), ONES: by_state.get(_PRESENT, "")}[options.uncertain]
    of_missing = "" if options.uncertain == DROP else by_state.get(_ABSENT, "")
    replaced = {text: of_uncertain if text in negative else of_missing for text in doubtful}
    n_uncertain = sum(counts[text] for text in negative)
    n_missing = sum(counts[text] for text in doubtful - negative)
    listed = ", ".join(f"'{text}' ({counts[text]})" for text in sorted(doubtful))
    effect = (
        "are not used" if options.uncertain == DROP else f"count as '{of_uncertain}' if uncertain, as '{of_missing}' if missing"
    )
    note = f"Labels in {table} that are uncertain or missing {effect} (--uncertain {options.uncertain}): {listed}."
    return SettledLabels([replaced.get(text, text) for text in texts], n_uncertain, n_missing + counts[""], (note,))
