"""Tests of the NumPy head of benchmarks/hyperband.py: its gradients, and continuing from a checkpoint."""

import numpy as np
import pytest

from automl_cxr.engine.protocol import Proposal, TrialEnd, TrialRun
from benchmarks.feature_head import Head, HeadObjective, Part, predict

VALUES = {"n_dense": 2, "dense_units": 5, "dropout": 0.3, "learning_rate": 1e-2}


def draw_part(n, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    return Part((np.eye(3, 7)[labels] + rng.normal(size=(n, 7))).astype("float32"), labels)


def test_gradients_equal_finite_differences_of_the_loss():
    part = draw_part(16, seed=1)
    head = Head(7, 3, {**VALUES, "dropout": 0.0}, seed=1)
    head.parameters = [array.astype("float64") for array in head.parameters]

    def loss():
        return -np.log(predict(head.parameters, part.features)[np.arange(16), part.labels]).mean()

    for array, gradient in zip(
        head.parameters, head._gradients(part.features, part.labels, np.random.default_rng(0)), strict=True
    ):
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        array[index] += 1e-5
        above = loss()
        array[index] -= 2e-5
        below = loss()
        array[index] += 1e-5
        assert gradient[index] == pytest.approx((above - below) / 2e-5, rel=1e-4)


def run(objective, proposal):
    attempt, scores = TrialRun(objective(proposal)), []
    while not isinstance(event := attempt.advance(), TrialEnd):
        scores.append(event.score)
    return scores, event.facts


def test_a_promoted_trial_equals_an_uninterrupted_one():
    whole = HeadObjective(draw_part(90, seed=2), draw_part(40, seed=3), seed=0, epochs=6)
    rungs = HeadObjective(whole.train, whole.valid, seed=0, epochs=6)
    scores, facts = run(whole, Proposal(0, VALUES))
    first, _ = run(rungs, Proposal(0, VALUES, epochs=2))
    rest, promoted = run(rungs, Proposal(4, VALUES, parent=0))
    assert first + rest == scores
    assert promoted == facts
    assert facts["score"] == max(scores) > 1 / 3
    assert (whole.n_epochs, rungs.n_epochs) == (6, 6)
    final = [training.head.parameters for training in (whole.checkpoints[0], rungs.checkpoints[4])]
    assert all((one == other).all() for one, other in zip(*final, strict=True))
    assert rungs.checkpoints[0].epoch == 2, "the checkpoint of the parent is not changed"
