"""The report of a study: one file for a browser that holds everything a reader needs to believe or to doubt a search.

gather the evidence        the record, the best trial, its predictions; the test part stays sealed
look at models             where the data and a model are there, heat maps; latencies if they are wanted
write a section each       text, tables, figures and pictures; what there is not is left out, saying so
render them as one page    `results/html_page.py`: nothing is loaded from anywhere
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from automl_cxr.results.html_page import Section, render_page
from automl_cxr.results.latencies import measure_latencies
from automl_cxr.results.report.audit import audit_of_study_sections
from automl_cxr.results.report.data import data_section
from automl_cxr.results.report.ensembles import ensembles_section
from automl_cxr.results.report.errors import errors_sections
from automl_cxr.results.report.heatmaps import compute_heatmaps, heatmaps_section
from automl_cxr.results.report.leaderboard import leaderboard_section
from automl_cxr.results.report.methods import methods_section
from automl_cxr.results.report.quality import quality_section
from automl_cxr.results.report.report_data import ReportData, locate_images, read_report_data
from automl_cxr.results.report.samples import samples_section
from automl_cxr.results.report.search import costs_section, hyperparameters_section, search_section, splices_section
from automl_cxr.results.report.summary import summary_section
from automl_cxr.results.report.test_set import test_set_section
from automl_cxr.study.store import StudyStore, explained_disk_errors, write_atomically


def _alone(write: Callable[[ReportData], Section]) -> Callable[[ReportData], Sequence[Section]]:
    return lambda evidence: [write(evidence)]


_SECTIONS: Sequence[Callable[[ReportData], Sequence[Section]]] = (
    _alone(summary_section),
    _alone(test_set_section),
    _alone(leaderboard_section),
    _alone(quality_section),
    errors_sections,
    _alone(heatmaps_section),
    _alone(search_section),
    _alone(hyperparameters_section),
    _alone(costs_section),
    _alone(splices_section),
    _alone(ensembles_section),
    _alone(data_section),
    audit_of_study_sections,
    _alone(samples_section),
    _alone(methods_section),
)
"""What a report is made of, in its order: each makes sections of the evidence. A row is all that another one takes."""


def build_report(
    store: StudyStore,
    *,
    data: str | None = None,
    explain: bool = True,
    latency: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Write the report of a study as HTML.

    Args:
        store: The study.
        data: Where the data are now, for the pictures; by default where they were. Without data there are no pictures.
        explain: Whether the best kept model draws heat maps and the evidence in corners is measured, which loads Keras.
        latency: Whether to measure the milliseconds an image of every kept model, now and one after the other.
        on_progress: Told (models done, models in all) where they are measured.

    Raises:
        StudyError: No trial is finished, or a file of the study is damaged.
        TrialError: A model file is damaged whose latency is wanted.
    """
    evidence = locate_images(read_report_data(store), data)
    if explain:
        evidence = replace(evidence, explained=compute_heatmaps(evidence))
    if latency:
        measured = measure_latencies([store], on_progress=on_progress)
        evidence = replace(evidence, milliseconds={trial: value for (_, trial), value in measured.items()})
    sections = [section for write in _SECTIONS for section in write(evidence)]
    return render_page(f"Report of study {store.name}", sections)


def write_report(store: StudyStore, out: Path, **choices: Any) -> Path:
    """Write the report of a study into a file, or replace it; return the file. Keywords and errors as in ``build_report``."""
    page = build_report(store, **choices)
    with explained_disk_errors(out):
        write_atomically(out, page)
    return out
