"""From what a user asked for to a study that is ready to search: data read, split, decoded and written down."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import DecodedImages, cache_folder, decode_dataset
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.data.split import Split, fold_dataset, split_dataset
from automl_cxr.engine.registry import check_proposer
from automl_cxr.engine.space import Value, parse_space
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.scoring.metrics import find_normal_class
from automl_cxr.scoring.objectives import Requirement, check_objectives, direction_of, needs_normal_class
from automl_cxr.storage.urls import without_password
from automl_cxr.study.fidelity import check_fidelity
from automl_cxr.study.provenance import describe_versions
from automl_cxr.study.spaces import check_space, read_space, refuse_unread, refuse_unread_fixed
from automl_cxr.study.spec import StudySpec, resolve_path
from automl_cxr.study.store import StudyStore, check_study_name, founding
from automl_cxr.study.study_audit import audit_messages, audit_study, load_audit
from automl_cxr.study.warm_start import enqueue_missing, plan_warm_start, save_warm_start

_DEFAULT_SPACE = "scratch"


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """What a user said about a study. None was left unsaid: a new study takes the default, an existing one keeps its own.

    The attributes are those of ``StudySpec``; ``space`` is a name or a path, ``data`` None means phantom images, and
    ``requirements`` are texts as they are typed.
    """

    space: str | None = None
    data: str | None = None
    name: str | None = None
    layout: str | None = None
    classes: Sequence[str] | None = None
    patients: str | None = None
    fixed: Mapping[str, Value] | None = None
    weights_folder: str | None = None
    image_size: int | None = None
    fit: str | None = None
    batch_size: int | None = None
    epochs: int | None = None
    objectives: Sequence[str] | None = None
    requirements: Sequence[str] | None = None
    normal_class: str | None = None
    sampler: str | None = None
    pruner: str | None = None
    valid_fraction: float | None = None
    test_fraction: float | None = None
    folds: int | None = None
    seed: int | None = None
    fidelity: str | None = None
    warm_start: str | None = None
    warm_start_top: int | None = None
    command: str = ""


@dataclass(frozen=True)
class PreparedStudy:
    """A study that is ready to search.

    Attributes:
        store: Its record.
        images: The decoded array of its training and validation images.
        weights_folder: Where pretrained weights are looked for first, or None.
        notes: Sentences about the data, the split and the choices made, for the user to read.
        is_new: Whether it was begun now.
    """

    store: StudyStore
    images: Path
    weights_folder: Path | None
    notes: tuple[str, ...]
    is_new: bool


OnProgress = Callable[[int, int], None]


def prepare_study(request: StudyRequest, *, runs: Path, storage: str, on_progress: OnProgress | None = None) -> PreparedStudy:
    """Begin a study, or check that an existing one is continued as it was begun.

    Args:
        request: What the user said.
        runs: Folder of all studies' files.
        storage: Optuna storage URL.
        on_progress: Told (images decoded, images in all) while decoding.

    Raises:
        UsageError: An impossible value or an unknown name.
        StudyMismatchError: The study exists with other settings, or its data changed.
        DataError: The data cannot serve.
    """
    name = check_study_name(_default_name(request) if request.name is None else request.name)
    with founding(name, runs):
        existing = StudyStore.find(name, runs=runs, storage=storage)
        begun = existing.spec if existing else None
        notes: list[str] = []
        settings = _resolve_settings(request, begun)
        space_name, space_toml = _choose_space(request, begun, settings["fixed"])
        searched = parse_space(space_toml, name=space_name).fix(settings["fixed"])
        check_proposer(
            searched,
            sampler=settings["sampler"],
            pruner=settings["pruner"],
            n_objectives=len(settings["objectives"]),
            folds=settings["folds"],
        )
        check_fidelity(settings["fidelity"], settings["sampler"])
        data = request.data if request.data is not None else begun.data if begun else _phantoms(notes)
        dataset, record, decoded = _read_images(data, settings, notes, on_progress)
        spec = StudySpec(
            name=name,
            space_name=space_name,
            space_toml=space_toml,
            data=resolve_path(data),
            layout=dataset.layout,
            classes=dataset.classes,
            data_digest=digest_table(dataset),
            pixels_digest=decoded.digest,
            normal_class=_choose_normal_class(request, begun, dataset.classes, notes),
            versions=describe_versions(),
            command=without_password(request.command),
            **settings,
        )
        weights_folder = None if spec.weights_folder is None else Path(spec.weights_folder)
        if existing:
            spec.require_same(existing.spec)
            enqueue_missing(existing)
            audit = load_audit(existing)
            notes.extend([] if audit is None else audit_messages(audit))
            return PreparedStudy(existing, decoded.path, weights_folder, tuple(notes), is_new=False)
        _check_normal_class(spec)
        if spec.warm_start is not None:
            plan = plan_warm_start(StudyStore.open(spec.warm_start, runs=runs, storage=storage), spec, record)
            notes.extend(plan.notes)
            save_warm_start(plan, runs / name)
        notes.extend(audit_study(runs / name, dataset.root, record, decoded))
        directions = [direction_of(name) for name in spec.objectives]
        store = StudyStore.create(spec, record, runs=runs, storage=storage, directions=directions)
        enqueue_missing(store)
        return PreparedStudy(store, decoded.path, weights_folder, tuple(notes), is_new=True)


@dataclass(frozen=True)
class PreparedImages:
    """The images of a study that is not begun yet.

    Attributes:
        split: Which image serves for what.
        images: The decoded array of the training and validation images.
        image_size: Its height and width in pixels.
        fit: How images met them.
        weights_folder: Where pretrained weights are looked for first, or None.
        notes: Sentences about the data for the user to read.
    """

    split: SplitRecord
    images: Path
    image_size: int
    fit: str
    weights_folder: Path | None
    notes: tuple[str, ...]


def prepare_images(request: StudyRequest, *, on_progress: OnProgress | None = None) -> PreparedImages:
    """Read, split and decode the images just as a new study of the same request would, and begin none.

    Raises:
        UsageError: An impossible value or an unknown name.
        DataError: The data cannot serve.
    """
    notes: list[str] = []
    settings = _resolve_settings(request, None)
    data = _phantoms(notes) if request.data is None else request.data
    _, record, decoded = _read_images(data, settings, notes, on_progress)
    weights_folder = None if settings["weights_folder"] is None else Path(settings["weights_folder"])
    return PreparedImages(record, decoded.path, settings["image_size"], settings["fit"], weights_folder, tuple(notes))


def _read_images(
    data: str, settings: dict[str, Any], notes: list[str], on_progress: OnProgress | None
) -> tuple[Dataset, SplitRecord, DecodedImages]:
    """Read a data set, split it and decode what is not sealed; takes layout and classes out of the settings."""
    dataset = load_dataset(data, layout=settings.pop("layout"), classes=settings.pop("classes"), patients=settings["patients"])
    notes.extend(dataset.notes)
    if dataset.ignored:
        notes.append(_tell_ignored(dataset))
    split = split_dataset(
        dataset,
        list(dataset.table["image"]),
        valid_fraction=settings["valid_fraction"],
        test_fraction=settings["test_fraction"],
        seed=settings["seed"],
    )
    record, decoded = _decode_parts(dataset, split, settings["image_size"], settings["fit"], on_progress)
    if settings["folds"]:
        record = _pool_into_folds(dataset, record, settings["folds"], notes)
    _check_every_class(record)
    if record.unreadable:
        notes.append(_tell_unreadable(record))
    return dataset, record, decoded


def _default_name(request: StudyRequest) -> str:
    data = Path(request.data).expanduser().absolute() if request.data is not None else Path("phantoms")
    return f"{Path(request.space or _DEFAULT_SPACE).stem}-{data.stem if data.is_file() else data.name}"


def _phantoms(notes: list[str]) -> str:
    notes.append(
        "No --data given: searching on phantom radiographs, drawn by this program to try it out. "
        "Figures on them say nothing about real images."
    )
    return str(draw_phantoms(cache_folder() / "phantoms"))


def _resolve_settings(request: StudyRequest, begun: StudySpec | None) -> dict[str, Any]:
    """Take what was said, else what the study was begun with, else the default; and check it."""

    def settle(name: str, default: Any) -> Any:
        said = getattr(request, name)
        if said is not None:
            return said
        return getattr(begun, name) if begun is not None else default

    objectives = check_objectives(settle("objectives", ("macro_f1",)))
    folds = _checked_folds(settle("folds", 0), request)
    settings = {
        "image_size": settle("image_size", 112),
        "fit": settle("fit", "stretch"),
        "fixed": {name: _absolute_if_file(name, value) for name, value in settle("fixed", {}).items()},
        "weights_folder": _existing_folder(settle("weights_folder", None)),
        "batch_size": settle("batch_size", 32),
        "epochs": settle("epochs", 30),
        "objectives": objectives,
        "requirements": tuple(dict.fromkeys(str(Requirement.parse(text)) for text in settle("requirements", ()))),
        "sampler": settle("sampler", "tpe"),
        "folds": folds,
        "pruner": settle("pruner", _usual_pruner(folds=folds, n_objectives=len(objectives))),
        "valid_fraction": settle("valid_fraction", 0.15),
        "test_fraction": settle("test_fraction", 0.15),
        "seed": settle("seed", 0),
        "fidelity": settle("fidelity", "epochs"),
        "warm_start": settle("warm_start", None),
        "warm_start_top": settle("warm_start_top", 5),
        "layout": settle("layout", None),
        "classes": settle("classes", None),
        "patients": settle("patients", None),
    }
    TrialConfig.from_values({name: settings[name] for name in ("image_size", "fit", "batch_size", "epochs", "seed")})
    if request.warm_start_top is not None and settings["warm_start"] is None:
        raise UsageError("--warm-start-top says how many configurations --warm-start takes over. Add --warm-start STUDY.")
    if type(settings["warm_start_top"]) is not int or settings["warm_start_top"] < 1:
        raise UsageError(f"A warm start tries at least one configuration; received {settings['warm_start_top']!r}.")
    for name in ("valid_fraction", "test_fraction"):
        if not isinstance(settings[name], (int, float)):
            raise UsageError(f"{name} must be a number; received {settings[name]!r}.")
    return settings


def _usual_pruner(*, folds: int, n_objectives: int) -> str:
    """Choose who stops trials early where nobody was named; between folds, nobody judges by several objectives."""
    if not folds:
        return "asha"
    return "wilcoxon" if n_objectives == 1 else "none"


def _checked_folds(folds: Any, request: StudyRequest) -> int:
    if type(folds) is not int or folds < 0 or folds == 1:
        raise UsageError(f"folds must be 2 or more, or 0 for one validation part; received {folds!r}. Try 5.")
    if folds and request.valid_fraction is not None:
        raise UsageError(
            f"With folds each of them is the validation part once; received --folds {folds} and "
            f"--valid-fraction {request.valid_fraction}. Leave one out."
        )
    return folds


def _absolute_if_file(name: str, value: Value) -> Value:
    """Make a weights file's path absolute: workers start in another folder."""
    is_file = name in ("weights", "second_weights") and Path(str(value)).expanduser().is_file()
    return resolve_path(str(value)) if is_file else value


