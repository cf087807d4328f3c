"""The section about groups of patients, such as sexes and bands of age."""

from __future__ import annotations

from automl_cxr.results.figures.subgroups import plot_subgroups
from automl_cxr.results.html_page import Part, Plot, Section, Table, Text
from automl_cxr.results.report.report_data import ReportData
from automl_cxr.results.subgroup_tables import SubgroupAnalysis
from automl_cxr.results.tables import fold_intervals
from automl_cxr.scoring.group_metrics import MIN_PATIENTS
from automl_cxr.scoring.subgroup_gaps import ALPHA
from automl_cxr.scoring.subgroups import SEPARATOR

_TITLE = "Groups of patients"
_FIGURE = (
    "Scores with 95% intervals by patient, and numbers of patients in brackets. The black line is the score that a group is "
    "expected to have if predictions depend on the labels only. Pale groups are not compared."
)
_GAPS = (
    "Gaps between the worst and the best group. p_value: how often a group deviates as far from its mean if the groups are "
    "permuted among patients with the same labels, so that another mix of classes is no disparity. adjusted_p is corrected for "
    f"the number of tests (Holm); a disparity has at most {ALPHA}."
)
_FNFR = (
    " fnfr, the False No-Finding Rate, is the share of images with a finding that are predicted to have none: underdiagnosis "
    "(Seyyed-Kalantari et al. 2021)."
)


def subgroups_section(data: ReportData) -> Section:
    """Compare the scores of the best trial in groups of patients; a section without parts if no metadata are known."""
    found = data.subgroups
    if found is None:
        return Section(_TITLE, [])
    best = f"trial {data.best.number}, {data.evaluated_on}"
    parts: list[Part] = [_conclusion(found)]
    singles = found.groups[~found.groups["column"].str.contains(SEPARATOR, regex=False)]
    if not singles.empty:
        figure = plot_subgroups(singles, found.scores, found.metrics, f"Groups of patients: {best}")
        parts.append(Plot(figure, _FIGURE))
    if not found.gaps.empty:
        parts.append(Table(found.gaps, _GAPS + (_FNFR if "fnfr" in found.metrics else "")))
    caption = f"Scores of each group: {best}. Groups with fewer than {MIN_PATIENTS} patients are shown, but not compared."
    parts.append(Table(fold_intervals(found.groups), caption, is_wrapped=True))
    return Section(_TITLE, [*parts, *map(Text, found.notes)])


def _conclusion(found: SubgroupAnalysis) -> Text:
    if found.disparities:
        return Text(f"Disparities between groups were found. {' '.join(found.disparities)}", is_warning=True)
    return Text(
        "No gap between groups is larger than chance and their labels explain. With few patients, a gap may exist that this "
        "test cannot find."
    )
