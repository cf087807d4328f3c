"""A head on frozen features, trained by NumPy, as an objective of the engine: hyperband.py runs thousands of its epochs."""

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
    """Images as features (n, n_features), float32, standardised, and labels (n,)."""

    features: np.ndarray
    labels: np.ndarray


class Head:
    """Dense layers of one width with ReLU and dropout, then a softmax; trained by Adam on cross-entropy.

    Args:
        n_features: Features of an image.
        n_classes: Classes.
        values: "n_dense", "dense_units", "dropout" and "learning_rate".
        seed: Decides initial weights, the order of images and dropout.
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
        """Take a step for each batch of all images, in an order of this epoch's own."""
        rng = np.random.default_rng((self._seed, epoch))
        order = rng.permutation(len(part.labels))
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            self._step(self._gradients(part.features[batch], part.labels[batch], rng))

    def _gradients(self, x: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Parameters:
        kept = 1 - self._values["dropout"]
        inputs, gates = [x], []
        for weights, bias in _pairs(self.parameters)[:-1]:
            raw = inputs[-1] @ weights + bias
            gates.append(((raw > 0) & (rng.random(raw.shape, "float32") < kept)).astype("float32") / np.float32(kept))
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
    """Give the probabilities (n, n_classes) of a head with these weights and biases."""
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
    """A training that can be gone on with: the head, and its best epoch so far."""

    head: Head
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    best_parameters: Parameters = field(default_factory=list)


@dataclass
class HeadObjective:
    """Trains a proposal's head to its rung, from its parent's checkpoint where it has one. For one process.

    Attributes:
        train: What it is trained on.
        valid: What each epoch is scored on, by macro-F1; a trial's score is that of its best epoch.
        seed: From which every trial's seed follows.
        epochs: Epochs of a trial that is not stopped.
        checkpoints: Training of every trial that came to its end, by its number.
        n_epochs: Epochs of all trials so far.
    """

    train: Part
    valid: Part
    seed: int
    epochs: int
    checkpoints: dict[int, HeadTraining] = field(default_factory=dict)
    n_epochs: int = 0

    def __call__(self, proposal: Proposal) -> Generator[Report, None, Facts]:
        training = self._begin(proposal)
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

    def _begin(self, proposal: Proposal) -> HeadTraining:
        if proposal.parent is not None:
            return copy.deepcopy(self.checkpoints[proposal.parent])
        n_classes = int(self.train.labels.max()) + 1
        seed = int(np.random.SeedSequence((self.seed, proposal.number)).generate_state(1)[0])
        return HeadTraining(Head(self.train.features.shape[1], n_classes, proposal.values, seed=seed))
