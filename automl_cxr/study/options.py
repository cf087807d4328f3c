"""Options of a search and of a splice search: one dataclass field for each.

The metadata of a field generates the command line option, the keyword of the Python function and its documentation, the key
of a study file, and the entry on the reference page. To add an option, add a field here and the code that uses its value.
"""

from __future__ import annotations

import dataclasses
import os
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from inspect import Parameter, signature
from typing import Any, Literal, TypeVar

from automl_cxr.choices import (
    COST_NAMES,
    FIDELITY_NAMES,
    FOLD_PRUNER_NAMES,
    KERASTUNER_SAMPLERS,
    LAYOUT_NAMES,
    METRIC_NAMES,
    OPTUNA_SAMPLERS,
    PRUNER_NAMES,
    list_choices,
)
from automl_cxr.config import FITS
from automl_cxr.errors import UnknownNameError, UsageError

EXECUTORS = ("ray", "inline")
DEFAULT_TRIALS = 20
DEFAULT_KEEP_MODELS = 10

Kind = Literal["text", "path", "int", "float", "duration", "bytes", "names", "settings"]


class Scope(StrEnum):
    """The object that an option describes."""

    STUDY = "study"  # part of the study's specification, which does not change when the study is continued
    BUDGET = "budget"  # limits of this search only
    EXECUTION = "execution"  # how trials are run; has no effect on their results
    LOCATION = "location"  # where studies are stored


class Section(StrEnum):
    """Headings in the help text of a command."""

    DATA = "Data and split"
    SEARCH = "Search"
    TRAINING = "Training"
    BUDGET = "Budget of this search"
    EXECUTION = "Execution"
    LOCATION = "Location of studies"


_SCOPES = {Section.BUDGET: Scope.BUDGET, Section.EXECUTION: Scope.EXECUTION, Section.LOCATION: Scope.LOCATION}


@dataclass(frozen=True, kw_only=True)
class Option:
    """Description of one option: the metadata of a field.

    Attributes:
        help: One or two plain sentences, with the unit. ``--some-option`` in it becomes ``some_option`` in Python.
        section: Heading of the option in the help text.
        scope: The object that the option describes.
        name: Name of the field, which is the Python keyword.
        flag: Long option without its hyphens, which is also the key in study files.
        hidden_flags: Former names of the flag. The command line and study files still accept them.
        kind: How a typed value is parsed.
        low: Lowest number accepted on the command line, or None.
        high: Highest number accepted on the command line, or None.
        above_zero: Whether Python values must be above 0, too.
        metavar: Placeholder of the value in the help text; None for that of ``kind``.
        choices: Names that the option accepts, where they form a fixed list.
        is_repeatable: Whether the option may be typed several times.
        example: A hint how a value is typed, for the command line only.
        setting: Field of ``StudySpec`` that stores the value; empty where the value needs a step of its own.
        default: Value that is used when the option is left out.
        default_text: Description of the default where ``default`` is None.
        in_study_files: Whether a study file may set the option.
    """

    help: str
    section: Section
    scope: Scope
    name: str = ""
    flag: str = ""
    hidden_flags: tuple[str, ...] = ()
    kind: Kind = "text"
    low: float | None = None
    high: float | None = None
    above_zero: bool = False
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    is_repeatable: bool = False
    example: str = ""
    setting: str = ""
    default: Any = None
    default_text: str = ""
    in_study_files: bool = True

    @property
    def command_line_help(self) -> str:
        """Help text of the command line option."""
        repeatable = " Repeatable." if self.is_repeatable else ""
        return f"{self.help}{f' {self.example}' if self.example else ''}{repeatable}{self._default_suffix}"

    @property
    def python_help(self) -> str:
        """Help text of the Python keyword."""
        text = re.sub(r"`?--([a-z][a-z-]+)`?", lambda match: f"``{_keyword_of(match[1])}``", self.help)
        unit = {"duration": " In seconds.", "bytes": " In bytes."}.get(self.kind, "")
        return f"{text}{unit}{self._default_suffix}"

    @property
    def _default_suffix(self) -> str:
        text = self.default_text or ("" if self.default in (None, (), {}) else _written(self.default))
        return f"  [default: {text}]" if text else ""


