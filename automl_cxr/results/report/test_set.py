"""The section about the recorded evaluations on the test part. The report never reads the test part."""

from __future__ import annotations

import pandas as pd

from automl_cxr.results.html_page import Part, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import times
from automl_cxr.results.tables import fold_intervals
from automl_cxr.scoring.metrics import METRICS


def evaluations_section(data: ReportData) -> Section:
    """Show every recorded evaluation of the test part, and the test scores of ensembles with their intervals."""
    opened = data.test_opened
    if not opened:
        message = "The test part was never evaluated. `automl-cxr evaluate` evaluates it and records every evaluation."
        return Section("Test part", [Text(message)])
    parts: list[Part] = [
        Text(f"The test part was evaluated {times(len(opened))}.", is_warning=len(opened) > 1),
        Table(evaluations_table(data), "All evaluations on the test part"),
    ]
    for name, record in data.ensembles.items():
        if record.get("test"):
            caption = f"Ensemble {name} on {record['test']['n_images']:,} test images, with 95% intervals by patient"
            parts.append(Table(pd.DataFrame(record["test"]["metrics"]), caption))
            points = record["test"].get("operating_points")
            if points:
                caption = f"Frozen operating points of {name} on the same images, with 95% intervals by patient"
                parts.append(Table(fold_intervals(pd.DataFrame(points)), caption))
    return Section("Test part", parts)


def evaluations_table(data: ReportData) -> pd.DataFrame:
    """Return a table with one row per evaluation of the test part: when, model and every metric."""
    return pd.DataFrame(
        [
            {
                "when": entry["when"][:16].replace("T", " "),
                "model": entry["what"],
                **{name: entry["scores"][name] for name in METRICS if name in entry["scores"]},
            }
            for entry in data.test_opened
        ]
    )
