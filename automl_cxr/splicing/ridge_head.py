"""Ridge heads: closed-form ridge regression on standardised features, with a penalty chosen by leave-one-patient-out.

for each cut            standardise the features on the training part; weight the classes equally; centre
                        compute the Gram matrix of the features, or of the images if there are fewer images
for each pair of cuts   combine the Gram matrices: blocks of features, or the sum over images
                        compute the eigenvectors, which are used for every penalty
for each penalty        compute the leave-one-patient-out predictions
for the best penalty    compute the predictions for the validation images
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np

from automl_cxr.errors import DataError

PENALTIES = np.logspace(-5, 2, 15)
"""Candidate penalties, as multiples of the mean sum of squares of an image's features."""

_SHARPNESS = np.logspace(0, 2, 41)
_TINY = 1e-12
_NEGLIGIBLE = 1e-10  # ratio to the largest eigenvalue below which eigenvectors contain only rounding errors
_CONSTANT = 1e-6  # ratio of standard deviation to magnitude below which a feature is regarded as constant


@dataclass(frozen=True)
class TrainingImages:
    """The training images of ridge heads.

    Attributes:
        labels: Class index of each image, int (n,).
        patients: Patient of each image, (n,).
        n_classes: Number of classes, k.

    Raises:
        DataError: All images belong to one patient, so leave-one-patient-out is impossible.
    """

    labels: np.ndarray
    patients: Sequence[str]
    n_classes: int

    def __post_init__(self) -> None:
        if len(set(self.patients)) < 2:
            raise DataError(
                "A ridge head is fitted with leave-one-patient-out, so it needs training images of at least two patients; "
                f"received {len(set(self.patients))}. Check how patients are determined (`automl-cxr data inspect`)."
            )

    @cached_property
    def roots(self) -> np.ndarray:
        """Square roots of the images' weights N / (k n_class), (n,). Rows of a weighted regression are multiplied by them."""
        counts = np.bincount(self.labels, minlength=self.n_classes)
        return np.sqrt(len(self.labels) / (self.n_classes * counts[self.labels]))

    @cached_property
    def constant(self) -> np.ndarray:
        """Column of the intercept, with norm 1, (n,)."""
        return self.roots / np.linalg.norm(self.roots)

    @cached_property
    def targets(self) -> np.ndarray:
        """One-hot encoded classes, weighted and centred, (n, k)."""
        return self.centre(np.eye(self.n_classes)[self.labels])

    def centre(self, columns: np.ndarray) -> np.ndarray:
        """Weight the rows of a matrix (n, m) and remove the intercept."""
        weighted = columns * self.roots[:, None]
        return weighted - np.outer(self.constant, self.constant @ weighted)

    @cached_property
    def groups(self) -> list[np.ndarray]:
        """Row numbers of the patients' images: an int array (n_patients, n_images) for each number of images per patient."""
        rows_of: dict[str, list[int]] = {}
        for row, patient in enumerate(self.patients):
            rows_of.setdefault(patient, []).append(row)
        sizes = sorted({len(rows) for rows in rows_of.values()})
        return [np.array([rows for rows in rows_of.values() if len(rows) == size]) for size in sizes]


class CutFeatures:
    """The pooled features of one cut, standardised for regression.

    Args:
        train: Features of the training images, (n, d).
        valid: Features of the validation images, (m, d).
        images: The training images.

    Attributes:
        train: Standardised and centred features of the training images, with weighted rows.
        valid: Standardised and centred features of the validation images.
        centre: Value that is subtracted from each feature, (d,).
        scale: Factor by which each feature is then multiplied, (d,); 0 for a constant feature.
    """

    def __init__(self, train: np.ndarray, valid: np.ndarray, images: TrainingImages) -> None:
        train, valid = train.astype(np.float64), valid.astype(np.float64)
        _, self.scale = standardisation_of(train)
        self.centre = np.average(train, axis=0, weights=images.roots**2)
        self.train = (train - self.centre) * self.scale * images.roots[:, None]
        self.valid = (valid - self.centre) * self.scale

    @property
    def n_features(self) -> int:
        return self.train.shape[1]

    @cached_property
    def gram_of_features(self) -> np.ndarray:
        """Gram matrix of the features, (d, d)."""
        return self.train.T @ self.train

    @cached_property
    def gram_of_images(self) -> np.ndarray:
        """Gram matrix of the training images, (n, n)."""
        return self.train @ self.train.T

    @cached_property
    def gram_of_valid(self) -> np.ndarray:
        """Scalar products of validation and training images, (m, n)."""
        return self.valid @ self.train.T


