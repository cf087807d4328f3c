"""Targets of training images, and their weights in the loss.

A class has one target for each image: the one-hot class, with a weight of the image. Findings have one target and one weight
for each label, and the weight of an unknown label is 0, so that its gradient is 0.

The loss of a batch is the sum of the weighted losses of its labels, divided by the number of all its labels, known or not.
The divisor is not the number of known labels: it would be 0 for some batches, and a label would count more in a batch
with fewer known labels. Instead, the weights are multiplied by one constant, such that their mean over all labels is 1. The
loss of an epoch is then the weighted mean over the known labels, in batches of any size and in parts of batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.config import TrialConfig
from automl_cxr.tasks import PRESENT, UNCERTAIN
from automl_cxr.training.sampling import image_weights

_SEED_OF_DRAWS = 1  # follows the trial's seed, so that the draws are independent of the order of the images


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of training images.

    Attributes:
        values: float32 (n, n_classes): one-hot classes, or the target probability of each finding.
        weights: float32 (n,), one for each image; for findings (n, n_classes), one for each label, 0 for unknown labels.
    """

    values: np.ndarray
    weights: np.ndarray


def training_targets(labels: np.ndarray, n_classes: int, config: TrialConfig) -> Targets:
    """Return the targets of the training images; they are the same in every epoch.

    Args:
        labels: Class index of each image, int (n,), or label codes of its findings, int (n, n_classes).
        n_classes: Number of classes or findings.
        config: ``task``, ``imbalance`` and, for findings, ``uncertain_targets`` and ``seed``.

    Raises:
        ImpossibleModelError: ``uncertain_targets`` contains neither one entry nor one for each finding.
    """
    if config.is_multilabel:
        probabilities, is_known = known_targets(labels, config)
        return Targets(probabilities.astype(np.float32), label_weights(probabilities, is_known, config))
    return Targets(np.eye(n_classes, dtype=np.float32)[labels], image_weights(labels, n_classes, config))


def targets_of_heads(labels: np.ndarray, n_classes: int, configs: Sequence[TrialConfig]) -> list[Targets]:
    """Return the targets for each configuration; those of configurations with equal targets are one object."""
    found: dict[tuple[object, ...], Targets] = {}
    names = ("task", "imbalance", "undersample_ratio", "uncertain_targets")
    targets = []
    for config in configs:
        key = (*config.effective(names).items(), config.seed if _draws_targets(config) else None)
        if key not in found:
            found[key] = training_targets(labels, n_classes, config)
        targets.append(found[key])
    return targets


def known_targets(labels: np.ndarray, config: TrialConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return the target probability of each label, float64 (n, n_findings), and whether it is known, bool (n, n_findings).

    Uncertain labels have the targets of ``config.uncertain_targets``: those of a range are drawn uniformly, with the trial's
    seed, once for all epochs (Pham et al. 2021, https://arxiv.org/abs/1911.06475).

    Args:
        labels: Label codes, int (n, n_findings).
        config: The configuration.

    Raises:
        ImpossibleModelError: ``uncertain_targets`` contains neither one entry nor one for each finding.
    """
    probabilities, is_known = (labels == PRESENT).astype(np.float64), labels >= 0
    drawn = np.random.default_rng((config.seed, 0, _SEED_OF_DRAWS)).random(labels.shape)
    for finding, bounds in enumerate(config.uncertain_ranges(labels.shape[1])):
        if bounds is not None:
            low, high = bounds
            is_uncertain = labels[:, finding] == UNCERTAIN
            probabilities[is_uncertain, finding] = low + (high - low) * drawn[is_uncertain, finding]
            is_known[is_uncertain, finding] = True
    return probabilities, is_known


def label_weights(probabilities: np.ndarray, is_known: np.ndarray, config: TrialConfig) -> np.ndarray:
    """Return the weight of each label, float32 (n, n_findings): 0 if it is unknown; the mean over all labels is 1.

    With class weights, a present label of a finding has a weight in proportion to the share of absent labels among the known
    labels of this finding, and an absent label to the share of present ones (Rajpurkar et al. 2017,
    https://arxiv.org/abs/1711.05225). An uncertain label has the average of both for its target probability. Therefore both
    sides of a finding have the same sum of weights, and a rare finding does not have weights that are larger than those of the
    others. Otherwise all known labels have equal weights.
    """
    weights = is_known.astype(np.float64)
    match config.imbalance:
        case "class_weights":
            # A side without labels counts as one label, so that the weights of the other side are small and not 0.
            n_present = np.maximum((probabilities * is_known).sum(axis=0), 1.0)
            n_absent = np.maximum(((1 - probabilities) * is_known).sum(axis=0), 1.0)
            of_present = n_absent / (n_present + n_absent)
            weights *= probabilities * of_present + (1 - probabilities) * (1 - of_present)
        case "none":
            pass
        case _:
            raise NotImplementedError(f"No label weights are implemented for imbalance '{config.imbalance}'.")
    mean = weights.mean()
    return (weights / (mean if mean > 0 else 1.0)).astype(np.float32)


def _draws_targets(config: TrialConfig) -> bool:
    """Return whether the targets of uncertain labels depend on the seed."""
    return config.is_multilabel and "-" in config.uncertain_targets
