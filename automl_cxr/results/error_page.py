"""The page of an error analysis, with the pictures of the images that it speaks of."""

from __future__ import annotations

from collections.abc import Callable

from automl_cxr.results.error_analysis import N_SHOWN, ErrorAnalysis, error_sections, images_to_show
from automl_cxr.results.page import render_page
from automl_cxr.results.study_images import decode_small_images, load_study_dataset
from automl_cxr.study.store import StudyStore


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
