"""The ensembles of a study: their weights, and what they gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automl_cxr.results.figures.ensembles import gains_table, plot_gains, plot_weights
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import counted

_MOST = 5  # ensembles in full; who has more compares methods


def ensembles_section(evidence: ReportData) -> Section:
    """Show each ensemble's weights and the gain of every method over the best member, with its interval."""
    parts: list[Part] = []
    for name, record in list(evidence.ensembles.items())[:_MOST]:
        parts += [
            Text(_told(name, record)),
            Plot(plot_weights(record, f"Weights of ensemble {name}")),
            *_gains(name, record),
        ]
    if len(evidence.ensembles) > _MOST:
        parts.append(Text(f"{counted(len(evidence.ensembles) - _MOST, 'more ensemble')} of this study not shown."))
    if not evidence.ensembles:
        parts.append(Text(f"No ensemble of this study was built: `automl-cxr ensemble build {evidence.store.name}` does."))
    return Section("Ensembles", parts)


def _told(name: str, record: Mapping[str, Any]) -> str:
    said = f"Ensemble {name}: {counted(len(record['members']), 'member')}, method {record['method']}"
    recommended = record.get("recommended")
    if recommended and recommended != record["method"]:
        return f"{said}. The simpler method {recommended} could not be told apart from it out of fold."
    return f"{said}."


def _gains(name: str, record: Mapping[str, Any]) -> list[Part]:
    figure = plot_gains(record, f"Gain of each method, members of {name}")
    if figure is None:
        return [Text("There were too few patients to judge the methods on others than they were fitted on.", is_warning=True)]
    return [
        Plot(figure, "Out of fold, 95 % by patient; an interval that reaches 0 may be no gain. The method taken is coloured."),
        Table(gains_table(record), "Scores where the weights were fitted, and on patients left out"),
    ]
