"""Measure the speed of the ensemble methods, their distance from the optimum, and their scores on other patients.

    python benchmarks/ensemble.py speed second growth exact memory              # 10 minutes on one core
    python benchmarks/ensemble.py splits settings                               # simulated members; 20 minutes
    python benchmarks/ensemble.py splits settings --data                        # also members trained on real radiographs

Times are CPU seconds of one thread. The parts of the benchmark are:

    speed     the genetic algorithm compared with a plain DEAP program
    second    the score that search methods reach in one CPU second
    growth    CPU time against the numbers of members, images, classes and individuals
    exact     how often the genetic algorithm reaches a known optimum
    memory    memory for a large population
    splits    ensemble methods, scored on the images of other patients
    settings  settings of the genetic algorithm, scored on the images of other patients
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from measure import machine_facts
from plain_deap import evolve_plainly, score_each_by_scikit_learn
from prediction_sets import RECIPES, PredictionSet, draw_set, radiograph_sets
from radiographs import default_radiographs, default_weights, existing_folder
from threadpoolctl import threadpool_limits

from automl_cxr.ensemble.baselines import greedy_weights, rank_members, top_k_weights
from automl_cxr.ensemble.build import METHODS, build_weight_scorer
from automl_cxr.ensemble.combiners import Combiner, WeightedAverage
from automl_cxr.ensemble.exact_two_member import exact_two_member_weights
from automl_cxr.ensemble.genetic import evolve_weights, seed_weights
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS, GeneticSettings
from automl_cxr.ensemble.method_comparison import compare_methods_out_of_fold
from automl_cxr.ensemble.objective import MACRO_F1
from automl_cxr.ensemble.weight_scoring import WeightScorer
from automl_cxr.scoring.predictions import Predictions, align

# The algorithm without regularisation: it evolves once, on all images, and maximises the objective only.
UNREGULARISED = GeneticSettings(halvings=0, brier_weight=0.0, shrinkage=0.0, restarts=3, patience=50)
REFERENCE = (6, 1292, 4)  # members, images, classes
Fit = Callable[[WeightScorer, tuple[str, ...]], Combiner]

BY_CLASS = "ga-by-class"


def draw_weight_scorer(n_members: int, n_images: int, n_classes: int, seed: int) -> WeightScorer:
    """Simulate members of different accuracy with independent errors."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_classes, size=n_images)
    probabilities = np.empty((n_members, n_images, n_classes), dtype=np.float32)
    for member in probabilities:
        logits = rng.standard_normal((n_images, n_classes), dtype=np.float32) * rng.uniform(0.8, 3)
        logits[np.arange(n_images), labels] += 1
        member[:] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return WeightScorer(probabilities, labels)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    started = time.process_time()
    work()
    return time.process_time() - started


# -------------------------------------------------------------------------------------------------------- speed and optimum


def speed() -> None:
    """Compare with the plain DEAP program. Operators, population, generations and first population are equal."""
    scorer = draw_weight_scorer(*REFERENCE, seed=0)
    seeds = [weights.tolist() for weights in seed_weights(scorer)]
    plain_fitness = score_each_by_scikit_learn(scorer.probabilities, scorer.labels)
    settings = replace(UNREGULARISED, restarts=1, patience=201)
    own = [cpu_seconds(lambda seed=seed: evolve_weights(scorer, replace(settings, seed=seed))) for seed in range(5)]
    plain = cpu_seconds(lambda: evolve_plainly(plain_fitness, 6, population=100, generations=200, seed=0, seeds=seeds))
    print("| 6 members, 1,292 images, 4 classes, population 100, 200 generations | CPU s | ratio |\n| --- | --- | --- |")
    print(f"| automl-cxr, median of 5 | {np.median(own):.2f} | 1 |")
    print(f"| plain DEAP, f1_score for each individual | {plain:.1f} | {plain / np.median(own):.0f} |\n", flush=True)


