"""What the study recorded of the test part. A report opens it never; it repeats what `evaluate` found."""

from __future__ import annotations

import pandas as pd

from automl_cxr.results.html_page import Part, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import times
from automl_cxr.scoring.metrics import METRICS


def test_set_section(evidence: ReportData) -> Section:
    """Show every look at the test part, and the intervals of ensembles that were judged by it."""
    opened = evidence.test_opened
    if not opened:
        return Section("Test part", [Text("The test part was never opened. `automl-cxr evaluate` opens it, and records that.")])
    parts: list[Part] = [
        Text(f"The test part was opened {times(len(opened))}.", is_warning=len(opened) > 1),
        Table(looks_table(evidence), "Every look at the test part, with its scores"),
    ]
    for name, record in evidence.ensembles.items():
        if record.get("test"):
            told = f"Ensemble {name} on {record['test']['n_images']:,} test images, 95 % intervals by patient"
            parts.append(Table(pd.DataFrame(record["test"]["metrics"]), told))
    return Section("Test part", parts)


def looks_table(evidence: ReportData) -> pd.DataFrame:
    """Tabulate when, what and every metric, one row a time that the test part was opened."""
    return pd.DataFrame(
        [
            {
                "when": look["when"][:16].replace("T", " "),
                "what": look["what"],
                **{name: look["scores"][name] for name in METRICS if name in look["scores"]},
            }
            for look in evidence.test_opened
        ]
    )
