"""A checklist of a study as an HTML page or as Markdown, with the flow of images and table 1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.errors import AutomlCxrError, UnknownNameError
from automl_cxr.io import write_text
from automl_cxr.results.checklist.checklists import Checklist, load_checklist
from automl_cxr.results.checklist.fact_data import FactData
from automl_cxr.results.checklist.flow import flow_diagram, flow_of_study
from automl_cxr.results.checklist.table_one import table_one
from automl_cxr.results.html_page import Part, Section, Table, Text, render_page
from automl_cxr.results.report.methods import methods_sentences
from automl_cxr.results.report.report_data import ReportData, read_report_data
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.results.tables import format_table
from automl_cxr.study.store import StudyStore, explained_disk_errors

_SUFFIXES = (".html", ".md")
ANSWERED, PARTLY, OPEN = "answered", "partly answered", "to fill in"
FLOW, CHARACTERISTICS = "Flow of images and patients", "Characteristics of the parts"
"""Headings of the page to which items refer, beside those of the report."""


def write_checklist(store: StudyStore, out: Path, *, name: str, data: str | None = None) -> Path:
    """Write a checklist of a study, and return the file, which is replaced if it exists.

    Args:
        store: The study.
        out: File to write, .html or .md.
        name: One of ``choices.CHECKLISTS``.
        data: Current location of the data; by default the recorded one. Without the data, the flow before the split and the
            characteristics are missing. The labels of the test part are read only if it was evaluated before.

    Raises:
        UnknownNameError: There is no such checklist, or the file has another suffix.
        StudyError: No trial is finished, or a file of the study is damaged.
    """
    checklist = load_checklist(name)
    if out.suffix.lower() not in _SUFFIXES:
        raise UnknownNameError("suffix of a checklist", out.suffix, _SUFFIXES)
    title, sections = f"{checklist.title}: study {store.name}", checklist_sections(store, checklist, data=data)
    is_html = out.suffix.lower() == ".html"
    with explained_disk_errors(out):
        write_text(out, render_page(title, sections) if is_html else _render_markdown(title, sections))
    return out


def checklist_sections(store: StudyStore, checklist: Checklist, *, data: str | None = None) -> list[Section]:
    """Return the sections of a checklist of a study; arguments and errors as in ``write_checklist``."""
    report, dataset, missing = read_report_data(store), None, ""
    try:
        dataset = load_study_dataset(store, data)
    except (AutomlCxrError, OSError) as error:
        missing = f"The characteristics are missing, because the data are not available. {error}"
    n_test_patients = None if dataset is None or not report.test_opened else _count_test_patients(report, dataset)
    flow = flow_of_study(report.split, dataset, report.audit, n_test_patients=n_test_patients)
    rows = items_table(checklist, FactData(report, dataset, flow, methods_sentences(report)))
    characteristics = [Text(missing, is_warning=True)] if dataset is None else _characteristics(report, dataset)
    return [
        Section("Summary of the checklist", [Text(_introduction(checklist)), Table(_counts(rows)), _blanks(rows)]),
        *(
            Section(str(section), [Table(of_section.drop(columns=["section"]), is_wrapped=True)])
            for section, of_section in rows.groupby("section", sort=False)
        ),
        Section(FLOW, [flow_diagram(flow), Table(flow.table(), is_wrapped=True), *map(Text, flow.notes)]),
        Section(CHARACTERISTICS, characteristics),
    ]


def items_table(checklist: Checklist, data: FactData) -> pd.DataFrame:
    """Return the items of a checklist with the answers of a study.

    Returns:
        section, item, topic, status ("answered", "partly answered" or "to fill in"), answer, place and to_fill_in: what only a
        person can state, and the facts that the study does not have yet.
    """
    rows = []
    for item in checklist.items:
        answers = item.answers(data)
        answer = " ".join(filter(None, answers.values()))
        missing = [name.replace("_", " ") for name, text in answers.items() if not text]
        blanks = [*item.fill, *([f"not in the record: {', '.join(missing)}"] if missing else [])]
        rows.append(
            {
                "section": item.section,
                "item": item.number,
                "topic": item.topic,
                "status": OPEN if not answer else PARTLY if blanks else ANSWERED,
                "answer": answer,
                "place": item.place if answer else "",
                "to_fill_in": "; ".join(blanks),
            }
        )
    return pd.DataFrame(rows)


def _count_test_patients(report: ReportData, dataset: Dataset) -> int | None:
    if not dataset.patients_known:
        return None
    table = dataset.table.set_index("image")
    return int(table.loc[list(report.split.test), "patient_id"].nunique())


def _characteristics(report: ReportData, dataset: Dataset) -> list[Part]:
    is_open = bool(report.test_opened)
    caption = "Table 1. Numbers of images with their share, unless stated otherwise."
    parts: list[Part] = [Table(table_one(dataset, report.split, is_test_open=is_open), caption)]
    if report.split.test and not is_open:
        parts.append(Text("The test part was not evaluated yet, so its labels are not read."))
    return parts


def _introduction(checklist: Checklist) -> str:
    return (
        f"The items of {checklist.title} in short words of this program; the authoritative text is the publication "
        f"({checklist.source}). An answer is what the record of the study supports. A place is a heading of the report "
        "(`automl-cxr report`) or of this page. The column to_fill_in names what only a person can state, and facts that the "
        "study does not have yet."
    )


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([{status: str((rows["status"] == status).sum()) for status in (ANSWERED, PARTLY, OPEN)}])


def _blanks(rows: pd.DataFrame) -> Table:
    incomplete = rows[rows["to_fill_in"] != ""]
    return Table(incomplete[["item", "topic", "to_fill_in"]], "To fill in", is_wrapped=True)


def _render_markdown(title: str, sections: Sequence[Section]) -> str:
    """Render texts and tables. A diagram is left out: the table below it has the same numbers."""
    blocks = [f"# {title}"]
    for section in sections:
        blocks.append(f"## {section.title}")
        for part in section.parts:
            if isinstance(part, Text):
                blocks.append(part.text)
            elif isinstance(part, Table):
                blocks += [*([part.caption] if part.caption else []), str(format_table(part.table, "md")).strip()]
    return "\n\n".join(blocks) + "\n"
