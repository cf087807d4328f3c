"""Measure time and memory of the leaderboard, the corrected score, the report and ensembles of a large study.

    python benchmarks/scale_scores.py --trials 10000 --images 100000
    python benchmarks/scale_scores.py --trials 100 --images 100000 --findings 14 --commands leaderboard
    python benchmarks/scale_scores.py --trials 50 --images 100000 --findings 14 --commands leaderboard ensemble

The study is made: its trials are models of random quality on random labels, two images for each patient. The predictions of the
best trials (``--distinct``) are different. The others are hard links to the files of 20 worse models, because 10,000 files of
100,000 images take 15 GB and half an hour. Each command is run in a process of its own; its table has wall and CPU seconds and
the largest resident memory. Without ``--cold`` the scores of the trials are saved beside their predictions, as a search does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import optuna

from automl_cxr.config import TrialConfig
from automl_cxr.records import PartRecord, SplitRecord
from automl_cxr.scoring.prediction_files import PREDICTIONS_FILE
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.scoring.score_files import SCORES_FILE, load_scores
from automl_cxr.storage.urls import default_storage
from automl_cxr.study.spaces import read_space
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore
from automl_cxr.tasks import MULTICLASS, MULTILABEL

NAME, SPACE = "scale", "scratch"
COMMANDS = ("leaderboard", "report", "ensemble")
N_WORSE = 20
FINDING_RATE = 0.08


def main() -> None:
    """Make the study, run the commands and print a row for each."""
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        started = time.perf_counter()
        make_study(runs, arguments)
        print(f"study of {arguments.trials:,} trials made in {time.perf_counter() - started:.0f} s\n", flush=True)
        print("| command | wall s | CPU s | MB |\n| --- | --- | --- | --- |", flush=True)
        commands = {
            "leaderboard": ["leaderboard", NAME, "--out", str(runs / "board.csv")],
            "report": ["report", NAME, "--out", str(runs / "report.html")],
            "ensemble": ["ensemble", "build", NAME, "--top", str(arguments.trials), "--method", "auto"],
        }
        for name in arguments.commands:
            measure([*commands[name], "--runs", str(runs)])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2_000)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--findings", type=int, default=0, help="Number of findings instead of classes.")
    parser.add_argument("--distinct", type=int, default=300, help="Number of trials with different predictions.")
    parser.add_argument("--cold", action="store_true", help="Do not save the scores of the trials.")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=COMMANDS[:2])
    return parser.parse_args()


def make_study(runs: Path, arguments: argparse.Namespace) -> None:
    """Write a study whose trials are complete."""
    rng = np.random.default_rng(0)
    images = draw_images(arguments, rng)
    store = create_study(runs, images)
    n_distinct = min(arguments.distinct, arguments.trials)
    qualities = [*np.linspace(2.0, 1.9, n_distinct), *np.linspace(1.7, 1.0, N_WORSE)]
    shared = rng.normal(size=images.probabilities.shape).astype(np.float32)
    scores: list[float] = []
    for number in range(arguments.trials):
        source = number if number < n_distinct else n_distinct + (number - n_distinct) % N_WORSE
        target = store.trial_folder(number)
        target.mkdir()
        if source == number:
            (target / "config.json").write_text(TrialConfig(image_size=32).to_json(), encoding="utf-8")
            (target / "model.keras").touch()  # only trials with a model can be members
            draw_model(images, shared, qualities[number], rng).to_npz(target / PREDICTIONS_FILE)
            scores.append(load_scores(target / PREDICTIONS_FILE, normal_class=None)[store.spec.objective])
            if arguments.cold:
                (target / SCORES_FILE).unlink()
        else:
            scores.append(scores[source])
            for path in store.trial_folder(source).iterdir():
                os.link(path, target / path.name)
    store.study.add_trials([optuna.trial.create_trial(value=score, user_attrs={"epochs": 1}) for score in scores])


def draw_images(arguments: argparse.Namespace, rng: np.random.Generator) -> Predictions:
    """Return images with labels and uniform probabilities."""
    n = arguments.images
    if arguments.findings:
        labels, k = (rng.random((n, arguments.findings)) < FINDING_RATE).astype(np.int64), arguments.findings
    else:
        labels, k = rng.integers(arguments.classes, size=n), arguments.classes
    return Predictions(
        ids=tuple(f"images/{number:08d}.png" for number in range(n)),
        labels=labels,
        probabilities=np.full((n, k), 1 / k, np.float32),
        classes=tuple(f"class{number}" for number in range(k)),
        patients=tuple(f"patient{number // 2}" for number in range(n)),
    )


def draw_model(images: Predictions, shared: np.ndarray, quality: float, rng: np.random.Generator) -> Predictions:
    """Return the predictions of a model whose errors are partly those of the other models."""
    logits = shared + 0.7 * rng.standard_normal(shared.shape, dtype=np.float32)
    if images.is_multilabel:
        probabilities = 1 / (1 + np.exp(2 - quality * images.labels.astype(np.float32) - logits))
        return images.with_probabilities(probabilities, np.full(len(images.classes), 0.3))
    logits[np.arange(len(images)), images.labels] += np.float32(quality)
    exponentials = np.exp(logits)
    return images.with_probabilities(exponentials / exponentials.sum(axis=1, keepdims=True))


def create_study(runs: Path, images: Predictions) -> StudyStore:
    """Create a study without trials."""
    labels = tuple(images.labels.tolist()) if not images.is_multilabel else tuple(map(tuple, images.labels.tolist()))
    valid = PartRecord(images=images.ids, labels=labels, patients=images.patients)
    train = PartRecord(images=("a.png",), labels=labels[:1], patients=("a",))
    task = MULTILABEL if images.is_multilabel else MULTICLASS
    split = SplitRecord(
        classes=images.classes, train=train, valid=valid, test=(), seed=0, grouped=True, origin="made", unreadable={}, task=task
    )
    objective = "macro_auc" if images.is_multilabel else "macro_f1"
    spec = StudySpec(
        name=NAME,
        space_name=SPACE,
        space_toml=read_space(SPACE),
        data="unused",
        layout="folders",
        classes=images.classes,
        patients=None,
        data_digest="",
        pixels_digest="",
        fixed={},
        weights_folder=None,
        image_size=32,
        fit="stretch",
        batch_size=8,
        epochs=1,
        objectives=(objective,),
        normal_class=None,
        sampler="tpe",
        pruner="none",
        valid_fraction=0.15,
        test_fraction=0.15,
        seed=0,
        versions={},
        command="",
        task=task,
    )
    return StudyStore.create(spec, split, runs=runs, storage=default_storage(runs), directions=["maximize"])


def measure(command: list[str]) -> None:
    """Run a command of the program and print its times and its largest resident memory."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "from automl_cxr.cli import main; main()", *command], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
    result = "" if process.returncode == 0 else f" (exit code {process.returncode})"
    print(f"| {' '.join(command[:2])}{result} | {seconds:.1f} | {cpu:.1f} | {usage.ru_maxrss / 1024:.0f} |", flush=True)


if __name__ == "__main__":
    main()
