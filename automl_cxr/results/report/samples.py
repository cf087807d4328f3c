"""Sample images with what the best trial said of them."""

from __future__ import annotations

import numpy as np

from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.study_data import decode_small_images

_PER_CLASS = 6


def samples_section(evidence: ReportData) -> Section:
    """Show some images of each class, drawn at random by the study's seed, with label, prediction and probability."""
    if evidence.root is None:
        return Section("Sample images", [Text(evidence.why_no_pictures)])
    parts: list[Part] = []
    for label, name in enumerate(evidence.spec.classes):
        rows = drawn_rows(evidence, label, _PER_CLASS)
        small = decode_small_images(evidence.root, [evidence.predictions.ids[row] for row in rows])
        pictures = [
            Picture(small[image], _caption(evidence, row)) for row in rows if (image := evidence.predictions.ids[row]) in small
        ]
        if pictures:
            parts += [Text(f"{name}: {len(pictures)} images drawn at random, {evidence.place}"), Pictures(pictures)]
    return Section("Sample images", parts or [Text("Pictures are left out: none of those drawn can be read.")])


def drawn_rows(evidence: ReportData, label: int, n_images: int) -> list[int]:
    """Draw some rows of a class from the best trial's predictions, by the study's seed; fewer are among more."""
    rows = np.flatnonzero(evidence.predictions.labels == label)
    rng = np.random.default_rng([evidence.spec.seed, label])
    return sorted(rng.permutation(rows)[:n_images].tolist())


def _caption(evidence: ReportData, row: int) -> str:
    predictions = evidence.predictions
    predicted = int(predictions.predicted[row])
    verdict = "right" if predicted == predictions.labels[row] else "wrong"
    share = predictions.probabilities[row, predicted]
    return f"{predictions.ids[row]}: {predictions.classes[predicted]} ({share:.0%}), {verdict}"
