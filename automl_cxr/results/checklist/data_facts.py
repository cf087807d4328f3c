"""Sentences about the data of a study for the items of a checklist; an empty text where the study has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from automl_cxr.results.checklist.fact_data import FactData
from automl_cxr.results.report.text_format import counted, listed


def _technology(facts: FactData) -> str:
    spec = facts.report.spec
    predicted = counted(len(spec.classes), "finding") if spec.is_multilabel else counted(len(spec.classes), "class", "classes")
    return f"Deep learning: a classifier of chest radiographs into {predicted}."


def _objective(facts: FactData) -> str:
    return f"A classifier was developed to optimise {listed(facts.report.spec.objectives)}."


def _data_source(facts: FactData) -> str:
    spec = facts.report.spec
    return f"Read as layout '{spec.layout}'; SHA-256 of image names, labels and patients {spec.data_digest[:16]}."


def _exclusions(facts: FactData) -> str:
    excluded = [f"{one.n_images:,} ({one.reason})" for step in facts.flow.steps for one in step.excluded]
    if facts.dataset is None and not excluded:
        return ""
    images = f"Excluded images: {listed(excluded)}." if excluded else "No image with a label was excluded."
    n_unused = 0 if facts.dataset is None else len(facts.dataset.ignored)
    return f"{images} Other files that were not used: {n_unused:,}." if n_unused else images


def _included(facts: FactData) -> str:
    texts = [
        f"{part.name.lower()} {part.n_images:,} images{'' if part.n_patients is None else f' of {part.n_patients:,} patients'}"
        for part in facts.flow.parts
    ]
    return f"Included: {'; '.join(texts)}."


def _preprocessing(facts: FactData) -> str:
    if facts.report.spec.features is not None:
        return "Another program computed the features of the images; its preprocessing is not part of the network."
    return "Scaling and other preprocessing are part of the network, which takes raw pixels from 0 to 255."


def _subsets(facts: FactData) -> str:
    spec = facts.report.spec
    projections = f"Projections: {listed(spec.projections)}." if spec.projections else "All projections were used."
    return f"{'The centres of the images' if spec.fit == 'crop' else 'Whole images'} were used. {projections}"


def _missing_data(facts: FactData) -> str:
    n_unreadable = len(facts.report.split.unreadable)
    readable = "All training and validation images could be read."
    if n_unreadable:
        readable = f"{counted(n_unreadable, 'training or validation image')} could not be read."
    return " ".join([*(facts.methods["labels"] or ["Images without a label were not used."]), readable])


def _dicom_headers(facts: FactData) -> str:
    headers = {} if facts.dataset is None else facts.dataset.headers
    texts = [f"{name}: {', '.join(f'{value} {n:,}' for value, n in counts.items())}" for name, counts in headers.items()]
    return f"DICOM headers: {'; '.join(texts)}." if texts else ""


def _classes(facts: FactData) -> str:
    spec = facts.report.spec
    kind = "Findings" if spec.is_multilabel else "Classes"
    normal = f" The class without a finding is {spec.normal_class}." if spec.normal_class else ""
    return f"{kind}: {listed(spec.classes)}.{normal}"


def _label_columns(facts: FactData) -> str:
    tables = () if facts.dataset is None else facts.dataset.used_tables
    texts = [f"column '{table.columns['label']}' of {table.name}" for table in tables if table.columns.get("label")]
    return f"Labels were read from {listed(texts)}." if texts else ""


def _seed_of_split(facts: FactData) -> str:
    return f"SHA-256 of the split: {facts.report.store.split_digest[:16]}."


def _disjoint(facts: FactData) -> str:
    if facts.report.split.grouped:
        return "Partitions are disjoint by patient."
    return "Partitions are disjoint by image only, because patients are unknown."


def _test_size(facts: FactData) -> str:
    n_images = len(facts.report.split.test)
    return f"{n_images:,} images were set aside for testing, which no trial used." if n_images else "There is no test part."


def _characteristics(facts: FactData) -> str:
    return "" if facts.dataset is None else "Table 1 has the characteristics of each part that the data contain."


def _test_characteristics(facts: FactData) -> str:
    if facts.dataset is None or not (facts.report.test_opened and facts.report.split.test):
        return ""
    return "It includes the test part."


def _outcomes(facts: FactData) -> str:
    return "" if facts.dataset is None else "Table 1 has the number of images of each class or finding in each part."


def _predictors(facts: FactData) -> str:
    if facts.report.spec.features is not None:
        return f"{facts.report.spec.n_features} features of one radiograph are the only input; no clinical variables are used."
    return "The pixels of one radiograph are the only input; no clinical variables are used."


def _no_assessors(facts: FactData) -> str:
    return "The pixels need no assessor."


def _unreadable_input(facts: FactData) -> str:
    return "Images that cannot be read are listed with the reason and get no prediction."


DATA_FACTS: Mapping[str, Callable[[FactData], str]] = {
    "technology": _technology,
    "objective": _objective,
    "data_source": _data_source,
    "exclusions": _exclusions,
    "included": _included,
    "preprocessing": _preprocessing,
    "subsets": _subsets,
    "missing_data": _missing_data,
    "dicom_headers": _dicom_headers,
    "classes": _classes,
    "label_columns": _label_columns,
    "seed_of_split": _seed_of_split,
    "disjoint": _disjoint,
    "test_size": _test_size,
    "characteristics": _characteristics,
    "test_characteristics": _test_characteristics,
    "outcomes": _outcomes,
    "predictors": _predictors,
    "no_assessors": _no_assessors,
    "unreadable_input": _unreadable_input,
}
