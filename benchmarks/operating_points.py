"""Frozen operating points on new patients, in simulations: how often their aim holds.

For each simulation, three members predict the images of a validation part, an ensemble is fitted, and its frozen
thresholds are applied to a test part and to 4,000 other patients, whose sensitivity and specificity count as the truth:

    promise       the true value is at least the stated one
    interval      the 95 % interval of the test part contains the true value
    not refuted   the upper limit of that interval is at least the stated value

Run it with `PYTHONPATH=. python benchmarks/operating_points.py --simulations 100`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from automl_cxr.ensemble.pipeline import Combination, combine_members
from automl_cxr.results.operating_scores import score_operating_points
from automl_cxr.scoring.aims import Request
from automl_cxr.scoring.calibration import with_temperature
from automl_cxr.scoring.operating_points import choose_operating_points
from automl_cxr.scoring.predictions import Predictions

CLASSES = ("covid", "normal", "pneumonia")
SHARES = (0.25, 0.4, 0.35)
AIMS = ("covid: sensitivity>=0.9", "pneumonia: specificity>=0.9")
CONFIDENCES = (0.95, 0.0)
N_VALID, N_TEST, N_TRUTH = 500, 200, 4_000  # patients
_SKILLS = (1.6, 2.0, 2.4)  # distance of the class means, in standard deviations of the noise of images


@dataclass(frozen=True)
class Recipe:
    """The images of the patients of a simulation.

    Attributes:
        name: Name for the tables.
        correlation: Correlation of the noise of two images of one patient.
        n_images: "one", "one to three", or "one to many": a geometric distribution with a mean of three.
        is_informative: Whether patients with more images are easier to recognise.
    """

    name: str
    correlation: float
    n_images: str
    is_informative: bool = False


RECIPES = (
    Recipe("one image", 0.0, "one"),
    Recipe("one to three images, correlation 0.5", 0.5, "one to three"),
    Recipe("one to three images, correlation 1", 1.0, "one to three"),
    Recipe("one to many images, correlation 0.5", 0.5, "one to many"),
    Recipe("one to many images, correlation 1", 1.0, "one to many"),
    Recipe("one to many images, correlation 0.5, easier if many", 0.5, "one to many", is_informative=True),
)


def draw_members(recipe: Recipe, n_patients: int, rng: np.random.Generator) -> list[Predictions]:
    """Draw the predictions of all members for the images of some patients."""
    n_images = {
        "one": lambda: np.ones(n_patients, dtype=np.int64),
        "one to three": lambda: rng.integers(1, 4, size=n_patients),
        "one to many": lambda: rng.geometric(1 / 3, size=n_patients),
    }[recipe.n_images]()
    patients = np.repeat(np.arange(n_patients), n_images)
    labels = rng.choice(3, size=n_patients, p=SHARES)[patients]
    of_patients = rng.normal(size=(n_patients, 3))[patients]
    shared = np.sqrt(recipe.correlation) * of_patients
    shared += np.sqrt(1 - recipe.correlation) * rng.normal(size=(len(patients), 3))
    ease = 0.7 + 0.1 * n_images[patients].clip(max=6) if recipe.is_informative else np.ones(len(patients))
    names = tuple(f"p{patient}" for patient in patients)
    members = []
    for skill in _SKILLS:
        # The noise of a member is that of the patient as well, where images of one patient are copies.
        own = rng.normal(size=(n_patients, 3))[patients] if recipe.correlation == 1 else rng.normal(size=shared.shape)
        logits = skill * (skill * ease[:, None] * np.eye(3)[labels] + shared + 0.5 * own)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
        members.append(Predictions(tuple(map(str, range(len(patients)))), labels, probabilities, CLASSES, names))
    return members


def build(members: list[Predictions]) -> tuple[Combination, Predictions]:
    """Fit an ensemble; return it with the out-of-fold predictions on which its thresholds are chosen."""
    names = [f"member {number}" for number in range(len(members))]
    found = combine_members(members, names=names, method="average", compared=("average", "best"))
    assert found.comparison is not None  # there are enough patients
    unseen = found.comparison.methods["average"].predictions
    return found, unseen.with_probabilities(with_temperature(unseen.probabilities, found.calibration.temperature))


def simulate(recipe: Recipe, seed: int) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Yield for each aim and confidence what holds in one simulation, and the true value and its counterpart."""
    rng = np.random.default_rng((seed, len(recipe.name), int(100 * recipe.correlation)))
    valid, test, truth = (draw_members(recipe, n, rng) for n in (N_VALID, N_TEST, N_TRUTH))
    found, unseen = build(valid)
    for confidence in CONFIDENCES:
        points = choose_operating_points(unseen, [Request.parse(text) for text in AIMS], confidence=confidence)
        rows = []
        for members in (test, truth):
            combined = found.combiner.combine(np.stack([one.probabilities for one in members]))
            predictions = members[0].with_probabilities(combined)
            rows.append(score_operating_points(points, predictions, place="test part").table.to_dict(orient="records"))
        for text, tested, true in zip(AIMS, *rows, strict=True):
            aim = Request.parse(text).aim
            kind, other = (aim.kind, "specificity" if aim.kind == "sensitivity" else "sensitivity")
            yield (
                str(aim),
                confidence,
                {
                    "promise": true[kind] >= aim.value,
                    "interval": tested[f"{kind}_low"] <= true[kind] <= tested[f"{kind}_high"],
                    "interval of the other": tested[f"{other}_low"] <= true[other] <= tested[f"{other}_high"],
                    "not refuted": tested[f"{kind}_high"] >= aim.value,
                    "true value": true[kind],
                    "true other": true[other],
                },
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=100)
    parser.add_argument("--recipe", type=int, help="number of one recipe, from 0  [default: all]")
    options = parser.parse_args()
    n_simulations = options.simulations
    recipes = RECIPES if options.recipe is None else RECIPES[options.recipe : options.recipe + 1]
    columns = ("promise", "interval", "interval of the other", "not refuted", "true value", "true other")
    print("| images of patients | aim | confidence |", " | ".join(columns), "|")
    print("| --- " * (3 + len(columns)) + "|")
    for recipe in recipes:
        results: dict[tuple[str, float], list[dict[str, float]]] = defaultdict(list)
        for seed in range(n_simulations):
            for aim, confidence, row in simulate(recipe, seed):
                results[aim, confidence].append(row)
        for (aim, confidence), rows in results.items():
            means = [f"{np.mean([row[column] for row in rows]):.3f}" for column in columns]
            print(f"| {recipe.name} | {aim} | {confidence:g} | {' | '.join(means)} |", flush=True)


if __name__ == "__main__":
    main()
