"""Sixty images, two to a patient, with the probabilities of two models in percent, and their figures by other packages."""

import numpy as np

_LABELS = (
    1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1,
    0, 0, 1, 0, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1,
)  # fmt: skip
_PERCENT = (
    25, 62, 43, 50, 94, 50, 76, 53, 11, 20, 26, 79, 35, 25, 70, 25, 52, 80, 10, 86, 91, 5, 25, 42, 71, 46, 75, 45, 72, 55,
    82, 62, 80, 36, 58, 71, 93, 95, 4, 50, 44, 1, 62, 21, 96, 90, 16, 15, 17, 75, 14, 68, 85, 20, 71, 38, 77, 63, 63, 90,
)  # fmt: skip
_OTHER_PERCENT = (
    61, 82, 50, 89, 62, 80, 19, 51, 5, 3, 28, 30, 68, 95, 15, 39, 45, 78, 32, 31, 83, 57, 11, 35, 63, 11, 71, 14, 72, 69,
    65, 40, 58, 8, 23, 74, 6, 85, 4, 84, 15, 66, 67, 6, 91, 93, 35, 29, 32, 12, 76, 42, 60, 16, 39, 20, 92, 57, 72, 63,
)  # fmt: skip

IS_POSITIVE = np.array(_LABELS, dtype=bool)
PROBABILITIES = np.array([_PERCENT, _OTHER_PERCENT]) / 100
PATIENTS = tuple(f"p{number // 2}" for number in range(60))

# MLstatkit 0.1.91, Delong_test
AREAS = (0.840497737556561, 0.7624434389140271)
P_DELONG = 0.3171835698148351

# statsmodels 0.15.0, GLM(family=Binomial()) on the logit of the first model, cov_type="cluster" without small-sample correction
SLOPE, SLOPE_ERROR = 1.1971003, 0.28483806
INTERCEPT, INTERCEPT_ERROR = 0.23636363, 0.2890616

# dcurves 1.1.7, dca. At these thresholds no probability is equal to the threshold; that package acts above it only.
THRESHOLDS = (0.055, 0.105, 0.205, 0.305, 0.505)
NET_BENEFIT = (0.544356, 0.523650, 0.502201, 0.452878, 0.297643)
TREAT_ALL = (0.541446, 0.515829, 0.454927, 0.376499, 0.124579)

# MAPIE 1.6.0, SplitConformalClassifier with LAC scores, calibrated on the images of each class alone: the smallest probability,
# in steps of 1 %, with which each class is in a set, by coverage.
CONFORMAL_LIMITS = {0.8: (0.37, 0.5), 0.9: (0.25, 0.35)}
