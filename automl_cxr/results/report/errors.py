"""The section about the errors of one or several of the best trials."""

from __future__ import annotations

from collections.abc import Sequence

from automl_cxr.errors import AutomlCxrError
from automl_cxr.results.error_analysis import analyse_errors
from automl_cxr.results.error_report import error_sections, images_to_show
from automl_cxr.results.html_page import Section, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.study_data import decode_small_images

_N_TRIALS = 3
_N_SHOWN = 4  # pictures per class and group


def errors_sections(data: ReportData) -> Sequence[Section]:
    """Compare the errors of the best three trials. `automl-cxr errors` compares other models."""
    store = data.store
    try:
        analysis = analyse_errors(store, trials=[record.number for record in store.ranked()[:_N_TRIALS]])
    except AutomlCxrError as error:
        return [Section("Errors", [Text(f"The errors could not be compared. {error}")])]
    images = images_to_show(analysis, n_shown=_N_SHOWN)
    pictures = {} if data.root is None else decode_small_images(data.root, images)
    return error_sections(analysis, pictures, n_shown=_N_SHOWN)
