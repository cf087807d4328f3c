"""The report of a study: one file for a browser that holds everything a reader needs to believe or to doubt a search.

gather the evidence        the record, the best trial, its predictions; the test part stays sealed
write a section each       text, tables, figures and pictures; what there is not is left out, saying so
render them as one page    `results/page.py`: nothing is loaded from anywhere
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from automl_cxr.results.page import Section, render_page
from automl_cxr.results.report.data import data_section
from automl_cxr.results.report.ensembles import ensembles_section
from automl_cxr.results.report.evidence import Evidence, gather_evidence
from automl_cxr.results.report.methods import methods_section
from automl_cxr.results.report.quality import quality_section
from automl_cxr.results.report.samples import samples_section
from automl_cxr.results.report.sealed_part import sealed_section
from automl_cxr.results.report.search import costs_section, hyperparameters_section, search_section, splices_section
from automl_cxr.results.report.summary import summary_section
from automl_cxr.study.store import StudyStore, explained_disk_errors, write_atomically


def _alone(write: Callable[[Evidence], Section]) -> Callable[[Evidence], Sequence[Section]]:
    return lambda evidence: [write(evidence)]


_SECTIONS: Sequence[Callable[[Evidence], Sequence[Section]]] = (
    _alone(summary_section),
    _alone(sealed_section),
    _alone(quality_section),
    _alone(search_section),
    _alone(hyperparameters_section),
    _alone(costs_section),
    _alone(splices_section),
    _alone(ensembles_section),
    _alone(data_section),
    _alone(samples_section),
    _alone(methods_section),
)
"""What a report is made of, in its order: each makes sections of the evidence. A row is all that another one takes."""


def build_report(store: StudyStore, *, data: str | None = None) -> str:
    """Write the report of a study as HTML.

    Args:
        store: The study.
        data: Where the data are now, for the pictures; by default where they were. Without data there are no pictures.

    Raises:
        StudyError: No trial is finished, or a file of the study is damaged.
    """
    evidence = gather_evidence(store, data=data)
    sections = [section for write in _SECTIONS for section in write(evidence)]
    return render_page(f"Report of study {store.name}", sections)


def write_report(store: StudyStore, out: Path, *, data: str | None = None) -> Path:
    """Write the report of a study into a file, or replace it; return the file. Arguments and errors as in ``build_report``."""
    page = build_report(store, data=data)
    with explained_disk_errors(out):
        write_atomically(out, page)
    return out
