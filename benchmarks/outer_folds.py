"""Run a search on the patients of all outer folds but one, and score its classifiers on the fold that it has not seen.

    python benchmarks/outer_folds.py --folds 5 -- --time 12m

The arguments after "--" are those of `automl-cxr search`. For each outer fold, the script creates a data folder with links to
the images of the other folds, runs the search without a test part, and predicts the images of the fold with the first trial,
the best trial and the recommended classifier. It prints one row for each fold and classifier, and the means over the folds.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from radiographs import default_radiographs, existing_folder

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.records import TrialState
from automl_cxr.scoring.intervals import bootstrap_interval
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore


def program(*arguments: str) -> str:
    """Run a command of the program; return its standard output."""
    command = [sys.executable, "-c", "from automl_cxr.cli import main; main()", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def link_images(dataset: Dataset, is_chosen: np.ndarray, folder: Path) -> None:
    """Create a folder of classes with links to the chosen images, and metadata.csv with their patients."""
    rows = []
    for image, label, patient in dataset.table[["image", "label", "patient_id"]][is_chosen].itertuples(index=False):
        name = f"{label}/{Path(image).name}"
        (folder / label).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to((Path(dataset.root) / image).absolute())
        rows.append({"image": name, "patient_id": patient})
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["image", "patient_id"])
        writer.writeheader()
        writer.writerows(rows)


def score_fold(
    dataset: Dataset, is_left_out: np.ndarray, folder: Path, fold: int, arguments: argparse.Namespace
) -> list[dict[str, object]]:
    """Search on the images that are not in a fold; return a row for the first trial, the best one and the recommendation."""
    link_images(dataset, ~is_left_out, folder / "data")
    link_images(dataset, is_left_out, folder / "outer")
    runs = ("--runs", str(folder / "runs"))
    settings = ("--data", str(folder / "data"), "--name", "s", "--seed", str(arguments.seed))
    started = time.monotonic()
    found = json.loads(program("search", *settings, *runs, "--test-fraction", "0", "--json", *arguments.search))
    seconds = round(time.monotonic() - started)
    if arguments.keep:
        shutil.copytree(folder / "runs", arguments.keep / f"fold{fold}")
    trials = {row["trial"]: row for row in json.loads(program("leaderboard", "s", "--json", *runs)) if row["rank"] is not None}
    best, recommended, corrected = found["best"], found["recommended"], found["corrected"] or {}
    stages = {name: numbers for name, numbers in stages_of(folder / "runs").items() if numbers}
    for name, numbers in stages.items():
        print(f"{name}: trials {numbers}", file=sys.stderr)
    compared = [
        ("first trial", 0, trials.get(0, {}).get("macro_f1"), None),
        ("best trial", best["trial"], best["score"], corrected.get("value")),
        ("recommended", recommended["trials"], recommended["score"], None),
    ]
    for name, numbers in stages.items():
        kept = [number for number in trials if number in numbers and has_model(folder / "runs", number)]
        if kept:
            compared.append((f"best of the {name}", kept[0], trials[kept[0]]["macro_f1"], None))
    return [
        {
            "fold": fold,
            "classifier": name,
            "trials": chosen,
            "own score": own,
            "corrected": value,
            **score_outer(dataset, ("--trial", str(chosen)) if isinstance(chosen, int) else (), folder),
            "search s": seconds,
            "finished trials": len(trials),
        }
        for name, chosen, own, value in compared
    ]


def stages_of(runs: Path) -> dict[str, list[int]]:
    """Return the numbers of the trials of each stage of the space auto, in any state but waiting."""
    store = StudyStore.open("s", runs=runs, storage=f"sqlite:///{runs / 'studies.db'}")
    n_portfolio = len(store.spec.space.portfolio)
    stages: dict[str, list[int]] = {"probes of the portfolio": [], "networks of the portfolio": [], "search": []}
    for trial in store.records():
        is_probe = trial.params.get("family") == "probe"
        of_portfolio = "probes of the portfolio" if is_probe else "networks of the portfolio"
        if trial.state is not TrialState.WAITING:
            stages[of_portfolio if trial.number < n_portfolio else "search"].append(trial.number)
    return stages


def has_model(runs: Path, number: int) -> bool:
    """Return whether the model of a trial is kept."""
    return (runs / "s" / "trials" / f"{number:05d}" / "model.keras").is_file()


def score_outer(dataset: Dataset, choice: Sequence[str], folder: Path) -> dict[str, float]:
    """Predict the images of the outer fold with a trial of the study, or by default its recommendation, and score them."""
    outer = load_dataset(folder / "outer", DataOptions(classes=dataset.classes)).table.set_index("image")
    files = ("--out", str(folder / "outer.csv"), "--runs", str(folder / "runs"))
    program("predict", "s", str(folder / "outer"), *choice, *files)
    table = pd.read_csv(folder / "outer.csv")
    if len(table) != len(outer):
        raise SystemExit(f"All {len(outer)} images of the outer fold must be predicted; received {len(table)}.")
    truth = outer.loc[[str(Path(path).relative_to(folder / "outer")) for path in table["image"]]]
    predictions = Predictions(
        ids=tuple(truth.index),
        labels=truth["label"].map({name: index for index, name in enumerate(dataset.classes)}).to_numpy(),
        probabilities=table[[f"probability_{name}" for name in dataset.classes]].to_numpy(np.float32),
        classes=dataset.classes,
        patients=tuple(truth["patient_id"]),
    )
    interval = bootstrap_interval(predictions)
    scores = {
        name: METRICS[name].function(predictions.labels, predictions.probabilities, None)
        for name in ("macro_f1", "accuracy", "macro_auc")
    }
    return {**scores, "low": interval.low, "high": interval.high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=existing_folder, default=default_radiographs(), help="data with patients")
    parser.add_argument("--folds", type=int, default=5, help="number of outer folds")
    parser.add_argument("--only", type=int, nargs="*", help="outer folds to run, from 1 (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the outer folds and of the searches")
    parser.add_argument("--out", type=Path, help="CSV file of the rows")
    parser.add_argument("--keep", type=Path, help="folder to which the studies are copied")
    parser.add_argument("search", nargs="*", help="arguments of the search, after --")
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data)
    labels = dataset.table["label"].map({name: index for index, name in enumerate(dataset.classes)}).to_numpy()
    folds = patient_folds(labels, dataset.table["patient_id"].tolist(), arguments.folds, seed=arguments.seed)
    rows = []
    for fold in arguments.only or range(1, arguments.folds + 1):
        with tempfile.TemporaryDirectory() as folder:
            rows += score_fold(dataset, folds == fold - 1, Path(folder), fold, arguments)
        table = pd.DataFrame(rows)
        print(table.to_string(index=False), file=sys.stderr, flush=True)
        if arguments.out:
            table.to_csv(arguments.out, index=False)
    print(
        table.groupby("classifier")[["own score", "corrected", "macro_f1", "macro_auc"]].agg(["mean", "min", "max"]).to_string()
    )


if __name__ == "__main__":
    main()
