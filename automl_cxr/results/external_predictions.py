"""Predictions of a study's trials and ensembles for the images of an external site.

The predictions of each model are computed once and stored in <study>/external/<digest of the images, labels and patients>/, as
00007.npz for a trial, and for an ensemble under the digest of its record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from automl_cxr.data.cache import DecodedImages, decode_dataset
from automl_cxr.errors import DataError
from automl_cxr.io import sha256_of_file
from automl_cxr.records import TrialState
from automl_cxr.results.classifier import ENSEMBLE_FILE, Classifier, classifier_of_trial, load_ensemble
from automl_cxr.results.external_sites import ExternalSite
from automl_cxr.results.study_data import load_trial_config
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.image_hashes import short_hash
from automl_cxr.study.model_sources import find_hashes
from automl_cxr.study.store import StudyStore, explained_disk_errors
from automl_cxr.study.study_info import list_ensembles

OnProgress = Callable[[int, int], None]
Model = int | str
"""Number of a trial, or name of an ensemble, such as "ensemble best3"."""
EXTERNAL_FOLDER = "external"


@dataclass(frozen=True, eq=False)
class SitePredictions:
    """Predictions for the readable images of a site.

    Attributes:
        by_model: Predictions of each model.
        notes: Sentences for the user on ensembles that cannot be used.
    """

    by_model: dict[Model, Predictions]
    notes: tuple[str, ...] = ()


class DecodedSite:
    """The images of a site, decoded once for each image size and fit."""

    def __init__(self, site: ExternalSite) -> None:
        self.site = site
        self._decoded: dict[tuple[int, str], DecodedImages] = {}

    def images_for(self, square: tuple[int, str]) -> DecodedImages:
        """Return the images for an image size and fit."""
        if square not in self._decoded:
            dataset, (size, fit) = self.site.dataset, square
            self._decoded[square] = decode_dataset(dataset.root, list(dataset.table["image"]), size, fit=fit)
        return self._decoded[square]


def predict_site(store: StudyStore, site: ExternalSite, *, on_progress: OnProgress | None = None) -> SitePredictions:
    """Return the predictions of a study's saved models and ensembles for a site's images; earlier predictions are reused.

    A trial whose model was removed is included if its predictions for the site were stored before. The predictions of each
    model are written to disk before the next model is processed.

    Args:
        store: The study.
        site: The images, with the class names of the study (``ExternalSite.for_study``).
        on_progress: Called with (processed models, all models) if predictions are missing.

    Raises:
        DataError: Images belong to the study, or none can be read.
        StudyError: The predictions cannot be written.
    """
    trials = [record.number for record in store.records(TrialState.COMPLETE)]
    if not trials:
        return SitePredictions({})
    decoded = DecodedSite(site)
    refuse_own_images(store, site, decoded.images_for(_square_of(store, trials[0])))
    ensembles, notes = _open_ensembles(store)
    files: dict[Model, Path] = {
        number: _folder(store, decoded, _square_of(store, number)) / f"{number:05d}.npz" for number in trials
    }
    files |= {
        classifier.name: _folder(store, decoded, classifier.members[0].square) / f"ensemble-{digest}.npz"
        for classifier, digest in ensembles
    }
    stored = {model: Predictions.from_npz(file) for model, file in files.items() if file.is_file()}
    opened = {classifier.name: classifier for classifier, _ in ensembles}
    missing = [model for model in files if model not in stored and (model in opened or store.has_model(int(model)))]
    for n_done, model in enumerate(missing, start=1):
        if model in opened:
            stored[model] = predict_classifier(opened[str(model)], decoded)
        else:
            stored[model] = predict_classifier(classifier_of_trial(store, int(model)), decoded)
        with explained_disk_errors(files[model].parent):
            files[model].parent.mkdir(parents=True, exist_ok=True)
            stored[model].to_npz(files[model])
        if on_progress is not None:
            on_progress(n_done, len(missing))
    return SitePredictions({model: stored[model] for model in files if model in stored}, notes)


def predict_classifier(classifier: Classifier, decoded: DecodedSite, *, on_progress: OnProgress | None = None) -> Predictions:
    """Return the predictions of a classifier for the readable images of a site with the same class names.

    Args:
        classifier: The classifier.
        decoded: The images.
        on_progress: Called with (processed networks, all networks).

    Raises:
        TrialError: A model file is damaged.
        DataError: No image can be read.
    """
    from automl_cxr.model.inference import load_model, predict_images  # imports Keras

    classifier.require_pixels("An external site")
    members, classes = classifier.members, classifier.classes
    probabilities = []
    for n_done, member in enumerate(members, start=1):
        images = decoded.images_for(member.square).open()
        probabilities.append(predict_images(load_model(str(member.file)), images, mirrored=classifier.mirrored))
        if on_progress is not None:
            on_progress(n_done, len(members))
    ids, dataset = decoded.images_for(members[0].square).ids, decoded.site.dataset
    return Predictions(
        ids=ids,
        labels=replace(dataset, classes=classes).labels_of(ids),  # a site may lack classes, which are columns nevertheless
        probabilities=classifier.rule.combine(np.stack(probabilities)),
        classes=classes,
        patients=tuple(dataset.table.set_index("image").loc[list(ids), "patient_id"]),
        thresholds=classifier.threshold_array,
    )


def _square_of(store: StudyStore, number: int) -> tuple[int, str]:
    config = load_trial_config(store, number)
    return config.image_size, config.fit


def _folder(store: StudyStore, decoded: DecodedSite, square: tuple[int, str]) -> Path:
    digest = hashlib.sha256(f"{decoded.images_for(square).digest} {decoded.site.table_digest}".encode()).hexdigest()
    return store.folder / EXTERNAL_FOLDER / digest[:32]


def _open_ensembles(store: StudyStore) -> tuple[list[tuple[Classifier, str]], tuple[str, ...]]:
    """Return the ensembles of a study with the digests of their records, and notes on those that cannot be used."""
    found, notes = [], []
    for name in list_ensembles(store.folder):
        folder = store.folder / "ensembles" / name
        try:
            classifier, digest = load_ensemble(folder), sha256_of_file(folder / ENSEMBLE_FILE)
        except (DataError, OSError) as error:
            notes.append(f"Ensemble {name} is not scored on external sites: {error}")
            continue
        if classifier.split_digest == store.split_digest:
            found.append((classifier, digest))
    return found, tuple(notes)


def refuse_own_images(store: StudyStore, site: ExternalSite, images: DecodedImages) -> None:
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
