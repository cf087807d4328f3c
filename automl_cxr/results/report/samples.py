"""The section with sample images and the best trial's predictions for them."""

from __future__ import annotations

from itertools import compress

import numpy as np

from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.study_data import decode_small_images
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import PRESENT

_PER_CLASS = 6


def samples_section(data: ReportData) -> Section:
    """Show randomly selected images of each class or finding with their predictions. The study's seed selects them."""
    if data.root is None:
        return Section("Sample images", [Text(data.no_pictures_reason)])
    parts: list[Part] = []
    for label, name in enumerate(data.spec.classes):
        rows = sampled_rows(data, label, _PER_CLASS)
        small = decode_small_images(data.root, [data.predictions.ids[row] for row in rows])
        pictures = [Picture(small[image], _caption(data, row)) for row in rows if (image := data.predictions.ids[row]) in small]
        if pictures:
            parts += [Text(f"{name}: {len(pictures)} randomly selected images, {data.evaluated_on}"), Pictures(pictures)]
    return Section("Sample images", parts or [Text("Pictures are omitted: none of the selected images can be read.")])


def sampled_rows(data: ReportData, label: int, n_images: int) -> list[int]:
    """Select rows of a class, or of images with a finding, in the best trial's predictions at random, with the study's seed.

    The rows for a smaller ``n_images`` are a subset of those for a larger one.
    """
    labels = data.predictions.labels
    rows = np.flatnonzero(labels[:, label] == PRESENT if data.predictions.is_multilabel else labels == label)
    rng = np.random.default_rng([data.spec.seed, label])
    return sorted(rng.permutation(rows)[:n_images].tolist())


def _caption(data: ReportData, row: int) -> str:
    predictions = data.predictions
    if predictions.is_multilabel:
        return _finding_caption(predictions, row)
    predicted = int(predictions.predicted[row])
    verdict = "right" if predicted == predictions.labels[row] else "wrong"
    probability = predictions.probabilities[row, predicted]
    return f"{predictions.ids[row]}: {predictions.classes[predicted]} ({probability:.0%}), {verdict}"


def _finding_caption(predictions: Predictions, row: int) -> str:
    """Return the findings that are reported and those that are missed, such as "a.png: Mass (71%); missed: Nodule (12%)"."""
    decided, is_present = predictions.decided[row], predictions.labels[row] == PRESENT
    texts = [
        f"{name} ({probability:.0%})"
        for name, probability in zip(predictions.classes, predictions.probabilities[row], strict=True)
    ]
    reported, missed = ", ".join(compress(texts, decided)), ", ".join(compress(texts, is_present & ~decided))
    return f"{predictions.ids[row]}: {reported or 'no finding'}" + (f"; missed: {missed}" if missed else "")
