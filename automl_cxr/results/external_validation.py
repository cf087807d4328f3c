"""Scores of a study's trials, ensembles and other classifiers on the images of external sites."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from automl_cxr.errors import UnknownNameError
from automl_cxr.results.classifier import Classifier
from automl_cxr.results.evaluation import Evaluation, with_operating_scores
from automl_cxr.results.external_predictions import (
    DecodedSite,
    Model,
    OnProgress,
    predict_classifier,
    predict_site,
    refuse_own_images,
)
from automl_cxr.results.external_sites import ExternalSite
from automl_cxr.results.finding_scores import score_findings
from automl_cxr.scoring.confusion import confusion_matrix
from automl_cxr.scoring.finding_labels import count_labels
from automl_cxr.scoring.intervals import N_RESAMPLES, intervals_of, named_metric
from automl_cxr.scoring.metric_base import Metric
from automl_cxr.scoring.metric_table import CLASS_METRICS
from automl_cxr.scoring.metrics import METRICS, metrics_for
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.resampling import resample_scores
from automl_cxr.study.source_overlap import source_warnings
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True)
class SiteScores:
    """Scores of models on a site.

    Attributes:
        by_model: Scores of each model, by trial number or name of the ensemble.
        notes: Sentences for the user.
    """

    by_model: Mapping[Model, Mapping[str, float]]
    notes: tuple[str, ...]


def score_site(
    store: StudyStore,
    site: ExternalSite,
    *,
    metric: str,
    n_resamples: int = N_RESAMPLES,
    on_progress: OnProgress | None = None,
) -> SiteScores:
    """Score the saved models and the ensembles of a study on a site's images.

    Returns:
        For each model: every metric over the classes of the study that have readable images, the limits of the 95 % bootstrap
        interval by patient of ``metric``, n_images, the number of readable images, and n_classes, the number of their classes.
        ``metric`` is NaN if it is a metric of a class without images. Of several findings, each model is scored at its own
        thresholds, and n_classes is the number of findings that are present in an image and absent in another.

    Raises:
        UnknownNameError: There is no such metric.
        DataError: Images belong to the study, or none can be read.
    """
    found = predict_site(store, site, on_progress=on_progress)
    predictions = found.by_model
    if not predictions:
        return SiteScores({}, found.notes)
    normal_class, images = store.spec.normal_index, next(iter(predictions.values()))
    if images.is_multilabel:
        scores = {
            model: _score_findings(one, metric, seed=store.spec.seed, n_resamples=n_resamples)
            for model, one in predictions.items()
        }
        return SiteScores(scores, found.notes)
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
    rows_of = {
        model: {
            metric: float(score),
            f"{metric}_low": interval.low,
            f"{metric}_high": interval.high,
            "n_images": len(of_model),
            "n_classes": len(present),
            **{name: one.function(of_model.labels, of_model.probabilities, normal_class) for name, one in rows.items()},
        }
        for (model, of_model), score, interval in zip(
            predictions.items(), resampled.scores, intervals_of(resampled), strict=True
        )
    }
    return SiteScores(rows_of, found.notes)


def _score_findings(predictions: Predictions, metric: str, *, seed: int, n_resamples: int) -> dict[str, float]:
    """Return the scores of a model of several findings, with the interval of one metric."""
    findings, labels, thresholds = predictions.classes, predictions.labels, predictions.thresholds
    defined = metrics_for(findings, task=predictions.task, thresholds=thresholds)
    if metric not in defined:
        raise UnknownNameError("metric", metric, defined)
    resampled = resample_scores(
        labels,
        predictions.probabilities[None],
        predictions.patients,
        [defined[metric]],
        n_resamples=n_resamples,
        seed=seed,
        normal_class=None,
    )[metric]
    interval = intervals_of(resampled)[0]
    n_present, n_absent = count_labels(labels)
    return {
        metric: float(resampled.scores[0]),
        f"{metric}_low": interval.low,
        f"{metric}_high": interval.high,
        "n_images": len(predictions),
        "n_classes": int(((n_present > 0) & (n_absent > 0)).sum()),
        **{
            name: one.function(labels, predictions.probabilities, None)
            for name, one in defined.items()
            if name in METRICS and name != metric
        },
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


def evaluate_site(
    store: StudyStore,
    classifier: Classifier,
    site: ExternalSite,
    *,
    n_resamples: int = N_RESAMPLES,
    on_progress: OnProgress | None = None,
) -> Evaluation:
    """Score a classifier on a site's images, over the classes that the site has.

    Args:
        store: The study of the classifier.
        classifier: A trial or an ensemble.
        site: The images, with the site's class names.
        n_resamples: Number of bootstrap resamples.
        on_progress: Called with (processed networks, all networks).

    Raises:
        UnknownNameError: The study does not have a class of the site's map.
        DataError: The site has another class, images of fewer than two classes, or images of the study.
    """
    site = site.for_study(store)
    decoded = DecodedSite(site)
    images = decoded.images_for(classifier.members[0].square)
    refuse_own_images(store, site, images)
    predictions = predict_classifier(classifier, decoded, on_progress=on_progress)
    if predictions.is_multilabel:
        found = score_findings(predictions, seed=store.spec.seed, n_resamples=n_resamples)
        evaluation = Evaluation(
            classifier=classifier.name,
            part="external",
            predictions=predictions,
            scores=found.scores,
            intervals=found.intervals,
            per_class=found.per_finding,
            confusion=found.decisions,
            unreadable=dict(images.unreadable),
            warnings=tuple(source_warnings(store.folder)),
            site=site.name,
            notes=(*site.notes, *found.notes),
        )
        return with_operating_scores(evaluation, classifier)
    labels, probabilities, normal_class = predictions.labels, predictions.probabilities, store.spec.normal_index
    present = np.unique(labels).tolist()
    defined = metrics_for(predictions.classes, normal_class=normal_class, present=present)
    overall = [metric for name, metric in defined.items() if name in METRICS]
    resampled = resample_scores(
        labels,
        probabilities[None],
        predictions.patients,
        overall,
        n_resamples=n_resamples,
        seed=store.spec.seed,
        normal_class=normal_class,
    )
    scores = {name: metric.function(labels, probabilities, normal_class) for name, metric in defined.items()}
    names = [predictions.classes[number] for number in present]
    counts = confusion_matrix(labels, predictions.predicted, len(predictions.classes))[present]
    per_class = pd.DataFrame(
        {kind: [scores[f"{kind}_{name}"] for name in names] for kind in CLASS_METRICS}, index=pd.Index(names, name="class")
    )
    per_class["images"] = counts.sum(axis=1)
    columns = pd.Index(predictions.classes, name="predicted")
    evaluation = Evaluation(
        classifier=classifier.name,
        part="external",
        predictions=predictions,
        scores=scores,
        intervals={metric.name: intervals_of(resampled[metric.name])[0] for metric in overall},
        per_class=per_class,
        confusion=pd.DataFrame(counts, index=pd.Index(names, name="true"), columns=columns),
        unreadable=dict(images.unreadable),
        warnings=tuple(source_warnings(store.folder)),
        site=site.name,
        notes=site.notes,
        normal_class=normal_class,
    )
    return with_operating_scores(evaluation, classifier)
