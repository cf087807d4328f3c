"""Measure the throughput of training, predictions and features against a bare Keras ``fit`` and ``predict``.

    python benchmarks/gpu.py                                        # a GPU: 64 steps of three networks at 224 pixels
    python benchmarks/gpu.py --processes 1 2 4                      # also several trials that share the GPU
    python benchmarks/gpu.py --networks squeezenet --steps 6        # a CPU
    KERAS_BACKEND=jax python benchmarks/gpu.py

Each network is built twice with the same layers. One is trained by ``Training``, the class that trials use, including the
validation after each epoch; the other by ``fit`` with arrays in memory, followed by ``predict``. Both use the same loss,
optimizer, precision and compilation. They take turns, so that other load on the machine affects both, and the first epoch,
which compiles, is not counted. Ratios are those of images per second, and of images per CPU second; above 1, this program is
faster. With several processes, the images per second of all processes are added. Images are random numbers in a memory map.

The second table shows where the time of an epoch of ``Training`` goes: gradient steps on a batch that is on the device already,
validation, and the rest. Batches are prepared in another thread, so their time is part of the rest only if the steps wait for
them. "Copies" counts the values that Keras copies from the device to the host in an epoch, except predictions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine_facts

_N_CLASSES = 3
_TRANSFER = {"family": "transfer", "weights": "none", "unfreeze": 10_000, "features": "pixels"}
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "cnn5": {"family": "scratch", "n_blocks": 5},
    "squeezenet": {**_TRANSFER, "backbone": "squeezenet"},
    "densenet121": {**_TRANSFER, "backbone": "densenet121"},
}
_WORK = ("training", "predict", "features")


class Timed:
    """Sums of wall seconds, CPU seconds and images of some work."""

    def __init__(self) -> None:
        self.seconds = self.cpu = self.images = 0.0

    def run(self, work: Callable[[], Any], n_images: int) -> None:
        """Run some work on a number of images and add its cost."""
        cpu, started = time.process_time(), time.perf_counter()
        work()
        self.seconds += time.perf_counter() - started
        self.cpu += time.process_time() - cpu
        self.images += n_images


def count_copies(work: Callable[[], Any]) -> int:
    """Return how many values Keras copies to the host for losses and metrics while some work runs."""
    from keras.src import backend

    calls, copy = [], backend.convert_to_numpy
    backend.convert_to_numpy = lambda value: calls.append(None) or copy(value)
    try:
        work()
    finally:
        backend.convert_to_numpy = copy
    return len(calls)


def measure_network(name: str, *, image_size: int, batch_size: int, n_steps: int, repeats: int) -> dict[str, Any]:
    """Measure one network in this process; return figures for JSON."""
    import keras

    from automl_cxr.config import TrialConfig
    from automl_cxr.model.build import build_model
    from automl_cxr.model.devices import describe_worker
    from automl_cxr.model.inference import predict_images
    from automl_cxr.model.precision import resolved_precision
    from automl_cxr.training.compilation import compile_network
    from automl_cxr.training.datasets import LabelledPart
    from automl_cxr.training.epoch_tracker import Objective
    from automl_cxr.training.frozen_features import compute_features
    from automl_cxr.training.passes import predict_probabilities
    from automl_cxr.training.schedules import plan_phases
    from automl_cxr.training.trainer import Training

    config = TrialConfig.from_values(
        {**NETWORKS[name], "image_size": image_size, "batch_size": batch_size, "epochs": repeats + 2, "patience": repeats + 2}
    )
    n_train, n_valid = n_steps * batch_size - 1, batch_size  # the last batch is filled up with one image
    rows = np.random.default_rng(0).permutation(n_train + n_valid)
    labels = np.arange(n_train + n_valid) % _N_CLASSES
    with tempfile.TemporaryDirectory() as folder:
        n_images = max(64, len(rows))
        images = np.lib.format.open_memmap(Path(folder) / "images.npy", "w+", np.uint8, (n_images, image_size, image_size))
        images[:] = np.random.default_rng(0).integers(0, 256, images.shape, np.uint8)
        train, valid = (LabelledPart(images, own, labels[own]) for own in (rows[:n_train], rows[n_train:]))
        ours = build_model(config, _N_CLASSES, steps_per_epoch=n_steps)
        training = Training(ours, config, train=train, valid=valid, objective=Objective())
        epochs = training.epochs()

        bare = build_model(config, _N_CLASSES, steps_per_epoch=n_steps)
        compile_network(bare, config, plan_phases(config)[0], n_steps=n_steps)
        pixels, valid_pixels = (part.batch(np.arange(len(part.rows))) for part in (train, valid))
        predicted = images[: n_images // 32 * 32]  # whole batches
        predicted_pixels = np.array(predicted)[..., None]
        targets = np.eye(_N_CLASSES, dtype=np.float32)[train.labels]
        weights = np.ones(n_train, np.float32)

        def bare_epoch() -> None:
            bare.fit(pixels, targets, sample_weight=weights, batch_size=batch_size, verbose=0)
            bare.predict(valid_pixels, batch_size=batch_size, verbose=0)

        def features(network: Any) -> None:
            for _ in compute_features(network, predicted):
                pass

        base = keras.Model(ours.input, ours.get_layer("vector").output)
        works: dict[str, tuple[Callable[[], Any], Callable[[], Any], int]] = {
            "training": (lambda: next(epochs), bare_epoch, n_train),
            "predict": (
                lambda: predict_images(ours, predicted),
                lambda: bare.predict(predicted_pixels, batch_size=32, verbose=0),
                len(predicted),
            ),
            "features": (
                lambda: features(base),
                lambda: base.predict(predicted_pixels, batch_size=32, verbose=0),
                len(predicted),
            ),
        }
        figures: dict[str, Any] = {"precision": resolved_precision(config), "worker": describe_worker()}
        for work, (own, other, n_done) in works.items():
            times, copies = {"ours": Timed(), "bare": Timed()}, {}
            own(), other()  # compile
            for _ in range(repeats):
                for who, run in (("ours", own), ("bare", other)):
                    copies[who] = count_copies(lambda: times[who].run(run, n_done))  # noqa: B023 - called at once
            figures[work] = {"copies": copies, **{who: vars(timed) for who, timed in times.items()}}

        one_batch = [keras.ops.convert_to_tensor(values[:batch_size]) for values in (pixels, targets)]
        parts = {"gradient steps": Timed(), "validation": Timed()}
        bare.train_on_batch(*one_batch)
        for _ in range(repeats):
            parts["gradient steps"].run(lambda: [bare.train_on_batch(*one_batch) for _ in range(n_steps)], n_train)
            parts["validation"].run(lambda: predict_probabilities(ours, valid, batch_size=batch_size), n_valid)
        whole = figures["training"]["ours"]["seconds"]
        figures["shares"] = {part: timed.seconds / whole for part, timed in parts.items()}
    return figures


def run_workers(n: int, arguments: list[str]) -> list[dict[str, Any]]:
    """Measure in ``n`` processes at the same time, each with its share of the GPU; end the benchmark if one fails."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    environment = {**os.environ, "AUTOML_CXR_GPUS": f"{1 / n:g}"}
    workers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"A process failed: {' '.join(command)}")
    return [json.loads(output.strip().rpartition("\n")[2]) for output in outputs]


