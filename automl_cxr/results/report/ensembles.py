"""The section about the ensembles of a study: their weights and their gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from automl_cxr.results.figures.ensembles import gains_table, plot_gains, plot_weights
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.operating_scores import operating_points_table
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import counted

_MAX_ENSEMBLES = 5


def ensembles_section(data: ReportData) -> Section:
    """Show the weights of each ensemble and the gain of each method over the best member, with its interval."""
    parts: list[Part] = []
    for name, record in list(data.ensembles.items())[:_MAX_ENSEMBLES]:
        parts += [
            Text(_describe(name, record)),
            *_operating_points(name, record),
            Plot(plot_weights(record, f"Weights of ensemble {name}")),
            *_gains(name, record),
        ]
    if len(data.ensembles) > _MAX_ENSEMBLES:
        parts.append(Text(f"The study has {counted(len(data.ensembles) - _MAX_ENSEMBLES, 'more ensemble')}, not shown here."))
    if not data.ensembles:
        parts.append(Text(f"This study has no ensemble. Run `automl-cxr ensemble build {data.store.name}` to build one."))
    return Section("Ensembles", parts)


def _describe(name: str, record: Mapping[str, Any]) -> str:
    text = f"Ensemble {name}: {counted(len(record['members']), 'member')}, method {record['method']}."
    recommended = record.get("recommended")
    if recommended and recommended != record["method"]:
        text += f" Its out-of-fold score was not significantly better than that of the simpler method {recommended}."
    return text


def _operating_points(name: str, record: Mapping[str, Any]) -> list[Part]:
    points = record.get("operating_points")
    if not points:
        return []
    where = "out of fold" if record["n_folds"] else "on the images on which it was fitted"
    caption = (
        f"Operating points of {name}, chosen {where}. New patients like these meet an aim with the stated confidence; without "
        "a margin, the aim is met on these images only."
    )
    kind = "class" if record.get("thresholds") is None else "finding"
    return [Table(operating_points_table(points, kind), caption)]


def _gains(name: str, record: Mapping[str, Any]) -> list[Part]:
    figure = plot_gains(record, f"Gain of each method, members of {name}")
    if figure is None:
        text = "There were too few patients for an out-of-fold evaluation of the methods."
        return [Text(text, is_warning=True)]
    caption = (
        "Out-of-fold gain over the best member, with 95% bootstrap intervals by patient. If an interval includes 0, there may "
        "be no gain. The selected method is coloured."
    )
    return [
        Plot(figure, caption),
        Table(gains_table(record), "Scores on the images on which the weights were fitted, and out-of-fold scores"),
    ]
