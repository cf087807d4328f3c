"""Decisions for one image are those of the table of `predict --abstain`."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from automl_cxr.results.abstention import add_sets
from automl_cxr.scoring.conformal import ConformalSets
from automl_cxr.serving.decisions import decide, decide_by_sets

CLASSES = ("a", "b", "c")
FEW = np.full(3, 50)


def rows(sets, probabilities):
    columns = {f"probability_{name}": probabilities[:, number] for number, name in enumerate(CLASSES)}
    return add_sets(pd.DataFrame(columns), sets, CLASSES).to_dict(orient="records")


@pytest.mark.parametrize("limits", [(0.2, 0.3, 0.4), (0.9, 0.9, 0.9), (0.0, 0.0, 0.0)])
def test_sets_of_classes(limits):
    sets = ConformalSets(0.9, np.array(limits), FEW, FEW)
    probabilities = np.random.default_rng(0).dirichlet((1, 1, 1), 40).astype(np.float32)
    for row, expected in zip(probabilities, rows(sets, probabilities), strict=True):
        decision = decide_by_sets(CLASSES, sets, row)
        assert "|".join(decision.plausible) == expected["set"]
        assert (decision.decision, decision.abstains) == (list(filter(None, [expected["decision"]])), not expected["decision"])


@pytest.mark.parametrize("absent", [0.2, 0.5, 0.9])
def test_sets_of_findings(absent):
    sets = ConformalSets(0.9, np.array([[absent, 0.4]] * 3), np.full((3, 2), 50), np.full((3, 2), 50))
    probabilities = np.random.default_rng(1).random((40, 3)).astype(np.float32)
    for row, expected in zip(probabilities, rows(sets, probabilities), strict=True):
        decision = decide_by_sets(CLASSES, sets, row)
        decided = {name: expected[f"decision_{name}"] for name in CLASSES}
        assert decision.decision == [name for name in CLASSES if decided[name] == "1"]
        assert decision.undecided == [name for name in CLASSES if decided[name] == ""]
        assert decision.abstains == ("" in decided.values())


def test_findings_are_decided_by_their_thresholds(classifier):
    findings = dataclasses.replace(classifier, classes=CLASSES, thresholds=(0.2, 0.5, 0.9))
    assert decide(findings, np.array([0.3, 0.5, 0.8])) == ["a", "b"]
    assert decide(findings, np.array([0.1, 0.2, 0.3])) == []