def _existing_folder(folder: str | None) -> str | None:
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise UsageError(f"The folder of pretrained weights must exist; received {folder}. Name another --weights.")
    return None if folder is None else resolve_path(folder)


def _choose_space(request: StudyRequest, begun: StudySpec | None, fixed: Mapping[str, Value]) -> tuple[str, str]:
    """Give the name and the text of the space, checked with what was fixed by hand."""
    if request.space is None and begun is not None:
        name, text = begun.space_name, begun.space_toml
    else:
        wanted = request.space or _DEFAULT_SPACE
        name, text = Path(wanted).stem, read_space(wanted)
    written = check_space(parse_space(text, name=name))
    space = check_space(written.fix(fixed))
    if begun is None:  # a study of an earlier version can be continued
        refuse_unread(written, written.names)
        refuse_unread_fixed(space, fixed)
    if request.batch_size is not None and "batch_size" in space.names:
        raise UsageError(f"The batch size is said twice: by --batch-size and by the space {name} or --set. Leave one out.")
    return name, text


def _choose_normal_class(
    request: StudyRequest, begun: StudySpec | None, classes: tuple[str, ...], notes: list[str]
) -> str | None:
    if request.normal_class is not None:
        if request.normal_class not in classes:
            raise UnknownNameError("class", request.normal_class, classes)
        return request.normal_class
    if begun is not None:
        return begun.normal_class
    index = find_normal_class(classes)
    if index is None:
        notes.append("No class looks like the one without a finding, so there is no FNFR; name one with --normal-class.")
        return None
    notes.append(f"Class '{classes[index]}' is taken for the one without a finding (--normal-class says otherwise).")
    return classes[index]