def second() -> None:
    """Maximise the macro-F1 of the same images with several methods for one CPU second each, in ten problems."""
    found: dict[str, list[float]] = {"genetic algorithm": [], "differential evolution": [], "greedy selection": []}
    for seed in range(10):
        scorer = build_weight_scorer(draw_set(RECIPES[1], seed).valid, MACRO_F1)[0]
        found["genetic algorithm"].append(_run_genetic_algorithm(scorer, seed))
        found["differential evolution"].append(_run_differential_evolution(scorer, seed))
        found["greedy selection"].append(float(scorer.score(greedy_weights(scorer)[None])[0]))
    print("| macro-F1 on the fitting images after one CPU second | mean | each seed |\n| --- | --- | --- |")
    for name, scores in found.items():
        print(f"| {name} | {np.mean(scores):.4f} | {', '.join(f'{score:.4f}' for score in scores)} |")
    print("\nGreedy selection ends after some milliseconds.\n", flush=True)


def _run_genetic_algorithm(scorer: WeightScorer, seed: int) -> float:
    started, best, number = time.process_time(), -np.inf, 0
    while time.process_time() - started < 1:
        settings = replace(UNREGULARISED, restarts=1, patience=30, seed=1000 * seed + number)
        best, number = max(best, evolve_weights(scorer, settings).score), number + 1
    return best


def _run_differential_evolution(scorer: WeightScorer, seed: int) -> float:
    """Run SciPy's differential evolution with its default settings and the same vectorised fitness function."""
    from scipy.optimize import differential_evolution

    started, best = time.process_time(), [-np.inf]

    def losses(columns: np.ndarray) -> np.ndarray:
        scores = scorer.score(columns.T / columns.T.sum(axis=1, keepdims=True))
        best[0] = max(best[0], float(scores.max()))
        return -scores

    differential_evolution(
        losses,
        [(1e-6, 1)] * scorer.n_members,
        maxiter=10**6,
        tol=0,
        polish=False,
        vectorized=True,
        updating="deferred",
        rng=seed,
        callback=lambda intermediate_result: time.process_time() - started > 1,
    )
    return best[0]


def growth() -> None:
    """Measure 50 generations for several numbers of members, images, classes and individuals; one of them varies at a time."""
    print("| 50 generations | | | | |\n| --- | --- | --- | --- | --- |")
    base = {"members": 6, "images": 1292, "classes": 4, "population": 100}
    sizes = {"members": (2, 6, 24, 50), "images": (300, 1292, 10_000, 100_000), "classes": (2, 4, 8, 14)}
    for quantity, values in {**sizes, "population": (50, 100, 200, 400)}.items():
        cells = []
        for value in values:
            size = {**base, quantity: value}
            scorer = draw_weight_scorer(size["members"], size["images"], size["classes"], seed=0)
            settings = replace(UNREGULARISED, restarts=1, generations=50, patience=51, population=size["population"])
            cells.append(f"{value:,}: {cpu_seconds(lambda b=scorer, s=settings: evolve_weights(b, s)):.2f} s")
        print(f"| {quantity} | {' | '.join(cells)} |", flush=True)
    print(flush=True)


def exact() -> None:
    """Count how often the algorithm without regularisation reaches a known optimum."""
    pairs, triples = [], []
    for seed in range(100):
        rng = np.random.default_rng((7, seed))
        scorer = draw_weight_scorer(2, int(rng.choice([60, 200, 600, 1292])), int(rng.integers(2, 6)), seed)
        optimum = scorer.score(exact_two_member_weights(scorer)[None])[0]
        pairs.append(evolve_weights(scorer, replace(UNREGULARISED, seed=seed)).score >= optimum - 1e-12)
    grid = np.array([(a, b, 100 - a - b) for a in range(101) for b in range(101 - a)]) / 100
    for seed in range(20):
        scorer = draw_weight_scorer(3, 300, 3, seed)
        triples.append(evolve_weights(scorer, replace(UNREGULARISED, seed=seed)).score >= scorer.score(grid).max() - 1e-12)
    print("| without regularisation, 3 restarts | reached the optimum |\n| --- | --- |")
    print(f"| two members, exact optimum (the first population contains it) | {sum(pairs)} of {len(pairs)} |")
    print(
        f"| three members, optimum of a grid in steps of 0.01 (5,151 points) | {sum(triples)} of {len(triples)} |\n", flush=True
    )


