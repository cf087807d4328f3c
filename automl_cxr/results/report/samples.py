"""Sample images with what the best trial said of them; the one section that needs the data at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from automl_cxr.data.decode import decode_image, fit_square
from automl_cxr.errors import AutomlCxrError
from automl_cxr.results.page import Part, Picture, Pictures, Section, Text
from automl_cxr.results.report.evidence import Evidence
from automl_cxr.results.study_images import load_study_dataset

_PER_CLASS = 6
_SIDE = 192  # pixels; a radiograph of these is some 8 kB


def samples_section(evidence: Evidence) -> Section:
    """Show some images of each class, drawn at random by the study's seed, with label, prediction and probability."""
    try:
        root = Path(load_study_dataset(evidence.store, evidence.data).root)
    except (AutomlCxrError, OSError) as error:
        return Section("Sample images", [Text(f"Pictures are left out. {error}")])
    parts: list[Part] = []
    for label, name in enumerate(evidence.spec.classes):
        pictures = [picture for row in _drawn_rows(evidence, label) if (picture := _picture(evidence, root, row)) is not None]
        if pictures:
            parts += [Text(f"{name}: {len(pictures)} images drawn at random, {evidence.place}"), Pictures(pictures)]
    return Section("Sample images", parts or [Text("Pictures are left out: none of those drawn can be read.")])


def _drawn_rows(evidence: Evidence, label: int) -> list[int]:
    rows = np.flatnonzero(evidence.predictions.labels == label)
    rng = np.random.default_rng([evidence.spec.seed, label])
    return sorted(rng.permutation(rows)[:_PER_CLASS].tolist())


def _picture(evidence: Evidence, root: Path, row: int) -> Picture | None:
    predictions = evidence.predictions
    try:
        pixels = fit_square(decode_image(root / predictions.ids[row]), _SIDE, "pad")
    except AutomlCxrError:
        return None
    predicted = int(predictions.predicted[row])
    verdict = "right" if predicted == predictions.labels[row] else "wrong"
    share = predictions.probabilities[row, predicted]
    return Picture(pixels, f"{predictions.ids[row]}: {predictions.classes[predicted]} ({share:.0%}), {verdict}")
