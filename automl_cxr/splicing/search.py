"""Splice search: scores of all pairs of cuts of two networks.

find both branches                       each is a published backbone or a trained trial
read, split and decode the images        in the same way as the study that trains the best pairs
compute the features of each branch      pooled features at all cuts in one pass, cached
fit a ridge head to each pair            and to each single cut
count the parameters of each network     with its head
mark the Pareto front                    of score and parameters
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from automl_cxr.config import TrialConfig
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.image_rows import open_images
from automl_cxr.errors import DataError, UsageError
from automl_cxr.records import SplitRecord
from automl_cxr.scoring.objectives import check_for_data, needs_normal_class
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.splicing.branches import Branch, join_branches
from automl_cxr.splicing.costs import Cost, count_costs
from automl_cxr.splicing.pair_scoring import OnPair, Pair, PairScore, score_pairs
from automl_cxr.splicing.ranking import Ranking
from automl_cxr.splicing.record import AS_TRAINED, SpliceRecord
from automl_cxr.splicing.ridge_head import RidgeHead
from automl_cxr.splicing.table import Parent, compare_with_parents, tabulate
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.model_sources import source_of_model
from automl_cxr.study.options import ALLOW, SearchOptions
from automl_cxr.study.prepare import PreparedImages, prepare_images
from automl_cxr.study.settings import choose_normal_class, default_objectives
from automl_cxr.study.source_overlap import check_sources, warnings_of

SETTINGS: Mapping[str, Any] = {
    "projection": 0,
    "n_dense": 0,
    "dropout": 0.0,
    "learning_rate": 1e-4,
    "frozen_share": 0.3,
    "unfreeze": 10_000,
    "fine_tune_rate": 3e-5,
    "freeze_norm": True,  # the head is fitted on features of batch normalisation in inference mode
    "augmentation": 0.0,
}
"""Head and training hyperparameters of spliced networks.

Training starts with the fitted head, with a small learning rate and without augmentation, because the head was fitted without
augmentation. Batch normalisation uses its moving averages, as for fitting the head. The epochs before unfreezing train only the
head; their weights are used if no later epoch is better.
"""


@dataclass(frozen=True)
class SpliceScores:
    """The scores of all pairs of cuts.

    Attributes:
        first: The first branch.
        second: The second branch.
        cuts: Scored cuts of each branch, from shallow to deep.
        table: Leaderboard, see ``splicing.table.tabulate``.
        parents: Comparison of the best pair with complete networks, see ``splicing.table.compare_with_parents``.
        request: The request, completed with the settings of the studies of the branches.
        config: Configuration of the networks, except their cuts.
        heads: Ridge head of each pair.
        n_train: Number of training images.
        n_valid: Number of validation images, on which pairs are scored.
        metric: Metric that ranks the pairs: the first objective of the study that trains the best ones.
        notes: Messages for the user.
    """

    first: Branch
    second: Branch
    cuts: tuple[tuple[str, ...], tuple[str, ...]]
    table: pd.DataFrame
    parents: pd.DataFrame
    request: SearchOptions
    config: TrialConfig
    heads: Mapping[Pair, RidgeHead]
    n_train: int
    n_valid: int
    metric: str
    notes: tuple[str, ...]

    @property
    def record(self) -> SpliceRecord:
        """The part that is stored in the study's folder."""
        return SpliceRecord(
            first=self.first.name,
            second=self.second.name,
            cuts=self.cuts,
            table=self.table,
            parents=self.parents,
            n_train=self.n_train,
            n_valid=self.n_valid,
            metric=self.metric,
        )


