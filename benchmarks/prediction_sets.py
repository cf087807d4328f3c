"""Validation and test predictions of many members, for fitting and testing ensembles.

The members are simulated, or trained on real radiographs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hyperband import compute_features

from automl_cxr.data.cache import decode_dataset
from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.split import split_dataset
from automl_cxr.scoring.predictions import Predictions

_PIXELS = 32
_FEATURES_IMAGE_SIZE = 224


@dataclass(frozen=True)
class PredictionSet:
    """Predictions of the same members for validation and test images.

    Attributes:
        name: Name of the collection of sets, for the tables.
        valid: The members' predictions for the images on which weights are fitted.
        test: The members' predictions for images of other patients.
    """

    name: str
    valid: list[Predictions]
    test: list[Predictions]


# ------------------------------------------------------------------------------------------------------------ simulated members


@dataclass(frozen=True)
class Recipe:
    """The parameters of a simulation of members.

    The evidence of an image is its one-hot label plus noise that is the same for all members. The logits of a member are the
    evidence times its skill, plus noise that its family shares, plus noise of its own.

    Attributes:
        name: Name for the tables.
        n_members: Number of members, in ``n_families`` families of about equal size.
        n_families: Number of families. Members of one family have correlated errors, like networks of one architecture.
        n_valid: Number of validation images.
        class_shares: Relative frequency of each class.
        skills: Lowest and highest skill.
    """

    name: str
    n_members: int
    n_families: int
    n_valid: int
    class_shares: tuple[float, ...]
    skills: tuple[float, float]


RECIPES = (
    Recipe("simulated: 24 members, 300 images, 3 classes", 24, 4, 300, (2, 1, 1), (0.6, 1.2)),
    Recipe("simulated: 6 members, 1292 images, 4 classes", 6, 2, 1292, (4, 3, 2, 1), (0.6, 1.4)),
    Recipe("simulated: 50 members, 150 images, 3 classes", 50, 5, 150, (3, 2, 1), (0.4, 1.2)),
)
_N_TEST = 20_000  # so many that the sampling error of the test images is negligible
_IMAGE_NOISE, _FAMILY_NOISE, _OWN_NOISE = 0.45, 0.6, 0.6  # standard deviations of the three noises; the label has the value 1


def draw_set(recipe: Recipe, seed: int) -> PredictionSet:
    """Simulate members, and images with one to three images per patient."""
    rng = np.random.default_rng((seed, len(recipe.name), recipe.n_members))
    skills = rng.uniform(*recipe.skills, size=recipe.n_members)
    sharpness = rng.uniform(1.0, 2.5, size=recipe.n_members)  # some members are overconfident
    tilts = rng.normal(0, 0.25, size=(recipe.n_members, len(recipe.class_shares)))
    families = np.arange(recipe.n_members) % recipe.n_families
    parts = [
        _draw_part(recipe, n, (skills, sharpness, tilts, families), rng, prefix)
        for n, prefix in ((recipe.n_valid, "v"), (_N_TEST, "t"))
    ]
    return PredictionSet(recipe.name, *parts)


def _draw_part(
    recipe: Recipe, n: int, members: tuple[np.ndarray, ...], rng: np.random.Generator, prefix: str
) -> list[Predictions]:
    skills, sharpness, tilts, families = members
    k = len(recipe.class_shares)
    patients = np.repeat(np.arange(n), rng.integers(1, 4, size=n))[:n]
    label_of_patient = rng.choice(k, size=n, p=np.array(recipe.class_shares) / sum(recipe.class_shares))
    labels = label_of_patient[patients]
    evidence = np.eye(k)[labels] + rng.normal(0, _IMAGE_NOISE, size=(n, k))
    family_noise = rng.normal(0, _FAMILY_NOISE, size=(recipe.n_families, n, k))
    ids, names = tuple(f"{prefix}{row}" for row in range(n)), tuple(f"{prefix}{patient}" for patient in patients)
    members_predictions = []
    for skill, sharp, tilt, family in zip(skills, sharpness, tilts, families, strict=True):
        noise = family_noise[family] + rng.normal(0, _OWN_NOISE, size=(n, k))
        logits = sharp * (skill * evidence + noise + tilt)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        members_predictions.append(Predictions(ids, labels, probabilities, tuple(f"class {c}" for c in range(k)), names))
    return members_predictions


# --------------------------------------------------------------------------------------------------- members on radiographs


def cheap_members() -> dict[str, tuple[str, Callable[[], Any]]]:
    """Return members for two kinds of input, "pixels" and "features": the kind and a scikit-learn model factory, by name."""
    from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def logistic(c: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=150))

    members: dict[str, tuple[str, Callable[[], Any]]] = {}
    for kind in ("pixels", "features"):
        for c in (1e-4, 1e-3, 1e-2, 1e-1):
            members[f"{kind}: logistic regression {c:g}"] = (kind, lambda c=c: logistic(c))
        members[f"{kind}: forest"] = (kind, lambda: RandomForestClassifier(150, min_samples_leaf=2, random_state=0))
        members[f"{kind}: balanced forest"] = (
            kind,
            lambda: ExtraTreesClassifier(150, min_samples_leaf=3, class_weight="balanced", random_state=0),
        )
        members[f"{kind}: neighbours"] = (kind, lambda: make_pipeline(StandardScaler(), KNeighborsClassifier(9)))
    return members


def radiograph_sets(data: str, weights: str, seeds: Iterable[int], features: Path) -> Iterator[PredictionSet]:
    """Yield the predictions of the cheap members for several splits by patient of a folder of radiographs.

    Each split has half of the images for training, and a quarter each for validation and test.

    Args:
        data: Folder of radiographs.
        weights: Folder of pretrained weights.
        seeds: Random seed of each split.
        features: File (npz) of the pooled SqueezeNet features. It is computed if it does not exist.
    """
    if not features.exists():
        compute_features(data, weights, _FEATURES_IMAGE_SIZE, features)
    with np.load(features) as stored:
        ids, labels = [str(name) for name in stored["ids"]], stored["labels"]
        inputs = {"features": stored["features"]}
    dataset = load_dataset(data)
    small = decode_dataset(dataset.root, tuple(ids), _PIXELS)
    inputs["pixels"] = np.asarray(small.open(), dtype=np.float32).reshape(len(ids), -1)
    patients = dataset.table.set_index("image")["patient_id"].loc[ids].tolist()
    row_of = {name: row for row, name in enumerate(ids)}
    for seed in seeds:
        split = split_dataset(dataset, ids, valid_fraction=0.25, test_fraction=0.25, seed=seed)
        train, valid, test = ([row_of[name] for name in part] for part in (split.train, split.valid, split.test))
        predictions: dict[str, list[Predictions]] = {"valid": [], "test": []}
        for kind, make in cheap_members().values():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # solvers that have not converged are acceptable here
                model = make().fit(inputs[kind][train], labels[train])
            for part, rows in (("valid", valid), ("test", test)):
                names, groups = tuple(ids[row] for row in rows), tuple(patients[row] for row in rows)
                probabilities = model.predict_proba(inputs[kind][rows])
                predictions[part].append(Predictions(names, labels[rows], probabilities, dataset.classes, groups))
        yield PredictionSet("radiographs, 14 members", predictions["valid"], predictions["test"])
