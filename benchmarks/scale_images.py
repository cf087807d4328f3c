"""Time and peak memory of every step from files to predictions, for a number of small images.

    python benchmarks/scale_images.py --images 20000
    python benchmarks/scale_images.py --images 400000 --image-size 224 --folder /disk/scale

The script writes random pictures of 64 pixels as PGM files, and runs the commands one after the other in new processes:
inspect, audit, search of two trials, leaderboard and predict. The search decodes the training and validation images to
``--image-size``. After it, all images are opened in another order twice: the first time decodes the test part, the second time
reads no file.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SIDE = 64  # height and width of a picture on disk, in pixels
_CLASSES = ("covid", "normal", "pneumonia")
_FILES_IN_FOLDER = 10_000
SPACE = """
family = "scratch"
batch_norm = false
batch_size = 256
n_blocks = 1
[dense_units]
type = "int"
low = 2
high = 16
"""
_DECODE = """
import sys
from pathlib import Path
import numpy as np
from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import load_dataset
dataset = load_dataset(sys.argv[1])
ids = np.random.default_rng(1).permutation(dataset.table["image"]).tolist()
read = []
images = decode_dataset(dataset.root, ids, int(sys.argv[2]), on_progress=lambda done, total: read.append(done)).open()
assert len(images) == len(ids)
assert len(read) < len(ids) // 2
assert sys.argv[3] == "first" or not read
"""


@dataclass(frozen=True)
class Cost:
    """The cost of a command.

    Attributes:
        seconds: Wall time in seconds.
        cpu_seconds: CPU time of the command and its ended descendants, in seconds.
        memory: Peak resident memory of the largest process, in bytes. Mapped images in the page cache are included.
    """

    seconds: float
    cpu_seconds: float
    memory: int


def write_pictures(folder: Path, n_images: int) -> Path:
    """Write random pictures, with a brighter square in one of three places for each class. Return the table."""
    rng = np.random.default_rng(0)
    rows = ["path,label,patient_id"]
    header = f"P5 {_SIDE} {_SIDE} 255\n".encode()
    for number in range(n_images):
        label = number % len(_CLASSES)
        pixels = rng.integers(0, 120, (_SIDE, _SIDE), np.uint8)
        pixels[20 * label : 20 * label + 20, 16:48] += 60
        path = folder / "images" / f"{number // _FILES_IN_FOLDER:03d}" / f"{number:07d}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + pixels.tobytes())
        rows.append(f"{path.relative_to(folder)},{_CLASSES[label]},P{number // 2}")
    table = folder / "table.csv"
    table.write_text("\n".join(rows) + "\n")
    return table


def run(name: str, command: list[str], environment: dict[str, str]) -> Cost:
    """Run a command and print its cost as a row of a table. End the benchmark if it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read() if process.stderr else b""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed:\n{errors[-3_000:].decode(errors='replace')}")
    cost = Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, _memory_of(usage))
    print(f"| {name} | {cost.seconds:.0f} | {cost.cpu_seconds:.0f} | {cost.memory / 2**20:.0f} |", flush=True)
    return cost


def _memory_of(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20_000, help="number of images")
    parser.add_argument("--image-size", type=int, default=32, help="image size of the search, in pixels")
    parser.add_argument("--folder", type=Path, help="new folder that keeps the files (default: a temporary one)")
    arguments = parser.parse_args()
    with contextlib.nullcontext(arguments.folder) if arguments.folder else tempfile.TemporaryDirectory() as name:
        folder = Path(name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "AUTOML_CXR_CACHE": str(folder / "cache")}
        started = time.perf_counter()
        table = write_pictures(folder, arguments.images)
        print(f"{arguments.images:,} pictures written in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        program = [sys.executable, "-c", "from automl_cxr.cli import main; main()"]
        size, runs = str(arguments.image_size), ["--runs", str(folder / "runs")]
        space = folder / "tiny.toml"
        space.write_text(SPACE)
        search = [*program, "search", "--data", str(table), "--space", str(space), "--name", "scale", *runs]
        search += ["--image-size", size, "--trials", "2", "--epochs", "1", "--executor", "inline", "--seed", "0"]
        print("| command | wall s | CPU s | peak MiB |\n| --- | --- | --- | --- |", flush=True)
        run("data inspect", [*program, "data", "inspect", str(table)], environment)
        run("data audit", [*program, "data", "audit", str(table)], environment)
        run("search of two trials", search, environment)
        for time_of_opening in ("first", "second"):
            script = [sys.executable, "-c", _DECODE, str(table), size, time_of_opening]
            run(f"open all images, {time_of_opening} time", script, environment)
        run("leaderboard", [*program, "leaderboard", "scale", *runs], environment)
        run("predict", [*program, "predict", "scale", str(folder / "images"), *runs], environment)


if __name__ == "__main__":
    main()
