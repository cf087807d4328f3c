"""The report of a study: one self-contained HTML file.

1. ``read_report_data`` reads the record of the study, its best trial and the predictions of this trial, without the test part.
2. If the images and a saved model are available, heat maps are computed. Latencies are measured on request.
3. Each function in ``_SECTIONS`` returns sections of text, tables, figures and pictures.
4. ``results/html_page.py`` renders the sections as one page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from automl_cxr.io import write_text
from automl_cxr.results.html_page import Section, render_page
from automl_cxr.results.latencies import measure_latencies
from automl_cxr.results.report.audit import study_audit_sections
from automl_cxr.results.report.data import data_section
from automl_cxr.results.report.ensembles import ensembles_section
from automl_cxr.results.report.errors import errors_sections
from automl_cxr.results.report.findings import findings_sections
from automl_cxr.results.report.heatmaps import compute_heatmaps, heatmaps_section
from automl_cxr.results.report.leaderboard import leaderboard_section
from automl_cxr.results.report.methods import methods_section
from automl_cxr.results.report.quality import quality_section
from automl_cxr.results.report.report_data import ReportData, locate_images, read_report_data
from automl_cxr.results.report.samples import samples_section
from automl_cxr.results.report.search import costs_section, hyperparameters_section, search_section, splices_section
from automl_cxr.results.report.subgroups import subgroups_section
from automl_cxr.results.report.summary import summary_section
from automl_cxr.results.report.test_set import evaluations_section
from automl_cxr.results.report.usefulness import usefulness_section
from automl_cxr.study.store import StudyStore, explained_disk_errors

_SECTIONS: Sequence[Callable[[ReportData], Section | Sequence[Section]]] = (
    summary_section,
    evaluations_section,
    leaderboard_section,
    quality_section,
    usefulness_section,
    subgroups_section,
    findings_sections,
    errors_sections,
    heatmaps_section,
    search_section,
    hyperparameters_section,
    costs_section,
    splices_section,
    ensembles_section,
    data_section,
    study_audit_sections,
    samples_section,
    methods_section,
)
"""Functions of ``ReportData`` that return one or several sections, in report order. To add a section, add one row."""


def build_report(
    store: StudyStore,
    *,
    data: str | None = None,
    explain: bool = True,
    latency: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Return the report of a study as HTML.

    Args:
        store: The study.
        data: Current folder of the images; by default the folder used for the search. If the folder does not exist, the report
            has no pictures.
        explain: Whether to compute heat maps and off-lung evidence with the best saved model. This imports Keras.
        latency: Whether to measure the latency of every saved model, one after the other, in milliseconds per image.
        on_progress: Called with the number of measured models and the number of all models.

    Raises:
        StudyError: No trial is finished, or a file of the study is damaged.
        TrialError: A model file is damaged, and latencies are requested.
    """
    report_data = locate_images(read_report_data(store), data)
    if explain:
        report_data = replace(report_data, heatmaps=compute_heatmaps(report_data))
    if latency:
        measured = measure_latencies([store], on_progress=on_progress)
        report_data = replace(report_data, milliseconds={trial: value for (_, trial), value in measured.items()})
    sections: list[Section] = []
    for build in _SECTIONS:
        built = build(report_data)
        sections += [built] if isinstance(built, Section) else built
    return render_page(f"Report of study {store.name}", sections)


def write_report(store: StudyStore, out: Path, **options: Any) -> Path:
    """Write the report of a study to a file, which is replaced if it exists, and return the file.

    Keyword arguments and errors are those of ``build_report``.
    """
    page = build_report(store, **options)
    with explained_disk_errors(out):
        write_text(out, page)
    return out
