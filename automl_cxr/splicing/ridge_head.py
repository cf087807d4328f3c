"""Heads in closed form: ridge regression on standardised features, its penalty chosen with each patient left out.

of each cut         standardise its features on the training part; weigh every class alike; centre
                    Gram matrix of its features, or of its images where there are fewer of these
of a pair of cuts   Gram matrix of both: blocks of features, or the sum over images
                    its eigenvectors, which serve every penalty
of each penalty     what the head says of each patient when it has not learnt from that patient
the best penalty    what it says of the validation images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from automl_cxr.errors import DataError

PENALTIES = np.logspace(-5, 2, 15)
"""Penalties that are tried, as multiples of the mean sum of squares of an image's features."""

_SHARPNESS = np.logspace(0, 2, 41)
_TINY = 1e-12
_NEGLIGIBLE = 1e-10  # of the largest eigenvalue: directions that hold rounding errors alone
_CONSTANT = 1e-6  # deviation, as a share of a feature's size, below which it tells nothing


@dataclass(frozen=True)
class TrainingImages:
    """The images that heads learn from.

    Attributes:
        labels: Class of each, int (n,).
        patients: Patient of each, (n,).
        n_classes: Number of classes, k.

    Raises:
        DataError: There is one patient only, so that none can be left out.
    """

    labels: np.ndarray
    patients: Sequence[str]
    n_classes: int

    def __post_init__(self) -> None:
        if len(set(self.patients)) < 2:
            raise DataError(
                f"A quick head leaves out one patient after the other, so it needs training images of at least two; "
                f"received {len(set(self.patients))}. Check how patients are found (`automl-cxr data inspect`)."
            )

    @cached_property
    def roots(self) -> np.ndarray:
        """Square roots of the images' weights N / (k n_class), (n,): what a row of a weighted regression is multiplied by."""
        counts = np.bincount(self.labels, minlength=self.n_classes)
        return np.sqrt(len(self.labels) / (self.n_classes * counts[self.labels]))

    @cached_property
    def constant(self) -> np.ndarray:
        """The intercept's column of the regression, of length 1, (n,)."""
        return self.roots / np.linalg.norm(self.roots)

    @cached_property
    def targets(self) -> np.ndarray:
        """1 in the column of its class for each image, else 0, weighted and centred, (n, k)."""
        return self.centre(np.eye(self.n_classes)[self.labels])

    def centre(self, columns: np.ndarray) -> np.ndarray:
        """Weigh the rows of (n, m) and take the intercept out of them."""
        weighted = columns * self.roots[:, None]
        return weighted - np.outer(self.constant, self.constant @ weighted)

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Rows of the patients' images, int (n_patients, n_images), one array for each number of images of a patient."""
        rows_of: dict[str, list[int]] = {}
        for row, patient in enumerate(self.patients):
            rows_of.setdefault(patient, []).append(row)
        sizes = sorted({len(rows) for rows in rows_of.values()})
        return [np.array([rows for rows in rows_of.values() if len(rows) == size]) for size in sizes]


class CutFeatures:
    """The pooled features of one cut, ready for regression.

    Args:
        train: Features of the training images, (n, d).
        valid: Features of the validation images, (m, d).
        images: The training images.

    Attributes:
        train, valid: The same, standardised and centred; rows of ``train`` are weighted.
        centre: What is taken off a feature, (d,), and ``scale`` what it is then multiplied by.
    """

    def __init__(self, train: np.ndarray, valid: np.ndarray, images: TrainingImages) -> None:
        train, valid = train.astype(np.float64), valid.astype(np.float64)
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        tells = deviation > _CONSTANT * (np.abs(mean) + deviation)
        self.scale = np.where(tells, 1 / np.where(tells, deviation, 1.0), 0.0)
        self.centre = np.average(train, axis=0, weights=images.roots**2)
        self.train = (train - self.centre) * self.scale * images.roots[:, None]
        self.valid = (valid - self.centre) * self.scale

    @property
    def n_features(self) -> int:
        return self.train.shape[1]

    @cached_property
    def gram_of_features(self) -> np.ndarray:
        """Products of the features over the training images, (d, d)."""
        return self.train.T @ self.train

    @cached_property
    def gram_of_images(self) -> np.ndarray:
        """Products of the training images over the features, (n, n)."""
        return self.train @ self.train.T

    @cached_property
    def gram_of_valid(self) -> np.ndarray:
        """Products of the validation images with the training images over the features, (m, n)."""
        return self.valid @ self.train.T


@dataclass(frozen=True)
class RidgeHead:
    """The head of one or two cuts: a softmax layer on their features.

    Attributes:
        kernel: Of the layer, (d, k), for features as they are; the first cut's come first.
        bias: Of the layer, (k,).
        centre: What standardisation takes off the features, (d,), and ``scale`` what it multiplies them by then.
        valid: Probabilities of the validation images, (m, k).
        left_out: Probabilities of each training image, when the head has not learnt from its patient, (n, k).
        penalty: The chosen one of ``PENALTIES``.
    """

    kernel: np.ndarray
    bias: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    valid: np.ndarray
    left_out: np.ndarray
    penalty: float

    def on_standardised(self) -> dict[str, np.ndarray]:
        """Give the same layer for standardised features, ``scale`` times a feature plus ``offset``: kernel, bias and these."""
        told = self.scale > 0
        kernel = np.where(told, 1 / np.where(told, self.scale, 1.0), 0.0)[:, None] * self.kernel
        bias = self.bias + self.centre @ self.kernel
        return {"kernel": kernel, "bias": bias, "scale": self.scale, "offset": -self.centre * self.scale}


