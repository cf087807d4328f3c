"""Scores of a study's models on the images of external sites.

The predictions of each model for a site are computed once, stored in <study>/external/<digest of the images, labels and
patients>/00007.npz, and scored at each call.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.class_map import load_class_map
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.projections import (
    LATERAL,
    OTHER,
    UNKNOWN,
    count_projections,
    describe_counts,
    included_projections,
    projection_of,
)
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.results.site_classes import match_classes
from automl_cxr.results.study_data import load_trial_config
from automl_cxr.scoring.intervals import N_RESAMPLES, intervals_of, named_metric
from automl_cxr.scoring.metrics import METRICS, Metric, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.study.data_preparation import digest_table
from automl_cxr.study.image_hashes import short_hash
from automl_cxr.study.model_sources import find_hashes
from automl_cxr.study.store import StudyStore, explained_disk_errors

OnProgress = Callable[[int, int], None]
_FOLDER = "external"


@dataclass(frozen=True)
class ExternalSite:
    """Labelled images of an external site.

    Attributes:
        name: Name of the folder or table; the prefix of the site's columns.
        folder: The folder or table.
        dataset: The images.
        class_map: The study's class by the site's class, where they differ; "" for images that are not used.
        notes: Sentences for the user.
    """

    name: str
    folder: str
    dataset: Dataset
    class_map: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def table_digest(self) -> str:
        """Digest of the image names, labels and patients."""
        return digest_table(self.dataset)

    def for_study(self, store: StudyStore) -> ExternalSite:
        """Return the images with the class names of a study, without images of classes and projections that are not used.

        Raises:
            UnknownNameError: The study does not have a class of ``class_map``.
            DataError: The site has another class, or images of fewer than two classes of the study.
        """
        dataset, notes = _select_projections(self.dataset, store.spec.projections, self.name)
        matched = match_classes(
            dataset,
            self.class_map,
            site=self.name,
            folder=self.folder,
            study=store.name,
            classes=store.spec.classes,
        )
        return ExternalSite(self.name, self.folder, matched.dataset, notes=(*notes, *matched.notes))


def open_sites(folders: Sequence[str | Path], class_map: Mapping[str, str] | str | Path | None = None) -> list[ExternalSite]:
    """Load the images of external sites, in any supported layout.

    Args:
        folders: Folder or table of each site.
        class_map: The study's class by the site's class, as in ``load_class_map``, for all sites.

    Raises:
        UsageError: Two sites have the same name, the map has another form, or no site is given for it.
        UnknownNameError: No site has a class of the map.
        DataError: There are no images, or fewer than two classes.
    """
    entries = load_class_map(class_map)
    if entries and not folders:
        raise UsageError("--class-map applies to the classes of external sites; received no site. Add one with --external.")
    sites = [
        ExternalSite(Path(folder).expanduser().absolute().stem, str(folder), _load_site(folder), entries) for folder in folders
    ]
    names = [site.name for site in sites]
    if len(set(names)) < len(names):
        raise UsageError(f"The folders of external sites must have different names; received {', '.join(names)}. Rename one.")
    known = {name for site in sites for name in site.dataset.classes}
    for name in entries:
        if name not in known:
            raise UnknownNameError("class of a site in --class-map", name, known)
    return sites


def _load_site(folder: str | Path) -> Dataset:
    """Load the images of a site. An error names the way to read the site with options, if it exists."""
    try:
        return load_dataset(folder)
    except DataError as error:
        if not Path(folder).expanduser().exists():
            raise
        raise DataError(
            f"{error} To read an external site with options, save it as a table, `automl-cxr data inspect "
            f"{shlex.quote(str(folder))} OPTIONS --save site.csv`, and name the table, --external site.csv."
        ) from error


def _select_projections(dataset: Dataset, requested: Sequence[str] | None, site: str) -> tuple[Dataset, tuple[str, ...]]:
    """Leave out the images of a site whose projection is known and not one of the study. Return a note on others."""
    views = dataset.table["view"]
    counts = count_projections(views)
    if requested is None:
        if counts.keys().isdisjoint((LATERAL, OTHER)):
            return dataset, ()
        return dataset, (f"Not all images of {site} are frontal ({describe_counts(counts)}); all of them are scored.",)
    is_used = views.map(projection_of).isin([*included_projections(requested), UNKNOWN])
    if is_used.all():
        return dataset, ()
    note = (
        f"{int((~is_used).sum())} of {len(views)} images of {site} are not of the study's projections ({','.join(requested)}) "
        f"and are not scored: {describe_counts(count_projections(views[~is_used]))}."
    )
    table = dataset.table[is_used].reset_index(drop=True)
    present = set(table["label"])
    return replace(dataset, table=table, classes=tuple(name for name in dataset.classes if name in present)), (note,)


def score_site(
    store: StudyStore,
    site: ExternalSite,
    *,
    metric: str,
    n_resamples: int = N_RESAMPLES,
    on_progress: OnProgress | None = None,
) -> dict[int, dict[str, float]]:
    """Score the saved models of a study on a site's images.

    Returns:
        For each trial: every metric over the classes of the study that have readable images, the limits of the 95 % bootstrap
        interval by patient of ``metric``, n_images, the number of readable images, and n_classes, the number of their classes.
        ``metric`` is NaN if it is a metric of a class without images.

    Raises:
        UnknownNameError: There is no such metric.
        DataError: Images belong to the study, or none can be read.
    """
    predictions = predict_site(store, site, on_progress=on_progress)
    if not predictions:
        return {}
    normal_class, images = store.spec.normal_index, next(iter(predictions.values()))
    present = np.unique(images.labels).tolist()
    defined = metrics_for(images.classes, normal_class=normal_class, present=present)
    rows = {name: row for name, row in defined.items() if name in METRICS}
    row = defined.get(metric) or _undefined(named_metric(metric, images.classes, normal_class))
    resampled = resample_scores(
        images.labels,
        np.stack([one.probabilities for one in predictions.values()]),
        images.patients,
        [row],
        n_resamples=n_resamples,
        seed=store.spec.seed,
        normal_class=normal_class,
    )[metric]
    return {
        number: {
            metric: float(score),
            f"{metric}_low": interval.low,
            f"{metric}_high": interval.high,
            "n_images": len(trial_predictions),
            "n_classes": len(present),
            **{
                name: one.function(trial_predictions.labels, trial_predictions.probabilities, normal_class)
                for name, one in rows.items()
            },
        }
        for (number, trial_predictions), score, interval in zip(
            predictions.items(), resampled.scores, intervals_of(resampled), strict=True
        )
    }


def _undefined(metric: Metric) -> Metric:
    """Return a metric of a class without images, which is undefined."""
    return Metric(
        metric.name,
        metric.direction,
        metric.description,
        lambda *_: math.nan,
        of_confusions=lambda matrices, _: np.full(matrices.shape[:-2], math.nan),
    )


def predict_site(store: StudyStore, site: ExternalSite, *, on_progress: OnProgress | None = None) -> dict[int, Predictions]:
    """Return the predictions of a study's saved models for a site's images; predictions of earlier calls are reused.

    A trial whose model was removed is included if its predictions for the site were stored before. The predictions of each
    trial are written to disk before the next trial is processed.

    Args:
        store: The study.
        site: The images, with the class names of the study (``ExternalSite.for_study``).
        on_progress: Called with (processed models, all models) if predictions are missing.

    Returns:
        Predictions by trial; the rows are the readable images.

    Raises:
        DataError: Images belong to the study, or none can be read.
        StudyError: The predictions cannot be written.
    """
    trials = [record.number for record in store.records(TrialState.COMPLETE)]
    if not trials:
        return {}
    decoded = _DecodedSite(site)
    _refuse_own_images(store, site, decoded.images_for(load_trial_config(store, trials[0])))
    predictions: dict[int, Predictions] = {}
    missing = []
    for number in trials:
        file = _prediction_file(store, site, decoded, number)
        if file.is_file():
            predictions[number] = Predictions.from_npz(file)
        elif store.has_model(number):
            missing.append(number)
    for n_done, number in enumerate(missing, start=1):
        file = _prediction_file(store, site, decoded, number)
        predictions[number] = _predict(store, site, decoded, number)
        with explained_disk_errors(file.parent):
            file.parent.mkdir(parents=True, exist_ok=True)
            predictions[number].to_npz(file)
        if on_progress is not None:
            on_progress(n_done, len(missing))
    return dict(sorted(predictions.items()))


class _DecodedSite:
    """The images of a site, decoded once for each image size and fit."""

    def __init__(self, site: ExternalSite) -> None:
        self._site = site
        self._decoded: dict[tuple[int, str], DecodedImages] = {}

    def images_for(self, config: TrialConfig) -> DecodedImages:
        square = config.image_size, config.fit
        if square not in self._decoded:
            dataset = self._site.dataset
            self._decoded[square] = decode_dataset(
                dataset.root, list(dataset.table["image"]), config.image_size, fit=config.fit
            )
        return self._decoded[square]


def _prediction_file(store: StudyStore, site: ExternalSite, decoded: _DecodedSite, number: int) -> Path:
    contents = decoded.images_for(load_trial_config(store, number)).digest
    digest = hashlib.sha256(f"{contents} {site.table_digest}".encode()).hexdigest()
    return store.folder / _FOLDER / digest[:32] / f"{number:05d}.npz"


def _predict(store: StudyStore, site: ExternalSite, decoded: _DecodedSite, number: int) -> Predictions:
    from automl_cxr.model.inference import load_model, predict_images  # imports Keras

    images = decoded.images_for(load_trial_config(store, number))
    rows = site.dataset.table.set_index("image").loc[list(images.ids)]
    classes = store.spec.classes
    return Predictions(
        ids=images.ids,
        labels=np.array([classes.index(label) for label in rows["label"]], dtype=np.int64),
        probabilities=predict_images(load_model(str(store.model_file(number))), images.open()),
        classes=classes,
        patients=tuple(rows["patient_id"]),
    )


def _refuse_own_images(store: StudyStore, site: ExternalSite, images: DecodedImages) -> None:
    """Check that no readable image of the site is in the study, under any file name and in any folder.

    Images of the study were used for training or selection, or are in the sealed test part.

    Raises:
        DataError: The site contains images of the study, or the images of a study of an earlier version cannot be found.
    """
    own = find_hashes(store.folder)
    own_images = own.train | own.valid | own.test
    shared = [image for image, row in zip(images.ids, images.content_hashes, strict=True) if short_hash(row) in own_images]
    if shared:
        raise DataError(
            f"An external site must not contain images of the study; {len(shared)} of {len(site.dataset.table)} images of "
            f"{site.name} are identical to images of study '{store.name}', such as {shared[0]}. Remove them; "
            "`automl-cxr evaluate` opens the test part."
        )
