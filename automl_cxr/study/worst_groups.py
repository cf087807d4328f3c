"""Checks that the groups whose worst score is an objective or required exist in the images of a study."""

from __future__ import annotations

import numpy as np
import pandas as pd

from automl_cxr.records import SplitRecord
from automl_cxr.scoring.objectives import Requirement
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.worst_group import WorstGroup
from automl_cxr.study.spec import StudySpec


def check_worst_groups(spec: StudySpec, split: SplitRecord, metadata: pd.DataFrame) -> None:
    """Check that the groups of the objectives and requirements of a study can be compared.

    Args:
        spec: Specification of the study.
        split: Its parts.
        metadata: Metadata of its images (``Dataset.metadata``).

    Raises:
        UnknownNameError: There is no such column of metadata.
        DataError: Fewer than two groups have enough patients among the images that score trials.
    """
    required = [Requirement.parse(text).name for text in spec.requirements]
    worst = [one for one in map(WorstGroup.parse, (*spec.objectives, *required)) if one is not None]
    if not worst:
        return
    labels, n_classes = np.asarray(split.judged.labels, np.int64), len(spec.classes)
    images = Predictions(
        ids=split.judged.images,
        labels=labels,
        probabilities=np.full((len(labels), n_classes), 1 / n_classes),
        classes=spec.classes,
        patients=split.judged.patients,
        thresholds=np.full(n_classes, 0.5) if spec.is_multilabel else None,
    )
    for one in worst:
        one.check(images, metadata, normal_class=spec.normal_index)
