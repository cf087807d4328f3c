"""The findings of an external site under the names of a study."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from automl_cxr.data.dataset import Dataset
from automl_cxr.data.finding_choice import describe_findings
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.results.site_classes import MatchedClasses
from automl_cxr.tasks import ABSENT, PRESENT, UNCERTAIN, UNKNOWN

_STRONGEST_FIRST = (PRESENT, UNCERTAIN, UNKNOWN, ABSENT)  # of the labels of several findings that have one name in the study


def match_findings(
    dataset: Dataset, class_map: Mapping[str, str], *, site: str, study: str, findings: Sequence[str]
) -> MatchedClasses:
    """Give the findings of a site's images the names of a study.

    The labels of findings that the site does not have are unknown. Findings that the study does not have are not used.

    Args:
        dataset: The images of the site.
        class_map: The study's finding by the site's finding, where they differ; "" for findings that are not used. Entries for
            other sites are allowed.
        site: Name of the site, for messages.
        study: Name of the study.
        findings: Findings of the study.

    Returns:
        The images with a known label of a finding of the study.

    Raises:
        UnknownNameError: The study does not have a finding of ``class_map``.
        DataError: The site and the study have no finding in common, or no label of such a finding is known.
    """
    for target in class_map.values():
        if target and target not in findings:
            raise UnknownNameError(f"finding of study '{study}' in --class-map", target, findings)
    new_name = {name: class_map.get(name, name) for name in dataset.classes}
    others = [name for name, new in new_name.items() if new and new not in findings]
    codes = _codes(dataset, new_name, findings)
    absent = [name for name in findings if name not in new_name.values()]
    if len(absent) == len(findings):
        raise DataError(
            f"A site must have a finding of study '{study}' ({', '.join(findings)}); {site} has {', '.join(dataset.classes)}. "
            f"Name the same findings with --class-map {shlex.quote(f'{dataset.classes[0]}=FINDING')}."
        )
    is_known = (codes >= 0).any(axis=1)
    if not is_known.any():
        raise DataError(f"A site must have a known label of a finding of study '{study}'; {site} has none. Add labels.")
    notes = []
    if absent:
        notes.append(f"{site} has no labels of {', '.join(absent)}. Means over the findings leave them out.")
    if others:
        notes.append(
            f"{site} has findings that study '{study}' does not have and that are not used: {', '.join(others)}. --class-map "
            "names findings that are the same."
        )
    if not is_known.all():
        notes.append(f"{int((~is_known).sum())} of {len(codes)} images of {site} have no known label and are not scored.")
    table = dataset.table[is_known].reset_index(drop=True)
    table = table.assign(label=describe_findings(codes[is_known], findings))
    frame = pd.DataFrame(codes[is_known], index=table["image"].to_numpy(), columns=list(findings))
    return MatchedClasses(replace(dataset, table=table, classes=tuple(findings), findings=frame), tuple(notes))


def _codes(dataset: Dataset, new_name: Mapping[str, str], findings: Sequence[str]) -> np.ndarray:
    """Return the label code of each finding of the study for each image, int8 (n, n_findings)."""
    given = dataset.labels_of(list(dataset.table["image"]))
    codes = np.full((len(given), len(findings)), UNKNOWN, np.int8)
    for number, finding in enumerate(findings):
        columns = [column for column, name in enumerate(dataset.classes) if new_name[name] == finding]
        if columns:
            of_finding = given[:, columns]
            conditions = [(of_finding == code).any(axis=1) for code in _STRONGEST_FIRST]
            codes[:, number] = np.select(conditions, _STRONGEST_FIRST)
    return codes
