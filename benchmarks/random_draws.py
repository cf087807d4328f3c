"""Train random configurations of a search space and count those that collapse to chance.

    python benchmarks/random_draws.py                                    # phantoms
    python benchmarks/random_draws.py --data DIR --image-size 64         # radiographs
    python benchmarks/random_draws.py --set warmup=0 --set gradient_clip=0  # without a part of the recipe

The preset and ``--draws`` random points of each space are trained one after the other, without pruning, and scored by the
macro-F1 on a validation part of other patients. The script prints a table of the spaces: how many draws are clearly above
chance (a macro-F1 above ``--above``), the quartiles of the scores, and the median as a share of the preset's score. The score
of a draw is that of its best epoch, as in a search; the score of the last epoch is printed beside it. Every epoch of every
draw is written to the file ``--out`` (CSV).
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine_facts
from radiographs import existing_folder

from automl_cxr.config import TrialConfig, read_value
from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.engine.parameters import Value
from automl_cxr.engine.space import Space
from automl_cxr.errors import TrialError
from automl_cxr.study.spaces import load_space

_FOLDS = 5  # one of which is the validation part


@dataclasses.dataclass(frozen=True, kw_only=True)
class Draw:
    """A trained configuration.

    Attributes:
        values: Its searched values.
        scores: The validation macro-F1 after each epoch; empty if training failed.
        first_loss: The training loss of the first epoch.
        seconds: Duration of its training.
        error: Why training failed, or "".
    """

    values: Mapping[str, Value]
    scores: Sequence[float]
    first_loss: float
    seconds: float
    error: str = ""

    @property
    def score(self) -> float:
        return max(self.scores, default=0.0)

    @property
    def last_score(self) -> float:
        return self.scores[-1] if self.scores else 0.0


def load_images(data: str | None, image_size: int, n_phantoms: int, folder: Path) -> tuple[Any, Any, int]:
    """Decode radiographs or phantoms; return the training part, the validation part and the number of classes."""
    from automl_cxr.training.datasets import LabelledPart

    dataset = load_dataset(data or draw_phantoms(folder, n_images=n_phantoms, image_size=image_size))
    decoded = decode_dataset(dataset.root, tuple(dataset.table["image"]), image_size)
    table = dataset.table.set_index("image").loc[list(decoded.ids)]
    labels = np.array([dataset.classes.index(label) for label in table["label"]])
    fold = np.asarray(patient_folds(labels, list(table["patient_id"]), n_folds=_FOLDS, seed=0))
    rows, is_valid = np.arange(len(labels)), fold == fold.min()
    parts = (LabelledPart(decoded.open(), rows[chosen], labels[chosen]) for chosen in (~is_valid, is_valid))
    return *parts, len(dataset.classes)


def train_draw(values: Mapping[str, Value], config: TrialConfig, train: Any, valid: Any, n_classes: int) -> Draw:
    """Train a configuration for all its epochs."""
    from automl_cxr.model.build import build_model
    from automl_cxr.training.batches import n_steps
    from automl_cxr.training.epoch_tracker import Objective
    from automl_cxr.training.sampling import images_per_epoch
    from automl_cxr.training.trainer import Training

    started, epochs, error = time.perf_counter(), [], ""
    n_images = int(images_per_epoch(train.labels, n_classes, config).sum())
    try:
        model = build_model(config, n_classes, steps_per_epoch=n_steps(n_images, config.images_at_once))
        training = Training(model, config, train=train, valid=valid, objective=Objective())
        epochs.extend(training.epochs())
    except TrialError as failure:
        error = str(failure)
    return Draw(
        values=values,
        scores=[epoch.score for epoch in epochs],
        first_loss=epochs[0].loss if epochs else float("nan"),
        seconds=time.perf_counter() - started,
        error=error,
    )


def draw_points(space: Space, n_draws: int, seed: int) -> list[dict[str, Value]]:
    """Return the preset and random points of a space."""
    rng = np.random.default_rng(seed)
    return [space.preset() or space.sample(rng), *(space.sample(rng) for _ in range(n_draws))]


def run_space(
    space: Space, points: Sequence[Mapping[str, Value]], study: Mapping[str, Value], parts: Any, log: Any
) -> list[Draw]:
    """Train the points of a space, and log each.

    Args:
        space: The space.
        points: Its points.
        study: The hyperparameters that belong to the study, such as the image size.
        parts: The result of ``load_images``.
        log: A CSV writer.
    """
    draws = []
    for number, values in enumerate(points):
        draw = train_draw(values, TrialConfig.from_values({**space.constants, **values, **study}), *parts)
        draws.append(draw)
        shown = ", ".join(
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()
        )
        print(
            f"{space.name} {number}: {draw.score:.3f} (last {draw.last_score:.3f}), first loss {draw.first_loss:.2f}, "
            f"{draw.seconds:.0f} s; {shown} {draw.error}",
            file=sys.stderr,
            flush=True,
        )
        log.writerow([space.name, number, draw.score, draw.first_loss, shown, *draw.scores])
    return draws


def table_row(name: str, preset: Draw, draws: Sequence[Draw], above: float) -> str:
    """Format the summary of a space."""
    scores, last = [draw.score for draw in draws], [draw.last_score for draw in draws]
    clearly = [sum(score > above for score in each) for each in (scores, last)]
    quartiles = ", ".join(f"{quartile:.3f}" for quartile in np.percentile(scores, [25, 50, 75]))
    return (
        f"| {name} | {preset.score:.3f} | {clearly[0]} of {len(draws)} | {clearly[1]} of {len(draws)} | {min(scores):.3f} | "
        f"{quartiles} | {statistics.median(scores) / preset.score:.0%} | {sum(draw.seconds for draw in draws):.0f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spaces", nargs="+", default=["scratch", "fused"], help="names of search spaces or TOML files")
    parser.add_argument(
        "--data", type=existing_folder, help="folder of radiographs with patients; by default phantoms are drawn"
    )
    parser.add_argument("--phantoms", type=int, default=600, help="number of phantoms")
    parser.add_argument("--image-size", type=int, default=72, help="height and width of images, in pixels; fused needs 67")
    parser.add_argument("--batch-size", type=int, default=32, help="images per gradient step")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of each draw")
    parser.add_argument("--draws", type=int, default=40, help="number of random points of each space, at least 1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the points")
    parser.add_argument("--above", type=float, default=0.5, help="macro-F1 that is clearly above chance")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="fix a hyperparameter in all draws")
    parser.add_argument("--out", type=Path, default=Path(os.devnull), help="CSV file for the scores of every epoch")
    arguments = parser.parse_args()
    pairs = [setting.partition("=")[::2] for setting in arguments.set]
    fixed = {name: read_value(name, text) for name, text in pairs}
    study = {"image_size": arguments.image_size, "batch_size": arguments.batch_size}
    study |= {"epochs": arguments.epochs, "patience": arguments.epochs}
    print(machine_facts() + "\n", flush=True)
    rows = []
    with tempfile.TemporaryDirectory() as folder, arguments.out.open("a", encoding="utf-8", buffering=1, newline="") as file:
        parts = load_images(arguments.data, arguments.image_size, arguments.phantoms, Path(folder))
        for name in arguments.spaces:
            space = load_space(name).fix(fixed)
            points = draw_points(space, arguments.draws, arguments.seed)
            preset, *draws = run_space(space, points, study, parts, csv.writer(file))
            rows.append(table_row(space.name, preset, draws, arguments.above))
    print(
        f"| space | preset | draws above {arguments.above} | after the last epoch | lowest | quartiles | median / preset | s |"
    )
    print("| --- " * 8 + "|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
