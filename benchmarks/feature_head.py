"""A head on frozen features, trained with NumPy, as an objective of the engine. Used by hyperband.py.

NumPy is used because an epoch takes milliseconds, and hyperband.py runs thousands of epochs.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from automl_cxr.engine.protocol import Facts, Proposal, Report
from automl_cxr.scoring.metrics import score_macro_f1

_BATCH = 32
_DECAY_1, _DECAY_2, _EPSILON = 0.9, 0.999, 1e-7  # Adam's, as in Keras

Parameters = list[np.ndarray]


@dataclass(frozen=True)
class Part:
    """Images as standardised features, float32 (n, n_features), and labels, int (n,)."""

    features: np.ndarray
    labels: np.ndarray


class Head:
    """Dense layers of equal width with ReLU and dropout, and a softmax layer; trained with Adam on cross-entropy.

    Args:
        n_features: Number of features of an image.
        n_classes: Number of classes.
        values: Hyperparameters "n_dense", "dense_units", "dropout" and "learning_rate".
        seed: Random seed of initial weights, image order and dropout.
    """

    def __init__(self, n_features: int, n_classes: int, values: Mapping[str, Any], *, seed: int) -> None:
        self._values = values
        self._seed = seed
        widths = [n_features, *[values["dense_units"]] * values["n_dense"], n_classes]
        rng = np.random.default_rng(seed)
        self.parameters: Parameters = []
        for n_in, n_out in itertools.pairwise(widths):
            bound = np.sqrt(6 / (n_in + n_out))  # Glorot and Bengio 2010
            self.parameters += [rng.uniform(-bound, bound, (n_in, n_out)).astype("float32"), np.zeros(n_out, "float32")]
        self._means = [np.zeros_like(array) for array in self.parameters]
        self._squares = [np.zeros_like(array) for array in self.parameters]
        self._n_steps = 0

    def train_epoch(self, part: Part, epoch: int) -> None:
        """Train on all images once, in batches. The image order depends on the seed and the epoch."""
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(part.labels))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            self._step(self._gradients(part.features[batch], part.labels[batch], rng))

    def _gradients(self, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Parameters:
        retain = 1 - self._values["dropout"]
        inputs, gates = [x], []
        for weights, bias in _pairs(self.parameters)[:-1]:
            raw = inputs[-1] @ weights + bias
            gates.append(((raw > 0) & (rng.random(raw.shape, "float32") < retain)).astype("float32") / np.float32(retain))
            inputs.append(raw * gates[-1])
        weights, bias = self.parameters[-2:]
        error = _softmax(inputs[-1] @ weights + bias)
        error[np.arange(len(labels)), labels] -= 1
        error /= len(labels)
        gradients: Parameters = []
        for index in range(len(inputs) - 1, -1, -1):
            gradients = [inputs[index].T @ error, error.sum(axis=0), *gradients]
            if index:
                error = (error @ self.parameters[2 * index].T) * gates[index - 1]
        return gradients

    def _step(self, gradients: Parameters) -> None:
        self._n_steps += 1
        correction = np.sqrt(1 - _DECAY_2**self._n_steps) / (1 - _DECAY_1**self._n_steps)
        rate = np.float32(self._values["learning_rate"] * correction)
        for array, gradient, mean, square in zip(self.parameters, gradients, self._means, self._squares, strict=True):
            mean[...] += np.float32(1 - _DECAY_1) * (gradient - mean)
            square[...] += np.float32(1 - _DECAY_2) * (gradient * gradient - square)
            array[...] -= rate * mean / (np.sqrt(square) + np.float32(_EPSILON))


def predict(parameters: Parameters, features: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, n_classes) of a head with given weights and biases."""
    x = features
    for weights, bias in _pairs(parameters)[:-1]:
        x = np.maximum(x @ weights + bias, 0)
    return _softmax(x @ parameters[-2] + parameters[-1])


def _pairs(parameters: Parameters) -> list[tuple[np.ndarray, np.ndarray]]:
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _softmax(raw: np.ndarray) -> np.ndarray:
    powers = np.exp(raw - raw.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@dataclass
class HeadTraining:
    """The state of a training that can be continued.

    Attributes:
        head: The head.
        epoch: Number of epochs so far.
        best_epoch: Epoch with the highest validation score.
        best_score: Score of this epoch.
        best_parameters: Weights and biases after this epoch.
    """

    head: Head
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_parameters: Parameters = field(default_factory=list)


@dataclass
class HeadObjective:
    """An objective that trains a head up to the rung of a proposal, continuing from the checkpoint of its parent, if any.

    It keeps its checkpoints in memory, so all trials must run in one process.

    Attributes:
        train: Training part.
        valid: Validation part. Each epoch is scored by macro-F1; the score of a trial is that of its best epoch.
        seed: Random seed from which the seeds of the trials are derived.
        epochs: Number of epochs of a trial that is not stopped early.
        checkpoints: Trainings of finished trials, by trial number.
        n_epochs: Number of epochs of all trials so far.
    """

    train: Part
    valid: Part
    seed: int
    epochs: int
    checkpoints: dict[int, HeadTraining] = field(default_factory=dict)
    n_epochs: int = 0

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        training = self._start(proposal)
        while training.epoch < (proposal.epochs or self.epochs):
            training.epoch += 1
            self.n_epochs += 1
            training.head.train_epoch(self.train, training.epoch)
            score = score_macro_f1(self.valid.labels, predict(training.head.parameters, self.valid.features))
            if score > training.best_score:
                training.best_epoch, training.best_score = training.epoch, score
                training.best_parameters = copy.deepcopy(training.head.parameters)
            yield Report(training.epoch, score)
        self.checkpoints[proposal.number] = training
        return {"score": training.best_score, "best_epoch": training.best_epoch}

    def _start(self, proposal: Proposal) -> HeadTraining:
        if proposal.parent is not None:
            return copy.deepcopy(self.checkpoints[proposal.parent])
        n_classes = int(self.train.labels.max()) + 1
        seed = int(np.random.SeedSequence((self.seed, proposal.number)).generate_state(1)[0])
        return HeadTraining(Head(self.train.features.shape[1], n_classes, proposal.values, seed=seed))
