"""Scores of a study's models on the images of external sites.

The predictions of each model for a site are computed once, stored in <study>/external/<digest of the images, labels and
patients>/00007.npz, and scored at each call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.errors import DataError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.results.study_data import load_trial_config
from automl_cxr.scoring.intervals import N_RESAMPLES, intervals_of, named_metric
from automl_cxr.scoring.metrics import METRICS, metrics_for
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
        dataset: The images.
    """

    name: str
    dataset: Dataset

    @cached_property
    def table_digest(self) -> str:
        """Digest of the image names, labels and patients."""
        return digest_table(self.dataset)


def open_sites(folders: Sequence[str | Path]) -> list[ExternalSite]:
    """Load the images of external sites, in any supported layout.

    Raises:
        UsageError: Two sites have the same name.
        DataError: There are no images, or fewer than two classes.
    """
    sites = [ExternalSite(Path(folder).expanduser().absolute().stem, load_dataset(folder)) for folder in folders]
    names = [site.name for site in sites]
    if len(set(names)) < len(names):
        raise UsageError(f"The folders of external sites must have different names; received {', '.join(names)}. Rename one.")
    return sites


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
        For each trial: every metric over all classes, the limits of the 95 % bootstrap interval by patient of ``metric``, and
        n_images, the number of readable images.

    Raises:
        DataError: The classes differ from those of the study, images belong to the study, or none can be read.
    """
    predictions = predict_site(store, site, on_progress=on_progress)
    if not predictions:
        return {}
    normal_class, images = store.spec.normal_index, next(iter(predictions.values()))
    rows = {name: row for name, row in metrics_for(images.classes, normal_class=normal_class).items() if name in METRICS}
    row = named_metric(metric, images.classes, normal_class)
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
            **{
                name: one.function(trial_predictions.labels, trial_predictions.probabilities, normal_class)
                for name, one in rows.items()
            },
        }
        for (number, trial_predictions), score, interval in zip(
            predictions.items(), resampled.scores, intervals_of(resampled), strict=True
        )
    }


def predict_site(store: StudyStore, site: ExternalSite, *, on_progress: OnProgress | None = None) -> dict[int, Predictions]:
    """Return the predictions of a study's saved models for a site's images; predictions of earlier calls are reused.

    A trial whose model was removed is included if its predictions for the site were stored before. The predictions of each
    trial are written to disk before the next trial is processed.

    Args:
        store: The study.
        site: The images; the classes must be those of the study.
        on_progress: Called with (processed models, all models) if predictions are missing.

    Returns:
        Predictions by trial; the rows are the readable images.

    Raises:
        DataError: The classes differ from those of the study, images belong to the study, or none can be read.
        StudyError: The predictions cannot be written.
    """
    _refuse_other_classes(store, site)
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


def _refuse_other_classes(store: StudyStore, site: ExternalSite) -> None:
    """Raise an error if the class names differ from those of the study: scores would not be comparable."""
    expected, received = set(store.spec.classes), set(site.dataset.classes)
    if expected != received:
        differences = [
            f"{kind} {', '.join(sorted(names))}"
            for kind, names in (("lacks", expected - received), ("has", received - expected))
            if names
        ]
        raise DataError(
            f"A site must have the classes of study '{store.name}' ({', '.join(store.spec.classes)}); {site.name} "
            f"{' and '.join(differences)}. Rename its classes, or list the images of these classes in a CSV table (path,label)."
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
