"""Train on one device and on two, in a separate process, because a backend fixes its devices when it starts.

    KERAS_BACKEND=... python train_on_two_devices.py FOLDER

Writes figures.json and the files of a trial to the folder, for test_devices.py.
"""

import contextlib
import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"  # only JAX reads it

import keras
import numpy as np

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )

from automl_cxr.config import TrialConfig
from automl_cxr.errors import TrialError
from automl_cxr.model.build import build_model
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.training.checkpoint import load_checkpoint, save_checkpoint
from automl_cxr.training.epoch_tracker import Objective
from automl_cxr.training.passes import predict_probabilities
from automl_cxr.training.trainer import Training
from automl_cxr.training.trial import TrialTask, load_parts, run_trial

N_TRAIN, N_VALID = 29, 13  # batches of 7 cannot be halved; the last batch has one image
SMALL = {"image_size": 16, "n_blocks": 1, "filters": 4, "dense_units": 8, "batch_size": 7, "patience": 9, "seed": 3}
# Only the devices may make a difference: no random layers, and no statistics over a part of a batch.
EXACT = {**SMALL, "optimizer": "sgd", "learning_rate": 0.05, "batch_norm": False, "dropout": 0.0, "augmentation": 0.0}
RANDOM = {**SMALL, "batch_norm": True, "dropout": 0.3, "augmentation": 0.5, "imbalance": "oversample", "epochs": 2}


def write_data(folder):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, N_TRAIN + N_VALID)
    images = rng.integers(0, 60, (len(labels), 16, 16), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[:, 5 * label : 5 * label + 5] += 120
    names = [f"{number}.png" for number in range(len(labels))]
    train, valid = (
        PartRecord(images=tuple(names[rows]), labels=tuple(labels[rows].tolist()), patients=tuple(names[rows]))
        for rows in (slice(0, N_TRAIN), slice(N_TRAIN, None))
    )
    split = SplitRecord(
        classes=("a", "b", "c"), train=train, valid=valid, test=(), seed=0, grouped=False, origin="made", unreadable={}
    )
    np.save(folder / "images.npy", images)
    (folder / "split.json").write_text(split.to_json(), encoding="utf-8")
    return split


def assign_devices(n_devices):
    os.environ["AUTOML_CXR_GPUS"] = str(n_devices)


def build_training(values, parts):
    config = TrialConfig.from_values(values)
    model = build_model(config, 3, steps_per_epoch=5)
    return model, Training(model, config, train=parts[0], valid=parts[1], objective=Objective())


def train(n_devices, values, parts, *, save_to=None, resume_from=None):
    """Train and return the weights and predictions after the last epoch, and the model.

    Saves a checkpoint after the first epoch, or continues from one.
    """
    assign_devices(n_devices)
    model, training = build_training(values, parts)
    if resume_from is not None:
        training.restore(load_checkpoint(resume_from))
    for epoch in training.epochs():
        if save_to is not None and epoch.epoch == 1:
            save_checkpoint(training.checkpoint(), save_to)
        last = (
            model.get_weights(),
            predict_probabilities(model, parts[1], batch_size=7),
            model,
        )  # before the best weights are restored
    return last


def largest_difference(some, others):
    return max(float(np.abs(one - other).max()) for one, other in zip(some, others, strict=True))


def error_message(n_devices, values, parts):
    assign_devices(n_devices)
    with contextlib.suppress(StopIteration):
        try:
            next(build_training(values, parts)[1].epochs())
        except TrialError as error:
            return str(error)
    return ""


def n_devices_of(model):
    value = model.weights[0].value
    return len(value.sharding.device_set) if keras.backend.backend() == "jax" else len(value.values)


def run(task):
    trial = run_trial(task)
    while True:
        try:
            next(trial)
        except StopIteration as end:
            return end.value


def main(folder):
    write_data(folder)
    parts = load_parts(folder / "images.npy", SplitRecord.from_json((folder / "split.json").read_text(encoding="utf-8")))
    weighted, checkpoint = {**EXACT, "imbalance": "class_weights", "epochs": 2}, folder / "checkpoint.npz"
    initial = build_training(weighted, parts)[0].get_weights()
    one, predicted_by_one, _ = train(1, weighted, parts)
    two, predicted_by_two, model = train(2, weighted, parts, save_to=checkpoint)
    figures = {
        "devices": n_devices_of(model),
        "moved": largest_difference(initial, two),
        "weights": largest_difference(one, two),
        "predictions": largest_difference(predicted_by_one, predicted_by_two),
        "promoted": largest_difference(two, train(2, weighted, parts, resume_from=checkpoint)[0]),
        "promoted to one device": largest_difference(two, train(1, weighted, parts, resume_from=checkpoint)[0]),
    }
    figures["refused in parts"] = error_message(2, {**EXACT, "gradient_accumulation": 2}, parts)
    figures["refused three devices"] = error_message(3, EXACT, parts)

    assign_devices(2)
    (folder / "trial").mkdir()
    config = TrialConfig.from_values(RANDOM)
    run(TrialTask(config=config, images=folder / "images.npy", split=folder / "split.json", folder=folder / "trial"))
    (folder / "figures.json").write_text(json.dumps(figures), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
