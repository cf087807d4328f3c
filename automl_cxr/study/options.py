"""Options of a search and of a splice search: one dataclass field for each option.

The metadata of a field generates the command line option, the keyword of the Python function and its documentation, the key
of a study file, and the entry on the reference page. To add an option, add a field here and the code that uses its value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from automl_cxr.choices import (
    COST_NAMES,
    FIDELITY_NAMES,
    FOLD_PRUNER_NAMES,
    KERASTUNER_SAMPLERS,
    LAYOUT_NAMES,
    METRIC_NAMES,
    MISSING_NAMES,
    OPTUNA_SAMPLERS,
    PROJECTION_NAMES,
    PRUNER_NAMES,
    TASK_NAMES,
    UNCERTAIN_NAMES,
    UNKNOWN_PATIENTS_NAMES,
    list_choices,
)
from automl_cxr.config import FITS
from automl_cxr.data.data_options import DEFAULT_MIN_POSITIVES
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.study.automatic_settings import (
    AUTO_FOLDS,
    AUTO_IMAGE_SIZE,
    DEFAULT_IMAGE_SIZE,
    LARGE_IMAGE_SIZE,
    MAX_FOLDED_IMAGES,
)
from automl_cxr.study.option_fields import OptionSet, Scope, Section, inherited_field, option_field, options_of

EXECUTORS = ("ray", "inline")
AUTO = "auto"  # of --folds
TEST_OVERLAP = (REFUSE, ALLOW) = ("refuse", "allow")
DEFAULT_TRIALS = 20
DEFAULT_KEEP_MODELS = 10


@dataclass(frozen=True, kw_only=True)
class SearchOptions(OptionSet):
    """Options of a search. None means that the option was not given.

    A new study then uses the default, and a continued study uses its recorded value.

    Raises:
        UsageError: A limit is not above 0, or an option does not apply to the chosen executor.
        UnknownNameError: There is no such executor, or no such value of ``test_overlap``.
    """

    space: str | None = option_field(
        "Search space: a name listed by `automl-cxr spaces`, or the path of a TOML file.",
        Section.SEARCH,
        metavar="NAME|FILE",
        default="auto",
    )
    data: str | None = option_field(
        "Folder or CSV table of radiographs.",
        Section.DATA,
        kind="path",
        metavar="DIR",
        default_text="phantom images, drawn by this program",
    )
    name: str | None = option_field(
        "Name of the study. A search with the name of an existing study continues it.",
        Section.SEARCH,
        default_text="the names of the space and of the data folder",
    )
    layout: str | None = option_field(
        f"Layout of the data: {list_choices(LAYOUT_NAMES)}.",
        Section.DATA,
        metavar="NAME",
        choices=LAYOUT_NAMES,
        setting="layout",
        default_text="detected",
    )
    task: str | None = option_field(
        "What is predicted: multiclass (one class for each image) or multilabel (several findings, each with an output of its "
        "own; a label may be unknown).",
        Section.DATA,
        metavar="NAME",
        choices=TASK_NAMES,
        setting="task",
        default_text="multilabel if images have several findings or none",
    )
    classes: Sequence[str] | None = option_field(
        "Class names to use, in the order of their indices. Of images with several findings, those with exactly one of them.",
        Section.DATA,
        kind="names",
        setting="classes",
        default_text="all classes",
    )
    class_map: Mapping[str, str] | str | None = option_field(
        "Names for classes of the data, such as '0=normal,1=pneumonia'. Equal names join classes, and 'Other=' leaves the "
        "images of Other out. For many classes a CSV file with the columns class and name.",
        Section.DATA,
        metavar="A=B,...|FILE",
        setting="class_map",
        default_text="the names in the data",
    )
    labels: str | None = option_field(
        "Table that lists the images with their labels: CSV, TSV or other separated text, also .gz, or .xlsx.",
        Section.DATA,
        kind="path",
        metavar="FILE",
        setting="labels",
        default_text="found in the data folder",
    )
    images: str | None = option_field(
        "Folder of the images that the table lists.",
        Section.DATA,
        kind="path",
        metavar="DIR",
        setting="images",
        default_text="the data folder",
    )
    features: str | None = option_field(
        "Table of features of the images, an npz file with ids and features, that the networks take instead of the images.",
        Section.DATA,
        kind="path",
        metavar="FILE",
        setting="features",
    )
    path_column: str | None = option_field(
        "Column of the table that names the image files: paths, names or names without suffix.",
        Section.DATA,
        metavar="NAME",
        setting="path_column",
        default_text="detected from names such as path, image or filename",
    )
    label_column: str | None = option_field(
        "Column of the table that contains the labels.",
        Section.DATA,
        metavar="NAME",
        setting="label_column",
        default_text="detected from names such as label, class, finding or diagnosis, or one column for each class",
    )
    patient_column: str | None = option_field(
        "Column of the table that contains the patients.",
        Section.DATA,
        metavar="NAME",
        setting="patient_column",
        default_text="detected from names such as patient_id, subject_id, pid or MRN",
    )
    split_column: str | None = option_field(
        "Column of the table that contains train, valid or test.",
        Section.DATA,
        metavar="NAME",
        setting="split_column",
        default_text="split",
    )
    view_column: str | None = option_field(
        "Column of the table that contains the projections.",
        Section.DATA,
        metavar="NAME",
        setting="view_column",
        default_text="detected from names such as view, projection or ViewPosition",
    )
    label_regex: str | None = option_field(
        "Regular expression that finds the label in the path of an image below the data folder: group 'label', else group 1, "
        "else the whole match.",
        Section.DATA,
        metavar="REGEX",
        setting="label_regex",
    )
    finding: str | None = option_field(
        "One finding of images that may have several; the other class is all images without it.",
        Section.DATA,
        metavar="NAME",
        setting="finding",
    )
    findings: Sequence[str] | None = option_field(
        "Findings to use of images that may have several, in the order of the outputs. An image without any finding is no "
        "finding of its own, unless its label, such as 'No Finding', is named here.",
        Section.DATA,
        kind="names",
        setting="findings",
        default_text="all findings with enough patients",
    )
    min_positives: int | None = option_field(
        "Number of patients with a finding, and of patients without it, below which it is left out of several findings.",
        Section.DATA,
        kind="int",
        low=0,
        setting="min_positives",
        default=DEFAULT_MIN_POSITIVES,
    )
    uncertain: str | None = option_field(
        "What to do with uncertain and missing labels: drop (the images are not used), zeros (they count as images without the "
        "finding) or ones (uncertain ones count as images with it, missing ones as images without it). Of several "
        "findings, only uncertain labels are meant, and drop leaves them to the hyperparameter uncertain_targets.",
        Section.DATA,
        metavar="NAME",
        choices=UNCERTAIN_NAMES,
        setting="uncertain",
        default="drop",
    )
    missing: str | None = option_field(
        "What a missing label of one of several findings means: unknown (it is not used) or absent. Missing labels of an image "
        "with the label 'No Finding' are absent in either case.",
        Section.DATA,
        metavar="NAME",
        choices=MISSING_NAMES,
        setting="missing",
        default="unknown",
    )
    resplit: bool | None = option_field(
        "Do not use the parts that the data give, and make a split by patient.",
        Section.DATA,
        kind="flag",
        setting="resplit",
        default=False,
    )
    patients: str | None = option_field(
        "Regular expression that finds the patient id in a path below the data folder: group 'patient', else group 1, else the "
        "whole match. `automl-cxr data inspect` proposes one if the paths group the images.",
        Section.DATA,
        metavar="REGEX",
        setting="patients",
    )
    unknown_patients: str | None = option_field(
        "What to do with images without a patient, if other images have one: separate (each is a patient of its own) or drop "
        "(they are not used).",
        Section.DATA,
        metavar="NAME",
        choices=UNKNOWN_PATIENTS_NAMES,
        setting="unknown_patients",
        default_text="separate; a split by patient is refused if more than 5 % of the images have no patient",
    )
    projections: Sequence[str] | None = option_field(
        f"Projections of the images to use: {list_choices(PROJECTION_NAMES)}, from DICOM headers, a column view, or words of "
        "the paths. PA,AP includes frontal, where it is not known which of the two.",
        Section.DATA,
        kind="names",
        metavar="PA,AP,...",
        setting="projections",
        default_text="all images",
    )
    subgroups: Sequence[str] | None = option_field(
        "Further columns of the table by which scores are compared between groups of patients.",
        Section.DATA,
        kind="names",
        metavar="COLUMN,...",
        setting="subgroups",
        default_text="sex, age, view, site and scanner where the table or DICOM headers have them",
    )
    image_size: int | None = option_field(
        "Height and width of the decoded images, in pixels.",
        Section.DATA,
        kind="int",
        low=16,
        high=2048,
        setting="image_size",
        default=DEFAULT_IMAGE_SIZE,
        default_text=f"{DEFAULT_IMAGE_SIZE}; for the space auto {LARGE_IMAGE_SIZE} or {AUTO_IMAGE_SIZE}, less for images "
        "below 56 pixels",
    )
    fit: str | None = option_field(
        "How an image is resized to a square: stretch (the aspect ratio changes), pad (with black) or crop (to the centre).",
        Section.DATA,
        metavar="NAME",
        choices=FITS,
        setting="fit",
        default="stretch",
    )
    normal_class: str | None = option_field(
        "Class without a finding, for the False No-Finding Rate (fnfr) and the sensitivities.",
        Section.DATA,
        metavar="CLASS",
        default_text="detected from the class names",
    )
    valid_fraction: float | None = option_field(
        "Fraction of the images in the validation part, which selects epochs and trials.",
        Section.DATA,
        kind="float",
        setting="valid_fraction",
        default=0.15,
    )
    test_fraction: float | None = option_field(
        "Fraction of the images in the test part, which a search does not read; 0 for no test part, if other images test the "
        "classifier.",
        Section.DATA,
        kind="float",
        setting="test_fraction",
        default=0.15,
    )
    folds: int | str | None = option_field(
        "Number of folds for cross-validation, or auto. Each trial trains one network per fold and is scored on the images "
        f"that the network was not trained on. auto uses {AUTO_FOLDS} folds for fewer than {MAX_FOLDED_IMAGES:,} images "
        "(fewer folds if a class has too few patients), and otherwise one validation part.",
        Section.DATA,
        kind="int_or_auto",
        low=2,
        setting="folds",
        default=0,
        default_text="auto for the space auto; otherwise one network and one validation part",
    )
    objective: str | Sequence[str] | None = option_field(
        f"Validation metric that ranks trials: {list_choices(METRIC_NAMES)}. Several objectives give a Pareto front; the "
        f"first, a metric, ranks trials, and the others may be costs: {list_choices(COST_NAMES)}, or the score of the worst "
        "group of patients, such as worst:sex:fnfr.",
        Section.SEARCH,
        metavar="METRIC",
        choices=(*METRIC_NAMES, *COST_NAMES),
        is_repeatable=True,
        setting="objectives",
        default=("macro_f1",),
        default_text="macro_f1; macro_auc for several findings",
    )
    require: str | Sequence[str] | None = option_field(
        "Bound on a metric or a cost that the best trial must meet, such as parameters<=10e6, fnfr<=0.05 or, for the worst "
        "group of patients, worst:sex:macro_f1>=0.7.",
        Section.SEARCH,
        metavar="BOUND",
        is_repeatable=True,
        setting="requirements",
        default=(),
    )
    sampler: str | None = option_field(
        f"Method that proposes hyperparameters: {list_choices(OPTUNA_SAMPLERS)} of Optuna; {list_choices(KERASTUNER_SAMPLERS)} "
        "of KerasTuner; hub:NAME of OptunaHub's registry, from a copy in the folder that the environment variable "
        "AUTOML_CXR_HUB names.",
        Section.SEARCH,
        metavar="NAME",
        choices=(*OPTUNA_SAMPLERS, *KERASTUNER_SAMPLERS),
        setting="sampler",
        default="tpe",
    )
    pruner: str | None = option_field(
        f"Method that stops trials early: {list_choices(PRUNER_NAMES)}; for cross-validation "
        f"{list_choices(FOLD_PRUNER_NAMES)}. "
        "The sampler kt-hyperband stops trials by itself.",
        Section.SEARCH,
        metavar="NAME",
        choices=tuple(dict.fromkeys((*PRUNER_NAMES, *FOLD_PRUNER_NAMES))),
        setting="pruner",
        default_text="asha; for cross-validation wilcoxon",
    )
    fidelity: str | None = option_field(
        "Resource that the sampler kt-hyperband increases from rung to rung: epochs, or image_size (the image size and the "
        "epochs).",
        Section.SEARCH,
        metavar="NAME",
        choices=FIDELITY_NAMES,
        setting="fidelity",
        default="epochs",
    )
    warm_start: str | None = option_field(
        "Earlier study in the same storage. The search first tries its best configurations, and the sampler uses its scores "
        "if they are comparable.",
        Section.SEARCH,
        metavar="STUDY",
        setting="warm_start",
    )
    warm_start_top: int | None = option_field(
        "Number of best configurations that --warm-start tries.",
        Section.SEARCH,
        kind="int",
        low=1,
        setting="warm_start_top",
        default=5,
    )
    test_overlap: str = option_field(
        "Whether a new study may start from weights or from an earlier study for which images of its test part were used: "
        "refuse, or allow. Evaluations and reports of the study then state the number of these images.",
        Section.DATA,
        metavar="NAME",
        choices=TEST_OVERLAP,
        value=REFUSE,
    )
    seed: int | None = option_field(
        "Random seed of the split, the proposals and the initial weights.",
        Section.SEARCH,
        kind="int",
        low=0,
        high=2**31 - 1,
        setting="seed",
        default=0,
    )
    fixed: Mapping[str, Any] | None = option_field(
        "Hyperparameters with fixed values, which replace those of the space.",
        Section.TRAINING,
        flag="set",
        kind="settings",
        is_repeatable=True,
        setting="fixed",
        example="Type each as NAME=VALUE.",
        in_study_files=False,  # a study file fixes hyperparameters in its space
    )
    epochs: int | None = option_field(
        "Largest number of epochs of a trial (passes over the training images).",
        Section.TRAINING,
        kind="int",
        low=1,
        setting="epochs",
        default=30,
        default_text="30; fewer with --time, if 30 epochs leave time for too few trials",
    )
    batch_size: int | None = option_field(
        "Images per gradient step.",
        Section.TRAINING,
        kind="int",
        low=1,
        high=4096,
        setting="batch_size",
        default=32,
        default_text="32; up to 128 on GPUs with enough memory, for spaces with scaled_rate and 50 steps per epoch",
    )
    views: int | None = option_field(
        "Augmented views of each image that are drawn once, so that the features of frozen layers can be cached; each epoch "
        "uses the next view. 0 draws new augmentations in every epoch and caches no features.",
        Section.TRAINING,
        kind="int",
        low=0,
        high=100,
        default_text="0",
    )
    weights_folder: str | None = option_field(
        "Folder that is searched first for pretrained weights.",
        Section.TRAINING,
        flag="weights",
        kind="path",
        metavar="DIR",
        setting="weights_folder",
    )

    trials: int | None = option_field(
        "Number of trials of the study in total, including those of earlier searches.",
        Section.BUDGET,
        kind="int",
        low=1,
        above_zero=True,
        default_text=f"{DEFAULT_TRIALS} if no other limit is set and the sampler has no fixed number of trials",
    )
    seconds: float | None = option_field(
        "Wall time of this search, with the preparation of the images and the ensemble at its end. A new study with at least "
        "3 minutes measures the time of training steps and chooses the number of epochs from it.",
        Section.BUDGET,
        flag="time",
        kind="duration",
        above_zero=True,
        example="Typed like 45m, 2h or 1h30m.",
        default_text="no limit",
    )
    total_epochs: int | None = option_field(
        "Total number of epochs of all trials. When it is reached, no further trial starts.",
        Section.BUDGET,
        kind="int",
        low=1,
        above_zero=True,
        default_text="no limit",
    )
    target: float | None = option_field(
        "The search ends when a trial reaches this score of the first objective.",
        Section.BUDGET,
        kind="float",
        metavar="SCORE",
        default_text="none",
    )
    trial_seconds: float | None = option_field(
        "Wall time of one trial; a longer trial is stopped.",
        Section.BUDGET,
        flag="trial-time",
        kind="duration",
        above_zero=True,
        default_text="no limit",
    )
    keep_models: int = option_field(
        "Number of best trials whose models are kept on disk, including the best one of each network family.",
        Section.BUDGET,
        kind="int",
        low=1,
        above_zero=True,
        value=DEFAULT_KEEP_MODELS,
    )
    disk_budget: int | None = option_field(
        "Disk space for models and checkpoints; when it is exceeded, the models of the worst trials are deleted.",
        Section.BUDGET,
        kind="bytes",
        above_zero=True,
        example="Typed like 20GB.",
        default_text="no limit",
    )

    executor: str = option_field(
        "How trials run: ray (parallel, in worker processes) or inline (one after the other, in this process).",
        Section.EXECUTION,
        metavar="NAME",
        choices=EXECUTORS,
        value="ray",
    )
    concurrency: int | None = option_field(
        "Number of trials that run at the same time.",
        Section.EXECUTION,
        kind="int",
        low=1,
        default_text="limited by the cores, GPUs and memory",
    )
    track: str | Sequence[str] | None = option_field(
        "Experiment tracker to which finished trials are sent as well: mlflow:URI, wandb:PROJECT or tensorboard:FOLDER. It "
        "neither slows nor stops the search; `automl-cxr track` sends what it lacks.",
        Section.EXECUTION,
        metavar="TARGET",
        is_repeatable=True,
        default_text="none",
    )
    batch_trials: int | None = option_field(
        "Maximum number of cheap trials, such as heads on frozen features, that are trained together as one batch; 1 trains "
        "each trial separately.",
        Section.EXECUTION,
        hidden_flags=("together",),
        kind="int",
        low=1,
        above_zero=True,
        default_text="16; for samplers that use scores, at most an eighth of the trials",
    )
    cpus_per_trial: float | None = option_field(
        "Number of CPU cores for each trial.",
        Section.EXECUTION,
        kind="float",
        low=0.1,
        default_text="the cores divided by the trials that run at the same time",
    )
    gpus_per_trial: float | None = option_field(
        "Number of GPUs for each trial. 0.5 runs two trials on one GPU, each with half of its memory; 2 trains one trial on "
        "two GPUs.",
        Section.EXECUTION,
        kind="float",
        low=0,
        default_text="1 if Ray finds a GPU",
    )
    memory_per_trial: int | None = option_field(
        "Main memory that each trial may use.",
        Section.EXECUTION,
        kind="bytes",
        example="Typed like 6GB.",
        default_text="the memory of the machine divided by the trials on it",
    )
    address: str | None = option_field(
        "Address of a running Ray cluster.",
        Section.EXECUTION,
        default_text="$RAY_ADDRESS; without it, Ray starts on this machine",
    )

    runs: str | None = option_field(
        "Folder that contains the files of all studies.",
        Section.LOCATION,
        kind="path",
        metavar="DIR",
        default_text="$AUTOML_CXR_RUNS, else automl_runs",
    )
    storage: str | None = option_field(
        "Optuna storage of the studies: sqlite:///FILE, journal:///FILE, postgresql://... or grpc://HOST:PORT. Other users of "
        "this machine can read the command line, so put a URL with a password into $AUTOML_CXR_STORAGE.",
        Section.LOCATION,
        metavar="URL",
        default_text="$AUTOML_CXR_STORAGE, else an SQLite file in the folder of --runs",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("executor", self.executor, EXECUTORS)
        _check_choice("value of test_overlap", self.test_overlap, TEST_OVERLAP)
        if self.executor != "ray" and self.ray_resources:
            names = [f"--{name.replace('_', '-')}" for name in self.ray_resources]
            raise UsageError(f"{', '.join(names)} needs --executor ray; received --executor {self.executor}. Omit it.")

    @property
    def hyperparameters(self) -> dict[str, Any] | None:
        """Hyperparameters with fixed values, including ``views``; None if none was given."""
        views = {} if self.views is None else {"views": self.views}
        return {**(self.fixed or {}), **views} or None

    @property
    def ray_resources(self) -> dict[str, Any]:
        """Keywords of ``RayResources`` that were given."""
        return {name: value for name in _RAY_RESOURCES if (value := getattr(self, name)) is not None}


_RAY_RESOURCES = ("concurrency", "cpus_per_trial", "gpus_per_trial", "memory_per_trial", "address")


def _check_choice(kind: str, name: str, choices: Sequence[str]) -> None:
    if name not in choices:
        raise UnknownNameError(kind, name, choices)


def _search_option(name: str, **changes: Any) -> Any:
    return inherited_field(SearchOptions, name, **changes)


@dataclass(frozen=True, kw_only=True)
class SpliceOptions(OptionSet):
    """Options of a splice search. None means that the option was not given.

    The value is then that of the study in which a branch was trained, so that the test part of this study is not used for
    training; otherwise the default.

    Raises:
        UsageError: A number is out of its range.
        UnknownNameError: There is no such executor.
    """

    data: str | None = _search_option("data", default_text="the data of a trained branch, else phantom images")
    cuts: Sequence[str] | None = option_field(
        "Cuts of the first network to try: layer names, or numbers of its splice points.",
        Section.SEARCH,
        kind="names",
        default_text="all splice points",
    )
    second_cuts: Sequence[str] | None = option_field(
        "Cuts of the second network to try: layer names, or numbers of its splice points.",
        Section.SEARCH,
        kind="names",
        default_text="all splice points",
    )
    finetune: int = option_field(
        "Number of best pairs of the Pareto front that are trained as trials of a study; 0 for none.",
        Section.SEARCH,
        kind="int",
        low=0,
        value=3,
    )
    name: str | None = _search_option(
        "name",
        help="Name of the study of the trained pairs. An existing study of this name is continued.",
        default_text="the names of both networks",
    )
    seed: int | None = _search_option("seed", help="Random seed of the split and the initial weights.")
    layout: str | None = _search_option("layout")
    task: str | None = _search_option("task")
    classes: Sequence[str] | None = _search_option("classes")
    class_map: Mapping[str, str] | str | None = _search_option("class_map")
    labels: str | None = _search_option("labels")
    images: str | None = _search_option("images")
    path_column: str | None = _search_option("path_column")
    label_column: str | None = _search_option("label_column")
    patient_column: str | None = _search_option("patient_column")
    split_column: str | None = _search_option("split_column")
    view_column: str | None = _search_option("view_column")
    label_regex: str | None = _search_option("label_regex")
    finding: str | None = _search_option("finding")
    findings: Sequence[str] | None = _search_option("findings")
    min_positives: int | None = _search_option("min_positives")
    uncertain: str | None = _search_option("uncertain")
    missing: str | None = _search_option("missing")
    resplit: bool | None = _search_option("resplit")
    patients: str | None = _search_option("patients")
    unknown_patients: str | None = _search_option("unknown_patients")
    projections: Sequence[str] | None = _search_option("projections")
    subgroups: Sequence[str] | None = _search_option("subgroups")
    image_size: int | None = _search_option("image_size", default_text="the size of a trained branch, else 112")
    fit: str | None = _search_option("fit")
    normal_class: str | None = _search_option("normal_class", help="Class without a finding.")
    valid_fraction: float | None = _search_option(
        "valid_fraction", help="Fraction of the images in the validation part, on which pairs are scored."
    )
    test_fraction: float | None = _search_option("test_fraction")
    test_overlap: str = _search_option(
        "test_overlap",
        help="Whether the branches may have been trained or selected on images of the validation or test part: refuse, or "
        "allow. Evaluations and reports of the study then state the number of these images.",
    )
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
        _check_choice("executor", self.executor, EXECUTORS)
        _check_choice("value of test_overlap", self.test_overlap, TEST_OVERLAP)
        if self.finetune < 0:
            raise UsageError(f"finetune must be 0 or more; received {self.finetune}.")

    def study_options(self) -> SearchOptions:
        """Return the options that specify the study of the spliced networks; its name and its space are chosen later."""
        shared = {option.name for option in options_of(SearchOptions) if option.scope is Scope.STUDY} - {"name"}
        names = [option.name for option in options_of(SpliceOptions) if option.name in shared]
        return SearchOptions(**{name: getattr(self, name) for name in names})


def study_file_keys() -> tuple[str, ...]:
    """List the keys that a study file may contain."""
    options = [option for option in options_of(SearchOptions) if option.in_study_files]
    return tuple(key for option in options for key in (option.flag, *option.hidden_flags))
