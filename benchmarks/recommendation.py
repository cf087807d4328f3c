"""Choose between the best trial and several ensembles by several rules, and score the choice on other patients.

    python benchmarks/recommendation.py --data --splits 20

The rules see the validation predictions of the ten candidates whose models a search keeps. Each row is the mean test macro-F1
over the splits, in points, with a 95 % t interval of the difference to the best trial alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from prediction_sets import RECIPES, PredictionSet, cheap_members, draw_set, radiograph_sets
from radiographs import default_radiographs, default_weights
from scipy import stats

from automl_cxr.ensemble.build import AUTO, build_weight_scorer, compare_methods
from automl_cxr.ensemble.member_selection import choose_diverse
from automl_cxr.ensemble.objective import MACRO_F1
from automl_cxr.ensemble.pipeline import combine_members
from automl_cxr.results.recommendation import MAX_MEMBERS
from automl_cxr.scoring.predictions import align
from automl_cxr.study.options import DEFAULT_KEEP_MODELS

ORDERS = {
    "geometric, then average, then best": ("geometric", "average", "best"),
    "average, then best, then greedy": ("average", "best", "greedy"),
    "best, then average, then greedy": ("best", "average", "greedy"),
}
ALWAYS = ("geometric", "average", "greedy")


def all_sets(arguments: argparse.Namespace) -> Iterator[tuple[PredictionSet, list[str]]]:
    """Yield prediction sets with the family of each member."""
    for recipe in RECIPES:
        families = [str(member % recipe.n_families) for member in range(recipe.n_members)]
        yield from ((draw_set(recipe, seed), families) for seed in range(arguments.splits))
    if arguments.data:
        families = [name.rstrip("0123456789.e-") for name in cheap_members()]
        with tempfile.TemporaryDirectory() as folder:
            features = Path(arguments.features or Path(folder) / "features.npz")
            for one in radiograph_sets(arguments.data, arguments.weights, range(arguments.splits), features):
                yield one, families


def keep(scores: np.ndarray, families: Sequence[str], *, of_each_family: bool) -> list[int]:
    """Return the members whose models a search keeps, best first."""
    order = np.argsort(-scores, kind="stable").tolist()
    first = list({families[member]: member for member in reversed(order)}.values()) if of_each_family else []
    kept = list(dict.fromkeys((order[0], *sorted(first, key=order.index), *order)))[:DEFAULT_KEEP_MODELS]
    return sorted(kept, key=order.index)


def score_rules(one: PredictionSet, families: Sequence[str]) -> dict[str, float]:
    """Return the test macro-F1 of the choice of each rule."""
    scores = np.array([MACRO_F1.score(member.labels, member.probabilities) for member in one.valid])
    test, images = align(one.test)
    labels = images.labels
    found = {"best trial": MACRO_F1.score(labels, test[scores.argmax()])}
    for of_each_family in (False, True):
        kept = keep(scores, families, of_each_family=of_each_family)
        scorer, _ = build_weight_scorer([one.valid[member] for member in kept], MACRO_F1)
        groups = [families[member] for member in kept] if of_each_family else None
        members = [kept[position] for position in choose_diverse(scorer, MAX_MEMBERS, kinds=groups)]
        source = "with families" if of_each_family else "without families"
        chosen_members = [one.valid[member] for member in members]
        names = list(map(str, members))
        for name, order in ORDERS.items():
            chosen = combine_members(chosen_members, names=names, method=AUTO, compared=order)
            found[f"{source}: {name}"] = MACRO_F1.score(labels, chosen.combiner.combine(test[members]))
        for method, fitted in compare_methods(chosen_members, methods=ALWAYS).items():
            found[f"{source}: always {method}"] = MACRO_F1.score(labels, fitted.combiner.combine(test[members]))
    return found


def describe(differences: np.ndarray) -> str:
    """Format a mean with its 95 % t interval over the splits."""
    low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
    return f"{differences.mean():+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Print one table for each collection of prediction sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=20, help="number of sets of each collection")
    parser.add_argument("--data", nargs="?", const=default_radiographs(), help="folder of radiographs")
    parser.add_argument("--weights", default=default_weights(), help="folder of pretrained weights")
    parser.add_argument("--features", help="file (npz) of the pooled SqueezeNet features, computed if it does not exist")
    rows: dict[str, list[dict[str, float]]] = {}
    for one, families in all_sets(parser.parse_args()):
        rows.setdefault(one.name, []).append(score_rules(one, families))
    for name, found in rows.items():
        print(f"| {name} | test macro-F1 | minus the best trial |\n| --- | --- | --- |")
        best = np.array([row["best trial"] for row in found])
        for rule in found[0]:
            scores = np.array([row[rule] for row in found])
            print(f"| {rule} | {100 * scores.mean():.2f} | {'' if rule == 'best trial' else describe(100 * (scores - best))} |")
        print(flush=True)


if __name__ == "__main__":
    main()
