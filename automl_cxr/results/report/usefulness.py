"""The section about calibration, the net benefit of decisions by the probabilities, and abstention."""

from __future__ import annotations

from automl_cxr.results.figures.decisions import decision_curves, plot_decision_curves, plot_risk_coverage
from automl_cxr.results.html_page import Part, Plot, Section, Table
from automl_cxr.results.outcome_tables import calibration_table
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.tables import fold_intervals
from automl_cxr.scoring.net_benefit import TABLE_THRESHOLDS
from automl_cxr.scoring.risk_coverage import risk_coverage_table, risks_at

_CALIBRATION = (
    "Calibration of {best}. observed: share of the images; expected: mean probability. Slope 1 and intercept 0 are calibrated:"
    " a slope below 1 means probabilities that are too extreme, an intercept below 0 probabilities that are too high. "
    "Intervals are 95% intervals by patient."
)
_CURVES = (
    "Decision curves (Vickers and Elkin 2006) of {best}: share of true positives, minus the share of false positives weighted "
    "by the odds of the threshold. A model is useful at thresholds where it is above both other lines."
)
_RISK = (
    "Share of errors among the most confident decisions: {best}. A classifier that abstains from the others (`automl-cxr "
    "predict --abstain`) has a lower risk, if its confidence is meaningful."
)
_COVERAGES = (0.5, 0.7, 0.8, 0.9, 1.0)


def usefulness_section(data: ReportData) -> Section:
    """Show calibration slope and intercept, decision curves and risk against coverage of the best trial."""
    best = f"trial {data.best.number}, {data.evaluated_on}"
    parts: list[Part] = []
    calibration = calibration_table(data.predictions)
    if not calibration.empty:
        parts.append(Table(fold_intervals(calibration), _CALIBRATION.format(best=best)))
    curves = decision_curves(data.predictions, data.spec.normal_index)
    if not curves.empty:
        parts.append(Plot(plot_decision_curves(curves, f"Decision curves: {best}"), _CURVES.format(best=best)))
        shown = curves[curves["threshold"].isin(TABLE_THRESHOLDS)]
        parts.append(Table(fold_intervals(shown), f"Net benefit at some thresholds: {best}"))
    risks = risk_coverage_table(data.predictions)
    parts.append(Plot(plot_risk_coverage(risks, f"Risk against coverage: {best}"), _RISK.format(best=best)))
    parts.append(Table(risks_at(risks, _COVERAGES), f"Errors among the most confident decisions: {best}"))
    return Section("Calibration and net benefit", parts)
