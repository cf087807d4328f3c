"""Search spaces by name or path, checked against the hyperparameters that there are."""

from __future__ import annotations

from pathlib import Path

from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Choice, Space, Value, parse_space
from automl_cxr.errors import SpaceError, UnknownNameError, UsageError

_OF_THE_STUDY = (
    "seed",
    "image_size",
    "fit",
    "epochs",
)  # decoded images, stopping rules and records depend on one value of each
_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> dict[str, Path]:
    """List the TOML files of ``search_spaces`` or ``studies`` by name: in the wheel, or beside the package in a checkout."""
    inside = _PACKAGE / folder
    files = (inside if inside.is_dir() else _PACKAGE.parent / folder).glob("*.toml")
    return {path.stem: path for path in sorted(files)}


def find_shipped(folder: str, kind: str, name: str) -> Path:
    """Find a shipped TOML file by its name, or a user's own by its path.

    Raises:
        UnknownNameError: It is neither.
        UsageError: A path to no file.
    """
    known = shipped(folder)
    if name in known:
        return known[name]
    if not name.endswith(".toml"):
        raise UnknownNameError(kind, name, known)
    if not Path(name).is_file():
        raise UsageError(f"A {kind} must be a shipped name ({', '.join(known)}) or an existing TOML file; received {name}.")
    return Path(name)


def load_space(name: str) -> Space:
    """Load a shipped space by name, or a user's by the path of its TOML file, checked.

    Raises:
        UnknownNameError: No such space, or the space names something that is no hyperparameter.
        SpaceError: The file is no space, or reaches values that a trial cannot take.
    """
    return check_space(parse_space(read_space(name), name=Path(name).stem))


def read_space(name: str) -> str:
    """Read the TOML text of a space.

    Raises:
        UnknownNameError: No such space.
        SpaceError: The file cannot be read.
    """
    path = find_shipped("search_spaces", "search space", name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"The space {path} cannot be read ({error}).") from error


def check_space(space: Space) -> Space:
    """Check that every name is a hyperparameter and every value one that it can take; give the space back.

    Raises:
        UnknownNameError: A name is no hyperparameter.
        SpaceError: A value is out of its range, or the space searches nothing and fixes nothing.
    """
    if not space.names:
        raise SpaceError(f"Space '{space.name}' is empty: a space fixes or searches at least one hyperparameter.")
    for name, values in [
        *((name, [value]) for name, value in space.constants.items()),
        *((parameter.name, _extremes(parameter)) for parameter in space.parameters),
    ]:
        for value in values:
            try:
                TrialConfig.from_values({name: value})
            except UnknownNameError:
                raise
            except UsageError as error:
                raise SpaceError(f"Space '{space.name}': {error}") from error
    for name in _OF_THE_STUDY:
        if name in space.names:
            option = name.replace("_", "-")
            raise SpaceError(f"Space '{space.name}': '{name}' belongs to the study (--{option}) and cannot be part of a space.")
    return space


def _extremes(parameter: object) -> list[Value]:
    return list(parameter.values) if isinstance(parameter, Choice) else [parameter.low, parameter.high]  # type: ignore[attr-defined]
