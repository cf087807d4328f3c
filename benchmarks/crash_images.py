"""Kill the decoding of a data set at random moments, and count the images that are decoded more than once.

    python benchmarks/crash_images.py --images 5000 --kills 50

Each process is killed with ``kill -9`` after a random time, also while it writes. A process records each image before it
decodes it. After the last kill, one more process decodes the remaining images, and the pixels are compared with those of a
store that was written without interruption. A kill may repeat the images of the last block and those that were being decoded.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from automl_cxr.data import cache
from automl_cxr.data.cache import decode_dataset

_SIZE = 64
_DECODE = """
import os, sys
from pathlib import Path
import numpy as np
from automl_cxr.data import decoding_threads
from automl_cxr.data.cache import decode_dataset
root, folder, log = map(Path, sys.argv[1:4])
decode, written = decoding_threads.decode_content, os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def record(content):
    os.write(written, content[-10:] + b"\\n")
    return decode(content)
decoding_threads.decode_content = record
decode_dataset(root, sorted(os.listdir(root)), int(sys.argv[4]), folder=folder)
"""


def write_pictures(root: Path, n_images: int) -> None:
    """Write random pictures as PNG files; each ends with its number, after the end of the image."""
    rng = np.random.default_rng(0)
    root.mkdir()
    for number in range(n_images):
        path = root / f"{number:010d}.png"
        Image.fromarray(rng.integers(0, 256, (_SIZE, _SIZE), np.uint8)).save(path)
        with path.open("ab") as file:
            file.write(f"{number:010d}".encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=5_000, help="number of images")
    parser.add_argument("--kills", type=int, default=50, help="number of processes to kill")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments")
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as name:
        root, folder, log = (Path(name) / part for part in ("images", "cache", "log"))
        write_pictures(root, arguments.images)
        command = [sys.executable, "-c", _DECODE, str(root), str(folder), str(log), str(_SIZE)]
        n_kills = n_ended = 0
        while n_kills < arguments.kills and n_ended == 0:
            process = subprocess.Popen(command)
            n_before = log.stat().st_size if log.exists() else 0
            while process.poll() is None and (not log.exists() or log.stat().st_size == n_before):
                time.sleep(0.005)  # until it decodes
            time.sleep(moments.uniform(0, 0.1))
            process.kill()
            n_ended += process.wait() == 0
            n_kills += 1
        subprocess.run(command, check=True)
        counts = Counter(log.read_bytes().split())
        ids = sorted(path.name for path in root.iterdir())
        again = decode_dataset(root, ids, _SIZE, folder=folder).open()
        expected = decode_dataset(root, ids, _SIZE, folder=Path(name) / "other").open()
        n_repeated = sum(counts.values()) - len(counts)
        rows = {
            "images": len(ids),
            "processes killed": n_kills - n_ended,
            "images decoded": len(counts),
            "repeated decodes": n_repeated,
            "repeated decodes for each kill": round(n_repeated / max(1, n_kills - n_ended), 1),
            "images of a block": cache.BLOCK_FILES,
            "images that differ": int((again[:] != expected[:]).any(axis=(1, 2)).sum()),
        }
    print("| | |\n| --- | --- |")
    for quantity, count in rows.items():
        print(f"| {quantity} | {count} |")


if __name__ == "__main__":
    main()
