"""One trial of a probe: a logistic regression on the cached outputs of pretrained networks, fitted at once.

features    the outputs of all splice points of each backbone, averaged over all positions, for all images of the split;
            computed in one pass and cached, so that later trials read them
fit         one logistic regression, or one for each fold and one for all images
files       those of every trial; history.csv has one row, or one for each fold
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from pathlib import Path

import keras
import numpy as np

from automl_cxr.architectures import find_backbone
from automl_cxr.config import AVERAGE_AND_DEVIATION, TrialConfig
from automl_cxr.data.downscaled import downscaled_images
from automl_cxr.data.image_rows import ImageArray, open_images
from automl_cxr.model.build import build_model
from automl_cxr.model.freezing import BACKBONE
from automl_cxr.model.transfer import backbone_on_pixels
from automl_cxr.records import EpochRecord, FoldRecord, PartRecord, SplitRecord
from automl_cxr.scoring.metrics import METRICS
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
    images = open_images(downscaled_images(task.images, task.config.input_size))
    features = probe_features(task.config, images, weights_folder=task.weights_folder)
    part = split.train.joined(split.valid)  # the order of the images
    model = build_model(task.config, n_classes, steps_per_epoch=1, weights_folder=task.weights_folder)
    history: list[EpochRecord] = []
    probabilities = np.empty((len(features), n_classes), np.float32)
    with (task.folder / "train.log").open("w", encoding="utf-8") as log:
        for fold, is_scored in _scored_images(split):
            fit_started = time.monotonic()
            head = ProbeHead.fit(features[~is_scored], part.chosen(~is_scored), task.config, n_classes=n_classes)
            probabilities[is_scored] = head.predict(features[is_scored])
            epoch = EpochTracker(task.config, task.objective(costs)).add(
                1,
                _PHASE,
                loss=_training_loss(head, features[~is_scored], part.chosen(~is_scored)),
                labels=np.asarray(part.labels, np.int64)[is_scored],
                probabilities=probabilities[is_scored],
                seconds=time.monotonic() - fit_started,
                n_parameters=model.count_params(),
                features=FEATURES,
            )
            log.write(f"C {head.regression.c:.3g}; out-of-fold loss of each candidate: {head.regression.left_out_loss}\n")
            log_epoch(log, epoch)
            history.append(epoch)
            yield _as_fold(epoch, fold, split.n_folds) if fold else epoch
        if split.folds:
            head = ProbeHead.fit(features, part, task.config, n_classes=n_classes)
            log.write(f"all images: C {head.regression.c:.3g}\n")
        head.write_to(model)
        all_images = LabelledPart(images, np.arange(len(images)), np.asarray(part.labels, np.int64))
        difference = compare_with_pixels(model, all_images, head.predict(features))
        log.write(f"predictions of the whole network from pixels differ by at most {difference:.1g}\n")
    rows = history_rows(task, history)
    return finish_trial(
        task,
        valid_predictions(split, probabilities if split.folds else probabilities[len(split.train.images) :]),
        model,
        all_images,
        rows=[{"fold": fold, **row} for fold, row in enumerate(rows, 1)] if split.folds else rows,
        history=history,
        best_epoch=None if split.folds else 1,
        cut_short=False,
        costs=costs,
        started=started,
    )


def _scored_images(split: SplitRecord) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of each fold and which images it scores, bool (n,); without folds 0 and the validation images."""
    if not split.folds:
        n_train, n_valid = len(split.train.images), len(split.valid.images)
        yield 0, np.arange(n_train + n_valid) >= n_train
    for fold in range(1, split.n_folds + 1):
        yield fold, np.asarray(split.folds) == fold


def _as_fold(epoch: EpochRecord, fold: int, n_folds: int) -> FoldRecord:
    return FoldRecord(
        fold=fold,
        score=epoch.score,
        values=epoch.values,
        n_parameters=epoch.n_parameters,
        n_folds=n_folds,
        n_epochs=fold,
    )


def probe_features(config: TrialConfig, images: ImageArray, *, weights_folder: Path | None) -> np.ndarray:
    """Return the features of a probe, float32 (n, d); the layers are in the order of ``config.probe_layers``.

    The outputs of all splice points are computed in one pass, because the next probes usually need others of them.

    Args:
        config: A configuration of family probe.
        images: A decoded array, uint8 (n, h, w), of the configuration's image size; rows of a table of features, float32
            (n, n_features), if it takes these.
        weights_folder: Folder that is searched for weight files first.
    """
    if config.takes_features:
        return np.asarray(images)
    keras.utils.set_random_seed(config.seed)  # as in ``build_model``, for backbones without pretrained weights
    views = [images, images[:, :, ::-1]] if config.probe_mirrored else [images]
    found: dict[tuple[str, str], np.ndarray] = {}
    for branch in config.branches:
        network = backbone_on_pixels(branch.backbone, config.image_size, weights=branch.weights, weights_folder=weights_folder)
        points = find_backbone(branch.backbone).splice_points
        cuts = [f"{BACKBONE}/{point}" for point in points]
        # Both poolings are cached in one pass; the averages are the first half.
        of_views = [
            pooled_features(network, cuts, view, pooling=AVERAGE_AND_DEVIATION, label=find_backbone(branch.backbone).label)
            for view in views
        ]
        has_deviations = config.has_deviations(branch.backbone)
        for point, cut in zip(points, cuts, strict=True):
            values = np.mean([pooled[cut] for pooled in of_views], axis=0)
            found[branch.backbone, point] = values if has_deviations else values[:, : values.shape[1] // 2]
    return np.concatenate([found[layer.backbone, layer.layer] for layer in config.probed], axis=1)


def _training_loss(head: ProbeHead, features: np.ndarray, part: PartRecord) -> float:
    """Return the mean log loss of the true classes, or of the known labels of findings."""
    labels, probabilities = np.asarray(part.labels, np.int64), head.predict(features)
    if labels.ndim == 2:
        return METRICS["log_loss"].function(labels, probabilities, None)
    of_true_class = probabilities[np.arange(len(features)), labels]
    return float(-np.log(np.maximum(of_true_class, np.finfo(np.float32).tiny)).mean())
