"""Probabilities of different combiners on a common scale."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score

from automl_cxr.ensemble.common_scale import match_scale
from automl_cxr.ensemble.objective import Objective
from automl_cxr.ensemble.pipeline import combine_members
from automl_cxr.scoring.finding_calibration import sigmoid
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.tasks import MULTILABEL

OBJECTIVE = Objective.named("macro_auc", task=MULTILABEL)
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(300, 2))


def test_mean_and_deviation_of_the_other_combiner_are_reached() -> None:
    own, target = sigmoid(0.5 * LOGITS[:200] - 1), sigmoid(2 * LOGITS[:200] + 0.5)
    matched = match_scale(sigmoid(0.5 * LOGITS[200:] - 1), own, target)
    np.testing.assert_allclose(matched, sigmoid(2 * LOGITS[200:] + 0.5), atol=1e-5)


def test_equal_combiners_change_nothing_and_constants_are_shifted_only() -> None:
    probabilities = sigmoid(LOGITS[200:]).astype(np.float32)
    own = sigmoid(LOGITS[:200])
    assert match_scale(probabilities, own, own.copy()) is probabilities
    constant = np.full((200, 2), 0.2)
    matched = match_scale(np.full((5, 2), 0.2), constant, np.full((200, 2), 0.7))
    np.testing.assert_allclose(matched, 0.7, atol=1e-6)


def test_the_best_member_has_about_its_own_score_out_of_fold_if_scales_differ() -> None:
    n = 400
    labels = (RNG.random((n, 2)) < 0.2).astype(np.int64)
    evidence = labels + RNG.normal(0, 1, (n, 2))
    # Two members of equal quality: which one is best differs between the folds, and so do their scales.
    members = [
        Predictions(
            ids=tuple(f"{number}" for number in range(n)),
            labels=labels,
            probabilities=sigmoid(scale * (evidence + RNG.normal(0, 0.3, (n, 2))) + shift).astype(np.float32),
            classes=("Edema", "Mass"),
        )
        for scale, shift in ((0.3, -3.0), (2.0, 2.0))
    ]
    aucs = [np.mean([roc_auc_score(labels[:, k], one.probabilities[:, k]) for k in (0, 1)]) for one in members]
    result = combine_members(members, names=("a", "b"), method="best", objective=OBJECTIVE, compared=("best",))
    assert result.comparison is not None
    assert abs(result.comparison.methods["best"].score - np.mean(aucs)) < 0.03
