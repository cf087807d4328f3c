"""One trial of a probe: a logistic regression on the cached outputs of pretrained networks, fitted at once.

features    the outputs of all splice points of each backbone, averaged over all positions, for all images of the split;
            computed in one pass and cached, so that later trials read them
fit         one logistic regression, or one for each fold and one for all images
files       those of every trial; history.csv has one row, or one for each fold
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path

import keras
import numpy as np

from automl_cxr.architectures import find_backbone
from automl_cxr.config import TrialConfig
from automl_cxr.data.downscaled import downscaled_images
from automl_cxr.model.build import build_model
from automl_cxr.model.freezing import BACKBONE
from automl_cxr.model.transfer import backbone_on_pixels
from automl_cxr.records import EpochRecord, FoldRecord, PartRecord, SplitRecord
from automl_cxr.training.datasets import LabelledPart
from automl_cxr.training.epoch_tracker import EpochTracker
from automl_cxr.training.frozen_features import pooled_features
from automl_cxr.training.phase_inputs import compare_with_pixels
from automl_cxr.training.probe_head import ProbeHead
from automl_cxr.training.schedules import Phase
from automl_cxr.training.trial import finish_trial, valid_predictions
from automl_cxr.training.trial_costs import measure_costs
from automl_cxr.training.trial_files import history_rows, log_epoch
from automl_cxr.training.trial_task import TrialResult, TrialTask

FEATURES = "probe@pooled, float32"
_PHASE = Phase(n_epochs=1, learning_rate=0.0, frozen=True)


def run_probe(task: TrialTask) -> Generator[EpochRecord | FoldRecord, None, TrialResult]:
    """Fit a probe, yield its score or that of each fold, and write the trial's files into ``task.folder``.

    With folds, the probe of each fold predicts the images of the fold, and model.keras contains a probe that is fitted on all
    images.

    Raises:
        InfeasibleError: The network violates a requirement.
        TrialError: The network cannot be built.
    """
    started = time.monotonic()
    split = SplitRecord.from_json(task.split.read_text(encoding="utf-8"))
    n_classes = len(split.classes)
    costs = measure_costs(task, n_classes)
    (task.folder / "config.json").write_text(task.config.to_json(), encoding="utf-8")
    images = np.load(downscaled_images(task.images, task.config.image_size), mmap_mode="r", allow_pickle=False)
    features = probe_features(task.config, images, weights_folder=task.weights_folder)
    train, judged = split.train, split.judged
    is_train = np.arange(len(features)) < len(train.images)
    objective = task.objective(costs)
    all_images = LabelledPart(images, np.arange(len(images)), np.asarray(train.labels + split.valid.labels, np.int64))
    history: list[EpochRecord] = []
    model = build_model(task.config, n_classes, steps_per_epoch=1, weights_folder=task.weights_folder)
    n_parameters = model.count_params()
    probabilities = np.empty((len(judged.images), n_classes), np.float32)
    with (task.folder / "train.log").open("w", encoding="utf-8") as log:
        for fold in range(1, split.n_folds + 1) or (0,):
            fit_started = time.monotonic()
            is_fitted = np.asarray(split.folds) != fold if fold else np.ones(len(train.images), bool)
            is_scored = ~is_fitted if fold else np.ones(len(judged.images), bool)
            head = ProbeHead.fit(features[is_train][is_fitted], _rows(train, is_fitted), task.config, n_classes=n_classes)
            scored = features[is_train][is_scored] if fold else features[~is_train]
            probabilities[is_scored] = head.predict(scored)
            labels = np.asarray(judged.labels, np.int64)[is_scored]
            epoch = EpochTracker(task.config, objective).add(
                1,
                _PHASE,
                loss=_training_loss(head, features[is_train][is_fitted], np.asarray(train.labels)[is_fitted]),
                labels=labels,
                probabilities=probabilities[is_scored],
                seconds=time.monotonic() - fit_started,
                n_parameters=n_parameters,
                features=FEATURES,
            )
            log.write(f"C {head.regression.c:.3g}; out-of-fold loss of each candidate: {head.regression.left_out_loss}\n")
            log_epoch(log, epoch)
            history.append(epoch)
            if not fold:
                yield epoch
                continue
            yield FoldRecord(
                fold=fold,
                score=epoch.score,
                values=epoch.values,
                n_parameters=n_parameters,
                n_folds=split.n_folds,
                n_epochs=fold,
            )
        if split.folds:
            head = ProbeHead.fit(features, train, task.config, n_classes=n_classes)
            log.write(f"all images: C {head.regression.c:.3g}\n")
        head.write_to(model)
        difference = compare_with_pixels(model, all_images, head.predict(features))
        log.write(f"predictions of the whole network from pixels differ by at most {difference:.1g}\n")
    rows = history_rows(task, history)
    return finish_trial(
        task,
        valid_predictions(split, probabilities),
        model,
        all_images,
        rows=[{"fold": fold, **row} for fold, row in enumerate(rows, 1)] if split.folds else rows,
        history=history,
        best_epoch=None if split.folds else 1,
        cut_short=False,
        costs=costs,
        started=started,
    )


def probe_features(config: TrialConfig, images: np.ndarray, *, weights_folder: Path | None) -> np.ndarray:
    """Return the features of a probe, float32 (n, d); the layers are in the order of ``config.probe_layers``.

    The outputs of all splice points are computed in one pass, because the next probes usually need others of them.

    Args:
        config: A configuration of family probe.
        images: A decoded array, uint8 (n, h, w), of the configuration's image size.
        weights_folder: Folder that is searched for weight files first.
    """
    keras.utils.set_random_seed(config.seed)  # as in ``build_model``, for backbones without pretrained weights
    views = [images, images[:, :, ::-1]] if config.probe_mirrored else [images]
    found: dict[tuple[str, str], np.ndarray] = {}
    for branch in config.branches:
        network = backbone_on_pixels(branch.backbone, config.image_size, weights=branch.weights, weights_folder=weights_folder)
        points = find_backbone(branch.backbone).splice_points
        cuts = [f"{BACKBONE}/{point}" for point in points]
        of_views = [pooled_features(network, cuts, view, label=branch.backbone) for view in views]
        for point, cut in zip(points, cuts, strict=True):
            found[branch.backbone, point] = np.mean([pooled[cut] for pooled in of_views], axis=0)
    return np.concatenate([found[layer.backbone, layer.layer] for layer in config.probed], axis=1)


def _rows(part: PartRecord, is_chosen: np.ndarray) -> PartRecord:
    rows = np.flatnonzero(is_chosen)
    return PartRecord(
        images=tuple(part.images[row] for row in rows),
        labels=tuple(part.labels[row] for row in rows),
        patients=tuple(part.patients[row] for row in rows),
    )


def _training_loss(head: ProbeHead, features: np.ndarray, labels: np.ndarray) -> float:
    of_true_class = head.predict(features)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(of_true_class, np.finfo(np.float32).tiny)).mean())
