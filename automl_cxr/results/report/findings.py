"""The sections about single findings: scores, decisions at the threshold, and figures of the probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from automl_cxr.results.figures.findings import plot_finding
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.report.text_format import capitalised, counted

_CAPTION = (
    "The orange points and lines mark the threshold {threshold:.3f}, which was chosen on these images. Reliability: the share "
    "of images with the finding by its probability, in ten bins; larger points represent more images."
)


def findings_sections(data: ReportData) -> Sequence[Section]:
    """Show each finding of a study with several findings; no section for a study of classes."""
    if data.finding_scores is None:
        return []
    return [_section(data, number) for number in range(len(data.spec.classes))]


def _section(data: ReportData, number: int) -> Section:
    predictions, scores = data.predictions, data.finding_scores
    assert scores is not None  # noqa: S101 - checked by the caller
    name = data.spec.classes[number]
    row, model = scores.per_finding.loc[name], f"trial {data.best.number}, {data.evaluated_on}"
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
        Table(decisions_table(scores.decisions.loc[name]), f"Decisions at the threshold {row['threshold']:.3f}"),
        Plot(plot_finding(predictions, number, f"{name}: {model}"), _CAPTION.format(threshold=row["threshold"])),
    ]
    return Section(f"Finding: {name}", parts)


def _scores_table(row: pd.Series) -> pd.DataFrame:
    kinds = [str(kind) for kind in row.index[3:] if not str(kind).endswith(("_low", "_high"))]
    intervals = [f"{row[f'{kind}_low']:.3f} to {row[f'{kind}_high']:.3f}" if f"{kind}_low" in row else "" for kind in kinds]
    return pd.DataFrame(
        {"score": [kind.replace("_", " ") for kind in kinds], "value": [row[kind] for kind in kinds], "95% interval": intervals}
    )


def decisions_table(counts: pd.Series) -> pd.DataFrame:
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
