"""The wrong decisions on findings as sections of an HTML page, with pictures of the images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from automl_cxr.results.error_pictures import auc_difference_parts, picture_grid, unreadable_texts
from automl_cxr.results.finding_errors import ORDERS, ErrorKind, FindingErrors
from automl_cxr.results.html_page import Part, Section, Table, Text

_MAX_PAIRS = 30
_EXPLANATIONS = {
    "confident": "The largest distances between probability and threshold. If every model is equally confident, check the "
    "label first.",
    "uncertain": "The smallest distances between probability and threshold.",
}


def images_of_finding_errors(analysis: FindingErrors, *, n_shown: int) -> list[str]:
    """Return the ids of the images that ``finding_error_sections`` shows, without repetitions."""
    rows = [
        row
        for finding in range(len(analysis.images.classes))
        for kind in ErrorKind
        for row in analysis.rows(kind, finding)[:n_shown]
    ]
    names = [analysis.images.ids[row] for row in rows]
    for order in ORDERS:
        names += analysis.confusions(order=order, n_images=2 * n_shown)["image"].tolist()
    return list(dict.fromkeys(names))


def finding_error_sections(analysis: FindingErrors, pictures: Mapping[str, np.ndarray], *, n_shown: int) -> list[Section]:
    """Return the sections: counts, pairs of errors, wrong decisions in both orders, and pictures for each finding.

    Args:
        analysis: The wrong decisions.
        pictures: Pixels by image id, for the images of ``images_of_finding_errors``. Missing images are not shown.
        n_shown: Number of pictures of each finding and kind of error; twice as many are shown for the two orders.
    """
    findings = [
        Section(f"Errors: {name}", _finding_parts(analysis, number, pictures, n_shown))
        for number, name in enumerate(analysis.images.classes)
    ]
    ordered = [Section(f"Errors: most {order}", _ordered_parts(analysis, order, pictures, 2 * n_shown)) for order in ORDERS]
    return [Section("Errors", _counts(analysis)), *ordered, *findings]


def _counts(analysis: FindingErrors) -> list[Part]:
    images, pairs = analysis.images, analysis.pairs
    parts: list[Part] = [
        Text(
            f"{', '.join(analysis.models)}; {analysis.place} of study '{analysis.study}': {len(images)} images of "
            f"{len(set(images.patients))} patients."
        ),
        Table(
            analysis.by_model,
            "Errors of each model. missed: findings that are present and not reported. false: findings that are absent and "
            "reported. wrong_share: share of the known labels.",
        ),
        Table(analysis.by_finding, "Errors on each finding, and the numbers of images in which it is present or absent."),
    ]
    if not pairs.empty:
        shown = f" The first {_MAX_PAIRS} of {len(pairs)} pairs are listed." if len(pairs) > _MAX_PAIRS else ""
        parts.append(Table(pairs.head(_MAX_PAIRS), f"Numbers of images with two errors, for each model.{shown}"))
    return [*parts, *auc_difference_parts(analysis.auc_differences, images), *unreadable_texts(analysis.unreadable)]


def _ordered_parts(analysis: FindingErrors, order: str, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Part]:
    confusions = analysis.confusions(order=order, n_images=n_shown)
    if confusions.empty:
        return []
    captions = [
        f"{row.image}: {row.finding} {row.error}, {row.probability:.2f} by {row.model} (threshold {row.threshold:.2f})"
        for row in confusions.itertuples()
    ]
    return [Text(_EXPLANATIONS[order]), *picture_grid(confusions["image"].tolist(), captions, pictures), Table(confusions)]


def _finding_parts(analysis: FindingErrors, finding: int, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Part]:
    parts: list[Part] = []
    n_images = {
        ErrorKind.MISSED: int((analysis.images.labels[:, finding] == 1).sum()),
        ErrorKind.FALSE: int((analysis.images.labels[:, finding] == 0).sum()),
    }
    described = {ErrorKind.MISSED: "is present and missed", ErrorKind.FALSE: "is absent and falsely reported"}
    for kind in ErrorKind:
        rows = analysis.rows(kind, finding)
        by = "" if len(analysis.models) == 1 else " by at least one model"
        first = ", the largest distances from the threshold first" if len(rows) > n_shown else ""
        parts.append(
            Text(f"{analysis.images.classes[finding]} {described[kind]}{by} in {len(rows)} of {n_images[kind]} images{first}.")
        )
        names = [analysis.images.ids[row] for row in rows[:n_shown]]
        captions = [_caption(analysis, row, finding) for row in rows[:n_shown]]
        parts += picture_grid(names, captions, pictures)
    return parts


def _caption(analysis: FindingErrors, row: int, finding: int) -> str:
    """Return the image, its labels and the probabilities of the finding, such as "a.png (Mass): 0.71..0.97"."""
    values = analysis.probabilities[:, row, finding]
    span = f"{values.min():.2f}" if len(values) == 1 else f"{values.min():.2f}..{values.max():.2f}"
    labels = analysis.names(analysis.images.labels[row] == 1) or "no finding"
    return f"{analysis.images.ids[row]} ({labels.replace('|', ', ')}): {span}"