def _written(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _option(help: str, section: Section, *, value: Any = None, **details: Any) -> Any:  # noqa: A002 - the word of click
    """Make a field.

    Args:
        help: See ``Option.help``.
        section: See ``Option.section``; it decides the scope.
        value: Value of the field when the option is left out. None where another place chooses the default, such as an
            existing study.
        details: Further attributes of ``Option``.
    """
    default = details.pop("default", value)
    option = Option(help=help, section=section, scope=_SCOPES.get(section, Scope.STUDY), default=default, **details)
    return field(default=value, metadata={"option": option})


class _OptionSet:
    """Checks that the option dataclasses share."""

    def __post_init__(self) -> None:
        for option in options_of(type(self)):
            value = getattr(self, option.name)
            if value is not None and option.above_zero and not value > 0:
                raise UsageError(f"{option.name} must be above 0; received {value}.")
            if option.kind == "path" and value is not None:
                object.__setattr__(self, option.name, os.fspath(value))
            if option.is_repeatable and option.kind == "text":  # one name is a list of one name
                object.__setattr__(self, option.name, ((value,) if isinstance(value, str) else tuple(value or ())) or None)
            if option.name == "executor" and value not in EXECUTORS:
                raise UnknownNameError("executor", value, EXECUTORS)


@dataclass(frozen=True, kw_only=True)
class SearchOptions(_OptionSet):
    """Options of a search. None means that the option was left out.

    A new study then takes the default, and a study that is continued keeps its own value.

    Raises:
        UsageError: A limit is not above 0, or an option does not apply to the chosen executor.
        UnknownNameError: There is no such executor.
    """

    space: str | None = _option(
        "Search space: a name listed by `automl-cxr spaces`, or the path of a TOML file.",
        Section.SEARCH,
        metavar="NAME|FILE",
        default="scratch",
    )
    data: str | None = _option(
        "Folder or CSV table of radiographs.",
        Section.DATA,
        kind="path",
        metavar="DIR",
        default_text="phantom images, drawn by this program",
    )
    name: str | None = _option(
        "Name of the study. A search with the name of an existing study continues it.",
        Section.SEARCH,
        default_text="the names of the space and of the data folder",
    )
    layout: str | None = _option(
        f"Layout of the data: {list_choices(LAYOUT_NAMES)}.",
        Section.DATA,
        metavar="NAME",
        choices=LAYOUT_NAMES,
        setting="layout",
        default_text="detected",
    )
    classes: Sequence[str] | None = _option(
        "Class names to use, in the order of their indices.",
        Section.DATA,
        kind="names",
        setting="classes",
        default_text="all classes",
    )
    patients: str | None = _option(
        "Regular expression that finds the patient id in a file name: group 'patient', else group 1, else the whole match.",
        Section.DATA,
        metavar="REGEX",
        setting="patients",
    )
    image_size: int | None = _option(
        "Height and width of the decoded images, in pixels.",
        Section.DATA,
        kind="int",
        low=16,
        high=2048,
        setting="image_size",
        default=112,
    )
    fit: str | None = _option(
        "How an image becomes square: stretch (distort it), pad (add black on its short sides) or crop (keep its centre).",
        Section.DATA,
        metavar="NAME",
        choices=FITS,
        setting="fit",
        default="stretch",
    )
    normal_class: str | None = _option(
        "Class without a finding, for the False No-Finding Rate (fnfr) and the sensitivities.",
        Section.DATA,
        metavar="CLASS",
        default_text="detected from the class names",
    )
    valid_fraction: float | None = _option(
        "Fraction of the images in the validation part, which selects epochs and trials.",
        Section.DATA,
        kind="float",
        setting="valid_fraction",
        default=0.15,
    )
    test_fraction: float | None = _option(
        "Fraction of the images in the test part, which a search does not read.",
        Section.DATA,
        kind="float",
        setting="test_fraction",
        default=0.15,
    )
    folds: int | None = _option(
        "Number of folds for cross-validation. Each trial trains one network per fold and is scored on the images that the "
        "network was not trained on.",
        Section.DATA,
        kind="int",
        low=2,
        setting="folds",
        default=0,
        default_text="one network and one validation part",
    )
    objective: str | Sequence[str] | None = _option(
        f"Validation metric that ranks trials: {list_choices(METRIC_NAMES)}. Several objectives give a Pareto front; the "
        f"first, a metric, ranks trials, and the others may be costs: {list_choices(COST_NAMES)}.",
        Section.SEARCH,
        metavar="METRIC",
        choices=(*METRIC_NAMES, *COST_NAMES),
        is_repeatable=True,
        setting="objectives",
        default=("macro_f1",),
    )
    require: str | Sequence[str] | None = _option(
        "Bound on a metric or a cost that the best trial must meet, such as parameters<=10e6 or fnfr<=0.05.",
        Section.SEARCH,
        metavar="BOUND",
        is_repeatable=True,
        setting="requirements",
        default=(),
    )
    sampler: str | None = _option(
        f"Method that proposes hyperparameters: {list_choices(OPTUNA_SAMPLERS)} of Optuna; {list_choices(KERASTUNER_SAMPLERS)} "
        "of KerasTuner.",
        Section.SEARCH,
        metavar="NAME",
        choices=(*OPTUNA_SAMPLERS, *KERASTUNER_SAMPLERS),
        setting="sampler",
        default="tpe",
    )
    pruner: str | None = _option(
        f"Method that stops trials early: {list_choices(PRUNER_NAMES)}; for cross-validation "
        f"{list_choices(FOLD_PRUNER_NAMES)}. "
        "The sampler kt-hyperband stops trials by itself.",
        Section.SEARCH,
        metavar="NAME",
        choices=tuple(dict.fromkeys((*PRUNER_NAMES, *FOLD_PRUNER_NAMES))),
        setting="pruner",
        default_text="asha; for cross-validation wilcoxon",
    )
    fidelity: str | None = _option(
        "What the sampler kt-hyperband increases from rung to rung: epochs, or image_size (the image size together with the "
        "epochs).",
        Section.SEARCH,
        metavar="NAME",
        choices=FIDELITY_NAMES,
        setting="fidelity",
        default="epochs",
    )
    warm_start: str | None = _option(
        "Earlier study in the same storage. The search first tries its best configurations, and the sampler learns from its "
        "scores where they are comparable.",
        Section.SEARCH,
        metavar="STUDY",
        setting="warm_start",
    )
    warm_start_top: int | None = _option(
        "Number of best configurations that --warm-start tries.",
        Section.SEARCH,
        kind="int",
        low=1,
        setting="warm_start_top",
        default=5,
    )
    seed: int | None = _option(
        "Random seed of the split, the proposals and the initial weights.",
        Section.SEARCH,
        kind="int",
        low=0,
        high=2**31 - 1,
        setting="seed",
        default=0,
    )
    fixed: Mapping[str, Any] | None = _option(
        "Hyperparameters with fixed values, which replace those of the space.",
        Section.TRAINING,
        flag="set",
        kind="settings",
        is_repeatable=True,
        setting="fixed",
        example="Type each as NAME=VALUE.",
        in_study_files=False,  # a study file fixes hyperparameters in its space
    )
    epochs: int | None = _option(
        "Largest number of epochs of a trial (passes over the training images).",
        Section.TRAINING,
        kind="int",
        low=1,
        setting="epochs",
        default=30,
    )
    batch_size: int | None = _option(
        "Images per gradient step.",
        Section.TRAINING,
        kind="int",
        low=1,
        high=4096,
        setting="batch_size",
        default=32,
    )
    views: int | None = _option(
        "Augmented views of each image that are drawn once, so that the features of frozen layers can be cached; each epoch "
        "uses the next view. 0 augments anew in every epoch and caches no features.",
        Section.TRAINING,
        kind="int",
        low=0,
        high=100,
        default_text="0",
    )
    weights_folder: str | None = _option(
        "Folder that is searched first for pretrained weights.",
        Section.TRAINING,
        flag="weights",
        kind="path",
        metavar="DIR",
        setting="weights_folder",
    )

    trials: int | None = _option(
        "Number of trials of the study in total, including those of earlier searches.",
        Section.BUDGET,
        kind="int",
        low=1,
        above_zero=True,
        default_text=f"{DEFAULT_TRIALS} if no other limit is set and the sampler has no end",
    )
    seconds: float | None = _option(
        "Wall time of this search.",
        Section.BUDGET,
        flag="time",
        kind="duration",
        above_zero=True,
        example="Typed like 45m, 2h or 1h30m.",
        default_text="no limit",
    )
    total_epochs: int | None = _option(
        "Number of epochs of all trials together; no further trial begins once it is reached.",
        Section.BUDGET,
        kind="int",
        low=1,
        above_zero=True,
        default_text="no limit",
    )
    target: float | None = _option(
        "Score of the objective that ends the search when a trial reaches it.",
        Section.BUDGET,
        kind="float",
        metavar="SCORE",
        default_text="none",
    )
    trial_seconds: float | None = _option(
        "Wall time of one trial; a longer trial is stopped.",
        Section.BUDGET,
        flag="trial-time",
        kind="duration",
        above_zero=True,
        default_text="no limit",
    )
    keep_models: int = _option(
        "Number of best trials whose models stay on disk.",
        Section.BUDGET,
        kind="int",
        low=1,
        above_zero=True,
        value=DEFAULT_KEEP_MODELS,
    )
    disk_budget: int | None = _option(
        "Disk space for models and checkpoints; when it is exceeded, the models of the worst trials are deleted.",
        Section.BUDGET,
        kind="bytes",
        above_zero=True,
        example="Typed like 20GB.",
        default_text="no limit",
    )

    executor: str = _option(
        "How trials run: ray (parallel, in worker processes) or inline (one after the other, in this process).",
        Section.EXECUTION,
        metavar="NAME",
        choices=EXECUTORS,
        value="ray",
    )
    concurrency: int | None = _option(
        "Number of trials that run at the same time.",
        Section.EXECUTION,
        kind="int",
        low=1,
        default_text="as many as the machine can hold",
    )
    batch_trials: int | None = _option(
        "Largest number of cheap trials, such as heads on frozen features, that train together as one batch; 1 trains each "
        "trial alone.",
        Section.EXECUTION,
        hidden_flags=("together",),
        kind="int",
        low=1,
        above_zero=True,
        default_text="16, or an eighth of the trials for samplers that learn from scores",
    )
    cpus_per_trial: float | None = _option(
        "Number of CPU cores for each trial.",
        Section.EXECUTION,
        kind="float",
        low=0.1,
        default_text="the cores divided by the trials that run at the same time",
    )
    gpus_per_trial: float | None = _option(
        "Number of GPUs for each trial. 0.5 runs two trials on one GPU, each with half of its memory; 2 trains one trial on "
        "two GPUs.",
        Section.EXECUTION,
        kind="float",
        low=0,
        default_text="1 if Ray finds a GPU",
    )
    memory_per_trial: int | None = _option(
        "Main memory that each trial may use.",
        Section.EXECUTION,
        kind="bytes",
        example="Typed like 6GB.",
        default_text="the memory of the machine divided by the trials on it",
    )
    address: str | None = _option(
        "Address of a running Ray cluster.",
        Section.EXECUTION,
        default_text="$RAY_ADDRESS; without it, Ray starts on this machine",
    )

    runs: str | None = _option(
        "Folder that contains the files of all studies.",
        Section.LOCATION,
        kind="path",
        metavar="DIR",
        default_text="$AUTOML_CXR_RUNS, else automl_runs",
    )
    storage: str | None = _option(
        "Optuna storage of the studies: sqlite:///FILE, journal:///FILE, postgresql://... or grpc://HOST:PORT.",
        Section.LOCATION,
        metavar="URL",
        default_text="$AUTOML_CXR_STORAGE, else an SQLite file in the folder of --runs",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.executor != "ray" and self.ray_resources:
            names = [f"--{name.replace('_', '-')}" for name in self.ray_resources]
            raise UsageError(f"{', '.join(names)} needs --executor ray; received --executor {self.executor}. Leave it out.")

    @property
    def hyperparameters(self) -> dict[str, Any] | None:
        """Hyperparameters with fixed values, ``views`` included; None where none was given."""
        views = {} if self.views is None else {"views": self.views}
        return {**(self.fixed or {}), **views} or None

    @property
    def ray_resources(self) -> dict[str, Any]:
        """Keywords of ``RayResources`` that were given."""
        return {name: value for name in _RAY_RESOURCES if (value := getattr(self, name)) is not None}


_RAY_RESOURCES = ("concurrency", "cpus_per_trial", "gpus_per_trial", "memory_per_trial", "address")


def _search_option(name: str, **changes: Any) -> Any:
    """Make a field with the metadata of a search option of the same name, except for some changes."""
    shared = next(item for item in dataclasses.fields(SearchOptions) if item.name == name)
    option: Option = shared.metadata["option"]
    if "default_text" not in changes and "value" in changes:
        changes["default"] = changes["value"]
    value = changes.pop("value", shared.default)
    return field(default=value, metadata={"option": replace(option, **changes)})


@dataclass(frozen=True, kw_only=True)
class SpliceOptions(_OptionSet):
    """Options of a splice search. None means that the option was left out.

    The value is then that of the study in which a branch was trained, so that its test part stays unread; else the default.

    Raises:
        UsageError: A number is out of its range.
        UnknownNameError: There is no such executor.
    """

    data: str | None = _search_option("data", default_text="those of a trained branch, else phantom images")
    cuts: Sequence[str] | None = _option(
        "Cuts of the first network to try: layer names, or numbers of its splice points.",
        Section.SEARCH,
        kind="names",
        default_text="all splice points",
    )
    second_cuts: Sequence[str] | None = _option(
        "Cuts of the second network to try: layer names, or numbers of its splice points.",
        Section.SEARCH,
        kind="names",
        default_text="all splice points",
    )
    finetune: int = _option(
        "Number of best pairs of the Pareto front that are trained as trials of a study; 0 for none.",
        Section.SEARCH,
        kind="int",
        low=0,
        value=3,
    )
    name: str | None = _search_option(
        "name",
        help="Name of the study of the trained pairs. An existing study of this name is continued.",
        default_text="made of both networks",
    )
    seed: int | None = _search_option("seed", help="Random seed of the split and the initial weights.")
    layout: str | None = _search_option("layout")
    classes: Sequence[str] | None = _search_option("classes")
    patients: str | None = _search_option("patients")
    image_size: int | None = _search_option("image_size", default_text="that of a trained branch, else 112")
    fit: str | None = _search_option("fit")
    normal_class: str | None = _search_option("normal_class", help="Class without a finding.")
    valid_fraction: float | None = _search_option(
        "valid_fraction", help="Fraction of the images in the validation part, on which pairs are scored."
    )
    test_fraction: float | None = _search_option("test_fraction")
    fixed: Mapping[str, Any] | None = _search_option(
        "fixed",
        help="Hyperparameters of the spliced networks with fixed values, such as projection, n_dense, weights or "
        "second_weights.",
    )
    epochs: int | None = _search_option("epochs", help="Largest number of epochs of a pair (passes over the training images).")
    batch_size: int | None = _search_option("batch_size")
    weights_folder: str | None = _search_option("weights_folder")
    executor: str = _search_option("executor", value="inline")
    runs: str | None = _search_option("runs")
    storage: str | None = _search_option("storage")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune < 0:
            raise UsageError(f"finetune must be 0 or more; received {self.finetune}.")

    def study_options(self) -> SearchOptions:
        """Return the options that specify the study of the spliced networks; its name and its space are chosen later."""
        shared = {option.name for option in options_of(SearchOptions) if option.scope is Scope.STUDY} - {"name"}
        names = [option.name for option in options_of(SpliceOptions) if option.name in shared]
        return SearchOptions(**{name: getattr(self, name) for name in names})


OptionsT = TypeVar("OptionsT", SearchOptions, SpliceOptions)


def options_of(options_class: type[Any]) -> tuple[Option, ...]:
    """List the options of a dataclass in the order of its fields, with their names and flags."""
    listed = []
    for item in dataclasses.fields(options_class):
        option: Option = item.metadata["option"]
        listed.append(replace(option, name=item.name, flag=option.flag or item.name.replace("_", "-")))
    return tuple(listed)


def study_file_keys() -> tuple[str, ...]:
    """List the keys that a study file may contain."""
    options = [option for option in options_of(SearchOptions) if option.in_study_files]
    return tuple(key for option in options for key in (option.flag, *option.hidden_flags))


def _keyword_of(flag: str) -> str:
    names = {option.flag: option.name for option in options_of(SearchOptions)}
    return names.get(flag, flag.replace("-", "_"))


def with_keywords(options_class: type[OptionsT], options: OptionsT | None, keywords: Mapping[str, Any]) -> OptionsT:
    """Combine options with keywords, which take precedence where they are not None.

    Raises:
        UnknownNameError: A keyword is no option.
        UsageError: A value is out of its range.
    """
    known: list[str] = [option.name for option in options_of(options_class)]
    for name in keywords:
        if name not in known:
            raise UnknownNameError("keyword", name, [*known, "options"])
    given = {name: value for name, value in keywords.items() if value is not None}
    return replace(options, **given) if options is not None else options_class(**given)


FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def documents_options(options_class: type[Any], *, width: int = 120) -> Callable[[FunctionT], FunctionT]:
    """Give a function that takes options as keywords the signature and the documentation of these options.

    The function ends in ``**keywords``. In its docstring, the line "{options}" stands for the entries of the options that it
    does not document itself.
    """

    def decorate(function: FunctionT) -> FunctionT:
        own = [one for one in signature(function).parameters.values() if one.kind is not Parameter.VAR_KEYWORD]
        positional = [one for one in own if one.kind is Parameter.POSITIONAL_OR_KEYWORD]
        taken = {one.name for one in own}
        keywords = [
            Parameter(item.name, Parameter.KEYWORD_ONLY, default=item.default, annotation=item.type)
            for item in dataclasses.fields(options_class)
            if item.name not in taken
        ]
        further = [one for one in own if one.kind is Parameter.KEYWORD_ONLY]
        function.__signature__ = signature(function).replace(parameters=[*positional, *keywords, *further])  # type: ignore[attr-defined]
        if function.__doc__ is not None:  # None with python -OO
            entries = [option for option in options_of(options_class) if option.name not in {one.name for one in positional}]
            function.__doc__ = function.__doc__.replace("        {options}\n", _entries(entries, width))
        return function

    return decorate


def _entries(options: Collection[Option], width: int) -> str:
    lines = [
        textwrap.fill(
            f"{option.name}: {option.python_help.replace('  [', ' [')}",
            width,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for option in options
    ]
    return "\n".join(lines) + "\n"
