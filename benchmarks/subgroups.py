"""Whether the comparison of groups finds a planted disparity, and claims one where there is none.

Phantom radiographs get a sex and an age for each patient that have no relation to their finding. In the planted data, the
images of women have a low contrast and noise. The same classifier, a probe, is trained on both; its out-of-fold predictions are
compared by sex, age and both together. Then the sexes and ages are shuffled among the patients, 100 times: every claimed
disparity is false. With --study, the same is done with the predictions and the metadata of any study.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import automl_cxr
from automl_cxr.api import locate
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.results.compared_models import select_models
from automl_cxr.results.subgroup_data import load_metadata
from automl_cxr.results.subgroup_tables import TESTED, analyse_subgroups, group_predictions
from automl_cxr.results.tables import format_table
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.store import StudyStore

_CONTRAST, _NOISE = 0.25, 20.0  # of the planted images; the noise in grey levels
_GAPS = ["column", "metric", "worst", "worst_score", "best", "best_score", "p_value", "adjusted_p", "disparity"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600, help="number of phantoms")
    parser.add_argument("--shuffles", type=int, default=100, help="number of shuffled runs")
    parser.add_argument("--study", help="name of a study whose predictions are used, instead of phantoms")
    parser.add_argument("--runs", default="runs", help="folder of this study")
    chosen = parser.parse_args()
    if chosen.study:
        folder, url = locate(chosen.runs, None)
        _examine(StudyStore.open(chosen.study, runs=folder, storage=url), chosen.shuffles)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in ("control", "planted"):
            data = _write_phantoms(Path(folder) / name, n_images=chosen.images, is_planted=name == "planted")
            _search(data, name=name, runs=Path(folder) / "runs")
            runs, url = locate(str(Path(folder) / "runs"), None)
            _examine(StudyStore.open(name, runs=runs, storage=url), chosen.shuffles)


def _write_phantoms(folder: Path, *, n_images: int, is_planted: bool) -> Path:
    """Draw phantoms of patients with random sexes and ages; of planted ones, the images of women are degraded."""
    draw_phantoms(folder, n_images=n_images, image_size=96, seed=0)
    rng = np.random.default_rng(0)
    table = folder / "metadata.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    patients = {row["patient_id"]: (rng.choice(["F", "M"]), int(rng.integers(18, 90))) for row in rows}
    for row in rows:
        row["sex"], row["age"] = map(str, patients[row["patient_id"]])
        if is_planted and row["sex"] == "F":
            pixels = np.asarray(Image.open(folder / row["image"]), np.float64)
            degraded = 128 + _CONTRAST * (pixels - 128) + rng.normal(0, _NOISE, pixels.shape)
            Image.fromarray(np.clip(degraded, 0, 255).astype(np.uint8)).save(folder / row["image"])
    pd.DataFrame(rows).to_csv(table, index=False)
    return folder


def _search(data: Path, *, name: str, runs: Path) -> None:
    automl_cxr.search(data=data, space="probe", trials=1, folds=5, executor="inline", name=name, runs=runs)


def _examine(store: StudyStore, n_shuffles: int) -> None:
    """Print the gaps of a study's recommended classifier, and the number of shuffled runs with a disparity."""
    models = select_models(store)
    thresholds = None if models.thresholds is None else models.thresholds[0]
    predictions = models.images.with_probabilities(models.probabilities[0], thresholds)
    metadata = load_metadata(store).reindex(list(predictions.ids)).fillna("")
    print(f"\n## {store.name}: {models.names[0]}, {len(predictions)} images, {len(set(predictions.patients))} patients\n")
    gaps = _compare(predictions, metadata, store.spec.normal_index, seed=0)
    print(format_table(gaps[_GAPS], "md"))
    found = [_n_claims(predictions, metadata, store.spec.normal_index, seed=seed) for seed in range(1, n_shuffles + 1)]
    n_false = sum(claims > 0 for claims in found)
    print(f"\nshuffled among the patients: a disparity is claimed in {n_false} of {n_shuffles} runs, of {len(gaps)} tests each")


def _compare(predictions: Predictions, metadata: pd.DataFrame, normal_class: int | None, *, seed: int) -> pd.DataFrame:
    groupings = group_predictions(metadata, predictions.ids)
    found = analyse_subgroups(predictions, groupings, metrics=TESTED, normal_class=normal_class, n_resamples=0, seed=seed)
    return found.gaps


def _n_claims(predictions: Predictions, metadata: pd.DataFrame, normal_class: int | None, *, seed: int) -> int:
    shuffled = _shuffle(metadata, predictions.patients, seed=seed)
    return int(_compare(predictions, shuffled, normal_class, seed=seed)["disparity"].sum())


def _shuffle(metadata: pd.DataFrame, patients: Sequence[str], *, seed: int) -> pd.DataFrame:
    """Exchange the metadata of whole patients. An image gets those of the image at the same place of the other patient."""
    images_of: dict[str, list[str]] = {}
    for image, patient in zip(metadata.index, patients, strict=True):
        images_of.setdefault(patient, []).append(image)
    names = list(images_of)
    others = np.random.default_rng(seed).permutation(names)
    source = {
        image: images_of[other][place % len(images_of[other])]
        for name, other in zip(names, others, strict=True)
        for place, image in enumerate(images_of[name])
    }
    return metadata.loc[[source[image] for image in metadata.index]].set_axis(metadata.index)


if __name__ == "__main__":
    main()
