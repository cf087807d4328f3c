"""An error analysis as sections of an HTML page, with pictures of the images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from automl_cxr.results.error_analysis import ORDERS, ErrorAnalysis, Group
from automl_cxr.results.error_pictures import auc_difference_parts, picture_grid, unreadable_texts
from automl_cxr.results.finding_error_report import finding_error_sections, images_of_finding_errors
from automl_cxr.results.finding_errors import FindingErrors
from automl_cxr.results.html_page import Part, Section, Table, Text, render_page
from automl_cxr.results.study_data import decode_small_images, load_study_dataset
from automl_cxr.study.store import StudyStore

N_SHOWN = 6  # pictures per class and group


def error_page(
    store: StudyStore,
    analysis: ErrorAnalysis | FindingErrors,
    *,
    n_shown: int = N_SHOWN,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Return an error analysis of a study as a self-contained HTML page with pictures.

    Args:
        store: The study.
        analysis: The result of ``results.error_analysis.analyse_errors``.
        n_shown: Number of pictures per class and group.
        data: Current folder of the images; by default the folder used for the search.
        on_progress: Called with the number of decoded images and the number of all images.

    Raises:
        DataError: The images do not exist or have changed since the search.
    """
    dataset = load_study_dataset(store, data)
    images = images_to_show(analysis, n_shown=n_shown)
    pictures = decode_small_images(dataset.root, images, on_progress=on_progress)
    return render_page(f"Errors: {analysis.study}", error_sections(analysis, pictures, n_shown=n_shown))


def images_to_show(analysis: ErrorAnalysis | FindingErrors, *, n_shown: int = N_SHOWN) -> list[str]:
    """Return the ids of the images that ``error_sections`` shows, without repetitions."""
    if isinstance(analysis, FindingErrors):
        return images_of_finding_errors(analysis, n_shown=n_shown)
    rows = [
        row
        for group in analysis.groups
        for class_index in range(len(analysis.images.classes))
        for row in analysis.rows(group, class_index)[:n_shown]
    ]
    names = [analysis.images.ids[row] for row in rows]
    for order in ORDERS:
        names += _first_confusion_of_images(analysis.confusions(order=order), 2 * n_shown)["image"].tolist()
    return list(dict.fromkeys(names))


def error_sections(
    analysis: ErrorAnalysis | FindingErrors, pictures: Mapping[str, np.ndarray], *, n_shown: int = N_SHOWN
) -> list[Section]:
    """Return the sections of an error analysis: counts, confusions in both orders, and pictures for each group and class.

    For findings, the pictures are those of missed and false findings.

    Args:
        analysis: The result of ``results.error_analysis.analyse_errors``.
        pictures: Pixels by image id, for the images of ``images_to_show``. Missing images are not shown.
        n_shown: Number of pictures per class and group; twice as many are shown for the confusions.
    """
    if isinstance(analysis, FindingErrors):
        return finding_error_sections(analysis, pictures, n_shown=n_shown)
    return [
        Section("Errors", _counts(analysis)),
        Section("Errors: most confident", _confusion_parts(analysis, "confident", pictures, 2 * n_shown)),
        Section("Errors: most uncertain", _confusion_parts(analysis, "uncertain", pictures, 2 * n_shown)),
        *(
            Section(_title(group, len(analysis.models)), _group_parts(analysis, group, pictures, n_shown))
            for group in analysis.groups
        ),
    ]


def _counts(analysis: ErrorAnalysis) -> list[Part]:
    images = analysis.images
    only = " only_wrong and only_right: images that only this model misclassifies or classifies correctly."
    parts: list[Part] = [
        Text(
            f"{', '.join(analysis.models)}; {analysis.place} of study '{analysis.study}': {len(images)} images of "
            f"{len(set(images.patients))} patients."
        ),
        Table(analysis.by_model, f"Errors of each model.{only if len(analysis.models) > 1 else ''}"),
        Table(analysis.by_class, "Images of each class by agreement of the models."),
    ]
    if not analysis.pairs.empty:
        parts.append(Table(analysis.pairs, "Number of images of each confusion (true and predicted class) for each model."))
    return [*parts, *auc_difference_parts(analysis.auc_differences, images), *unreadable_texts(analysis.unreadable)]


def _confusion_parts(analysis: ErrorAnalysis, order: str, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Part]:
    confusions = _first_confusion_of_images(analysis.confusions(order=order), n_shown)
    if confusions.empty:
        return []
    explanations = {
        "confident": "The highest probabilities of a wrong class. If every model is equally confident, check the label first.",
        "uncertain": "The smallest margins between the probability of the wrong class and the next highest probability.",
    }
    captions = [
        f"{row.image}: true class {row.label}, predicted {row.predicted} with {row.probability:.2f} by {row.model} "
        f"(margin {row.margin:.2f})"
        for row in confusions.itertuples()
    ]
    grid = picture_grid(confusions["image"].tolist(), captions, pictures)
    return [Text(explanations[order]), *grid, Table(confusions)]


def _group_parts(analysis: ErrorAnalysis, group: Group, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Part]:
    parts: list[Part] = []
    for class_index, name in enumerate(analysis.images.classes):
        rows = analysis.rows(group, class_index)
        n_of_class = int((analysis.images.labels == class_index).sum())
        first = ", the lowest probabilities of the true class first" if len(rows) > n_shown else ""
        parts.append(Text(f"{name}: {len(rows)} of {n_of_class} images{first}"))
        captions = [f"{analysis.images.ids[row]}: {_predictions_text(analysis, row)}" for row in rows[:n_shown]]
        parts += picture_grid([analysis.images.ids[row] for row in rows[:n_shown]], captions, pictures)
    return parts


def _predictions_text(analysis: ErrorAnalysis, row: int) -> str:
    """Format the predictions for an image, the most frequent first: "normal 0.71..0.97 by 4, effusion 0.52 by trial 3"."""
    predicted = analysis.predicted[:, row]
    texts = []
    for column in sorted(set(predicted.tolist()), key=lambda column: -int((predicted == column).sum())):
        models = np.flatnonzero(predicted == column)
        values = analysis.probabilities[models, row, column]
        span = f"{values.min():.2f}" if len(models) == 1 else f"{values.min():.2f}..{values.max():.2f}"
        source = analysis.models[models[0]] if len(models) == 1 else str(len(models))
        texts.append(f"{analysis.images.classes[column]} {span} by {source}")
    return ", ".join(texts)


def _title(group: Group, n_models: int) -> str:
    if n_models == 1:
        return "Wrong" if group is Group.ALL_WRONG else "Right"
    return {
        Group.ALL_WRONG: f"Wrong by all {n_models} models",
        Group.ALL_RIGHT: f"Right by all {n_models} models",
        Group.ONE_WRONG: "Wrong by one model only",
        Group.ONE_RIGHT: "Right by one model only",
    }[group]


def _first_confusion_of_images(confusions: pd.DataFrame, n_images: int) -> pd.DataFrame:
    """Return the first confusion of each image, for at most ``n_images`` images."""
    return confusions.drop_duplicates("image").head(n_images)