def inherit_settings(request: SearchOptions, branches: Sequence[Branch]) -> SearchOptions:
    """Complete a request with the settings of the study of a branch, so that its sealed test images are not used.

    Raises:
        UsageError: The image size or fit of a branch differs from the request or from the other branch.
    """
    trials = [branch.trial for branch in branches if branch.trial is not None]
    if not trials:
        return request
    settings = dataclasses.asdict(request)
    for trial in trials:
        spec = trial.spec
        if request.folds:
            raise UsageError("A splice search needs one validation part; received --folds. Omit it.")
        for name, value in (("image_size", trial.config.image_size), ("fit", trial.config.fit)):
            if settings[name] not in (None, value):
                raise UsageError(
                    f"The branch {spec.name}/{trial.number} was trained with {name} {value}; received {settings[name]}. "
                    "Omit this setting; if the other branch requires it, choose another branch."
                )
            settings[name] = value
    spec = trials[0].spec
    is_same_data = request.data is None or Path(request.data).expanduser().absolute() == Path(spec.data)
    inherited = ["data", "classes", "valid_fraction", "test_fraction", "seed", "normal_class", "weights_folder"]
    data_settings = DataOptions.names() if is_same_data else ()
    for name in [*inherited, *data_settings]:
        if settings[name] is None:
            settings[name] = getattr(spec, name)
    if is_same_data and settings["objective"] is None:
        settings["objective"] = (spec.objective,)
    return SearchOptions(**settings)


def score_splices(
    first: Branch,
    second: Branch,
    request: SearchOptions,
    *,
    cuts: Sequence[str] = (),
    second_cuts: Sequence[str] = (),
    on_decoding: OnProgress | None = None,
    on_pair: OnPair | None = None,
) -> SpliceScores:
    """Score every pair of cuts of two branches with ridge heads. The test part is not read.

    Args:
        first: The first branch.
        second: The second branch. Pass the first branch again to join two cuts of one network.
        request: Data, split, image size and fixed hyperparameters.
        cuts: Layers or splice-point numbers of the first branch; all splice points by default.
        second_cuts: The same for the second branch.
        on_decoding: Called with the number of decoded images and the number of all images.
        on_pair: Called with the number of fitted heads and the number of all heads.

    Raises:
        UsageError: The branches are incompatible, a cut does not exist, or a setting is invalid.
        DataError: The data cannot be used, or a branch was trained on validation or test images.
        TrialError: A branch cannot be built.
    """
    request = inherit_settings(request, (first, second))
    values = {**SETTINGS, **join_branches(first, second), **(request.fixed or {})}
    prepared = prepare_images(request, on_progress=on_decoding)
    split = prepared.split
    notes = [*prepared.notes, *_check_branches((first, second), prepared, request)]
    ranking = _ranking_of(request, split)
    study_values = {"task": split.task, "image_size": prepared.image_size, "fit": prepared.fit}
    config = TrialConfig.from_values({**values, **study_values})
    is_same = first == second and not second_cuts
    features = [_pool(config, 0, first, cuts, prepared)]
    features += [] if is_same else [_pool(config, 1, second, second_cuts, prepared)]
    scores = score_pairs(features[0], features[-1], split, same=is_same, ranking=ranking, on_pair=on_pair)
    costs = count_costs(scores, config, len(split.classes))
    table = tabulate(scores, costs, ranking)
    best = table[table["pareto"]].iloc[0]
    return SpliceScores(
        first=first,
        second=second,
        cuts=(tuple(features[0]), tuple(features[-1])),
        table=table,
        parents=compare_with_parents(
            scores[best["first_cut"], best["second_cut"]].predictions,
            int(best["n_parameters"]),
            _find_parents(first, second, features, scores, costs, split),
            ranking,
        ),
        request=request,
        config=config,
        heads={pair: score.head for pair, score in scores.items() if None not in pair},
        n_train=len(split.train.images),
        n_valid=len(split.valid.images),
        metric=ranking.metric,
        notes=tuple(notes),
    )