def _check_normal_class(spec: StudySpec) -> None:
    required = [Requirement.parse(text).name for text in spec.requirements]
    for kind, names in (("objective", spec.objectives), ("required", required)):
        for name in names:
            if needs_normal_class(name) and spec.normal_class is None:
                raise UsageError(f"The {kind} {name} needs the class without a finding: name it with --normal-class.")


def _decode_parts(
    dataset: Dataset, split: Split, image_size: int, fit: str, on_progress: OnProgress | None
) -> tuple[SplitRecord, DecodedImages]:
    """Decode training and validation images, in this order and without the unreadable. The test part is not touched."""
    ids = [*split.train, *split.valid]
    decoded = decode_dataset(dataset.root, ids, image_size, fit=fit, on_progress=on_progress)
    unreadable = dict(decoded.unreadable)
    if unreadable:
        readable = [image for image in ids if image not in unreadable]
        decoded = decode_dataset(dataset.root, readable, image_size, fit=fit, on_progress=on_progress)
    rows = dataset.table.set_index("image")
    record = SplitRecord(
        classes=dataset.classes,
        train=_part(dataset.classes, rows, [image for image in split.train if image not in unreadable]),
        valid=_part(dataset.classes, rows, [image for image in split.valid if image not in unreadable]),
        test=split.test,
        seed=split.seed,
        grouped=split.grouped,
        origin=split.origin,
        unreadable=unreadable,
    )
    return record, decoded


