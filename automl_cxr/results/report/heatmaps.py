"""The section with Grad-CAM heat maps of the best saved model and its share of off-lung evidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from automl_cxr.results.classifier import classifier_of_trial
from automl_cxr.results.explain.explanation import explain
from automl_cxr.results.explain.off_lung_evidence import measure_off_lung_evidence, off_lung_warnings
from automl_cxr.results.explain.overlays import HeatmapOverlay
from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Table, Text
from automl_cxr.results.report.report_data import Heatmaps, ReportData
from automl_cxr.results.report.samples import sampled_rows

_HEATMAPS_PER_CLASS = 3
_MEASURED_PER_CLASS = 24  # images for the off-lung evidence; measuring takes some seconds


def compute_heatmaps(data: ReportData) -> Heatmaps:
    """Explain the predictions of the best trial that has a saved model for a sample of images. This imports Keras.

    If it fails, the result contains the reason; the report is written without heat maps.
    """
    if data.root is None:
        return Heatmaps(missing_reason=data.no_pictures_reason)
    try:
        classifier = classifier_of_trial(data.store)
        shown = _sampled_files(data, data.root, _HEATMAPS_PER_CLASS)
        measured = _sampled_files(data, data.root, _MEASURED_PER_CLASS)
        off_lung_evidence = measure_off_lung_evidence(classifier, list(measured))
        overlays = explain(classifier, list(shown), labels=shown, explained=_findings_of_files(data, data.root))
    except Exception as error:  # noqa: BLE001 - backends raise errors of any kind, and the other sections can still be written
        return Heatmaps(missing_reason=f"Heat maps are omitted. {error}")
    return Heatmaps(classifier.name, overlays, off_lung_evidence, off_lung_warnings(off_lung_evidence))


def _sampled_files(data: ReportData, root: Path, per_class: int) -> dict[str, str]:
    """Return the class names of sampled images of the validation part (or of all folds) by file."""
    return {
        str(root / data.predictions.ids[row]): name
        for label, name in enumerate(data.spec.classes)
        for row in sampled_rows(data, label, per_class)
    }


def _findings_of_files(data: ReportData, root: Path) -> dict[str, list[str]]:
    """Return by file the findings for which an image is sampled for heat maps; nothing for a study of classes."""
    found: dict[str, list[str]] = {}
    if data.predictions.is_multilabel:
        for label, name in enumerate(data.spec.classes):
            for row in sampled_rows(data, label, _HEATMAPS_PER_CLASS):
                found.setdefault(str(root / data.predictions.ids[row]), []).append(name)
    return found


def heatmaps_section(data: ReportData) -> Section:
    """Show the heat maps by class, and the evidence in corners and borders."""
    heatmaps = data.heatmaps
    if heatmaps is None:
        return Section("Heat maps", [])
    if heatmaps.off_lung_evidence is None:
        return Section("Heat maps", [Text(heatmaps.missing_reason)])
    parts: list[Part] = [
        Text(
            f"Grad-CAM heat maps of the best saved model, {heatmaps.model}, for randomly selected images "
            f"({data.evaluated_on}). Run `automl-cxr explain {data.store.name}` for more and larger heat maps."
        )
    ]
    for name in data.spec.classes:
        of_class = [one for one in heatmaps.overlays if (one.label if one.threshold is None else one.explained) == name]
        pictures = [Picture(_pad_to_square(one.pixels), _caption(one)) for one in of_class]
        parts += [Text(name), Pictures(pictures)] if pictures else []
    parts += [Text(warning, is_warning=True) for warning in heatmaps.warnings]
    caption = (
        f"Location of the Grad-CAM evidence by predicted class, for at most {_MEASURED_PER_CLASS} images of each true class. "
        "outside: share of the evidence in the corners and borders together. outside_area: share of the image area that they "
        "cover. times: share of evidence divided by share of area in the region with the highest such ratio; evenly "
        "distributed evidence has 1."
    )
    return Section("Heat maps", [*parts, Table(heatmaps.off_lung_evidence, caption)])


def _pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """Pad a picture, uint8 (height, width, 3), with black, so that all pictures of a grid have the same height."""
    height, width = pixels.shape[:2]
    down, across = (max(0, (max(height, width) - side)) for side in (height, width))
    return np.pad(pixels, ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)))


def _caption(overlay: HeatmapOverlay) -> str:
    outside = "" if overlay.outside is None else f"; {overlay.outside:.0%} of the evidence in corners and borders"
    if overlay.threshold is not None:
        verdict = "reported" if overlay.explained_probability >= overlay.threshold else "missed"
        image = overlay.image.rpartition("/")[2]
        return f"{image}: {overlay.explained} {verdict} ({overlay.explained_probability:.0%}){outside}"
    return f"{overlay.image.rpartition('/')[2]}: {overlay.predicted} ({overlay.probability:.0%}){outside}"
