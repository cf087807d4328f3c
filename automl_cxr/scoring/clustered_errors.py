"""Standard errors and intervals of means over images, for patients with several images.

The contributions of the images of one patient are added before they are squared (Liang and Zeger 1986, "Longitudinal data
analysis using generalized linear models"), so that images of one patient need not be independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from automl_cxr.scoring.intervals import Interval
from automl_cxr.scoring.resampling import number_patients


class PatientClusters:
    """The patients of some images.

    Args:
        patients: Patient of each image, (n,).
    """

    def __init__(self, patients: Sequence[str]) -> None:
        self._patient, self.n_patients = number_patients(patients)

    def covariance(self, influences: np.ndarray) -> np.ndarray:
        """Compute the covariance of sums over the images.

        Args:
            influences: Contribution of each image to each of k sums, with a mean of 0, (n, k).

        Returns:
            float64 (k, k); NaN for fewer than two patients.
        """
        if self.n_patients < 2:
            return np.full((influences.shape[1],) * 2, np.nan)
        sums = np.stack(
            [np.bincount(self._patient, column, minlength=self.n_patients) for column in influences.T.astype(np.float64)]
        )
        return sums @ sums.T * (self.n_patients / (self.n_patients - 1))

    def variance_of_mean(self, values: np.ndarray) -> float:
        """Compute the variance of the mean of values, (n,); NaN for fewer than two patients."""
        return float(self.covariance((values - values.mean())[:, np.newaxis])[0, 0]) / len(values) ** 2


def normal_interval(value: float, variance: float, *, level: float = 0.95) -> Interval:
    """Return the interval of a value with a normal distribution; NaN if the variance is."""
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance) if variance >= 0 else math.nan
    return Interval(value - half, value + half, level)


def share_interval(is_counted: np.ndarray, patients: Sequence[str], *, level: float = 0.95) -> Interval:
    """Compute the interval of a share of images by patient.

    The interval is that of Wilson 1927 for the effective number of images, which is the number of independent images with the
    same variance of the share. If all images count, or none, it is the number of patients.

    Args:
        is_counted: Whether each image counts, bool (n,), of which the share is the mean.
        patients: Patient of each image, (n,).
        level: Share of intervals that contain the true share.

    Returns:
        The interval; NaN without images.
    """
    if not len(is_counted):
        return Interval(math.nan, math.nan, level)
    clusters, share = PatientClusters(patients), float(is_counted.mean())
    variance = clusters.variance_of_mean(is_counted.astype(np.float64))
    n_effective = share * (1 - share) / variance if variance > 0 else clusters.n_patients
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z**2 / (2 * n_effective)) / (1 + z**2 / n_effective)
    half = z / (1 + z**2 / n_effective) * math.sqrt(share * (1 - share) / n_effective + z**2 / (4 * n_effective**2))
    return Interval(max(0.0, centre - half), min(1.0, centre + half), level)


def smallest_effective_number(patients: Sequence[str]) -> float:
    """Return the number of independent images that correspond to images which are copies within each patient (Kish 1965).

    It is (sum of m)^2 / sum of m^2 for patients with m images each, and the number of patients if all have equally many.
    """
    counts = np.bincount(number_patients(patients)[0])
    return float(counts.sum() ** 2 / (counts**2).sum())


def exact_share_interval(is_counted: np.ndarray, patients: Sequence[str], *, level: float = 0.95) -> Interval:
    """Compute the interval of a share of images by patient that is not too narrow near 0 and 1.

    The interval is that of Clopper and Pearson 1934 for the effective number of images, corrected for the number of patients
    from which it is estimated (Korn and Graubard 1998, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data"). If all images count, or none, it is ``smallest_effective_number``. In
    simulations of shares of 0.9 and 0.97 of 30 to 150 patients it contained the truth in 96 to 99 % of 600 samples for one
    image of each patient and 94 to 99 % for one to three. For a mean of three with a geometric distribution it was 94 to 99 %
    with a correlation of 0.5, and 92 to 99 % for copies; the intervals of ``share_interval`` were 8 % narrower and contained
    it in 88 to 97 %.

    Args:
        is_counted: Whether each image counts, bool (n,), of which the share is the mean.
        patients: Patient of each image, (n,).
        level: Share of intervals that contain the true share.

    Returns:
        The interval; NaN without images.
    """
    if not len(is_counted):
        return Interval(math.nan, math.nan, level)
    from scipy.stats import beta, t  # the import takes 0.3 s

    clusters, share, tail = PatientClusters(patients), float(is_counted.mean()), (1 - level) / 2
    variance = clusters.variance_of_mean(is_counted.astype(np.float64))
    if variance > 0:
        correction = t.ppf(tail, len(is_counted) - 1) / t.ppf(tail, clusters.n_patients - 1)
        n_effective = min(len(is_counted), share * (1 - share) / variance * correction**2)
    else:
        n_effective = smallest_effective_number(patients)
    counted = share * n_effective
    low = beta.ppf(tail, counted, n_effective - counted + 1) if share > 0 else 0.0
    high = beta.ppf(1 - tail, counted + 1, n_effective - counted) if share < 1 else 1.0
    return Interval(float(low), float(high), level)