def standardisation_of(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of each feature, (d,), and the inverse of its standard deviation, (d,), which is 0 if it is constant."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    varies = deviation > _CONSTANT * (np.abs(mean) + deviation)
    return mean, np.where(varies, 1 / np.where(varies, deviation, 1.0), 0.0)


@dataclass(frozen=True)
class RidgeHead:
    """The head of one or two cuts: the output layer on their features.

    Attributes:
        kernel: Kernel of the layer for features that are not standardised, (d, k). The features of the first cut come first.
        bias: Bias of the layer, (k,).
        centre: Value that standardisation subtracts from each feature, (d,).
        scale: Factor by which standardisation then multiplies each feature, (d,).
        valid: Probabilities of the validation images, (m, k).
        left_out: Leave-one-patient-out probabilities of the training images, (n, k).
        penalty: Selected value of ``PENALTIES``; of several findings, the geometric mean of their values.
    """

    kernel: np.ndarray
    bias: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    valid: np.ndarray
    left_out: np.ndarray
    penalty: float

    def on_standardised(self) -> dict[str, np.ndarray]:
        """Return kernel and bias for standardised features, with the ``scale`` and ``offset`` that standardise them."""
        varies = self.scale > 0
        kernel = np.where(varies, 1 / np.where(varies, self.scale, 1.0), 0.0)[:, None] * self.kernel
        bias = self.bias + self.centre @ self.kernel
        return {"kernel": kernel, "bias": bias, "scale": self.scale, "offset": -self.centre * self.scale}


def fit_ridge_head(cuts: Sequence[CutFeatures], images: TrainingImages) -> RidgeHead:
    """Fit a ridge regression of the one-hot classes on the features of all cuts together.

    The penalty minimises the class-balanced leave-one-patient-out squared error. It is computed without a fit for each patient:
    with the hat matrix H and the residuals e, the left-out residuals of patient p are (I - H_pp)^-1 e_p (Cook & Weisberg 1982).
    """
    vectors, singular, valid = _decompose(cuts, images)
    penalties = PENALTIES * (singular**2).sum() / len(images.labels)
    explained = vectors.T @ images.targets  # (r, k)
    shrinkage = singular**2 / (singular**2 + penalties[:, None])  # (n_penalties, r)
    n_images, n_columns = len(images.labels), len(penalties) * images.n_classes
    coefficients = (shrinkage[:, :, None] * explained).transpose(1, 0, 2)  # one matrix product for all penalties
    fitted = vectors @ coefficients.reshape(len(singular), n_columns)
    residuals = images.targets - fitted.reshape(n_images, len(penalties), images.n_classes).transpose(1, 0, 2)
    left_out = _leave_patients_out(vectors, shrinkage, residuals, images)
    best = int((left_out**2).sum(axis=(1, 2)).argmin())
    solution = (singular / (singular**2 + penalties[best]))[:, None] * explained  # in the basis of the singular vectors, (r, k)
    left_out_fit = np.eye(images.n_classes)[images.labels] - left_out[best] / images.roots[:, None]
    sharpness = _fit_sharpness(left_out_fit, images)
    weights = np.concatenate([cut.train for cut in cuts], axis=1).T @ (vectors @ (solution / singular[:, None]))
    centre, scale = (np.concatenate([getattr(cut, name) for cut in cuts]) for name in ("centre", "scale"))
    kernel = sharpness * weights * scale[:, None]
    base_rate = 1 / images.n_classes  # prediction without features: all classes are equally probable
    return RidgeHead(
        kernel=kernel,
        bias=sharpness * base_rate - centre @ kernel,
        centre=centre,
        scale=scale,
        valid=_softmax(sharpness * (base_rate + valid @ solution)),
        left_out=_softmax(sharpness * left_out_fit),
        penalty=float(PENALTIES[best]),
    )


def _fit_sharpness(fitted: np.ndarray, images: TrainingImages) -> float:
    """Return the factor of the softmax logits that maximises the class-balanced likelihood of fitted one-hot classes (n, k)."""
    rows = np.arange(len(fitted))
    losses = [-(images.roots**2 @ np.log(_softmax(factor * fitted)[rows, images.labels] + _TINY)) for factor in _SHARPNESS]
    return float(_SHARPNESS[int(np.argmin(losses))])


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _decompose(cuts: Sequence[CutFeatures], images: TrainingImages) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return left singular vectors (n, r) and singular values (r,) of features, and projected validation images (m, r)."""
    n_features = sum(cut.n_features for cut in cuts)
    if n_features < len(images.labels):
        blocks = [[one.gram_of_features if one is other else one.train.T @ other.train for other in cuts] for one in cuts]
        singular, right = _eigenvectors(np.block(blocks))
        vectors = np.concatenate([cut.train for cut in cuts], axis=1) @ right / singular
        return vectors, singular, np.concatenate([cut.valid for cut in cuts], axis=1) @ right
    singular, vectors = _eigenvectors(np.sum([cut.gram_of_images for cut in cuts], axis=0))
    return vectors, singular, np.sum([cut.gram_of_valid for cut in cuts], axis=0) @ vectors / singular


def _eigenvectors(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the square roots of the eigenvalues that are not negligible, (r,), and their eigenvectors (n, r)."""
    values, vectors = np.linalg.eigh(gram)
    is_relevant = values > _NEGLIGIBLE * max(values[-1], np.finfo(np.float64).tiny)
    return np.sqrt(values[is_relevant]), vectors[:, is_relevant]


def _leave_patients_out(
    vectors: np.ndarray, shrinkage: np.ndarray, residuals: np.ndarray, images: TrainingImages
) -> np.ndarray:
    """Convert residuals (n_penalties, n, k) into leave-one-patient-out residuals of the same shape."""
    left_out = np.empty_like(residuals)
    for rows in images.groups:
        n_patients, size = rows.shape
        group_vectors, constant = vectors[rows], images.constant[rows]  # (p, size, r), (p, size)
        hat = np.empty((len(shrinkage), n_patients, size, size))
        for one, other in combinations_with_replacement(range(size), 2):
            shared = (group_vectors[:, one] * group_vectors[:, other]) @ shrinkage.T + (constant[:, one] * constant[:, other])[
                :, None
            ]
            hat[:, :, one, other] = hat[:, :, other, one] = shared.T
        left_out[:, rows] = np.linalg.solve(np.eye(size) - hat, residuals[:, rows])
    return left_out
