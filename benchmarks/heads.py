"""Compare searches over heads on a frozen backbone: this package, and KerasTuner with and without precomputed features.

    python benchmarks/heads.py DIR --weights FOLDER                       # 64 trials; half an hour on two cores
    python benchmarks/heads.py DIR --weights FOLDER --trials 8 --pixel-trials 1

A trial is 20 epochs of a head of 0 to 2 dense layers on the features of a SqueezeNet with ImageNet weights, at 224 pixels;
units, dropout, learning rate, loss and focal gamma are those of search_spaces/transfer.toml, drawn at random by each tool from
the same seed. All have the same split, class weights, batches of 32, Adam with a cosine, and no early stopping; a trial's score
is the macro-F1 of its best epoch on the validation part. Each search is a process of its own.

Ours runs twice: with an empty cache (images decoded, features computed) and with a filled one. The difference is what filling
costs. The peer with the backbone inside each trial runs a few trials only; the seconds of 64 are scaled from them, which the
table says; ``--feature-trials`` does the same for the peer on features, which gets them for nothing. KerasTuner's own tuner
imports TensorBoard: ``pip install tensorboard``.

On a GPU the same command measures that; ``--bandwidth`` (bytes a second that its memory moves, from its data sheet) adds the
share of the floor reached: a step of Adam reads and writes a weight, its gradient and two moments, 32 bytes, whatever else it
does.
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
from heads_tools import BATCH, EPOCHS, FEATURES, OURS, PIXELS, UNITS, frozen_vector
from measure import machine_facts, measure

_SCRIPT = Path(__file__).with_name("heads_tools.py")
_BYTES_PER_WEIGHT_AND_STEP = 32


def prepare(data: str, weights: str, image_size: int, seed: int, folder: Path) -> None:
    """Write what the peers train on: pixels, features and labels of the parts that our study of this seed has."""
    import keras

    from automl_cxr.study.options import SearchOptions
    from automl_cxr.study.prepare import prepare_study

    request = SearchOptions(space="transfer", data=data, name="heads", image_size=image_size, seed=seed, weights_folder=weights)
    prepared = prepare_study(request, runs=folder / "runs", storage=f"sqlite:///{folder / 'studies.db'}")
    images, split = np.load(prepared.images, mmap_mode="r"), prepared.store.split
    pixels = keras.Input((image_size, image_size, 1))
    backbone = keras.Model(pixels, frozen_vector(pixels, weights))
    first = 0
    for name, part in (("train", split.train), ("valid", split.valid)):
        own = np.asarray(images[first : first + len(part.images)])
        np.save(folder / f"{name}_pixels.npy", own)
        np.save(folder / f"{name}_features.npy", backbone.predict(own[..., np.newaxis], verbose=0))
        np.save(folder / f"{name}_labels.npy", np.asarray(part.labels))
        first += len(own)
    told = {"data": str(Path(data).absolute()), "weights": str(Path(weights).absolute()), "image_size": image_size}
    (folder / "told.json").write_text(json.dumps(told))


def search(tool: str, material: Path, n_trials: int, seed: int) -> dict[str, Any]:
    """Run a search in a process of its own; end the benchmark if a trial of it is missing."""
    measured = measure([sys.executable, str(_SCRIPT), tool, str(material), str(n_trials), str(seed)])
    told = json.loads(measured.last_line) if measured.code == 0 and measured.last_line else {"scores": []}
    if len(told["scores"]) != n_trials:
        raise SystemExit(f"{tool} ended {len(told['scores'])} of {n_trials} trials:\n{measured.errors}")
    told |= {"wall": measured.seconds, "cpu": measured.cpu_seconds, "trials": n_trials}
    print(f"{tool}: {n_trials} trials, {told['seconds']:.1f} s, {told['cpu']:.0f} CPU s", file=sys.stderr, flush=True)
    return told


def print_times(rows: dict[str, dict[str, Any]], n_trials: int) -> None:
    """Print seconds of so many trials, what a trial takes, and how often ours goes into it."""
    print(f"| tool | trials run | s for {n_trials} | trials a second | ours, times faster | CPU s a trial | most memory, MiB |")
    print("| --- " * 7 + "|")
    ours = {name: row["seconds"] / row["trials"] for name, row in rows.items() if name.startswith(OURS)}
    for name, row in rows.items():
        each = row["seconds"] / row["trials"]
        scaled = " (scaled)" if row["trials"] < n_trials else ""
        faster = ", ".join(f"{each / own:.1f} ({which.removeprefix(OURS + ', ')})" for which, own in ours.items())
        cells = [name, row["trials"], f"{each * n_trials:.1f}{scaled}", f"{1 / each:.3g}", "" if name in ours else faster]
        cells += [f"{row['cpu'] / row['trials']:.2f}", f"{row['most_memory'] / 2**20:.0f}"]
        print(f"| {' | '.join(map(str, cells))} |")


def print_scores(rows: dict[str, dict[str, Any]]) -> None:
    """Print how the trials of each tool scored."""
    print("\n| macro-F1 on validation | trials | mean | sd | lowest | quartiles | best |\n" + "| --- " * 7 + "|")
    for name, row in rows.items():
        scores = np.asarray(row["scores"])
        low, *quartiles, high = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])
        cells = [f"{scores.mean():.3f}", f"{scores.std(ddof=1) if len(scores) > 1 else 0:.3f}", f"{low:.3f}"]
        print(f"| {' | '.join([name, str(len(scores)), *cells, ', '.join(f'{q:.3f}' for q in quartiles), f'{high:.3f}'])} |")


def print_floor(row: dict[str, Any], n_images: int, n_features: int, n_classes: int, bandwidth: float) -> None:
    """Print heads a second beside what the memory's bandwidth alone would allow, for heads of the space's usual size."""
    units = np.exp(np.linspace(*np.log(UNITS), 200))  # as drawn: even in the logarithm
    one, two = (n_features + n_classes + 1) * units, (n_features + n_classes + 1 + units) * units
    weights = np.mean([np.full(200, n_features * n_classes), one, two])
    steps = EPOCHS * -(-n_images // BATCH)
    floor = weights * steps * _BYTES_PER_WEIGHT_AND_STEP / bandwidth
    each = row["seconds"] / row["trials"]
    print(f"\n{1 / each:.3g} heads a second; {floor / each:.1%} of the floor that {bandwidth:.3g} bytes a second set.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="folder of radiographs")
    parser.add_argument("--weights", required=True, help="folder of the SqueezeNet's weights")
    parser.add_argument("--trials", type=int, default=64, help="trials of ours, and of KerasTuner on features")
    parser.add_argument("--feature-trials", type=int, help="trials of KerasTuner on features, where they are others")
    parser.add_argument(
        "--pixel-trials", type=int, default=2, help="trials of KerasTuner with the backbone inside; 0 leaves it out"
    )
    parser.add_argument("--image-size", type=int, default=224, help="pixels")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of every search")
    parser.add_argument("--bandwidth", type=float, help="bytes a second, for the share of the floor")
    arguments = parser.parse_args()
    print(machine_facts() + "\n", flush=True)
    has_tuner = importlib.util.find_spec("tensorboard") is not None
    if not has_tuner:
        print("KerasTuner is left out: its tuner imports TensorBoard. Install it with: pip install tensorboard\n")
    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder)
        os.environ["AUTOML_CXR_CACHE"] = str(material / "peers-cache")
        prepare(arguments.data, arguments.weights, arguments.image_size, arguments.seed, material)
        os.environ["AUTOML_CXR_CACHE"] = str(material / "cache")
        rows = {
            f"{OURS}, {state} cache": search(OURS, material, arguments.trials, arguments.seed) for state in ("empty", "filled")
        }
        if has_tuner:
            rows[FEATURES] = search(FEATURES, material, arguments.feature_trials or arguments.trials, arguments.seed)
        if has_tuner and arguments.pixel_trials:
            rows[PIXELS] = search(PIXELS, material, arguments.pixel_trials, arguments.seed)
        print_times(rows, arguments.trials)
        filling, filled = (rows[f"{OURS}, {state} cache"]["seconds"] for state in ("empty", "filled"))
        print(f"\nOurs: filling the cache {filling - filled:.1f} s, heads {filled:.1f} s.")
        print_scores(rows)
        if arguments.bandwidth:
            labels, features = np.load(material / "train_labels.npy"), np.load(material / "train_features.npy", mmap_mode="r")
            n_classes = int(labels.max()) + 1
            print_floor(rows[f"{OURS}, filled cache"], len(labels), features.shape[1], n_classes, arguments.bandwidth)


if __name__ == "__main__":
    main()