def memory() -> None:
    """Measure memory and CPU time of scoring a population with 100,000 images, 50 members and 14 classes."""
    scorer = draw_weight_scorer(50, 100_000, 14, seed=0)
    weights = np.random.default_rng(0).dirichlet(np.ones(50), size=100)
    rss = psutil.Process().memory_info().rss
    seconds = cpu_seconds(lambda: scorer.score(weights))
    tracemalloc.start()
    scorer.score(weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print("100,000 images, 50 members, 14 classes, population 100: the process uses ", end="")
    print(
        f"{rss / 2**20:.0f} MiB, of which the members' probabilities take {scorer.probabilities.nbytes / 2**20:.0f} MiB; ",
        end="",
    )
    print(f"scoring takes up to {peak / 2**20:.1f} MiB more and {seconds:.1f} CPU s.\n", flush=True)


# ------------------------------------------------------------------------------------------------------- other patients--


def _naive(scorer: WeightScorer, patients: tuple[str, ...]) -> Combiner:
    def fitness(individuals: list[list[float]]) -> list[float]:
        return scorer.score(np.array(individuals)).tolist()

    weights, _ = evolve_plainly(fitness, scorer.n_members, population=100, generations=100, seed=0)
    return WeightedAverage(np.array(weights))


def _top_5(scorer: WeightScorer, patients: tuple[str, ...]) -> Combiner:
    return WeightedAverage(top_k_weights(rank_members(scorer), min(5, scorer.n_members)))


def _method(method: str, settings: GeneticSettings = DEFAULT_SETTINGS) -> Fit:
    return lambda scorer, patients: METHODS[method].fit(scorer, patients, settings)


COMPARED: Mapping[str, Fit] = {
    BY_CLASS: _method(BY_CLASS),
    "best single": _method("best"),
    "top-5 mean": _top_5,
    "average": _method("average"),
    "greedy": _method("greedy"),
    "naive GA": _naive,
    "stacking": _method("stacking"),
    "ga": _method("ga"),
}
SETTINGS: Mapping[str, Fit] = {
    "ga": _method("ga"),
    **{
        ", ".join(f"{name} {value:g}" for name, value in changes.items()): _method("ga", replace(DEFAULT_SETTINGS, **changes))
        for changes in (
            {"halvings": 0},
            {"halvings": 0, "brier_weight": 0.0, "shrinkage": 0.0},
            {"halvings": 1},
            {"brier_weight": 0.0},
            {"brier_weight": 3.0},
            {"shrinkage": 0.0},
            {"shrinkage": 0.3},
            {"restarts": 3},
        )
    },
}


def all_sets(arguments: argparse.Namespace) -> Iterator[PredictionSet]:
    """Yield the simulated prediction sets and, with ``--data``, those of radiographs."""
    seeds = range(arguments.first, arguments.first + arguments.splits)
    for recipe in RECIPES:
        yield from (draw_set(recipe, seed) for seed in seeds)
    if arguments.data:
        with tempfile.TemporaryDirectory() as folder:
            features = Path(arguments.features or Path(folder) / "features.npz")
            yield from radiograph_sets(arguments.data, arguments.weights, seeds, features)


def compare_on_other_patients(arguments: argparse.Namespace, fits: Mapping[str, Fit], *, out_of_fold: bool) -> None:
    """Fit on validation images and score on test images. Print one table for each collection and one for all splits.

    Args:
        arguments: The command line.
        fits: Functions that fit a combiner, by name. All others are compared with the first one.
        out_of_fold: Whether the out-of-fold score of the default method is compared with its test score.
    """
    reference = next(iter(fits))
    scores_of: dict[str, dict[str, list[tuple[float, float]]]] = {}
    differences: dict[str, list[float]] = {}
    for prediction_set in all_sets(arguments):
        scorer, images = build_weight_scorer(prediction_set.valid, MACRO_F1)
        test, labels = align(prediction_set.test)[0], prediction_set.test[0].labels
        rows = scores_of.setdefault(prediction_set.name, {name: [] for name in fits})
        for name, fit in fits.items():
            combiner = fit(scorer, images.patients)
            scores = [
                MACRO_F1.score(y, combiner.combine(p)) for y, p in ((images.labels, scorer.probabilities), (labels, test))
            ]
            rows[name].append((100 * scores[0], 100 * scores[1]))
        if out_of_fold:
            difference = _out_of_fold(prediction_set.valid) - rows[reference][-1][1]
            differences.setdefault(prediction_set.name, []).append(difference)
    for collection, rows in scores_of.items():
        _print_comparison(collection, rows)
        if out_of_fold:
            print(f"Out-of-fold score of {reference} minus its test score: {_interval(differences[collection])}.\n")
    everything = {name: [pair for rows in scores_of.values() for pair in rows[name]] for name in fits}
    _print_comparison(f"all {len(everything[reference])} splits", everything)


def _out_of_fold(valid: list[Predictions]) -> float:
    """Return the out-of-fold score of the default method, as ``ensemble build`` prints it; NaN with too few patients."""
    comparison = compare_methods_out_of_fold(valid, methods=(BY_CLASS,))
    return float("nan") if comparison is None else 100 * comparison.methods[BY_CLASS].score


def _print_comparison(collection: str, rows: Mapping[str, list[tuple[float, float]]]) -> None:
    first = next(iter(rows))
    reference = np.array(rows[first])
    print(
        f"| {collection} | test macro-F1 | validation minus test | {first} minus this method, test |\n| --- | --- | --- | --- |"
    )
    for name, pairs in rows.items():
        scores = np.array(pairs)
        difference = "" if name == first else _interval(reference[:, 1] - scores[:, 1])
        print(f"| {name} | {scores[:, 1].mean():.2f} | {(scores[:, 0] - scores[:, 1]).mean():+.2f} | {difference} |")
    print(flush=True)


def _interval(differences: list[float] | np.ndarray) -> str:
    """Format a mean with its 95 % t interval over the splits."""
    from scipy.stats import t

    values = np.asarray(differences)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.2f} ({values.mean() - half:+.2f} to {values.mean() + half:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    without_splits = {"speed": speed, "second": second, "growth": growth, "exact": exact, "memory": memory}
    parser.add_argument("parts", nargs="+", choices=[*without_splits, "splits", "settings"], help="parts to run")
    parser.add_argument("--splits", type=int, default=20, help="number of splits of each collection")
    parser.add_argument(
        "--first",
        type=int,
        default=0,
        help="random seed of the first split; use other seeds than those that selected a setting",
    )
    parser.add_argument(
        "--data",
        nargs="?",
        type=existing_folder,
        const=default_radiographs(),
        help="folder of radiographs with patients; without a value, data/covid3 in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument(
        "--weights",
        default=default_weights(),
        help="folder of pretrained weights; by default weights in the folder of $AUTOML_CXR_TEST_DATA",
    )
    parser.add_argument("--features", help="npz file in which the features of the radiographs are cached")
    arguments = parser.parse_args()
    print(machine_facts() + "\n", flush=True)
    with threadpool_limits(1):
        for part in arguments.parts:
            if part in without_splits:
                without_splits[part]()
            else:
                compare_on_other_patients(arguments, COMPARED if part == "splits" else SETTINGS, out_of_fold=part == "splits")


if __name__ == "__main__":
    main()