def fit_ridge_head(cuts: Sequence[CutFeatures], images: TrainingImages) -> RidgeHead:
    """Fit the ridge regression of the classes on the features of all cuts together.

    The penalty is the one with the smallest class-balanced squared error with each patient left out. That needs no fit for
    each patient: with the hat matrix H and the residuals e, those of a patient p are (I - H_pp)^-1 e_p (Cook & Weisberg 1982).
    """
    vectors, singular, valid = _decompose(cuts, images)
    penalties = PENALTIES * (singular**2).sum() / len(images.labels)
    explained = vectors.T @ images.targets  # (r, k)
    shrinkage = singular**2 / (singular**2 + penalties[:, None])  # (n_penalties, r)
    n_images, n_columns = len(images.labels), len(penalties) * images.n_classes
    shrunken = (shrinkage[:, :, None] * explained).transpose(1, 0, 2)  # one product for all penalties
    fitted = vectors @ shrunken.reshape(len(singular), n_columns)
    residuals = images.targets - fitted.reshape(n_images, len(penalties), images.n_classes).transpose(1, 0, 2)
    left_out = _leave_patients_out(vectors, shrinkage, residuals, images)
    best = int((left_out**2).sum(axis=(1, 2)).argmin())
    solution = (singular / (singular**2 + penalties[best]))[:, None] * explained  # in terms of the singular vectors, (r, k)
    said = np.eye(images.n_classes)[images.labels] - left_out[best] / images.roots[:, None]
    sharpness = _fit_sharpness(said, images)
    coefficients = np.concatenate([cut.train for cut in cuts], axis=1).T @ (vectors @ (solution / singular[:, None]))
    centre, scale = (np.concatenate([getattr(cut, name) for cut in cuts]) for name in ("centre", "scale"))
    kernel = sharpness * coefficients * scale[:, None]
    base_rate = 1 / images.n_classes  # without features, all classes alike
    return RidgeHead(
        kernel=kernel,
        bias=sharpness * base_rate - centre @ kernel,
        centre=centre,
        scale=scale,
        valid=_softmax(sharpness * (base_rate + valid @ solution)),
        left_out=_softmax(sharpness * said),
        penalty=float(PENALTIES[best]),
    )


def _fit_sharpness(said: np.ndarray, images: TrainingImages) -> float:
    """Choose the factor that makes a softmax of a regression on the classes (n, k) the likeliest, class-balanced."""
    rows = np.arange(len(said))
    losses = [-(images.roots**2 @ np.log(_softmax(factor * said)[rows, images.labels] + _TINY)) for factor in _SHARPNESS]
    return float(_SHARPNESS[int(np.argmin(losses))])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _decompose(cuts: Sequence[CutFeatures], images: TrainingImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give left singular vectors (n, r) and singular values (r,) of the features, and the validation images' parts (m, r)."""
    n_features = sum(cut.n_features for cut in cuts)
    if n_features < len(images.labels):
        blocks = [[one.gram_of_features if one is other else one.train.T @ other.train for other in cuts] for one in cuts]
        singular, right = _eigenvectors(np.block(blocks))
        vectors = np.concatenate([cut.train for cut in cuts], axis=1) @ right / singular
        return vectors, singular, np.concatenate([cut.valid for cut in cuts], axis=1) @ right
    singular, vectors = _eigenvectors(np.sum([cut.gram_of_images for cut in cuts], axis=0))
    return vectors, singular, np.sum([cut.gram_of_valid for cut in cuts], axis=0) @ vectors / singular


def _eigenvectors(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the square roots of the eigenvalues that are not negligible (r,), and their vectors (n, r)."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > _NEGLIGIBLE * max(values[-1], np.finfo(np.float64).tiny)
    return np.sqrt(values[kept]), vectors[:, kept]


def _leave_patients_out(
    vectors: np.ndarray, shrinkage: np.ndarray, residuals: np.ndarray, images: TrainingImages
) -> np.ndarray:
    """Convert residuals (n_penalties, n, k) into those of heads that have not learnt from the image's patient."""
    left_out = np.empty_like(residuals)
    for rows in images.groups:
        n_patients, size = rows.shape
        of_groups, constant = vectors[rows], images.constant[rows]  # (p, size, r), (p, size)
        hat = np.empty((len(shrinkage), n_patients, size, size))
        for one, other in combinations_with_replacement(range(size), 2):
            shared = (of_groups[:, one] * of_groups[:, other]) @ shrinkage.T + (constant[:, one] * constant[:, other])[:, None]
            hat[:, :, one, other] = hat[:, :, other, one] = shared.T
        left_out[:, rows] = np.linalg.solve(np.eye(size) - hat, residuals[:, rows])
    return left_out
