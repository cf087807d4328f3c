"""How well traits that are not anatomy tell the classes: a random forest on all of them, and a small tree on each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from automl_cxr.data.audit.image_statistics import FORMAT

LARGEST_FOLDS = 5
_N_TREES = 50  # twice as many came to 0.861 instead of 0.857 macro-F1 on 910 radiographs, within the interval
_IMAGES_A_TREE = 10_000  # at most, so that a large data set takes minutes
_LEAVES = 8  # of the tree that sees one trait


def divide(labels: np.ndarray, patients: Sequence[str], *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide images into folds by patient, with the classes in about equal shares.

    Args:
        labels: Index of the class of each image, int (n,).
        patients: Patient of each.
        seed: Decides which patients go where.

    Returns:
        Rows to learn from and rows to judge by, for each of five folds, or of as many as the rarest class has patients; none
        where it has less than two.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    table = pd.DataFrame({"label": labels, "patient": list(patients)})
    n_folds = min(LARGEST_FOLDS, int(table.groupby("label")["patient"].nunique().min()))
    if n_folds < 2:
        return []
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    return [
        (learn, judge) for learn, judge in folds.split(table[["label"]], labels, table["patient"]) if learn.size and judge.size
    ]


def forest_out_of_fold(
    traits: pd.DataFrame, labels: np.ndarray, n_classes: int, folds: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0
) -> np.ndarray:
    """Let a random forest (Breiman 2001) on all traits judge the patients that it did not learn from.

    Args:
        traits: What ``measure_image_statistics`` gave, a row an image.
        labels: Index of the class of each image, int (n,).
        n_classes: Classes there are.
        folds: Of ``divide``; together they judge every image once.
        seed: Of the trees.

    Returns:
        Probabilities, float32 (n, n_classes).
    """
    from sklearn import config_context
    from sklearn.ensemble import RandomForestClassifier

    values = _as_numbers(traits)
    probabilities = np.zeros((len(labels), n_classes), np.float32)
    for learn, judge in folds:
        forest = RandomForestClassifier(
            _N_TREES,
            min_samples_leaf=2,
            class_weight="balanced",
            max_samples=min(len(learn), _IMAGES_A_TREE),
            random_state=seed,
        )
        with config_context(skip_parameter_validation=True):  # which takes longer than a tree of few images
            forest.fit(values[learn], labels[learn])
            probabilities[judge[:, None], forest.classes_] = forest.predict_proba(values[judge])
    return probabilities


def tree_predictions_out_of_fold(
    traits: pd.DataFrame, labels: np.ndarray, n_classes: int, folds: Sequence[tuple[np.ndarray, np.ndarray]], *, seed: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    """Let a tree of eight leaves on each trait alone judge the patients that it did not learn from; see ``forest_out_of_fold``.

    Yields:
        Name of the trait, and probabilities (n, n_classes).
    """
    from sklearn import config_context
    from sklearn.tree import DecisionTreeClassifier

    values = _as_numbers(traits)
    for column, name in enumerate(traits.columns):
        probabilities = np.zeros((len(labels), n_classes), np.float32)
        for learn, judge in folds:
            tree = DecisionTreeClassifier(
                max_leaf_nodes=_LEAVES, min_samples_leaf=2, class_weight="balanced", random_state=seed
            )
            with config_context(skip_parameter_validation=True):
                tree.fit(values[learn, column : column + 1], labels[learn])
                probabilities[judge[:, None], tree.classes_] = tree.predict_proba(values[judge, column : column + 1])
        yield name, probabilities


def _as_numbers(traits: pd.DataFrame) -> np.ndarray:
    """Number the file formats by how frequent they are."""
    codes = {name: code for code, name in enumerate(traits[FORMAT].value_counts().index)}
    return traits.assign(**{FORMAT: traits[FORMAT].map(codes)}).to_numpy(np.float32)
