import keras
import numpy as np
import pytest

from automl_cxr.config import TrialConfig
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.model.gradients import gradients
from automl_cxr.training.losses import build_loss

TRUTH = np.array([[1.0, 0.0, 1.0], [0.0, 0.7, 1.0]], np.float32)
GUESS = np.array([[0.3, 0.7, 0.99], [0.1, 0.6, 0.02]], np.float32)
WEIGHTS = np.array([[1.0, 0.0, 2.0], [0.5, 1.0, 0.0]], np.float32)
LOSSES = {
    "ce": {"loss": "ce"},
    "focal": {"loss": "focal", "focal_gamma": 1.5, "focal_alpha": "0.5,1,2"},
    "asymmetric": {"loss": "asymmetric", "asymmetric_gamma_positive": 1.0, "asymmetric_gamma_negative": 0.5},
}


def loss_of(**values):
    return build_loss(TrialConfig.from_values({"task": "multilabel", **values}), 3)


def of_present_and_absent(name, p, margin=0.05):
    """Return the naive losses of a present and of an absent finding with probability p."""
    if name == "ce":
        return -np.log(p), -np.log(1 - p)
    if name == "focal":
        alpha = np.array([0.5, 1, 2])
        return alpha * (1 - p) ** 1.5 * -np.log(p), alpha * p**1.5 * -np.log(1 - p)
    shifted = np.maximum(p - margin, 0)
    return (1 - p) * -np.log(p), shifted**0.5 * -np.log(1 - shifted)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_the_weighted_mean_of_its_formula(name, smoothing):
    present, absent = of_present_and_absent(name, GUESS.astype(np.float64))
    truth = TRUTH * (1 - smoothing) + smoothing / 2
    expected = np.mean(WEIGHTS * (truth * present + (1 - truth) * absent))
    loss = loss_of(**LOSSES[name], label_smoothing=smoothing)
    assert float(loss(TRUTH, GUESS, sample_weight=WEIGHTS)) == pytest.approx(expected, rel=1e-5)


def test_losses_equal_those_of_keras():
    smoothing = {"label_smoothing": 0.1}
    plain = keras.losses.BinaryCrossentropy(**smoothing)
    focal = keras.losses.BinaryFocalCrossentropy(gamma=2.0, **smoothing)
    assert float(loss_of(loss="ce", **smoothing)(TRUTH, GUESS)) == pytest.approx(float(plain(TRUTH, GUESS)), rel=1e-5)
    hard = np.round(TRUTH)  # Keras' modulating factor is not linear in the target
    ours = float(loss_of(loss="focal", focal_gamma=2.0)(hard, GUESS))
    assert ours == pytest.approx(float(keras.losses.BinaryFocalCrossentropy(gamma=2.0)(hard, GUESS)), rel=1e-5)
    assert focal.gamma == 2.0


def test_asymmetric_loss_without_focusing_and_margin_is_cross_entropy():
    plain = {"asymmetric_gamma_positive": 0.0, "asymmetric_gamma_negative": 0.0, "asymmetric_margin": 0.0}
    assert float(loss_of(loss="asymmetric", **plain)(TRUTH, GUESS)) == pytest.approx(float(loss_of()(TRUTH, GUESS)), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_an_unknown_label_is_exactly_zero(name):
    loss = loss_of(**LOSSES[name])
    logits = np.array([[0.5, -200.0, 300.0], [90.0, 0.1, -90.0]], np.float32)  # probabilities of exactly 0 and 1 among them

    def of_logits(tensors):
        return loss(1 - TRUTH, keras.ops.sigmoid(tensors[0]), sample_weight=WEIGHTS), []

    _, (gradient,) = gradients(of_logits, [logits])
    assert (gradient[WEIGHTS == 0] == 0).all()
    assert np.isfinite(gradient).all()
    assert gradient[0, 0] != 0


def test_absent_findings_below_the_margin_have_no_gradient():
    loss = loss_of(loss="asymmetric", asymmetric_margin=0.2, asymmetric_gamma_negative=0.5)

    def of_probabilities(tensors):
        return loss(np.zeros((1, 3), np.float32), tensors[0]), []

    _, (gradient,) = gradients(of_probabilities, [np.array([[0.1, 0.19, 0.5]], np.float32)])
    assert gradient[0, :2].tolist() == [0, 0]
    assert gradient[0, 2] > 0


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras' cross-entropy uses the logits with TensorFlow only")
def test_cross_entropy_has_a_gradient_where_the_probability_is_rounded_to_0():
    """As the compiled training step computes it: Keras uses the logits of the sigmoid."""
    layer = keras.layers.Dense(1, activation="sigmoid", kernel_initializer="zeros", bias_initializer=lambda *_, **__: [-200.0])
    model = keras.Sequential([keras.Input((1,)), layer])
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss=loss_of())
    model.train_on_batch(np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32), sample_weight=np.ones((1, 1), np.float32))
    assert float(layer.bias[0]) == pytest.approx(-199)


def test_a_loss_that_needs_findings_is_refused_for_classes():
    with pytest.raises(ImpossibleModelError, match="loss=asymmetric needs several findings; received task=multiclass"):
        TrialConfig(loss="asymmetric").refuse_conflicts(3)
    with pytest.raises(ImpossibleModelError, match=r"imbalance must be class_weights or none.*received oversample"):
        TrialConfig(task="multilabel", imbalance="oversample").refuse_conflicts(3)
    TrialConfig(task="multilabel", loss="asymmetric").refuse_conflicts(3)
