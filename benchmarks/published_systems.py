"""Train every published system for one epoch of each phase, at the smallest image size that its architecture allows.

    python benchmarks/published_systems.py --data DIR --out automl_runs_published

Each system is trained with `automl-cxr search --study NAME --data DIR` in a separate process. By default no pretrained
weights are used: the table shows that a system can be trained and what a trial costs, not the quality that it can reach.
The script prints a Markdown table: name, image size, parameters, seconds of the trial, macro-F1 on the validation part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from radiographs import default_radiographs, existing_folder

from automl_cxr.api import describe, open_study
from automl_cxr.errors import ImpossibleModelError
from automl_cxr.study.presets import find_preset
from automl_cxr.study.spaces import shipped

_LARGEST, _SMALLEST = 256, 16
_EXAMPLES = ("demo",)


def smallest_image_size(name: str) -> int:
    """Return the smallest image size, in pixels, at which the network can be built. The size is found by bisection."""
    too_small, fits = _SMALLEST - 1, _LARGEST
    while fits - too_small > 1:
        size = (too_small + fits) // 2
        try:
            describe(name, {"image_size": size})
            fits = size
        except ImpossibleModelError:
            too_small = size
    return fits


def train_briefly(name: str, data: str, size: int, runs: Path, weights: str | None) -> dict[str, object]:
    """Run a search with one trial of one epoch, or of two epochs if the system has two phases.

    Returns:
        "parameters", "seconds" and "macro_f1" of the trial; or "error".
    """
    epochs = 2 if find_preset(name, {"epochs": 2}).config.frozen_epochs == 1 else 1
    command_line = [
        sys.executable,
        "-c",
        "from automl_cxr.cli import main; main()",
        "search",
        "--study",
        name,
        "--data",
        data,
        "--image-size",
        str(size),
    ]
    command_line += ["--epochs", str(epochs), "--trials", "1", "--executor", "inline", "--runs", str(runs), "--name", name]
    if weights is None:
        names = ("weights", "second_weights")[: len(find_preset(name, {}).config.branches)]
        command_line += [word for name_of_weights in names for word in ("--set", f"{name_of_weights}=none")]
    else:
        command_line += ["--weights", weights]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return {"error": done.stderr.strip().splitlines()[-1]}
    best = open_study(name, runs=runs).best
    return {"parameters": best.n_parameters, "seconds": best.seconds, "macro_f1": best.score}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="names of systems; by default all")
    parser.add_argument(
        "--data",
        type=existing_folder,
        default=default_radiographs(),
        help="folder of radiographs; by default data/covid3 in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument("--out", default="automl_runs_published", type=Path, help="folder of the studies' files")
    parser.add_argument("--weights", help="folder of pretrained weights; by default networks start from random weights")
    arguments = parser.parse_intermixed_args()
    print("| name | pixels | parameters | seconds | macro-F1 |\n| --- | --- | --- | --- | --- |")
    for name in arguments.names or [name for name in shipped("studies") if name not in _EXAMPLES]:
        size = smallest_image_size(name)
        result = train_briefly(name, arguments.data, size, arguments.out, arguments.weights)
        if "error" in result:
            print(f"| {name} | {size} | {result['error']} |", flush=True)
        else:
            print(
                f"| {name} | {size} | {result['parameters']:,} | {result['seconds']:.1f} | {result['macro_f1']:.3f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
