"""Score the probes of the space auto out of fold, and order them as a portfolio.

    python benchmarks/probes.py --data covid3/ --out probes.csv

Each probe is fitted on the patients of all folds but one and predicts those of the fold; its regularisation is chosen inside
the training folds. The portfolio begins with the best probe. Each further one is the probe with which the average of all chosen
probes has the lowest log loss (the greedy choice of Caruana et al. 2004, without replacement).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pandas as pd
from radiographs import default_radiographs, existing_folder
from sklearn.metrics import log_loss

from automl_cxr.config import TrialConfig
from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.patient_folds import patient_folds
from automl_cxr.records import PartRecord
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.study.available_space import restrict_to_available
from automl_cxr.study.spaces import load_space
from automl_cxr.training.probe import probe_features
from automl_cxr.training.probe_head import ProbeHead

_METRICS = ("macro_f1", "macro_auc")
_SEARCHED = ("probe_layers", "probe_pooling", "probe_kernel", "probe_mirrored")


def candidates(weights_folder: Path | None, image_size: int, *, with_mirrored: bool) -> list[TrialConfig]:
    """List every probe of the space auto whose weights are on this machine."""
    space, _ = restrict_to_available(load_space("auto"), None if weights_folder is None else str(weights_folder))
    values = {parameter.name: parameter.grid() for parameter in space.parameters if parameter.name in _SEARCHED}
    if not with_mirrored:
        values["probe_mirrored"] = [False]
    found: dict[tuple[tuple[str, object], ...], TrialConfig] = {}
    for point in itertools.product(*(values[name] for name in _SEARCHED)):
        chosen = dict(zip(_SEARCHED, point, strict=True))
        config = TrialConfig.from_values({"family": "probe", "weights": "imagenet", "image_size": image_size, **chosen})
        found.setdefault(tuple(config.effective(_SEARCHED).items()), config)  # hog with another pooling is the same network
    return list(found.values())


def predict_out_of_fold(
    config: TrialConfig, images: np.ndarray, part: PartRecord, folds: np.ndarray, n: int, *, weights_folder: Path | None
) -> np.ndarray:
    """Return the out-of-fold probabilities, (images, classes), of a probe."""
    features = probe_features(config, images, weights_folder=weights_folder)
    probabilities = np.empty((len(features), n), np.float32)
    for fold in range(folds.max() + 1):
        left_out = folds == fold
        head = ProbeHead.fit(features[~left_out], part.chosen(~left_out), config, n_classes=n)
        probabilities[left_out] = head.predict(features[left_out])
    return probabilities


def greedy_order(predicted: list[np.ndarray], labels: np.ndarray, length: int) -> list[tuple[int, float]]:
    """Return the chosen probes with the log loss of the average of all that are chosen so far."""
    chosen: list[tuple[int, float]] = []
    total = np.zeros_like(predicted[0])
    for size in range(1, min(length, len(predicted)) + 1):
        taken = {number for number, _ in chosen}
        losses = {number: log_loss(labels, (total + one) / size) for number, one in enumerate(predicted) if number not in taken}
        best = min(losses, key=losses.__getitem__)
        chosen.append((best, losses[best]))
        total = total + predicted[best]
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=existing_folder, default=default_radiographs(), help="data with patients")
    parser.add_argument("--image-size", type=int, default=224, help="height and width in pixels")
    parser.add_argument("--folds", type=int, default=5, help="number of folds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds")
    parser.add_argument("--mirrored", action="store_true", help="also probes of features averaged over the mirror image")
    parser.add_argument("--weights", type=Path, help="folder that is searched first for pretrained weights")
    parser.add_argument("--length", type=int, default=10, help="length of the portfolio")
    parser.add_argument("--out", type=Path, help="CSV file of the rows")
    arguments = parser.parse_args()
    dataset = load_dataset(arguments.data)
    ids = dataset.table["image"].tolist()
    labels = dataset.table["label"].map({name: index for index, name in enumerate(dataset.classes)}).to_numpy()
    part = PartRecord(images=tuple(ids), labels=tuple(labels.tolist()), patients=tuple(dataset.table["patient_id"]))
    images = decode_dataset(dataset.root, ids, arguments.image_size).open()
    folds = patient_folds(labels, part.patients, arguments.folds, seed=arguments.seed)
    rows, predicted = [], []
    for config in candidates(arguments.weights, arguments.image_size, with_mirrored=arguments.mirrored):
        started = time.process_time()
        probabilities = predict_out_of_fold(config, images, part, folds, len(dataset.classes), weights_folder=arguments.weights)
        predicted.append(probabilities)
        scores = {name: METRICS[name].function(labels, probabilities, None) for name in _METRICS}
        searched = {name: getattr(config, name) for name in _SEARCHED}
        rows.append({**searched, **scores, "log_loss": log_loss(labels, probabilities), "cpu_s": time.process_time() - started})
        print(rows[-1], flush=True)
    for place, (number, loss) in enumerate(greedy_order(predicted, labels, arguments.length), start=1):
        rows[number] |= {"place": place, "log_loss_of_average": loss}
    table = pd.DataFrame(rows).sort_values(["place", "log_loss"])
    if arguments.out:
        table.to_csv(arguments.out, index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
