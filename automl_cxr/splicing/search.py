"""Splice search: every pair of cuts of two networks, scored in one go.

find both branches                     a published network or a trained trial each
read, split and decode the images      as the study will that the best pairs are put into
run each branch over them, once        pooled features at all of its cuts, from the cache or into it
fit a quick head to every pair         and to every cut alone
count what each network would cost     with the head that is to be put on it
mark the Pareto front                  score against parameters
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
from automl_cxr.errors import DataError, UsageError
from automl_cxr.records import SplitRecord
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.splicing.branches import Branch, join_branches
from automl_cxr.splicing.costs import Cost, count_costs
from automl_cxr.splicing.pair_scoring import OnPair, Pair, PairScore, score_pairs
from automl_cxr.splicing.record import AS_TRAINED, SpliceRecord
from automl_cxr.splicing.ridge_head import RidgeHead
from automl_cxr.splicing.table import Parent, compare_with_parents, tabulate
from automl_cxr.study.data_preparation import OnProgress
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import PreparedImages, prepare_images

SETTINGS: Mapping[str, Any] = {
    "projection": 0,
    "n_dense": 0,
    "dropout": 0.0,
    "learning_rate": 1e-4,
    "frozen_share": 0.3,
    "unfreeze": 10_000,
    "fine_tune_rate": 3e-5,
    "freeze_norm": True,  # the head is fitted on features of normalisation by its averages; a batch's are others
    "augmentation": 0.0,
}
"""Head and training of the networks that the best pairs become.

The head is the one that was scored, and training begins with it, in small steps and without augmentation, which the head has
not seen. Batch normalisation keeps its averages, on which the head was fitted. The epochs before the branches are set free
train the head alone, and are kept where they stay the best.
"""


@dataclass(frozen=True)
class SpliceScores:
    """Every pair of cuts, scored.

    Attributes:
        first: The first branch.
        second: The second.
        cuts: Cuts of each that were scored, from shallow to deep.
        table: The leaderboard; see ``splicing.table.tabulate``.
        parents: The best pair beside whole networks; see ``splicing.table.compare_with_parents``.
        request: What was asked for, completed from the studies of the branches.
        config: The network of all pairs, but for their cuts.
        heads: Quick head of each pair.
        n_train: Training images; n_valid: validation images, by which pairs are scored.
        notes: Sentences for the user to read.
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
    notes: tuple[str, ...]

    @property
    def record(self) -> SpliceRecord:
        """What of it is kept with the study."""
        return SpliceRecord(
            first=self.first.name,
            second=self.second.name,
            cuts=self.cuts,
            table=self.table,
            parents=self.parents,
            n_train=self.n_train,
            n_valid=self.n_valid,
        )


def inherit_settings(request: SearchOptions, branches: Sequence[Branch]) -> SearchOptions:
    """Take what was not said from the study that a branch was trained in, so that its sealed images stay sealed.

    Raises:
        UsageError: A branch takes images of another size, or shown in another way, than was said or than the other does.
    """
    trials = [branch.trial for branch in branches if branch.trial is not None]
    if not trials:
        return request
    said = dataclasses.asdict(request)
    for trial in trials:
        spec = trial.spec
        if request.folds:
            raise UsageError("Pairs are scored on one validation part; received --folds. Leave it out.")
        for name, has in (("image_size", trial.config.image_size), ("fit", trial.config.fit)):
            if said[name] not in (None, has):
                raise UsageError(
                    f"The branch {spec.name}/{trial.number} was trained with {name} {has}; received {said[name]}. "
                    "Leave it out where it was said; where it is the other branch's, take one that agrees."
                )
            said[name] = has
    spec = trials[0].spec
    is_same_data = request.data is None or Path(request.data).expanduser().absolute() == Path(spec.data)
    inherited = ["data", "classes", "valid_fraction", "test_fraction", "seed", "normal_class", "weights_folder"]
    for name in [*inherited, *(["layout", "patients"] if is_same_data else [])]:
        if said[name] is None:
            said[name] = getattr(spec, name)
    return SearchOptions(**said)


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
    """Score every pair of cuts of two branches with quick heads. The test part is not touched.

    Args:
        first: The first branch.
        second: The second; the same one stands for two cuts of one network.
        request: Data, split, image size and hyperparameters by hand.
        cuts: Layers or numbers of splice points of the first branch; all splice points if there are none.
        second_cuts: The same of the second.
        on_decoding: Told (images decoded, images in all).
        on_pair: Told (heads fitted, heads in all).

    Raises:
        UsageError: Branches that do not fit together, a cut that there is not, or an impossible setting.
        DataError: The data cannot serve, or a branch has learnt from images that are to judge it.
        TrialError: A branch cannot be built.
    """
    request = inherit_settings(request, (first, second))
    values = {**SETTINGS, **join_branches(first, second), **(request.fixed or {})}
    prepared = prepare_images(request, on_progress=on_decoding)
    split = prepared.split
    notes = [
        *prepared.notes,
        *(note for branch in {first.name: first, second.name: second}.values() for note in _check(branch, split)),
    ]
    config = TrialConfig.from_values({**values, "image_size": prepared.image_size, "fit": prepared.fit})
    is_same = first == second and not second_cuts
    features = [_pool(config, 0, first, cuts, prepared)]
    features += [] if is_same else [_pool(config, 1, second, second_cuts, prepared)]
    scores = score_pairs(features[0], features[-1], split, same=is_same, on_pair=on_pair)
    costs = count_costs(scores, config, len(split.classes))
    table = tabulate(scores, costs, seed=split.seed)
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
            seed=split.seed,
        ),
        request=request,
        config=config,
        heads={pair: score.head for pair, score in scores.items() if None not in pair},
        n_train=len(split.train.images),
        n_valid=len(split.valid.images),
        notes=tuple(notes),
    )


