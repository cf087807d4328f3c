"""Compare searches over heads on a frozen backbone: automl-cxr, and KerasTuner with and without precomputed features.

    python benchmarks/heads.py                            # 64 trials; 30 minutes on two cores
    python benchmarks/heads.py DIR --weights FOLDER --trials 8 --pixel-trials 1

A trial trains a head of 0 to 2 dense layers for 20 epochs on the features of a SqueezeNet with ImageNet weights, at 224
pixels. Units, dropout, learning rate, loss and focal gamma have the ranges of search_spaces/transfer.toml; each tool draws
them at random with the same seed. Split, class weights, batch size (32), optimizer (Adam with cosine decay) and the absence
of early stopping are the same for all tools. The score of a trial is the validation macro-F1 of its best epoch. Each search
runs in a separate process.

automl-cxr runs twice: with an empty cache (it decodes images and computes features) and with a filled cache. KerasTuner
with the backbone in each trial runs a few trials only; their time is scaled to 64 trials, and the table marks it.
``--feature-trials`` does the same for KerasTuner on features; the time for computing these features is not counted.
KerasTuner imports TensorBoard: ``pip install tensorboard``.

The same command measures on a GPU. ``--bandwidth`` (memory bandwidth from the data sheet, in bytes per second) adds a
comparison with a lower bound of the time: an Adam step reads and writes each weight, its gradient and two moments, which
are 32 bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from heads_tools import AUTOML_CXR, BATCH, EPOCHS, FEATURES, PIXELS, UNITS, frozen_vector
from measure import machine_facts, measure
from radiographs import default_radiographs, default_weights, existing_folder

from automl_cxr.data.image_rows import open_images

_SCRIPT = Path(__file__).with_name("heads_tools.py")
_BYTES_PER_WEIGHT_AND_STEP = 32


def prepare(data: str, weights: str, image_size: int, seed: int, folder: Path) -> None:
    """Write the inputs of KerasTuner: pixels, features and labels of the parts of an automl-cxr study with this seed.

    Args:
        data: Folder of radiographs.
        weights: Folder of pretrained weights.
        image_size: Height and width of images, in pixels.
        seed: Random seed of the split.
        folder: Folder to write to.
    """
    import keras

    from automl_cxr.study.options import SearchOptions
    from automl_cxr.study.prepare import prepare_study

    options = SearchOptions(space="transfer", data=data, name="heads", image_size=image_size, seed=seed, weights_folder=weights)
    prepared = prepare_study(options, runs=folder / "runs", storage=f"sqlite:///{folder / 'studies.db'}")
    images, split = open_images(prepared.images), prepared.store.split
    pixels = keras.Input((image_size, image_size, 1))
    backbone = keras.Model(pixels, frozen_vector(pixels, weights))
    first = 0
    for name, part in (("train", split.train), ("valid", split.valid)):
        pixels_of_part = np.asarray(images[first : first + len(part.images)])
        np.save(folder / f"{name}_pixels.npy", pixels_of_part)
        np.save(folder / f"{name}_features.npy", backbone.predict(pixels_of_part[..., np.newaxis], verbose=0))
        np.save(folder / f"{name}_labels.npy", np.asarray(part.labels))
        first += len(pixels_of_part)
    inputs = {"data": str(Path(data).absolute()), "weights": str(Path(weights).absolute()), "image_size": image_size}
    (folder / "inputs.json").write_text(json.dumps(inputs))


def search(tool: str, inputs: Path, n_trials: int, seed: int) -> dict[str, Any]:
    """Run a search in a separate process and return its scores and costs; end the benchmark if a trial is missing."""
    measured = measure([sys.executable, str(_SCRIPT), tool, str(inputs), str(n_trials), str(seed)])
    result = json.loads(measured.last_line) if measured.code == 0 and measured.last_line else {"scores": []}
    if len(result["scores"]) != n_trials:
        raise SystemExit(f"{tool} completed {len(result['scores'])} of {n_trials} trials:\n{measured.errors}")
    result |= {"wall": measured.seconds, "cpu": measured.cpu_seconds, "trials": n_trials}
    print(f"{tool}: {n_trials} trials, {result['seconds']:.1f} s, {result['cpu']:.0f} CPU s", file=sys.stderr, flush=True)
    return result


def print_times(rows: dict[str, dict[str, Any]], n_trials: int) -> None:
    """Print the time for a number of trials, the cost of a trial, and the ratio to the time of automl-cxr."""
    print(f"| tool | trials run | s for {n_trials} | trials per second | ratio to automl-cxr | CPU s per trial | peak MiB |")
    print("| --- " * 7 + "|")
    own = {name: row["seconds"] / row["trials"] for name, row in rows.items() if name.startswith(AUTOML_CXR)}
    for name, row in rows.items():
        each = row["seconds"] / row["trials"]
        scaled = " (scaled)" if row["trials"] < n_trials else ""
        ratios = ", ".join(
            f"{each / own_each:.1f} ({which.removeprefix(AUTOML_CXR + ', ')})" for which, own_each in own.items()
        )
        cells = [name, row["trials"], f"{each * n_trials:.1f}{scaled}", f"{1 / each:.3g}", "" if name in own else ratios]
        cells += [f"{row['cpu'] / row['trials']:.2f}", f"{row['peak_memory'] / 2**20:.0f}"]
        print(f"| {' | '.join(map(str, cells))} |")


def print_scores(rows: dict[str, dict[str, Any]]) -> None:
    """Print the distribution of the scores of each tool."""
    print("\n| macro-F1 on validation | trials | mean | sd | lowest | quartiles | best |\n" + "| --- " * 7 + "|")
    for name, row in rows.items():
        scores = np.asarray(row["scores"])
        low, *quartiles, high = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])
        cells = [f"{scores.mean():.3f}", f"{scores.std(ddof=1) if len(scores) > 1 else 0:.3f}", f"{low:.3f}"]
        print(f"| {' | '.join([name, str(len(scores)), *cells, ', '.join(f'{q:.3f}' for q in quartiles), f'{high:.3f}'])} |")


def print_bandwidth_share(row: dict[str, Any], n_images: int, n_features: int, n_classes: int, bandwidth: float) -> None:
    """Print heads per second, and the share of the lower bound that the memory bandwidth sets for the heads of the space."""
    units = np.exp(np.linspace(*np.log(UNITS), 200))  # the space draws them uniformly in the logarithm
    one, two = (n_features + n_classes + 1) * units, (n_features + n_classes + 1 + units) * units
    weights = np.mean([np.full(200, n_features * n_classes), one, two])
    steps = EPOCHS * -(-n_images // BATCH)
    least_seconds = weights * steps * _BYTES_PER_WEIGHT_AND_STEP / bandwidth
    each = row["seconds"] / row["trials"]
    print(f"\n{1 / each:.3g} heads per second; {least_seconds / each:.1%} of the speed at {bandwidth:.3g} bytes per second.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data",
        nargs="?",
        type=existing_folder,
        default=default_radiographs(),
        help="folder of radiographs; by default data/covid3 in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument(
        "--weights",
        type=existing_folder,
        default=default_weights(),
        help="folder of pretrained weights; by default weights in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument("--trials", type=int, default=64, help="number of trials of automl-cxr, and of KerasTuner on features")
    parser.add_argument("--feature-trials", type=int, help="number of trials of KerasTuner on features, if it is different")
    parser.add_argument(
        "--pixel-trials", type=int, default=2, help="number of trials of KerasTuner with the backbone in each trial; 0 omits it"
    )
    parser.add_argument("--image-size", type=int, default=224, help="height and width of images, in pixels")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the split and of each search")
    parser.add_argument("--bandwidth", type=float, help="memory bandwidth in bytes per second")
    arguments = parser.parse_args()
    print(machine_facts() + "\n", flush=True)
    has_tuner = importlib.util.find_spec("tensorboard") is not None
    if not has_tuner:
        print("KerasTuner is omitted, because it imports TensorBoard. Install it with: pip install tensorboard\n")
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder)
        os.environ["AUTOML_CXR_CACHE"] = str(inputs / "kerastuner-cache")
        prepare(arguments.data, arguments.weights, arguments.image_size, arguments.seed, inputs)
        os.environ["AUTOML_CXR_CACHE"] = str(inputs / "cache")
        rows = {
            f"{AUTOML_CXR}, {state} cache": search(AUTOML_CXR, inputs, arguments.trials, arguments.seed)
            for state in ("empty", "filled")
        }
        if has_tuner:
            rows[FEATURES] = search(FEATURES, inputs, arguments.feature_trials or arguments.trials, arguments.seed)
        if has_tuner and arguments.pixel_trials:
            rows[PIXELS] = search(PIXELS, inputs, arguments.pixel_trials, arguments.seed)
        print_times(rows, arguments.trials)
        empty, filled = (rows[f"{AUTOML_CXR}, {state} cache"]["seconds"] for state in ("empty", "filled"))
        print(f"\nautoml-cxr: filling the cache {empty - filled:.1f} s, heads {filled:.1f} s.")
        print_scores(rows)
        if arguments.bandwidth:
            labels, features = np.load(inputs / "train_labels.npy"), np.load(inputs / "train_features.npy", mmap_mode="r")
            n_classes = int(labels.max()) + 1
            print_bandwidth_share(
                rows[f"{AUTOML_CXR}, filled cache"], len(labels), features.shape[1], n_classes, arguments.bandwidth
            )


if __name__ == "__main__":
    main()
