"""What the best kept model looks at: heat maps of some sample images, and how much evidence lies where no lung is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from automl_cxr.results.classifier import classifier_of_trial
from automl_cxr.results.explain.explanation import explain
from automl_cxr.results.explain.off_lung_evidence import measure_off_lung_evidence, off_lung_warnings
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Table, Text
from automl_cxr.results.report.report_data import Heatmaps, ReportData
from automl_cxr.results.report.samples import drawn_rows

_PER_CLASS = 3  # heat maps
_MEASURED_PER_CLASS = 24  # images whose evidence is measured: seconds, and enough to average


def compute_heatmaps(evidence: ReportData) -> Heatmaps:
    """Explain what the best trial that keeps its model says of some of the sample images; seconds, for Keras is loaded.

    A report never fails of it.
    """
    if evidence.root is None:
        return Heatmaps(why_not=evidence.why_no_pictures)
    try:
        classifier = classifier_of_trial(evidence.store)
        shown = _drawn(evidence, evidence.root, _PER_CLASS)
        measured = _drawn(evidence, evidence.root, _MEASURED_PER_CLASS)
        corners = measure_off_lung_evidence(classifier, list(measured))
        overlays = explain(classifier, list(shown), labels=shown)
    except Exception as error:  # noqa: BLE001 - whatever a backend stumbles over, the rest of the report stands
        return Heatmaps(why_not=f"Heat maps are left out. {error}")
    return Heatmaps(classifier.name, overlays, corners, off_lung_warnings(corners))


def _drawn(evidence: ReportData, root: Path, per_class: int) -> dict[str, str]:
    """Draw images that judged the trials: by file the class."""
    return {
        str(root / evidence.predictions.ids[row]): name
        for label, name in enumerate(evidence.spec.classes)
        for row in drawn_rows(evidence, label, per_class)
    }


def heatmaps_section(evidence: ReportData) -> Section:
    """Show the heat maps by class, and the evidence in corners and borders."""
    found = evidence.explained
    if found is None:
        return Section("Heat maps", [])
    if found.corners is None:
        return Section("Heat maps", [Text(found.why_not)])
    parts: list[Part] = [
        Text(
            f"Where the best kept model, {found.model}, finds the evidence for what it predicts (Grad-CAM): images drawn at "
            f"random, {evidence.place}. `automl-cxr explain {evidence.store.name}` draws more of them, larger."
        )
    ]
    for name in evidence.spec.classes:
        pictures = [Picture(_in_square(one.pixels), _caption(one)) for one in found.overlays if one.label == name]
        parts += [Text(name), Pictures(pictures)] if pictures else []
    parts += [Text(warning, is_warning=True) for warning in found.warnings]
    told = (
        f"Shares of the evidence by predicted class, at most {_MEASURED_PER_CLASS} images of each true class. outside: in all "
        "corners and borders together, which are outside_area of the picture. times: how much more evidence than area the "
        "worst region has; 1 where it falls evenly."
    )
    return Section("Heat maps", [*parts, Table(found.corners, told)])


def _in_square(pixels: np.ndarray) -> np.ndarray:
    """Pad a picture, uint8 (height, width, 3), with black, so that all in a grid are of one height."""
    height, width = pixels.shape[:2]
    down, across = (max(0, (max(height, width) - side)) for side in (height, width))
    return np.pad(pixels, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))


def _caption(one: HeatmapOverlay) -> str:
    outside = "" if one.outside is None else f"; {one.outside:.0%} in corners and borders"
    return f"{one.image.rpartition('/')[2]}: {one.predicted} ({one.probability:.0%}){outside}"
