"""Overlap of the test and validation parts of a study with the images that were used for models from which it starts.

Every way in which a model or a trial of another study enters a study calls ``check_sources``: initial weights (``weights``,
``second_weights``, ``heads``), splices, and warm starts. Images are compared by content. Other images of the same patients are
not recognised, because ids of patients differ between data sets.

The result is stored in sources.json of the study, and evaluations, model cards and reports repeat it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.errors import DataError
from automl_cxr.io import write_text
from automl_cxr.study.image_hashes import ImageHashes
from automl_cxr.study.model_sources import Source
from automl_cxr.study.store import explained_disk_errors, read_record
from automl_cxr.text_records import build_record, parse_json

_FILE = "sources.json"


@dataclass(frozen=True, kw_only=True)
class SourceCheck:
    """The comparison of a study with one of its sources.

    Attributes:
        source: Description of the source.
        is_known: Whether the images of the source are known.
        n_test: Number of test images that were used to train or select the source.
        test_size: Number of test images.
        n_valid: Number of validation images on which the source was trained; 0 if no weights are taken from it.
        valid_size: Number of validation images, or of those of all folds.
    """

    source: str
    is_known: bool
    n_test: int
    test_size: int
    n_valid: int
    valid_size: int

    @property
    def warnings(self) -> list[str]:
        """Sentences for readers of the scores of the study."""
        if not self.is_known:
            unknown = f"The images that were used for {self.source} are unknown"
            return [f"{unknown}, so it was not checked whether they include validation or test images of this study."]
        test = f"{self.n_test} of {self.test_size} test images were used to train or select {self.source}"
        valid = f"{self.n_valid} of {self.valid_size} validation images are training images of {self.source}"
        return [
            *([f"{test}, so test scores are optimistic."] if self.n_test else []),
            *([f"{valid}, so validation scores are optimistic."] if self.n_valid else []),
        ]


def check_sources(sources: Sequence[Source], own: ImageHashes, *, allows_test_overlap: bool) -> list[SourceCheck]:
    """Compare the images of a study with those of its sources.

    Args:
        sources: The models and studies from which the study starts.
        own: Content hashes of the images of the study.
        allows_test_overlap: Whether test images may have been used for a source.

    Raises:
        DataError: Test images were used to train or select a source.
    """
    checks = [_check(source, own) for source in sources]
    for check in checks:
        if check.n_test and not allows_test_overlap:
            raise DataError(
                f"Test images must not be used before the evaluation; {check.n_test} of {check.test_size} were used to train "
                f"or select {check.source}. Use the split of its study (the same data, fractions and --seed, or a column split "
                "in the table of the data), or pass --test-overlap allow: evaluations and reports will then state the overlap."
            )
    return checks


def _check(source: Source, own: ImageHashes) -> SourceCheck:
    """Count common images, without copies of an image in two parts of the study itself, which an audit of the data finds."""
    n_test = n_valid = 0
    if source.images is not None:
        n_test = len((own.test & source.images.used) - own.train - own.valid)
        if source.gives_weights:
            judged = own.valid - own.train if own.valid else own.train
            n_valid = len(judged & (source.images.train | source.images.earlier))
    return SourceCheck(
        source=source.name,
        is_known=source.images is not None,
        n_test=n_test,
        test_size=len(own.test),
        n_valid=n_valid,
        valid_size=len(own.valid or own.train),
    )


def warnings_of(checks: Sequence[SourceCheck]) -> list[str]:
    """Return the warnings of several comparisons."""
    return [warning for check in checks for warning in check.warnings]


def save_source_checks(checks: Sequence[SourceCheck], folder: Path) -> None:
    """Write the comparisons to a study's folder.

    Raises:
        StudyError: The folder cannot be written.
    """
    with explained_disk_errors(folder):
        write_text(folder / _FILE, json.dumps([dataclasses.asdict(check) for check in checks], indent=1, ensure_ascii=False))


def load_source_checks(folder: Path) -> list[SourceCheck] | None:
    """Return the comparisons in a study's folder; None for a study of an earlier version.

    Raises:
        StudyError: The file is damaged.
    """
    path = folder / _FILE
    return read_record(path, _parse) if path.is_file() else None


def source_warnings(folder: Path) -> list[str]:
    """Return the warnings about the sources of the study in a folder.

    Raises:
        StudyError: The file is damaged.
    """
    return warnings_of(load_source_checks(folder) or [])


def _parse(text: str) -> list[SourceCheck]:
    return list(build_record(tuple[SourceCheck, ...], parse_json(text)))
