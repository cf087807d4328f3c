"""An error analysis for people: sections of a page, with the pictures of the images that they speak of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from automl_cxr.results.error_analysis import ORDERS, ErrorAnalysis, Group
from automl_cxr.results.html_page import Part, Picture, Pictures, Section, Table, Text, render_page
from automl_cxr.results.study_data import decode_small_images, load_study_dataset
from automl_cxr.study.store import StudyStore

N_SHOWN = 6  # pictures of each class in each group


def error_page(
    store: StudyStore,
    analysis: ErrorAnalysis,
    *,
    n_shown: int = N_SHOWN,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Write an error analysis of a study as HTML, in one file with its pictures.

    Args:
        store: The study, which knows where its images are.
        analysis: What ``results.error_analysis.analyse_errors`` found.
        n_shown: Pictures of each class in each group.
        data: Where the data are now; by default where they were.
        on_progress: Told (pictures done, pictures in all).

    Raises:
        DataError: The data are gone or no longer those of the study.
    """
    dataset = load_study_dataset(store, data)
    images = images_to_show(analysis, n_shown=n_shown)
    pictures = decode_small_images(dataset.root, images, on_progress=on_progress)
    return render_page(f"Errors: {analysis.study}", error_sections(analysis, pictures, n_shown=n_shown))


def images_to_show(analysis: ErrorAnalysis, *, n_shown: int = N_SHOWN) -> list[str]:
    """Name the images whose pictures ``error_sections`` puts on a page, each once."""
    rows = [
        row
        for group in analysis.groups
        for class_index in range(len(analysis.images.classes))
        for row in analysis.rows(group, class_index)[:n_shown]
    ]
    names = [analysis.images.ids[row] for row in rows]
    for order in ORDERS:
        names += _first_of_images(analysis.confusions(order=order), 2 * n_shown)["image"].tolist()
    return list(dict.fromkeys(names))


def error_sections(analysis: ErrorAnalysis, pictures: Mapping[str, np.ndarray], *, n_shown: int = N_SHOWN) -> list[Section]:
    """Lay out an analysis for a page: counts, the confusions in both orders, and a grid of pictures for each group and class.

    Args:
        analysis: The numbers.
        pictures: Pixels of the images of ``images_to_show``, by id; an image that is missing here is left out of its grid.
        n_shown: Pictures of each class in each group; of confusions twice as many.
    """
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
    parts: list[Part] = [
        Text(
            f"{', '.join(analysis.models)}; {analysis.place} of study '{analysis.study}': {len(images)} images of "
            f"{len(set(images.patients))} patients."
        ),
        Table(analysis.by_model, "Errors of each model; of several models also those that it alone makes, or alone avoids."),
        Table(analysis.by_class, "Images of each class, by what the models have in common."),
    ]
    if not analysis.pairs.empty:
        parts.append(Table(analysis.pairs, "What was called what, images of each model."))
    parts += [Text(f"Left out, since it cannot be read: {image} ({why}).") for image, why in analysis.unreadable.items()]
    return parts


def _confusion_parts(analysis: ErrorAnalysis, order: str, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Part]:
    worst = _first_of_images(analysis.confusions(order=order), n_shown)
    if worst.empty:
        return []
    told = {
        "confident": "The highest probabilities of a wrong class. Where every model is as sure, look at the label first.",
        "uncertain": "The smallest margins between the wrong class and the next probable one.",
    }
    captions = [
        f"{row.image}: {row.label}, called {row.predicted} {row.probability:.2f} by {row.model} (margin {row.margin:.2f})"
        for row in worst.itertuples()
    ]
    grid = _grid(worst["image"].tolist(), captions, pictures)
    return [Text(told[order]), *grid, Table(worst)]


def _group_parts(analysis: ErrorAnalysis, group: Group, pictures: Mapping[str, np.ndarray], n_shown: int) -> list[Part]:
    parts: list[Part] = []
    for class_index, name in enumerate(analysis.images.classes):
        rows = analysis.rows(group, class_index)
        n_of_class = int((analysis.images.labels == class_index).sum())
        first = ", the least probable labels first" if len(rows) > n_shown else ""
        parts.append(Text(f"{name}: {len(rows)} of {n_of_class} images{first}"))
        captions = [f"{analysis.images.ids[row]}: {_answers(analysis, row)}" for row in rows[:n_shown]]
        parts += _grid([analysis.images.ids[row] for row in rows[:n_shown]], captions, pictures)
    return parts


def _grid(images: Sequence[str], captions: Sequence[str], pictures: Mapping[str, np.ndarray]) -> list[Pictures]:
    shown = [Picture(pictures[image], caption) for image, caption in zip(images, captions, strict=True) if image in pictures]
    return [Pictures(shown)] if shown else []


def _answers(analysis: ErrorAnalysis, row: int) -> str:
    """Say what an image was called, the most frequent answer first: "normal 0.71..0.97 by 4, effusion 0.52 by trial 3"."""
    said = analysis.predicted[:, row]
    answers = []
    for column in sorted(set(said.tolist()), key=lambda column: -int((said == column).sum())):
        models = np.flatnonzero(said == column)
        values = analysis.probabilities[models, row, column]
        span = f"{values.min():.2f}" if len(models) == 1 else f"{values.min():.2f}..{values.max():.2f}"
        whose = analysis.models[models[0]] if len(models) == 1 else str(len(models))
        answers.append(f"{analysis.images.classes[column]} {span} by {whose}")
    return ", ".join(answers)


def _title(group: Group, n_models: int) -> str:
    if n_models == 1:
        return "Wrong" if group is Group.ALL_WRONG else "Right"
    return {
        Group.ALL_WRONG: f"Wrong by all {n_models} models",
        Group.ALL_RIGHT: f"Right by all {n_models} models",
        Group.ONE_WRONG: "Wrong by one model only",
        Group.ONE_RIGHT: "Right by one model only",
    }[group]


def _first_of_images(confusions: pd.DataFrame, n_images: int) -> pd.DataFrame:
    """Take the first wrong answer of each image."""
    return confusions.drop_duplicates("image").head(n_images)
