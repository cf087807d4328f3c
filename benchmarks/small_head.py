"""The short trial of overhead.py: a head of one dense layer on 64 features."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np

from automl_cxr.engine.protocol import Facts, Proposal, Report

N_FEATURES, N_CLASSES, N_TRAIN, N_VALID = 64, 3, 1_000, 250
EPOCHS = 3
LONG_EPOCHS = 10
UNITS, DROPOUT, LEARNING_RATE = (16, 128, 16), (0.0, 0.5), (1e-4, 1e-2)  # low, high and step; low and high; low and high, log
SPACE = """
[units]
type = "int"
low = 16
high = 128
step = 16
[dropout]
type = "float"
low = 0.0
high = 0.5
[learning_rate]
type = "float"
low = 1e-4
high = 1e-2
log = true
"""


def draw_features() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw 1,000 training and 250 validation rows of 64 features, and labels, from three overlapping distributions."""
    rng = np.random.default_rng(0)
    labels = rng.integers(N_CLASSES, size=N_TRAIN + N_VALID)
    features = (rng.normal(size=(N_CLASSES, N_FEATURES))[labels] + 3 * rng.normal(size=(len(labels), N_FEATURES))).astype(
        "float32"
    )
    return features[:N_TRAIN], labels[:N_TRAIN], features[N_TRAIN:], labels[N_TRAIN:]


def build_network(units: int, dropout: float) -> Any:
    """Build a head without compiling it."""
    import keras

    features = keras.Input((N_FEATURES,), name="features")
    hidden = keras.layers.Dense(units, activation="relu", name="dense")(features)
    hidden = keras.layers.Dropout(dropout, name="dropout")(hidden)
    return keras.Model(features, keras.layers.Dense(N_CLASSES, activation="softmax", name="probabilities")(hidden))


def build_head(units: int, dropout: float, learning_rate: float) -> Any:
    """Build and compile a head."""
    import keras

    model = build_network(units, dropout)
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def epochs_of_head(values: dict[str, Any]) -> Generator[float, None, None]:
    """Train a head and yield its validation accuracy after each epoch."""
    model = build_head(**values)
    train_x, train_y, valid_x, valid_y = draw_features()
    for epoch in range(EPOCHS):
        history = model.fit(
            train_x, train_y, validation_data=(valid_x, valid_y), initial_epoch=epoch, epochs=epoch + 1, verbose=0
        ).history
        yield history["val_accuracy"][-1]


def epochs_of_seconds(values: dict[str, Any], *, seconds: float) -> Generator[tuple[float, dict[str, float]], None, None]:
    """Train a head for a number of wall seconds in ten epochs.

    The training time includes tracing of the graph, but not importing Keras and building the network.

    Yields:
        The accuracy, and the times "started" (of the trial), "training_started" and "ended".
    """
    started = time.time()
    model = build_head(**values)
    train_x, train_y, valid_x, valid_y = draw_features()
    training_started, accuracy = time.time(), 0.0
    for epoch in range(1, LONG_EPOCHS + 1):
        while time.time() < training_started + epoch * seconds / LONG_EPOCHS:
            model.fit(train_x, train_y, verbose=0)
            accuracy = model.evaluate(valid_x, valid_y, verbose=0)[1]
        yield accuracy, {"started": started, "training_started": training_started, "ended": time.time()}


def short_trial(proposal: Proposal) -> Generator[Report, None, Facts]:
    """Train a head with the trainer of automl-cxr, as an objective of the engine."""
    from automl_cxr.config import TrialConfig
    from automl_cxr.scoring.metrics import METRICS
    from automl_cxr.training.datasets import FeaturePart
    from automl_cxr.training.epoch_tracker import Objective
    from automl_cxr.training.trainer import Training

    train_x, train_y, valid_x, valid_y = draw_features()
    values = dict(proposal.values)
    config = TrialConfig(
        learning_rate=values.pop("learning_rate"), epochs=EPOCHS, patience=EPOCHS, schedule="constant", imbalance="none"
    )
    training = Training(
        build_network(**values),
        config,
        train=FeaturePart((train_x,), np.arange(N_TRAIN), train_y),
        valid=FeaturePart((valid_x,), np.arange(N_VALID), valid_y),
        objective=Objective(METRICS["accuracy"]),
    )
    accuracy = 0.0
    for record in training.epochs():
        accuracy = record.score
        yield Report(record.epoch, accuracy)
    return {"score": accuracy}


def short_keras_trial(proposal: Proposal) -> Generator[Report, None, Facts]:
    """Train a head with the Keras code of the other tools, as an objective of the engine."""
    accuracy = 0.0
    for epoch, accuracy in enumerate(epochs_of_head(dict(proposal.values)), start=1):
        yield Report(epoch, accuracy)
    return {"score": accuracy}


def long_trial(proposal: Proposal, *, seconds: float) -> Generator[Report, None, Facts]:
    """Run a trial that trains for a number of wall seconds, as an objective of the engine."""
    facts: dict[str, float] = {}
    for epoch, (accuracy, times) in enumerate(epochs_of_seconds(dict(proposal.values), seconds=seconds), start=1):
        yield Report(epoch, accuracy)
        facts = {"score": accuracy, **times}
    return facts
