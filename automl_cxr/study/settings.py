"""Resolves the settings of a study from the options, the existing study and the defaults, in this order of precedence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from automl_cxr.config import TrialConfig
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.registry import FOLD_PRUNERS, RUNG_SAMPLERS, check_proposer
from automl_cxr.engine.space import Space
from automl_cxr.engine.space_toml import parse_space, to_toml
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.scoring.metrics import find_normal_class
from automl_cxr.scoring.objectives import Requirement, check_for_data, check_objectives, needs_normal_class
from automl_cxr.study.automatic_settings import AUTO_FOLDS
from automl_cxr.study.available_space import describe_left_out, restrict_to_available
from automl_cxr.study.fidelity import check_fidelity
from automl_cxr.study.option_fields import options_of
from automl_cxr.study.options import AUTO, SearchOptions
from automl_cxr.study.space_for_data import check_space_for_data, restrict_to_image_size
from automl_cxr.study.spaces import boundary_values, check_space, read_space, refuse_unused, refuse_unused_fixed
from automl_cxr.study.spec import TRIAL_SETTINGS, StudySpec, resolve_path
from automl_cxr.tasks import MULTILABEL

DEFAULT_SPACE = AUTO_SPACE = "auto"
_WEIGHTS = ("weights", "second_weights")


@dataclass(frozen=True)
class ChosenSpace:
    """The space of a study.

    Attributes:
        name: Its name.
        toml: Its TOML text.
    """

    name: str
    toml: str


def resolve_settings(options: SearchOptions, existing: StudySpec | None) -> dict[str, Any]:
    """Resolve and check the settings that options specify directly; the space and the normal class are resolved separately.

    Args:
        options: Options of the search.
        existing: Specification of the study if it exists; its settings replace the defaults.

    Returns:
        Keywords of ``StudySpec``. "image_size" is None if it depends on the images. "folds" is ``AUTO`` and
        "pruner" may be None if they depend on the number of images (``settle_folds``).

    Raises:
        UsageError: A value is impossible, or two options contradict each other.
        UnknownNameError: A metric does not exist.
    """
    if options.findings is not None and options.classes is not None:
        raise UsageError(
            f"--findings and --classes both choose what is predicted; received {', '.join(options.findings)} and "
            f"{', '.join(options.classes)}. Omit one of them."
        )
    settings = {
        option.setting: _resolve(getattr(options, option.name), existing, option.setting, option.default)
        for option in options_of(SearchOptions)
        if option.setting
    }
    settings["objectives"] = check_objectives(settings["objectives"])
    settings["requirements"] = tuple(dict.fromkeys(str(Requirement.parse(text)) for text in settings["requirements"]))
    settings["fixed"] = _fixed_values(options, existing)
    settings["features"] = None if settings["features"] is None else resolve_path(settings["features"])
    settings["weights_folder"] = _existing_folder(settings["weights_folder"])
    settings["folds"] = _checked_folds(_requested_folds(options, existing, settings), options)
    if is_auto(options.space) and options.image_size is None and existing is None:
        settings["image_size"] = None
    if settings["folds"] != AUTO:
        settings = settle_folds(settings, settings["folds"])
    TrialConfig.from_values({name: settings[name] for name in TRIAL_SETTINGS if settings[name] is not None})
    _check_warm_start(settings, options)
    for name in ("valid_fraction", "test_fraction"):
        if not isinstance(settings[name], (int, float)):
            raise UsageError(f"{name} must be a number; received {settings[name]!r}.")
    return settings


def settle_task(settings: Mapping[str, Any], options: SearchOptions, existing: StudySpec | None, task: str) -> dict[str, Any]:
    """Return settings with the task of the data, and with the default objective for it if no objective was chosen.

    Raises:
        UsageError: A normal class is chosen for several findings, which have none.
    """
    is_default = options.objective is None and existing is None
    if is_default:
        settings = {**settings, "objectives": default_objectives(task)}
    if task == MULTILABEL and options.normal_class is not None:
        raise UsageError(
            f"--normal-class applies to images with one class each; received '{options.normal_class}' with several findings. "
            "Omit it: an image without any finding is normal."
        )
    return {**settings, "task": task}


def default_objectives(task: str) -> tuple[str, ...]:
    """Return the objectives of a study of a task for which none were chosen."""
    return ("macro_auc",) if task == MULTILABEL else ("macro_f1",)


def _resolve(given: Any, existing: StudySpec | None, setting: str, default: Any) -> Any:
    if given is not None:
        return given
    return default if existing is None else getattr(existing, setting)


def _fixed_values(options: SearchOptions, existing: StudySpec | None) -> dict[str, Value]:
    """Resolve the hyperparameters with fixed values (``--set``)."""
    fixed = _resolve(options.hyperparameters, existing, "fixed", {})
    return {name: _absolute_if_file(name, value) for name, value in fixed.items()}


def _absolute_if_file(name: str, value: Value) -> Value:
    """Make the path of a weights file absolute, because workers start in another folder."""
    is_file = name in _WEIGHTS and Path(str(value)).expanduser().is_file()
    return resolve_path(str(value)) if is_file else value


def _existing_folder(folder: str | None) -> str | None:
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise UsageError(f"The folder of pretrained weights must exist; received {folder}. Choose another --weights.")
    return None if folder is None else resolve_path(folder)


def is_auto(space: str | None) -> bool:
    """Return whether an option names the space auto, which is the default."""
    return (space or DEFAULT_SPACE) == AUTO_SPACE


def settle_folds(settings: Mapping[str, Any], folds: int) -> dict[str, Any]:
    """Return settings with a number of folds, and with the default pruner for it if no pruner was chosen."""
    pruner = settings["pruner"] or default_pruner(folds=folds, n_objectives=len(settings["objectives"]))
    return {**settings, "folds": folds, "pruner": pruner}


def _requested_folds(options: SearchOptions, existing: StudySpec | None, settings: Mapping[str, Any]) -> Any:
    """Return the number of folds, or ``AUTO`` if the number of images decides."""
    if existing is not None and options.folds in (None, AUTO):
        return existing.folds
    requested = options.folds if options.folds is not None else AUTO if is_auto(options.space) else 0
    if requested == AUTO and (options.valid_fraction is not None or _needs_epochs(settings)):
        return 0
    return requested


def _needs_epochs(settings: Mapping[str, Any]) -> bool:
    """Return whether the sampler or the pruner needs trials that report epochs."""
    return settings["sampler"] in RUNG_SAMPLERS or settings["pruner"] not in (None, *FOLD_PRUNERS)


def _checked_folds(folds: Any, options: SearchOptions) -> int | str:
    if folds == AUTO:
        return AUTO
    if type(folds) is not int or folds < 0 or folds == 1:
        raise UsageError(
            f'folds must be 2 or more, 0 for one validation part, or "auto"; received {folds!r}. A usual value is 5.'
        )
    if folds and options.valid_fraction is not None:
        raise UsageError(
            f"With --folds, each fold is used for validation once, so --valid-fraction does not apply; received --folds "
            f"{folds} and --valid-fraction {options.valid_fraction}. Omit one of them."
        )
    return folds


def default_pruner(*, folds: int, n_objectives: int) -> str:
    """Return the name of the default pruner. No pruner supports folds with several objectives."""
    if not folds:
        return "asha"
    return "wilcoxon" if n_objectives == 1 else "none"


def _check_warm_start(settings: Mapping[str, Any], options: SearchOptions) -> None:
    if options.warm_start_top is not None and settings["warm_start"] is None:
        raise UsageError("--warm-start-top is the number of configurations that --warm-start tries. Add --warm-start STUDY.")
    if type(settings["warm_start_top"]) is not int or settings["warm_start_top"] < 1:
        raise UsageError(f"A warm start tries at least one configuration; received {settings['warm_start_top']!r}.")


def choose_space(
    options: SearchOptions, existing: StudySpec | None, settings: Mapping[str, Any], notes: list[str]
) -> ChosenSpace:
    """Return the space, checked with the fixed hyperparameters.

    The space auto is restricted to the pretrained weights that are on this machine when the study is created.

    Raises:
        UnknownNameError: The space, or a hyperparameter in it, does not exist.
        SpaceError: The space is unreadable or contains an impossible value.
        UsageError: The batch size is set in two places.
    """
    fixed = settings["fixed"]
    is_continued = existing is not None and (options.space is None or options.space == existing.space_name == AUTO_SPACE)
    if existing is not None and is_continued:
        name, text = existing.space_name, existing.space_toml
    else:
        chosen = options.space or DEFAULT_SPACE
        name, text = Path(chosen).stem, read_space(chosen)
        if chosen == AUTO_SPACE:
            available, left_out = restrict_to_available(parse_space(text, name=name), settings["weights_folder"])
            text = to_toml(available)
            notes.extend([describe_left_out(left_out)] if left_out else [])
    original_space = check_space(parse_space(text, name=name))
    space = check_space(original_space.fix(fixed))
    if existing is None:  # studies of earlier versions, which had no such check, can be continued
        refuse_unused(original_space, original_space.names)
        refuse_unused_fixed(original_space, fixed)
    if options.batch_size is not None and "batch_size" in space.names:
        raise UsageError(f"The batch size is set twice: by --batch-size and by the space {name} or --set. Omit one of them.")
    if settings["image_size"] is not None:  # the space auto, for which it may be None, does not search it
        _check_image_sizes(space, settings["image_size"])
    return ChosenSpace(name, text)


def fit_space_to_data(
    space: ChosenSpace, options: SearchOptions, settings: Mapping[str, Any], n_classes: int, notes: list[str]
) -> ChosenSpace:
    """Check the space of a new study for its data. The space auto is restricted to networks that its image size permits.

    Args:
        space: The space.
        options: Options of the search.
        settings: Settings with the task and the image size.
        n_classes: Number of classes or findings.
        notes: List to which a message about left-out values is appended.

    Raises:
        SpaceError: The space contains a value that is not possible for the data, or no network that can be built.
    """
    original, image_size = parse_space(space.toml, name=space.name), settings["image_size"]
    check_space_for_data(original, settings["fixed"], task=settings["task"], image_size=image_size, n_classes=n_classes)
    if not is_auto(options.space):
        return space
    restricted, message = restrict_to_image_size(original, settings["fixed"], image_size)
    notes.extend([] if message is None else [message])
    return ChosenSpace(space.name, to_toml(restricted))


def _check_image_sizes(space: Space, image_size: int) -> None:
    """Check that no trial needs larger images than the decoded ones."""
    searched = next((parameter for parameter in space.parameters if parameter.name == "image_size"), None)
    largest = image_size if searched is None else max(int(value) for value in boundary_values(searched))
    if largest > image_size:
        raise UsageError(
            f"The image sizes in a space must not exceed --image-size; received {largest} in space {space.name} and "
            f"--image-size {image_size}. Use --image-size {largest}."
        )


def check_search_methods(settings: Mapping[str, Any], space_name: str, space_toml: str) -> None:
    """Check that sampler, pruner and fidelity exist and are compatible with the other settings.

    Raises:
        UnknownNameError: One of them does not exist.
        UsageError: Two settings are incompatible, or a library is not installed.
    """
    check_proposer(
        parse_space(space_toml, name=space_name).fix(settings["fixed"]),
        sampler=settings["sampler"],
        pruner=settings["pruner"] or default_pruner(folds=AUTO_FOLDS, n_objectives=len(settings["objectives"])),
        n_objectives=len(settings["objectives"]),
        folds=AUTO_FOLDS if settings["folds"] == AUTO else settings["folds"],
    )
    check_fidelity(settings["fidelity"], settings["sampler"])


def choose_normal_class(
    options: SearchOptions, existing: StudySpec | None, classes: tuple[str, ...], notes: list[str]
) -> str | None:
    """Return the name of the class without a finding, or None; add a note if it is detected from the class names.

    Raises:
        UnknownNameError: The class does not exist.
    """
    if options.normal_class is not None:
        if options.normal_class not in classes:
            raise UnknownNameError("class", options.normal_class, classes)
        return options.normal_class
    if existing is not None:
        return existing.normal_class
    index = find_normal_class(classes)
    if index is None:
        notes.append("No class without a finding was detected, so FNFR is not computed; set it with --normal-class.")
        return None
    notes.append(f"Class '{classes[index]}' is used as the class without a finding; --normal-class changes it.")
    return classes[index]


def check_metrics(settings: Mapping[str, Any], classes: Sequence[str]) -> None:
    """Check that the metrics of a study, for objectives and requirements, are defined for its data.

    Raises:
        UnknownNameError: A metric is one of a class or finding that does not exist.
        UsageError: A metric is not defined for the task.
    """
    required = [Requirement.parse(text).name for text in settings["requirements"]]
    check_for_data((*settings["objectives"], *required), task=settings["task"], classes=classes)


def check_normal_class(spec: StudySpec) -> None:
    """Check that the class without a finding is known if a metric of the study needs it.

    Raises:
        UsageError: It is not known.
    """
    required = [Requirement.parse(text).name for text in spec.requirements]
    for kind, names in (("objective", spec.objectives), ("required", required)):
        for name in names:
            if needs_normal_class(name, task=spec.task) and spec.normal_class is None:
                raise UsageError(f"The {kind} {name} needs the class without a finding: set it with --normal-class.")
