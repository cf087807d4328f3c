"""Prepares a study for a search: resolves its settings, prepares its images, and writes or checks its record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from automl_cxr.data.audit.record import Audit
from automl_cxr.data.dataset import Dataset
from automl_cxr.data.feature_table import open_recorded_table, read_feature_table, save_rows
from automl_cxr.data.image_metadata import save_image_metadata
from automl_cxr.engine.space_toml import parse_space
from automl_cxr.records import SplitRecord
from automl_cxr.scoring.objectives import direction_of
from automl_cxr.storage.passwords import command_without_passwords
from automl_cxr.study.automatic_settings import DEFAULT_IMAGE_SIZE
from automl_cxr.study.batch_size import choose_batch_size
from automl_cxr.study.budget import trial_deadline
from automl_cxr.study.budget_plan import SHORTEST_SECONDS, BudgetPlan, StepTimes, plan_budget
from automl_cxr.study.data_preparation import (
    OnProgress,
    StudyImages,
    choose_automatic_size,
    digest_table,
    load_images,
    phantom_data,
    read_dataset,
)
from automl_cxr.study.expected_workers import expected_workers
from automl_cxr.study.external_encoders import check_table_space, with_resolved_encoders, with_table
from automl_cxr.study.image_hashes import HASHES_FILE, ImageHashes
from automl_cxr.study.model_sources import find_sources
from automl_cxr.study.options import ALLOW, SearchOptions
from automl_cxr.study.portfolio import enqueue_portfolio
from automl_cxr.study.provenance import describe_versions
from automl_cxr.study.settings import (
    DEFAULT_SPACE,
    ChosenSpace,
    check_metrics,
    check_normal_class,
    check_search_methods,
    choose_normal_class,
    choose_space,
    fit_space_to_data,
    resolve_settings,
    settle_folds,
    settle_task,
)
from automl_cxr.study.source_overlap import (
    SourceCheck,
    check_sources,
    load_source_checks,
    save_source_checks,
    warnings_of,
)
from automl_cxr.study.spec import StudySpec, resolve_path
from automl_cxr.study.store import StudyStore, creation_lock, explained_disk_errors
from automl_cxr.study.study_audit import audit_messages, audit_split, load_audit, save_audit
from automl_cxr.study.study_folder import check_folder_name, claim_folder
from automl_cxr.study.warm_start import enqueue_missing, plan_warm_start, save_warm_start
from automl_cxr.study.worst_groups import check_worst_groups


@dataclass(frozen=True)
class PreparedStudy:
    """A study that is ready for a search.

    Attributes:
        store: Record of the study.
        images: File of the decoded training and validation images, or of their features from a table.
        weights_folder: Folder that is searched first for pretrained weights, or None.
        notes: Messages for the user about the data, the split and the assumptions made.
        is_new: Whether the study was created by this call.
        planned_seconds: Expected seconds of a trial of each family, if they were measured.
    """

    store: StudyStore
    images: Path
    weights_folder: Path | None
    notes: tuple[str, ...]
    is_new: bool
    planned_seconds: Mapping[str, float] = field(default_factory=dict)


def prepare_study(
    options: SearchOptions,
    *,
    runs: Path,
    storage: str,
    command: str = "",
    on_progress: OnProgress | None = None,
    started: float | None = None,
) -> PreparedStudy:
    """Create a study, or check that the options agree with the existing study of the same name.

    Args:
        options: Options of the search; only those of the study's specification are used.
        runs: Folder of all studies' files.
        storage: Optuna storage URL.
        command: Command line, for the record.
        on_progress: Called with the number of images that are done and of all images, first of decoding, then of each step of
            the audit that reads images.
        started: ``time.monotonic()`` at the start of the search, from which its wall time counts. [default: now]

    Raises:
        UsageError: A value is impossible, or a name does not exist.
        StudyMismatchError: The study exists with other settings, or its data changed.
        DataError: The data are unusable, or test images were used to train or select a model from which the study starts.
    """
    options = with_table(with_resolved_encoders(options))
    name = _default_name(options) if options.name is None else options.name
    check_folder_name(name, runs=runs, storage=storage)
    started = time.monotonic() if started is None else started
    with creation_lock(name, runs):
        existing = StudyStore.find(name, runs=runs, storage=storage)
        existing_spec = existing.spec if existing else None
        notes: list[str] = []
        settings = resolve_settings(options, existing_spec)
        space = choose_space(options, existing_spec, settings, notes)
        check_search_methods(settings, space.name, space.toml)
        data = _choose_data(options, existing_spec, notes)
        dataset = read_dataset(data, settings, notes)
        settings = settle_task(settings, options, existing_spec, dataset.task)
        check_metrics(settings, dataset.classes)
        settings = {**settings, "image_size": settings["image_size"] or choose_automatic_size(dataset, notes)}
        if existing is None:  # studies of earlier versions, which had no such check, can be continued
            space = fit_space_to_data(space, options, settings, len(dataset.classes), notes)
            settings = _with_batch_size(space, settings, dataset, options, notes)
        can_measure = existing is None and options.features is None  # step times are measured with random images
        is_planned = can_measure and options.seconds is not None and options.seconds >= SHORTEST_SECONDS
        with _begin_measuring(space, settings, dataset, options) if is_planned else nullcontext() as step_times:
            images = load_images(dataset, settings, notes, on_progress)
            settings = settle_folds(settings, images.split.n_folds)
            split, decoded = images.split, images.decoded
            table = None if settings["features"] is None else _select_features(settings, existing_spec, dataset, split, space)
            audit = (
                None
                if existing
                else audit_split(dataset.root, split, decoded, metadata=dataset.metadata, on_progress=on_progress)
            )
            plan_of_time = None if step_times is None else _plan_budget(step_times, options, settings, split, started, notes)
        if plan_of_time is not None and options.epochs is None:
            settings = {**settings, "epochs": plan_of_time.epochs}
        if table is not None:
            settings = {**settings, "features_digest": table.digest, "n_features": table.n_features}
        specified = {**settings, "layout": dataset.layout, "classes": dataset.classes}
        spec = StudySpec(
            name=name,
            space_name=space.name,
            space_toml=space.toml,
            data=resolve_path(data),
            data_digest=digest_table(dataset),
            pixels_digest=decoded.digest,
            normal_class=None if dataset.is_multilabel else choose_normal_class(options, existing_spec, dataset.classes, notes),
            versions=describe_versions(),
            command=command_without_passwords(command),
            **specified,
        )
        weights_folder = _as_path(spec.weights_folder)
        inputs = decoded.path if table is None else table.path
        folder = runs / name
        if existing:
            spec.require_same(existing.spec)
            notes.extend(_check_existing(existing, spec, images, options))
            enqueue_missing(existing)
            enqueue_portfolio(existing)
            _save_metadata(folder, dataset)
            earlier_audit = load_audit(existing)
            notes.extend([] if earlier_audit is None else audit_messages(earlier_audit))
            return PreparedStudy(existing, inputs, weights_folder, tuple(notes), is_new=False)
        check_normal_class(spec)
        check_worst_groups(spec, split, dataset.metadata)
        earlier = None if spec.warm_start is None else StudyStore.open(spec.warm_start, runs=runs, storage=storage)
        plan = None if earlier is None else plan_warm_start(earlier, spec)
        hashes, checks = _compare_sources(spec, folder, images, options)
        claim_folder(name, runs=runs, storage=storage)
        _save_sources(folder, hashes, checks)
        _save_metadata(folder, dataset)
        notes.extend(warnings_of(checks))
        if plan is not None:
            notes.extend(plan.notes)
            save_warm_start(plan, folder)
        notes.extend(save_audit(audit, folder) if isinstance(audit, Audit) else [str(audit)])
        directions = [direction_of(objective) for objective in spec.objectives]
        store = StudyStore.create(spec, split, runs=runs, storage=storage, directions=directions)
        enqueue_missing(store)
        enqueue_portfolio(store)
        planned_seconds = {} if plan_of_time is None else plan_of_time.seconds
        return PreparedStudy(store, inputs, weights_folder, tuple(notes), is_new=True, planned_seconds=planned_seconds)


@dataclass(frozen=True)
class _SelectedFeatures:
    """The features of the training and validation images, in this order: a .npy file; with the digest of their table."""

    path: Path
    digest: str
    n_features: int


def _select_features(
    settings: Mapping[str, Any], existing: StudySpec | None, dataset: Dataset, split: SplitRecord, space: ChosenSpace
) -> _SelectedFeatures:
    """Read the table of features of a study, and select the rows of its images.

    Raises:
        DataError: The table is unusable, has no row for an image, or differs from that of the existing study.
        SpaceError: Networks of the space cannot take features.
    """
    check_table_space(parse_space(space.toml, name=space.name).fix(settings["fixed"]))
    file = settings["features"]
    table = read_feature_table(file) if existing is None else open_recorded_table(file, existing.features_digest)
    used = [*split.train.images, *split.valid.images]
    values = table.select([*used, *split.test], dataset.root)
    return _SelectedFeatures(save_rows(values[: len(used)]), table.digest, table.n_features)


def _with_batch_size(
    space: ChosenSpace, settings: dict[str, Any], dataset: Dataset, options: SearchOptions, notes: list[str]
) -> dict[str, Any]:
    """Return settings with the batch size for the GPUs of this machine, if the user did not choose one; add a note."""
    if options.batch_size is not None:
        return settings
    fixed_space = parse_space(space.toml, name=space.name).fix(settings["fixed"])
    chosen = choose_batch_size(
        fixed_space,
        settings,
        n_classes=len(dataset.classes),
        n_images=len(dataset.table),
        gpus_per_trial=options.gpus_per_trial,
    )
    if chosen != settings["batch_size"]:
        notes.append(f"{chosen} images per gradient step, which fit into the memory of the GPU; --batch-size changes it.")
    return {**settings, "batch_size": chosen}


def _begin_measuring(space: ChosenSpace, settings: Mapping[str, Any], dataset: Dataset, options: SearchOptions) -> StepTimes:
    fixed_space = parse_space(space.toml, name=space.name).fix(settings["fixed"])
    return StepTimes(fixed_space, settings, n_classes=len(dataset.classes), workers=expected_workers(options))


def _plan_budget(
    times: StepTimes,
    options: SearchOptions,
    settings: Mapping[str, Any],
    split: SplitRecord,
    started: float,
    notes: list[str],
) -> BudgetPlan | None:
    """Plan the search from measured step times; add a note."""
    plan = plan_budget(
        times,
        split,
        seconds=lambda: trial_deadline(options.seconds or 0.0, started) - time.monotonic(),
        most_epochs=settings["epochs"],
    )
    notes.append(
        f"Step times could not be measured, so each trial has up to {settings['epochs']} epochs; --epochs changes it."
        if plan is None
        else plan.description
    )
    return plan


def _compare_sources(
    spec: StudySpec, folder: Path, images: StudyImages, options: SearchOptions, known: Sequence[SourceCheck] = ()
) -> tuple[ImageHashes, list[SourceCheck]]:
    """Compare the images of a study with those of its sources. No file is written.

    Args:
        spec: Specification of the study.
        folder: Its folder.
        images: Its images.
        options: Options of the search.
        known: Earlier results; their sources are not compared again.

    Returns:
        The content hashes of the images of the study and of its sources; and all results.

    Raises:
        DataError: Test images were used to train or select a source, and the options do not allow it.
    """
    file = folder / HASHES_FILE
    own = ImageHashes.load(file) if file.is_file() and known else images.hash_parts()
    names = {check.source for check in known}
    sources = [source for source in find_sources(spec, folder, images.dataset.root) if source.name not in names]
    checks = check_sources(sources, own, allows_test_overlap=options.test_overlap == ALLOW)
    return own.with_earlier(source.images for source in sources if source.images is not None), [*known, *checks]


def _save_sources(folder: Path, hashes: ImageHashes, checks: Sequence[SourceCheck]) -> None:
    with explained_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        hashes.save(folder / HASHES_FILE)
    save_source_checks(checks, folder)


def _save_metadata(folder: Path, dataset: Dataset) -> None:
    with explained_disk_errors(folder):
        save_image_metadata(dataset.metadata, folder)


def _check_existing(store: StudyStore, spec: StudySpec, images: StudyImages, options: SearchOptions) -> list[str]:
    """Return the warnings about the sources of an existing study.

    Its sources are compared if an earlier version created the study, or if another folder of weights is searched now.
    """
    known = load_source_checks(store.folder)
    is_complete = known is not None and (store.folder / HASHES_FILE).is_file()
    if is_complete and spec.weights_folder == store.spec.weights_folder:
        return warnings_of(known or [])
    hashes, checks = _compare_sources(spec, store.folder, images, options, known or [])
    _save_sources(store.folder, hashes, checks)
    return warnings_of(checks)


@dataclass(frozen=True)
class PreparedImages:
    """Images prepared as for a new study, without the study.

    Attributes:
        data: Their table, split and decoded pixels.
        image_size: Height and width of a decoded image, in pixels.
        fit: How images are resized to a square: "stretch", "pad" or "crop".
        weights_folder: Folder that is searched first for pretrained weights, or None.
        notes: Messages for the user about the data.
    """

    data: StudyImages
    image_size: int
    fit: str
    weights_folder: Path | None
    notes: tuple[str, ...]

    @property
    def split(self) -> SplitRecord:
        """Training, validation and test part."""
        return self.data.split

    @property
    def images(self) -> Path:
        """File of the decoded training and validation images."""
        return self.data.decoded.path


def prepare_images(options: SearchOptions, *, on_progress: OnProgress | None = None) -> PreparedImages:
    """Read, split and decode the images as ``prepare_study`` does for a new study, without creating the study.

    Raises:
        UsageError: A value is impossible, or a name does not exist.
        DataError: The data are unusable.
    """
    notes: list[str] = []
    image_size = options.image_size or DEFAULT_IMAGE_SIZE
    settings = resolve_settings(dataclasses.replace(options, folds=options.folds or 0, image_size=image_size), None)
    dataset = read_dataset(_choose_data(options, None, notes), settings, notes)
    images = load_images(dataset, settings, notes, on_progress)
    weights_folder = _as_path(settings["weights_folder"])
    return PreparedImages(images, settings["image_size"], settings["fit"], weights_folder, tuple(notes))


def _choose_data(options: SearchOptions, existing: StudySpec | None, notes: list[str]) -> str:
    if options.data is not None:
        return options.data
    return phantom_data(notes) if existing is None else existing.data


def _as_path(folder: str | None) -> Path | None:
    return None if folder is None else Path(folder)


def _default_name(options: SearchOptions) -> str:
    data = Path(options.data).expanduser().absolute() if options.data is not None else Path("phantoms")
    return f"{Path(options.space or DEFAULT_SPACE).stem}-{data.stem if data.is_file() else data.name}"
