"""Search spaces and study files by name or path, and the checks of a space against the hyperparameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from automl_cxr.config import TrialConfig, used_by_of
from automl_cxr.engine.parameters import Choice, Value
from automl_cxr.engine.space import Space
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.errors import SpaceError, UnknownNameError, UsageError

# All trials of a study share these values: its decoded images, stopping rules and records depend on them. A space may search
# image sizes that are not larger than that of the study.
_STUDY_OPTIONS = ("task", "seed", "image_size", "fit", "epochs")
_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(folder: str) -> dict[str, Path]:
    """Return the TOML files of ``search_spaces`` or ``studies`` by name, in the wheel or in a checkout."""
    inside = _PACKAGE / folder
    files = (inside if inside.is_dir() else _PACKAGE.parent / folder).glob("*.toml")
    return {path.stem: path for path in sorted(files)}


def find_shipped(folder: str, kind: str, name: str, *, hint: str = "") -> Path:
    """Find a shipped TOML file by its name, or a user's file by its path.

    Args:
        folder: Folder of the shipped files.
        kind: Kind of the file, for messages.
        name: The name or the path.
        hint: A sentence about a likely mistake, for the message about an unknown name.

    Raises:
        UnknownNameError: It is neither.
        UsageError: There is no file at this path.
    """
    known = shipped(folder)
    if name in known:
        return known[name]
    if not name.endswith(".toml"):
        raise UnknownNameError(kind, name, known, hint=hint)
    if not Path(name).is_file():
        raise UsageError(f"A {kind} must be a shipped name ({', '.join(known)}) or an existing TOML file; received {name}.")
    return Path(name)


def load_space(name: str) -> Space:
    """Load and check a shipped space by name, or a user's space by the path of its TOML file.

    Raises:
        UnknownNameError: There is no such space, or the space contains a name that is not a hyperparameter.
        SpaceError: The file is not a space, contains invalid values, or sets hyperparameters without effect.
    """
    space = check_space(parse_space(read_space(name), name=Path(name).stem))
    refuse_unused(space, space.names)
    return space


def read_space(name: str) -> str:
    """Read the TOML text of a space.

    Raises:
        UnknownNameError: There is no such space.
        SpaceError: The file cannot be read.
    """
    path = find_shipped("search_spaces", "search space", name)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"The space {path} cannot be read ({error}).") from error


def families_of(space: Space) -> tuple[str, ...]:
    """List the families of networks in a space."""
    searched = next((parameter for parameter in space.parameters if parameter.name == "family"), None)
    if isinstance(searched, Choice):
        return tuple(map(str, searched.values))
    return (str(space.constants.get("family", TrialConfig().family)),)


def check_space(space: Space) -> Space:
    """Check that every name in a space is a hyperparameter and that every value is valid; return the space.

    Raises:
        UnknownNameError: A name is not a hyperparameter.
        SpaceError: A value is out of its range, or the space is empty.
    """
    if not space.names:
        raise SpaceError(f"Space '{space.name}' is empty: a space must fix or search at least one hyperparameter.")
    for name, values in [
        *((name, [value]) for name, value in space.constants.items()),
        *((parameter.name, boundary_values(parameter)) for parameter in space.parameters),
    ]:
        for value in values:
            try:
                TrialConfig.from_values({name: value})
            except UnknownNameError:
                raise
            except UsageError as error:
                raise SpaceError(f"Space '{space.name}': {error}") from error
    for name in _STUDY_OPTIONS:
        is_searched_size = name == "image_size" and name not in space.constants
        if name in space.names and not is_searched_size:
            option = name.replace("_", "-")
            raise SpaceError(f"Space '{space.name}': '{name}' belongs to the study (--{option}) and cannot be part of a space.")
    return space


def refuse_unused(space: Space, names: Collection[str], *, task: str | None = None) -> None:
    """Check that every hyperparameter of a space has an effect on at least one of its networks.

    A conditional hyperparameter is accepted if the space searches one of the hyperparameters on which its condition depends.

    Args:
        space: A space that ``check_space`` accepts.
        names: The hyperparameters of the space to check.
        task: What is predicted; None if the data are not known, so that an effect for one of the tasks is sufficient.

    Raises:
        SpaceError: A hyperparameter has no effect.
    """
    searched = {parameter.name: parameter for parameter in space.parameters}
    families = searched["family"].grid() if "family" in searched else [space.constants.get("family", TrialConfig().family)]
    known = {} if task is None else {"task": task}
    configs = [TrialConfig.from_values({**known, **space.constants, "family": family}) for family in families or ()]
    undecided = {*searched, *(("task",) if task is None else ())}
    for name in names:
        used_by = used_by_of(name)
        candidates = [config for config in configs if config.family in used_by.families]
        is_condition_open = any(parent in undecided for parent in used_by.depends_on)
        if candidates and (is_condition_open or any(config.reads(name) for config in candidates)):
            continue
        values = {parent: getattr(configs[0], parent) for parent in used_by.depends_on} if candidates else {}
        received = {"family": "/".join(map(str, families or ())), **values}
        setting = ", ".join(f"{parent}={value!r}" if value == "" else f"{parent}={value}" for parent, value in received.items())
        raise SpaceError(
            f"A search must set only hyperparameters that its networks use; space '{space.name}' with {setting} does not use "
            f"'{name}'. It is used by {used_by}. Omit '{name}', or change the others."
        )


def refuse_unused_fixed(original: Space, fixed: Mapping[str, Value], *, task: str | None = None) -> None:
    """Check that every hyperparameter that the user fixed has an effect on at least one network of a space.

    If the family of a space was replaced, the other hyperparameters of the space are checked too. Otherwise they are not:
    ``--set loss=ce`` is accepted for a space that also searches ``focal_gamma``, and a family can be chosen of a space that
    searches it.

    Args:
        original: The space without the fixed values.
        fixed: The fixed hyperparameters.
        task: What is predicted; None if the data are not known.

    Raises:
        SpaceError: A hyperparameter has no effect.
    """
    space = original.fix(fixed)
    is_replaced = "family" in fixed and all(parameter.name != "family" for parameter in original.parameters)
    refuse_unused(space, space.names if is_replaced else tuple(fixed), task=task)


def boundary_values(parameter: object) -> list[Value]:
    """Return all values of a choice, or the bounds of a range."""
    return list(parameter.values) if isinstance(parameter, Choice) else [parameter.low, parameter.high]  # type: ignore[attr-defined]
