"""The sections about single findings: scores, decisions at the threshold, and figures of the probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from automl_cxr.results.figures.findings import plot_finding
from automl_cxr.results.finding_scores import FindingScores
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import capitalised, counted
from automl_cxr.scoring.metric_table import CLASS_METRICS

_CAPTION = (
    "The orange points and lines mark the threshold {threshold:.3f}, which was chosen on these images. Reliability: the share "
    "of images with the finding by its probability, in ten bins; larger points represent more images."
)


def findings_sections(data: ReportData) -> Sequence[Section]:
    """Show each finding of a study with several findings; no section for a study of classes."""
    if data.finding_scores is None:
        return []
    return [_section(data, data.finding_scores, number) for number in range(len(data.spec.classes))]


def _section(data: ReportData, scores: FindingScores, number: int) -> Section:
    predictions, name = data.predictions, data.spec.classes[number]
    row, model = scores.per_finding.to_dict(orient="index")[name], f"trial {data.best.number}, {data.evaluated_on}"
    n_known = int(row["present"] + row["absent"])
    n_unknown = len(predictions) - n_known
    prevalence = f" ({row['present'] / n_known:.1%})" if n_known else ""
    parts: list[Part] = [
        Text(
            f"{int(row['present'])} of {counted(n_known, 'image')} with a known label have the finding{prevalence}."
            + (f" {capitalised(counted(n_unknown, 'label'))} unknown or uncertain." if n_unknown else "")
        )
    ]
    if not row["present"] or not row["absent"]:
        text = "The probabilities cannot be scored, because the finding is not both present and absent in these images."
        return Section(f"Finding: {name}", [*parts, Text(text, is_warning=True)])
    parts += [
        Table(_scores_table(row), f"Scores of {model}, with 95% bootstrap intervals by patient"),
        Table(
            decisions_table(scores.decisions.to_dict(orient="index")[name]),
            f"Decisions at the threshold {row['threshold']:.3f}",
        ),
        Plot(plot_finding(predictions, number, f"{name}: {model}"), _CAPTION.format(threshold=row["threshold"])),
    ]
    return Section(f"Finding: {name}", parts)


def _scores_table(row: Mapping[Any, Any]) -> pd.DataFrame:
    kinds = sorted(CLASS_METRICS, key=list(row).index)
    intervals = [f"{row[f'{kind}_low']:.3f} to {row[f'{kind}_high']:.3f}" if f"{kind}_low" in row else "" for kind in kinds]
    return pd.DataFrame(
        {"score": [kind.replace("_", " ") for kind in kinds], "value": [row[kind] for kind in kinds], "95% interval": intervals}
    )


def decisions_table(counts: Mapping[Any, Any]) -> pd.DataFrame:
    """Return the 2 x 2 table of a finding: numbers of images by label (rows) and decision (columns).

    Args:
        counts: true_positives, false_positives, false_negatives and true_negatives.
    """
    return pd.DataFrame(
        {
            "label \\ decision": ["present", "absent"],
            "reported": [counts["true_positives"], counts["false_positives"]],
            "not reported": [counts["false_negatives"], counts["true_negatives"]],
        }
    )
