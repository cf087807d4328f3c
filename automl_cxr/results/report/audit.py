"""What the audit found in the images that the study may see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from automl_cxr.results.audit_page import audit_sections
from automl_cxr.results.html_page import Pictures, Section, Text
from automl_cxr.results.report.report_data import ReportData


def audit_of_study_sections(evidence: ReportData) -> Sequence[Section]:
    """Lay out the audit that the study was stamped with, its pictures from where the data are now."""
    audit = evidence.audit
    if audit is None:
        told = f"This study has no audit. `automl-cxr data audit {evidence.spec.data}` looks at the data."
        return [Section("Audit of the data", [Text(told)])]
    if evidence.root is not None:
        return audit_sections(replace(audit, root=str(evidence.root)))
    sections = audit_sections(audit)
    return [Section(one.title, [part for part in one.parts if not isinstance(part, Pictures)]) for one in sections]