def total(figures: list[dict[str, Any]], work: str, who: str, unit: str) -> float:
    """Return the images per wall second, or per CPU second, of all processes together."""
    rates = [one[work][who]["images"] / one[work][who][unit] for one in figures]
    return sum(rates) if unit == "seconds" else len(rates) / sum(1 / rate for rate in rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), help="the networks")
    parser.add_argument("--image-size", type=int, default=224, help="height and width of the images")
    parser.add_argument("--batch-size", type=int, default=32, help="images per gradient step")
    parser.add_argument("--steps", type=int, default=64, help="gradient steps of an epoch")
    parser.add_argument("--repeats", type=int, default=3, help="measured epochs")
    parser.add_argument("--processes", nargs="+", type=int, default=[1], help="numbers of processes at the same time")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    settings = {"image_size": options.image_size, "batch_size": options.batch_size, "n_steps": options.steps}
    if options.worker:
        print(json.dumps(measure_network(options.worker, **settings, repeats=options.repeats)))
        return
    print(machine_facts() + "\n", flush=True)
    measured = {}
    print(
        "| network | processes | work | images/s | bare Keras, images/s | ratio | ratio per CPU second |\n" + "| --- " * 7 + "|"
    )
    for name in options.networks:
        for n in options.processes:
            numbers = [f"--{key}={getattr(options, key.replace('-', '_'))}" for key in ("image-size", "batch-size", "steps")]
            figures = run_workers(n, ["--worker", name, *numbers, f"--repeats={options.repeats}"])
            measured[name, n] = figures
            for work in _WORK:
                ours, bare = (total(figures, work, who, "seconds") for who in ("ours", "bare"))
                cpu = total(figures, work, "ours", "cpu") / total(figures, work, "bare", "cpu")
                print(f"| {name} | {n} | {work} | {ours:.1f} | {bare:.1f} | {ours / bare:.3f} | {cpu:.3f} |", flush=True)
    print("\n| network | processes | device | precision | gradient steps | validation | rest | copies | copies of bare Keras |")
    print("| --- " * 9 + "|")
    for (name, n), (first, *_) in measured.items():
        steps, validation = first["shares"].values()
        shares = " | ".join(f"{share:.1%}" for share in (steps, validation, 1 - steps - validation))
        device = f"{first['worker']['device']}, {first['worker']['backend']}"
        copies = f"{first['training']['copies']['ours']} | {first['training']['copies']['bare']}"
        print(f"| {name} | {n} | {device} | {first['precision']} | {shares} | {copies} |")


if __name__ == "__main__":
    main()