def _pool_into_folds(dataset: Dataset, record: SplitRecord, n_folds: int, notes: list[str]) -> SplitRecord:
    """Divide the training and validation images into folds; they keep their rows in the decoded array."""
    if "valid" in set(dataset.table["split"]):
        notes.append(
            "The data's own validation images join the training images: "
            "with --folds every image of both is left out of the training once."
        )
    pooled = PartRecord(
        images=record.train.images + record.valid.images,
        labels=record.train.labels + record.valid.labels,
        patients=record.train.patients + record.valid.patients,
    )
    folds = fold_dataset(dataset, pooled.images, n_folds=n_folds, seed=record.seed)
    return dataclasses.replace(record, train=pooled, valid=PartRecord(images=(), labels=(), patients=()), folds=folds)


def _check_every_class(record: SplitRecord) -> None:
    for name, part in (("training", record.train), ("validation", record.judged)):
        missing = sorted(set(range(len(record.classes))) - set(part.labels))
        if missing:
            raise DataError(
                f"Every class needs readable {name} images; received none of '{record.classes[missing[0]]}'. "
                "See `automl-cxr data inspect`, or leave the class out with --classes."
            )


def _part(classes: tuple[str, ...], rows: pd.DataFrame, images: list[str]) -> PartRecord:
    chosen = rows.loc[images]
    return PartRecord(
        images=tuple(images),
        labels=tuple(classes.index(label) for label in chosen["label"]),
        patients=tuple(chosen["patient_id"]),
    )


def _tell_ignored(dataset: Dataset) -> str:
    path, reason = next(iter(dataset.ignored.items()))
    return f"{len(dataset.ignored)} files are left out, such as {path} ({reason}). `automl-cxr data inspect` names them all."


def _tell_unreadable(record: SplitRecord) -> str:
    image, reason = next(iter(record.unreadable.items()))
    return (
        f"{len(record.unreadable)} of the training and validation images cannot be read and are left out, "
        f"such as {image} ({reason}). `automl-cxr data inspect` names them all."
    )


def digest_table(dataset: Dataset) -> str:
    """Hash which images a data set has, with their labels, patients and given split."""
    table = dataset.table[["image", "label", "patient_id", "split"]]
    return hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()
