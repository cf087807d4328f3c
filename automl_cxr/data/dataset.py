"""The table of a data set: its images with their classes, patients, parts and views."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from automl_cxr.data.arrays import ARRAY_SUFFIX, name_rows, open_images, split_row
from automl_cxr.data.class_map import rename_classes
from automl_cxr.data.class_names import choose_classes, strip_labels
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.decode import describe_read_failure
from automl_cxr.data.dicom_tags import count_header_values, fill_metadata, fill_patients
from automl_cxr.data.exclusions import Exclusion, ExclusionCounter
from automl_cxr.data.files import IMAGE_SUFFIXES, enter_lone_folders, explain_unusable, walk_images
from automl_cxr.data.finding_choice import choose_findings, from_classes, rename_findings
from automl_cxr.data.image_selection import select_images
from automl_cxr.data.layout_rows import SPLIT_NAMES, ImageRow, UsedTable
from automl_cxr.data.layouts import find_layout
from automl_cxr.data.patient_columns import patient_column_note
from automl_cxr.data.patient_metadata import AGE, SCANNER, SEX, SITE, VIEW, check_chosen
from automl_cxr.data.patient_patterns import doubtful_patients_note, propose_pattern, set_patients
from automl_cxr.data.patients import settle_unknown_patients
from automl_cxr.data.plausible_classes import check_plausible
from automl_cxr.data.table_columns import describe_columns
from automl_cxr.errors import DataError, UnreadableImageError, UsageError
from automl_cxr.tasks import MULTICLASS, MULTILABEL

_HANDFUL = 20  # images; a given part with fewer is too small
_SMALL_PART, _SMALL_SHARE = 50, 0.03  # images, and share of all images, below which a given part is too small
COLUMNS = ("image", "label", "patient_id", "split", "view")


@dataclass(frozen=True)
class Dataset:
    """A data set on disk. It contains no pixels; its files are not decoded yet.

    Attributes:
        root: Absolute folder that image paths are relative to.
        layout: Name of its layout in ``layouts.LAYOUTS``.
        table: One row for each image, sorted by image: image (unique; POSIX path relative to root, absolute for an image
            outside of it; ``images.npy#00012`` for a row of an array), label (class name; of several findings, a text for
            display), patient_id, split ("train", "valid" or "test"; "" for all images where no split is given), view (or "").
        classes: Names of the classes or findings; their order is the class index.
        patients_known: False if each image counts as its own patient.
        ignored: Path to reason for other files that a user could expect to be used.
        notes: Sentences for the user.
        without_patient: Images that have no patient although others have one. Each is a patient of its own in the table, or
            not in the table if ``unknown_patients`` is "drop".
        unknown_patients: The user's choice for such images: "separate", "drop", or None.
        headers: Number of DICOM files by the values of some elements, such as {"modality": {"DX": 20, "CT": 3}}, with the files
            that are not used.
        used_tables: The tables of labels with the use of their columns.
        n_uncertain: Number of listed images with an uncertain label, which are treated as the user chose.
        n_missing: Number of listed images without a label.
        task: What is predicted, a name in ``tasks.TASKS``.
        findings: The label code (``tasks``) of each finding of each image, int8, with the images as index and the findings as
            columns, if an image may have several; otherwise None. Read labels with ``labels_of``.
        exclusions: Numbers of images that were left out, in the order of the steps. Files that are not used (``ignored``) are
            not among them.
        metadata: Sex, age in years, view, site, scanner and chosen columns, as texts with the images of the table as index; ""
            where unknown. Only the columns of which a value is known.
    """

    root: Path
    layout: str
    table: pd.DataFrame
    classes: tuple[str, ...]
    patients_known: bool
    ignored: Mapping[str, str]
    notes: tuple[str, ...]
    without_patient: tuple[str, ...] = ()
    unknown_patients: str | None = None
    headers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    used_tables: tuple[UsedTable, ...] = ()
    n_uncertain: int = 0
    n_missing: int = 0
    task: str = MULTICLASS
    findings: pd.DataFrame | None = None
    exclusions: tuple[Exclusion, ...] = ()
    metadata: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.task == MULTILABEL

    def labels_of(self, images: Sequence[str]) -> np.ndarray:
        """Return the labels of some images.

        Args:
            images: Ids of images of the table.

        Returns:
            Index of the class of each image, int64 (n,); of several findings, their label codes, int64 (n, n_findings).
        """
        if self.findings is not None:
            return self.findings.loc[list(images), list(self.classes)].to_numpy(np.int64)
        labels = self.table.set_index("image")["label"].loc[list(images)]
        return pd.Categorical(labels, categories=list(self.classes)).codes.astype(np.int64)

    @property
    def column_notes(self) -> tuple[str, ...]:
        """Sentences on the tables with columns that are not used, for commands that do not show ``used_tables``."""
        return tuple(filter(None, map(describe_columns, self.used_tables)))


def load_dataset(
    root: Path | str,
    options: DataOptions | None = None,
) -> Dataset:
    """Find the images of a folder, CSV file or array, with their classes and patients.

    Args:
        root: A data folder, a CSV file, or a .npy array with a CSV file beside it.
        options: How the data are read; by default everything is detected.

    Returns:
        A data set of at least two classes, or one finding.

    Raises:
        UsageError: The layout, a class or the label column is unknown, the layout has no label column to choose, the pattern
            is not a regular expression or matches no path, or two options contradict each other.
        DataError: The root is missing, a table is damaged, or there are no images, fewer than two classes, classes that
            differ only in case, or no finding with enough patients.
    """
    options = options or DataOptions()
    options.check_task()
    if not os.fspath(root):
        raise UsageError("The path of a data folder, CSV file or array must not be empty; received an empty path. Name one.")
    path = Path(os.path.abspath(Path(root).expanduser()))
    if not os.path.exists(path):
        raise DataError(f"The data folder, CSV file or array must exist; received '{root}'. Check the path.")
    entered = enter_lone_folders(path) if path.is_dir() else path
    found_layout = find_layout(entered, options)
    raw = found_layout.read(entered)
    rows = sorted(raw.rows, key=lambda row: row.image)
    if not rows:
        raise DataError(f"A data set needs images in folders or in a table; found none in '{root}'. Check the path.")
    notes = [] if entered == path else [f"The data are read from the only folder, {entered.relative_to(path).as_posix()}."]
    notes.extend(raw.notes)
    base = raw.root or (entered.parent if entered.is_file() else entered)
    excluded = ExclusionCounter(rows, n_unlabelled=raw.n_unlabelled)
    rows, headers = select_images(base, rows, options, notes, excluded)
    is_multilabel = raw.findings is not None or options.wants_findings
    if is_multilabel:
        rows, known = (rows, raw.findings) if raw.findings is not None else from_classes(strip_labels(rows, notes))
        rows, known = rename_findings(rows, known, options.class_map, notes)
    else:
        rows = rename_classes(strip_labels(rows, notes), options.class_map, notes)
        check_plausible(entered, found_layout.name, rows, headers, options, root)
        names = choose_classes([row.label for row in rows], options.classes, root, notes)
        rows = [row for row in rows if row.label in names]
        excluded.count(rows, "a class that is not used")
    rows = fill_metadata(rows, headers)
    rows = fill_patients(rows, headers, notes) if options.patients is None else set_patients(rows, options.patients, notes)
    rows, without_patient = settle_unknown_patients(rows, options.unknown_patients, notes)
    excluded.count(rows, "no known patient")
    n_uncertain, n_missing, codes = raw.n_uncertain, raw.n_missing, None
    if is_multilabel:
        chosen = choose_findings(rows, known, options, notes)
        names, rows, codes = chosen.names, chosen.rows, chosen.codes
        n_uncertain, n_missing = chosen.n_uncertain, chosen.n_missing
        excluded.count(rows, "no known label of a finding that is used")
    patients_known = any(row.patient_id for row in rows)
    notes.extend(_patient_notes(rows, root, raw.used_tables))
    rows = _apply_split_choice(rows, options, notes)
    rows = [replace(row, patient_id=row.patient_id or row.image) for row in _complete_split(rows, notes)]
    _note_shared_patients(rows, notes)
    images = [row.image for row in rows]
    check_chosen(rows, options, (name for table in raw.used_tables for name in (*table.columns.values(), *table.unused)))
    return Dataset(
        root=base,
        layout=found_layout.name,
        table=pd.DataFrame([[getattr(row, name) for name in COLUMNS] for row in rows], columns=list(COLUMNS)),
        classes=names,
        patients_known=patients_known,
        ignored=dict(raw.ignored),
        notes=tuple(notes),
        without_patient=without_patient,
        unknown_patients=options.unknown_patients,
        headers=count_header_values(headers.values()),
        used_tables=raw.used_tables,
        n_uncertain=n_uncertain,
        n_missing=n_missing,
        task=MULTICLASS if codes is None else MULTILABEL,
        findings=None if codes is None else pd.DataFrame(codes, index=images, columns=list(names)),
        exclusions=excluded.found,
        metadata=_metadata_table(rows, options),
    )


def _metadata_table(rows: Sequence[ImageRow], options: DataOptions) -> pd.DataFrame:
    by_image = [dict(row.metadata) for row in rows]
    known = {name for one in by_image for name in one}
    names = [name for name in dict.fromkeys((SEX, AGE, VIEW, SITE, SCANNER, *(options.subgroups or ()))) if name in known]
    columns = {name: [one.get(name, "") for one in by_image] for name in names}
    return pd.DataFrame(columns, index=[row.image for row in rows])


def load_image_paths(paths: Sequence[Path | str]) -> tuple[list[Path], dict[str, str]]:
    """List the image files among files and in folders, without repetition.

    Args:
        paths: Files with any name, and folders, which are searched at all depths for files with image or array suffixes.

    Returns:
        The image files in the order of ``paths``, sorted within a folder, where an array is replaced by its rows, such as
        ``images.npy#00012``. Then path to reason for files that cannot be read.

    Raises:
        UsageError: A path is empty.
    """
    if not all(map(os.fspath, paths)):
        raise UsageError("Paths of images and folders must not be empty; received an empty path. Remove it.")
    found: dict[Path, None] = {}
    unusable: dict[str, str] = {}
    for path in map(Path, paths):
        inside = sorted(_walk_path(path))
        for file, reason in inside:
            images, problem = ([], reason) if reason else _expand_array(file)
            found.update(dict.fromkeys(images))
            if problem:
                unusable[str(file)] = problem
        if not inside:
            unusable[str(path)] = "a folder without images"
    return list(found), unusable


def _walk_path(path: Path) -> Iterator[tuple[Path, str]]:
    if path.is_dir():
        for name, reason in walk_images(path, suffixes=(*IMAGE_SUFFIXES, ARRAY_SUFFIX)):
            yield path / name, reason
    else:
        file, _ = split_row(str(path))
        yield path, explain_unusable(Path(file))


def _expand_array(path: Path) -> tuple[list[Path], str]:
    """Return the images of an array, or the reason why it has none. Any other file is one image."""
    if path.suffix.lower() != ARRAY_SUFFIX:
        return [path], ""
    try:
        return [Path(name) for name in name_rows(str(path), len(open_images(path)))], ""
    except UnreadableImageError as error:
        return [], str(error)
    except OSError as error:
        return [], describe_read_failure(error)


def _patient_notes(rows: Sequence[ImageRow], root: Path | str, tables: Sequence[UsedTable]) -> Iterator[str]:
    """Yield notes if patients are unknown, with what may name them, or doubtful."""
    if any(row.patient_id for row in rows):
        doubtful = doubtful_patients_note(rows)
        if doubtful:
            yield doubtful
        return
    yield (
        "Patients are unknown, so each image counts as its own patient. Name them with --patients REGEX, or in a column "
        "patient_id of metadata.csv or of the table."
    )
    yield from filter(None, (patient_column_note(table.name, table.unused) for table in tables))
    proposed = propose_pattern(rows)
    if proposed is not None:
        yield proposed.sentence(root)


def _apply_split_choice(rows: Sequence[ImageRow], options: DataOptions, notes: list[str]) -> list[ImageRow]:
    """Remove the given parts if the user wants another split; add a note on a part with few images."""
    counts = Counter(row.split for row in rows if row.split)
    if counts and options.resplit:
        listed = ", ".join(f"{part} {counts[part]}" for part in SPLIT_NAMES if counts[part])
        notes.append(f"The parts that the data give are not used (--resplit): {listed} images.")
        return [replace(row, split="") for row in rows]
    if options.resplit:
        notes.append("The data give no known parts, so a split is made as without --resplit.")
    n_all = sum(counts.values())
    for part in ("valid", "test"):
        n_images = counts[part]
        if n_images and n_all > 2 * _HANDFUL and n_images < max(_HANDFUL, min(_SMALL_PART, _SMALL_SHARE * n_all)):
            notes.append(
                f"The {part} part that the data give has {n_images} of {n_all} images, too few for reliable scores. --resplit "
                "makes a new split by patient."
            )
    return list(rows)


def _complete_split(rows: Sequence[ImageRow], notes: list[str]) -> list[ImageRow]:
    """Assign images without a split to the training part if other images have a split."""
    n_without = sum(not row.split for row in rows)
    if n_without in (0, len(rows)):
        return list(rows)
    notes.append(f"{n_without} of {len(rows)} images have no split, but others do. They are used for training.")
    return [replace(row, split=row.split or "train") for row in rows]


def _note_shared_patients(rows: Sequence[ImageRow], notes: list[str]) -> None:
    parts = defaultdict(set)
    for row in rows:
        parts[row.patient_id].add(row.split)
    n_shared = sum(len(found) > 1 for found in parts.values())
    if n_shared:
        n_images = Counter(row.patient_id for row in rows)
        n_affected = sum(n_images[patient] for patient, found in parts.items() if len(found) > 1)
        notes.append(
            f"{n_shared} patients ({n_affected} images) are in more than one part of the given split. "
            "The split is used as given, so its scores may be optimistic."
        )
