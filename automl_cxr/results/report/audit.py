"""The section about the audit of the training and validation images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from automl_cxr.results.audit_page import audit_sections
from automl_cxr.results.html_page import Pictures, Section, Text
from automl_cxr.results.report.report_data import ReportData


def study_audit_sections(data: ReportData) -> Sequence[Section]:
    """Show the audit that was recorded with the study. Pictures are read from the current folder of the images."""
    audit = data.audit
    if audit is None:
        message = f"This study has no audit. Run `automl-cxr data audit {data.spec.data}` to audit the data."
        return [Section("Audit of the data", [Text(message)])]
    if data.root is not None:
        return audit_sections(replace(audit, root=str(data.root)))
    sections = audit_sections(audit)
    return [Section(section.title, [part for part in section.parts if not isinstance(part, Pictures)]) for section in sections]
