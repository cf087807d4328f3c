"""The analysis of groups of patients for one model of a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.results.compared_models import select_models
from automl_cxr.results.subgroup_data import load_metadata
from automl_cxr.results.subgroup_tables import TESTED, SubgroupAnalysis, analyse_subgroups, group_predictions
from automl_cxr.scoring.group_metrics import MIN_PATIENTS
from automl_cxr.scoring.metrics import metrics_for
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.scoring.subgroups import Grouping
from automl_cxr.scoring.underdiagnosis import FNFR
from automl_cxr.scoring.worst_group import WorstGroup
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore


@dataclass(frozen=True, repr=False, eq=False)
class StudySubgroups:
    """The scores of a model of a study by groups of patients.

    Attributes:
        study: Name of the study.
        model: Name of the model.
        place: Description of the images: "valid part", "out of fold", "test part" or "train part".
        n_images: Number of images.
        n_patients: Number of their patients.
        analysis: The scores and the gaps.
        unreadable: Images that cannot be read, with the reason.
        n_opened: Number of evaluations on the test part so far, including this one; 0 for the other parts.
    """

    study: str
    model: str
    place: str
    n_images: int
    n_patients: int
    analysis: SubgroupAnalysis
    unreadable: dict[str, str]
    n_opened: int = 0

    def __repr__(self) -> str:
        """Return the gaps, for notebooks."""
        return f"Subgroups of {self.study}, {self.model}, {self.place}\n{self.analysis.gaps.to_string(index=False)}"


def compared_metrics(spec: StudySpec, chosen: Sequence[str] | None = None) -> list[str]:
    """Return the metrics in which groups are compared: the chosen ones, or the objectives and ``TESTED``.

    Raises:
        UnknownNameError: A chosen metric does not exist for the classes of the study.
    """
    if chosen is None:
        names = [name for name in spec.objectives if name not in COSTS]
        worst = {name: WorstGroup.parse(name) for name in names}
        return list(dict.fromkeys([*((one.metric if one else name) for name, one in worst.items()), *TESTED]))
    defined = [*metrics_for(spec.classes, normal_class=spec.normal_index, task=spec.task), FNFR]
    for name in chosen:
        if name not in defined:
            raise UnknownNameError("metric", name, defined)
    return list(chosen)


def analyse_study_subgroups(
    store: StudyStore,
    *,
    trial: int | None = None,
    ensemble: str | Path | None = None,
    part: str = "valid",
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    min_patients: int = MIN_PATIENTS,
    intersections: bool = True,
    data: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> StudySubgroups:
    """Score one model of a study by groups of patients, by default the recommended classifier on the validation part.

    Args:
        store: The study.
        trial: Number of a trial.
        ensemble: Name or folder of an ensemble, instead of a trial.
        part: "valid" (with folds, out of fold), "test" or "train". An evaluation on the test part is recorded.
        by: Columns of metadata, and intersections such as "sex&age"; by default all columns that are known.
        metrics: Metrics in which the groups are compared; by default the objectives and ``subgroup_tables.TESTED``.
        min_patients: Number of patients below which a group is shown, but not compared.
        intersections: Whether pairs of columns are groups, too.
        data: Current location of the data; by default the recorded one.
        on_progress: Called with (processed images, all images), if predictions are computed.

    Raises:
        UsageError: A trial and an ensemble are given, or a number is out of range.
        UnknownNameError: There is no such part, column or metric.
        StudyError: The model does not exist.
        DataError: No metadata are known, or the data are missing or have changed.
    """
    if trial is not None and ensemble is not None:
        raise UsageError(f"Subgroups are those of one model; received trial {trial} and the ensemble {ensemble}. Omit one.")
    if min_patients < 2:
        raise UsageError(f"A group must have two patients or more to be compared; received {min_patients}.")
    spec = store.spec
    tested = compared_metrics(spec, metrics)
    metadata = load_metadata(store, by, data=data)
    if metadata.columns.empty:
        raise DataError(
            f"Subgroups need metadata of the images, such as sex or age; the data of study '{store.name}' have none with "
            "a known name. Name columns of the table with --by."
        )
    models = select_models(
        store,
        trials=None if trial is None else [trial],
        ensembles=() if ensemble is None else [ensemble],
        part=part,
        data=data,
        on_progress=on_progress,
    )
    thresholds = None if models.thresholds is None else models.thresholds[0]
    predictions = replace(models.images, thresholds=thresholds)
    groupings = group_predictions(metadata, predictions.ids, by, intersections=intersections)
    _check_groupings(groupings, metadata, models.place)
    analysis = analyse_subgroups(
        predictions,
        groupings,
        metrics=tested,
        normal_class=spec.normal_index,
        min_patients=min_patients,
        seed=spec.seed,
    )
    return StudySubgroups(
        store.name,
        models.names[0],
        models.place,
        len(predictions),
        len(set(predictions.patients)),
        analysis,
        models.unreadable,
        models.n_opened,
    )


def _check_groupings(groupings: Sequence[Grouping], metadata: pd.DataFrame, place: str) -> None:
    if not groupings:
        columns = ", ".join(map(str, metadata.columns))
        raise DataError(
            f"A comparison needs a column with two groups or more; in the images of the {place} none of {columns} has them. "
            "Name other columns of the table with --by."
        )
