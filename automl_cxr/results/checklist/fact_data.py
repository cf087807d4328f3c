"""What the sentences of a checklist are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from automl_cxr.data.dataset import Dataset
from automl_cxr.results.checklist.flow import Flow
from automl_cxr.results.report.report_data import ReportData


@dataclass(frozen=True)
class FactData:
    """The data of a study for the facts of a checklist.

    Attributes:
        report: The data of the study's report.
        dataset: The images of the study; None if they are not available.
        flow: The flow of images and patients.
        methods: Sentences of the methods paragraphs by subject.
    """

    report: ReportData
    dataset: Dataset | None
    flow: Flow
    methods: Mapping[str, Sequence[str]]
