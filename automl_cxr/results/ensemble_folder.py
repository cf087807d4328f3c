"""Where an ensemble is written. An existing folder is replaced only if it is an ensemble of the same members.

A folder is recognised as an ensemble by its record and by its files, never by its name. The ensemble that a search recommends
has an entry ``RECOMMENDED`` in its record. A later recommendation replaces it, whatever its members are, unless it was
evaluated on the test part.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.results.classifier import ENSEMBLE_FILE
from automl_cxr.results.ensemble_record import CARD_FILE, MEMBERS_FOLDER, record_test_opening
from automl_cxr.study.image_hashes import HASHES_SUFFIX
from automl_cxr.study.store import PREDICTIONS_FILE
from automl_cxr.text_records import parse_json_object

RECOMMENDED = "is_recommended"
_FILES = re.compile(
    "|".join(
        (
            *map(re.escape, (ENSEMBLE_FILE, CARD_FILE, PREDICTIONS_FILE)),
            rf"{MEMBERS_FOLDER}(/\d+(\.keras|{re.escape(HASHES_SUFFIX)}))?",
        )
    )
)


class EnsembleFolder:
    """The folder of a new ensemble.

    Args:
        parent: Folder of the ensembles.
        name: Name of the folder. If it is None, the first free name of ``default_name``, ``default_name-2``, ... is used.
        default_name: Name of the folder if ``name`` is None.
    """

    def __init__(self, parent: Path, name: str | None, *, default_name: str) -> None:
        self._parent = parent
        self._name = name
        self._default_name = default_name

    def check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Check, before the weights are fitted, that the members may be written to the named folder.

        Args:
            rows: Record entries of the members, in order.

        Raises:
            UsageError: The folder contains something else than an ensemble of the same members.
        """
        if self._name is not None:
            self._require_free(self._parent / self._name, {"members": rows})

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """Create a hidden folder for the files of the ensemble, which is removed at the end unless it was published.

        Raises:
            StudyError: The folder cannot be written.
        """
        partial = self._parent / f".{uuid.uuid4().hex}.partial"
        try:
            partial.mkdir(parents=True)
            yield partial
        except OSError as error:
            place = self._parent / (self._name or self._default_name)
            raise StudyError(f"Cannot write the ensemble to {place} ({error.strerror or error}).") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def publish(self, partial: Path) -> Path:
        """Rename the hidden folder to the final name; return the final folder.

        The scores on the test part of an earlier ensemble with the same members and weights are kept.

        Raises:
            UsageError: The named folder contains something else than an ensemble of the same members, or an ensemble with
                other weights or thresholds that was evaluated on the test part.
            OSError: The folder cannot be written.
        """
        record = _read_record(partial)
        if self._name is None:
            names = (f"{self._default_name}-{n}" if n > 1 else self._default_name for n in itertools.count(1))
            folder = next(folder for folder in map(self._parent.joinpath, names) if _conflict(folder, record) is None)
        else:
            folder = self._parent / self._name
            self._require_free(folder, record)
        if not folder.exists():
            partial.replace(folder)
            return folder
        former = _read_record(folder)
        if "test" in former:
            record_test_opening(partial, former["test"])
        replaced = folder.with_name(f".{uuid.uuid4().hex}.replaced")
        folder.replace(replaced)
        partial.replace(folder)
        shutil.rmtree(replaced, ignore_errors=True)
        return folder

    def _require_free(self, folder: Path, record: Mapping[str, Any]) -> None:
        reason = _conflict(folder, record)
        if reason is not None:
            raise UsageError(
                f"An ensemble replaces only an ensemble of the same members; {folder} {reason}. Choose another --name, or "
                "remove the folder."
            )


def _conflict(folder: Path, record: Mapping[str, Any]) -> str | None:
    """Return why an ensemble with this record must not replace a folder; None if it may."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "is a file"
    former = _read_record(folder)
    others = _other_files(folder) if former else sorted(path.name for path in folder.iterdir())
    if others:
        return f"contains '{others[0]}', which is not a file of an ensemble"
    if not former:
        return None
    if _digests(former) != _digests(record) and not (record.get(RECOMMENDED) and _is_unused_recommendation(former)):
        return f"is an ensemble of other members ({', '.join(str(row.get('name')) for row in former['members'])})"
    if "test" in former and "rule" in record:
        if former["rule"] != record["rule"]:
            return "is an ensemble with other weights that was evaluated on the test part"
        if _decisions(former) != _decisions(record):
            return "is an ensemble with other thresholds that was evaluated on the test part"
    return None


def _decisions(record: Mapping[str, Any]) -> tuple[Any, dict[str, float]]:
    """Return the thresholds of findings, and those of operating points by class or finding."""
    return record.get("thresholds"), {point["name"]: point["threshold"] for point in record.get("operating_points", ())}


def _other_files(folder: Path) -> list[str]:
    """List the files in the folder of an ensemble that do not belong to it."""
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*"))]
    return [name for name in found if not _FILES.fullmatch(name)]


def _is_unused_recommendation(record: Mapping[str, Any]) -> bool:
    """Return whether a search recommended an ensemble that was not evaluated on the test part."""
    return record.get(RECOMMENDED) is True and "test" not in record


def remove_former_recommendations(parent: Path, kept: str | None) -> None:
    """Remove the ensembles that earlier searches recommended, except the named one and those evaluated on the test part.

    Args:
        parent: Folder of the ensembles.
        kept: Name of the ensemble that is recommended now.

    Raises:
        OSError: A folder cannot be removed.
    """
    for folder in parent.glob("[!.]*/"):
        if folder.name != kept and _is_unused_recommendation(_read_record(folder)) and not _other_files(folder):
            removed = folder.with_name(f".{uuid.uuid4().hex}.replaced")
            folder.replace(removed)
            shutil.rmtree(removed, ignore_errors=True)


def _read_record(folder: Path) -> dict[str, Any]:
    """Return the record of an ensemble; an empty one if the folder contains no ensemble."""
    try:
        record = parse_json_object((folder / ENSEMBLE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_ensemble = isinstance(record, dict) and "rule" in record and isinstance(record.get("members"), list)
    return record if is_ensemble and all(isinstance(row, dict) for row in record["members"]) else {}


def _digests(record: Mapping[str, Any]) -> list[Any]:
    """Return the digests of the members' predictions, by which members are compared."""
    return [row.get("predictions_sha256") for row in record["members"]]
