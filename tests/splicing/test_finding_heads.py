import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.splicing.finding_heads import fit_finding_heads
from automl_cxr.splicing.pair_scoring import score_pairs
from automl_cxr.splicing.ranking import Ranking
from automl_cxr.tasks import MULTILABEL, UNCERTAIN, UNKNOWN

N_TRAIN, N_VALID = 60, 20
PATIENTS = tuple(f"p{row // 2}" for row in range(N_TRAIN + N_VALID))


def draw():
    """Return labels of three findings (n, 3), and features of two cuts, (n, 6) and (n, 5), that depend on them."""
    rng = np.random.default_rng(0)
    labels = (rng.random((N_TRAIN + N_VALID, 3)) < 0.4).astype(int)
    first = rng.normal(size=(len(labels), 6)) * 5 + 20
    second = rng.normal(size=(len(labels), 5))
    first[:, :2] += 15 * labels[:, :2]
    second[:, 0] += 3 * labels[:, 2]
    return labels, first, second


def fit(labels, *features):
    cuts = {(number, "cut"): (values[:N_TRAIN], values[N_TRAIN:]) for number, values in enumerate(features)}
    (head,) = fit_finding_heads(cuts, [list(cuts)], labels[:N_TRAIN], PATIENTS[:N_TRAIN], on_fit=lambda: None)
    return head


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def test_the_layer_of_a_head_computes_its_predictions():
    labels, first, second = draw()
    labels[:N_TRAIN:5, 0], labels[:N_TRAIN:7, 1] = UNKNOWN, UNCERTAIN
    head, joined = fit(labels, first, second), np.concatenate([first, second], axis=1)[N_TRAIN:]
    np.testing.assert_allclose(sigmoid(joined @ head.kernel + head.bias), head.valid, atol=1e-9)
    layer = head.on_standardised()
    standardised = joined * layer["scale"] + layer["offset"]
    np.testing.assert_allclose(sigmoid(standardised @ layer["kernel"] + layer["bias"]), head.valid, atol=1e-9)
    assert ((head.valid >= 0.5) == labels[N_TRAIN:]).mean() > 0.8


def test_images_with_an_unknown_label_of_a_finding_do_not_affect_it():
    labels, first, second = draw()
    hidden = np.arange(0, N_TRAIN, 3)
    labels[hidden, 1] = UNKNOWN
    head = fit(labels, first, second)
    first[hidden] += 100
    other = fit(labels, first, second)
    np.testing.assert_array_equal(head.kernel[:, 1], other.kernel[:, 1])
    assert head.bias[1] == other.bias[1]
    assert (head.kernel[:, 0] != other.kernel[:, 0]).all()
    assert (head.left_out[hidden, 1] == 0.5).all()


def test_findings_that_cannot_be_fitted_are_predicted_with_a_constant():
    labels, first, _ = draw()
    labels[:, 0] = 0
    labels[2:, 1] = UNKNOWN  # one patient
    labels[:, 2] = UNKNOWN
    head = fit(labels, first)
    assert not head.kernel.any()
    assert head.valid[0] == pytest.approx([0.5 / 61, (0.5 + labels[:2, 1].sum()) / 3, 0.5])


def test_pairs_are_scored_by_the_known_labels():
    labels, first, second = draw()
    labels[::5] = UNKNOWN

    def part(rows):
        return PartRecord(
            images=tuple(map(str, rows)),
            labels=tuple(tuple(labels[row].tolist()) for row in rows),
            patients=tuple(PATIENTS[row] for row in rows),
        )

    split = SplitRecord(
        classes=("a", "b", "c"),
        train=part(range(N_TRAIN)),
        valid=part(range(N_TRAIN, N_TRAIN + N_VALID)),
        test=(),
        seed=0,
        grouped=True,
        origin="made",
        unreadable={},
        task=MULTILABEL,
    )
    progress = []
    scores = score_pairs({"x": first}, {"y": second}, split, same=False, on_pair=lambda *done: progress.append(done))
    assert list(scores) == [("x", None), (None, "y"), ("x", "y")]
    assert progress == [(number, 9) for number in range(1, 10)]
    assert scores["x", "y"].left_out > max(scores["x", None].left_out, scores[None, "y"].left_out)
    by_auc = score_pairs({"x": first}, {"y": second}, split, same=False, ranking=Ranking("auc_b"))
    known = labels[:N_TRAIN, 1] != UNKNOWN
    auc = roc_auc_score(labels[:N_TRAIN, 1][known], scores["x", None].head.left_out[known, 1])
    assert by_auc["x", None].left_out == pytest.approx(auc)
    np.testing.assert_array_equal(scores["x", None].predictions.probabilities, fit(labels, first).valid.astype(np.float32))