def _check(branch: Branch, split: SplitRecord) -> list[str]:
    """Refuse a branch that has learnt from images which are to judge it; tell what else parts it from these images.

    Raises:
        DataError: It has, or it was chosen by images that are sealed now.
    """
    if branch.trial is None:
        return []
    was = branch.trial.split
    for before, now, what in (
        (was.train.images, split.valid.images, "learnt from {} of the validation images"),
        ((*was.train.images, *was.valid.images), split.test, "learnt from, or was chosen by, {} of the sealed test images"),
    ):
        n_seen = len(set(before) & set(now))
        if n_seen:
            raise DataError(
                f"The branch {branch.name} has {what.format(n_seen)}, so that scores would be too good. Leave --seed and the "
                f"fractions out: the split is then that of its study (seed {branch.trial.spec.seed})."
            )
    if was.classes != split.classes:
        return [f"The branch {branch.name} was trained to tell {', '.join(was.classes)} apart, not {', '.join(split.classes)}."]
    return []


def _pool(
    config: TrialConfig, place: int, branch: Branch, cuts: Sequence[str], prepared: PreparedImages
) -> dict[str, np.ndarray]:
    """Give the pooled features of all training and validation images at each cut of a branch, from the cache or into it."""
    from automl_cxr.model.branches import build_branch  # Keras, which wrong words need not wait for
    from automl_cxr.training.frozen_features import pooled_features

    network, places = build_branch(config, place, cuts=cuts, weights_folder=prepared.weights_folder)
    images = np.load(prepared.images, mmap_mode="r", allow_pickle=False)
    pooled = pooled_features(network, list(places.values()), images, label=branch.name)
    return {cut: pooled[at] for cut, at in places.items()}


def _find_parents(
    first: Branch,
    second: Branch,
    features: Sequence[Mapping[str, np.ndarray]],
    scores: Mapping[Pair, PairScore],
    costs: Mapping[Pair, Cost],
    split: SplitRecord,
) -> list[Parent]:
    """Find each branch alone at its deepest cut, with a quick head, and each trial as it was trained, if on the same images."""
    parents = []
    alone: list[tuple[Branch, Pair]] = [(first, (list(features[0])[-1], None))]
    if len(features) > 1:
        alone.append((second, (None, list(features[1])[-1])))
    for branch, pair in alone:
        parents.append(Parent(f"{branch.name}, whole, with a quick head", scores[pair].predictions, costs[pair].parameters))
        if branch.trial is not None and branch.trial.split.valid.images == split.valid.images:
            said = Predictions.from_npz(branch.trial.predictions)
            if said.classes == split.classes:
                parents.append(Parent(f"{branch.name}{AS_TRAINED}", said, _count(branch.trial.config, len(said.classes))))
    return parents


def _count(config: TrialConfig, n_classes: int) -> int:
    from automl_cxr.model.memory_estimate import measure_size

    return measure_size(config, n_classes).parameters
