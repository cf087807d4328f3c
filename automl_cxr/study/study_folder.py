"""The folder of a new study: where it may be created, and how a folder is recognised that this program created.

A folder is recognised by a record inside it, never by its name. A file of the user is therefore neither overwritten by a new
study nor removed with it.
"""

from __future__ import annotations

from pathlib import Path

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.storage.passwords import without_password
from automl_cxr.storage.urls import DEFAULT_FILE, storage_file
from automl_cxr.study.store import check_study_name, explained_disk_errors
from automl_cxr.text_records import parse_json

_MARKER = ".automl-cxr-study"  # written first, so that the folder of an interrupted creation is recognised
_COMPANIONS = ("", "-journal", "-wal", "-shm")  # suffixes of the files that SQLite writes next to a database
_KEYS_OF_SPEC = frozenset({"space_toml", "data_digest"})


def check_folder_name(name: str, *, runs: Path, storage: str) -> Path:
    """Return the folder of a study of this name, if the name is valid and is not the name of another file in the runs folder.

    Raises:
        UsageError: The name is no valid folder name, or it is the name of a file, such as the file of the storage.
    """
    folder = runs / check_study_name(name)
    file = storage_file(storage)
    reserved = {DEFAULT_FILE + suffix for suffix in _COMPANIONS}
    if file is not None and file.parent == runs:
        reserved |= {file.name + suffix for suffix in _COMPANIONS}
    # Some file systems ignore the case of names.
    if name.casefold() in {one.casefold() for one in reserved} or (folder.exists() and not folder.is_dir()):
        raise UsageError(
            f"The name of a study must differ from the files in the runs folder {runs}; received {name!r}, which is the name "
            "of a file. Choose another name."
        )
    return folder


def claim_folder(name: str, *, runs: Path, storage: str) -> Path:
    """Create the folder of a new study, or take over the folder of an interrupted creation. The caller holds its lock.

    Raises:
        UsageError: As for ``check_folder_name``.
        StudyError: The folder contains files that belong to no study, or a study that was searched and is in another storage;
            or it cannot be written.
    """
    folder = check_folder_name(name, runs=runs, storage=storage)
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        first = min((entry.name for entry in folder.iterdir()), default=None)
        if first is not None and not _is_folder_of_study(folder):
            raise StudyError(
                f"The folder of a new study must be new or empty; {folder} contains '{first}', which belongs to no study. "
                "Choose another --name or --runs."
            )
        if (folder / "drivers").exists() or any((folder / "trials").glob("[0-9]*")):
            raise StudyError(
                f"The folder of a new study must not contain another study; {folder} contains a study that is not in "
                f"{without_password(storage)}. Pass the --storage of that study, or another --runs or --name."
            )
        (folder / _MARKER).touch()
    return folder


def _is_folder_of_study(folder: Path) -> bool:
    if (folder / _MARKER).is_file():
        return True
    try:
        spec = parse_json((folder / "study.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(spec, dict) and spec.keys() >= _KEYS_OF_SPEC