def _ranking_of(request: SearchOptions, split: SplitRecord) -> Ranking:
    """Return the metric that ranks the trials of the study of the best pairs.

    Raises:
        UnknownNameError: The metric or the normal class does not exist.
        UsageError: The metric is not defined for the task, or needs the class without a finding and there is none.
    """
    objective = (request.objective or default_objectives(split.task))[0]
    check_for_data([objective], task=split.task, classes=split.classes)
    normal = None if split.is_multilabel else choose_normal_class(request, None, split.classes, [])
    if needs_normal_class(objective, task=split.task) and normal is None:
        raise UsageError(f"The objective {objective} needs the class without a finding: set it with --normal-class.")
    return Ranking(objective, None if normal is None else split.classes.index(normal), split.seed)


def _check_branches(branches: Sequence[Branch], prepared: PreparedImages, request: SearchOptions) -> list[str]:
    """Return messages about branches that were trained for other classes, on validation or test images, or on unknown images.

    Raises:
        DataError: A branch was trained or selected on test images, or trained on validation images, which score the pairs,
            and the request does not allow it.
    """
    trials = {branch.name: branch.trial for branch in branches if branch.trial is not None}
    if not trials:
        return []
    allows_overlap, root = request.test_overlap == ALLOW, prepared.data.dataset.root
    sources = [source_of_model(trial.model, root, name=f"the branch {name}") for name, trial in trials.items()]
    checks = check_sources(sources, prepared.data.hash_parts(), allows_test_overlap=allows_overlap)
    for check, trial in zip(checks, trials.values(), strict=True):
        if check.n_valid and not allows_overlap:
            raise DataError(
                f"Validation images score the pairs, so a branch must not be trained on them; {check.n_valid} of "
                f"{check.valid_size} are training images of {check.source}. Omit --seed and the fractions to use the split of "
                f"its study (seed {trial.spec.seed}), or pass --test-overlap allow."
            )
    classes = prepared.split.classes
    others = [
        f"The branch {name} was trained for the classes {', '.join(trial.split.classes)} instead of {', '.join(classes)}."
        for name, trial in trials.items()
        if trial.split.classes != classes
    ]
    return [*others, *warnings_of(checks)]


def _pool(
    config: TrialConfig, index: int, branch: Branch, cuts: Sequence[str], prepared: PreparedImages
) -> dict[str, np.ndarray]:
    """Return the cached pooled features of all training and validation images by cut of a branch (index 0 or 1)."""
    from automl_cxr.model.branches import build_branch  # imports Keras, which is not needed for a usage error
    from automl_cxr.training.frozen_features import pooled_features

    network, layers = build_branch(config, index, cuts=cuts, weights_folder=prepared.weights_folder)
    images = open_images(prepared.images)
    pooled = pooled_features(network, list(layers.values()), images, label=branch.name)
    return {cut: pooled[layer] for cut, layer in layers.items()}


def _find_parents(
    first: Branch,
    second: Branch,
    features: Sequence[Mapping[str, np.ndarray]],
    scores: Mapping[Pair, PairScore],
    costs: Mapping[Pair, Cost],
    split: SplitRecord,
) -> list[Parent]:
    """Return each complete branch with a ridge head, and each trial with its trained head if validation images are equal."""
    parents = []
    complete: list[tuple[Branch, Pair]] = [(first, (list(features[0])[-1], None))]
    if len(features) > 1:
        complete.append((second, (None, list(features[1])[-1])))
    for branch, pair in complete:
        parents.append(Parent(f"{branch.name}, complete, with a ridge head", scores[pair].predictions, costs[pair].parameters))
        if branch.trial is not None and branch.trial.split.valid.images == split.valid.images:
            predictions = Predictions.from_npz(branch.trial.predictions)
            if predictions.classes == split.classes:
                parents.append(
                    Parent(
                        f"{branch.name}{AS_TRAINED}",
                        predictions,
                        _count_parameters(branch.trial.config, len(predictions.classes)),
                    )
                )
    return parents


def _count_parameters(config: TrialConfig, n_classes: int) -> int:
    from automl_cxr.model.memory_estimate import measure_size

    return measure_size(config, n_classes).parameters
