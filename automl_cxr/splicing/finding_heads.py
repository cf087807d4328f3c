"""Ridge heads of several findings: one closed-form fit for each finding, on the training images whose label of it is known.

for each finding        fit a head with the classes absent and present to each pair of cuts (``ridge_head``)
for each pair of cuts   join the heads: the logit of a finding is the difference of the logits of its two classes
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from automl_cxr.splicing.ridge_head import CutFeatures, RidgeHead, TrainingImages, fit_ridge_head, standardisation_of
from automl_cxr.tasks import ABSENT, PRESENT

Cut = tuple[int, str]
"""Number of a branch, 0 or 1, and the name of a layer."""

FeaturesOfCut = tuple[np.ndarray, np.ndarray]
"""Features of the training images, (n, d), and of the validation images, (m, d)."""

_PRIOR = 0.5  # images that are added to both classes of a finding without a fit, so that its logit is finite


@dataclass(frozen=True)
class _FindingHead:
    """The part of a head that belongs to one finding.

    Attributes:
        kernel: (d,).
        bias: Bias.
        valid: Probability of each validation image, (m,).
        left_out: Leave-one-patient-out probability of each training image, (n,); 0.5 for images with an unknown label.
        penalty: Selected penalty; 1 if nothing could be fitted.
    """

    kernel: np.ndarray
    bias: float
    valid: np.ndarray
    left_out: np.ndarray
    penalty: float = 1.0


def fit_finding_heads(
    cuts: Mapping[Cut, FeaturesOfCut],
    combinations: Sequence[Sequence[Cut]],
    labels: np.ndarray,
    patients: Sequence[str],
    *,
    on_fit: Callable[[], None],
) -> list[RidgeHead]:
    """Fit a head of all findings to each combination of cuts. Unknown labels are not used.

    A finding that only one patient has a known label of, or whose known labels are equal, is predicted with a constant.

    Args:
        cuts: Features by cut.
        combinations: The cuts of each head.
        labels: Label codes of the training images, int (n, k).
        patients: Patient of each training image, (n,).
        on_fit: Called after each fit; there are k for each combination.
    """
    of_findings = [
        list(_fit_finding(cuts, combinations, labels[:, finding], patients, on_fit=on_fit))
        for finding in range(labels.shape[1])
    ]
    return [
        _join([cuts[cut][0] for cut in names], list(heads))
        for names, heads in zip(combinations, zip(*of_findings, strict=True), strict=True)
    ]


def _fit_finding(
    cuts: Mapping[Cut, FeaturesOfCut],
    combinations: Sequence[Sequence[Cut]],
    labels: np.ndarray,
    patients: Sequence[str],
    *,
    on_fit: Callable[[], None],
) -> Iterator[_FindingHead]:
    rows = np.flatnonzero(labels >= 0)
    known, patients_of_known = labels[rows], [patients[row] for row in rows]
    can_be_fitted = len(set(known.tolist())) == 2 and len(set(patients_of_known)) >= 2
    prepared: dict[Cut, CutFeatures] = {}
    if can_be_fitted:
        images = TrainingImages(known, patients_of_known, n_classes=2)
        prepared = {cut: CutFeatures(train[rows], valid, images) for cut, (train, valid) in cuts.items()}
    for names in combinations:
        if can_be_fitted:
            head = fit_ridge_head([prepared[cut] for cut in names], images)
            left_out = np.full(len(labels), 0.5)
            left_out[rows] = head.left_out[:, PRESENT]
            yield _FindingHead(
                kernel=head.kernel[:, PRESENT] - head.kernel[:, ABSENT],
                bias=float(head.bias[PRESENT] - head.bias[ABSENT]),
                valid=head.valid[:, PRESENT],
                left_out=left_out,
                penalty=head.penalty,
            )
        else:
            yield _constant_head([cuts[cut] for cut in names], known, len(labels))
        on_fit()


def _constant_head(cuts: Sequence[FeaturesOfCut], known: np.ndarray, n_images: int) -> _FindingHead:
    """Return a head with the share of known labels that are present as its only prediction."""
    n_present, n_absent = int((known == PRESENT).sum()), int((known == ABSENT).sum())
    share = (n_present + _PRIOR) / (n_present + n_absent + 2 * _PRIOR)
    return _FindingHead(
        kernel=np.zeros(sum(train.shape[1] for train, _ in cuts)),
        bias=float(np.log(share / (1 - share))),
        valid=np.full(len(cuts[0][1]), share),
        left_out=np.full(n_images, share),
    )


def _join(train: Sequence[np.ndarray], heads: Sequence[_FindingHead]) -> RidgeHead:
    """Join the heads of all findings; the features are standardised over all training images."""
    features = np.concatenate([one.astype(np.float64) for one in train], axis=1)
    centre, scale = standardisation_of(features)
    return RidgeHead(
        kernel=np.column_stack([head.kernel for head in heads]),
        bias=np.array([head.bias for head in heads]),
        centre=centre,
        scale=scale,
        valid=np.column_stack([head.valid for head in heads]),
        left_out=np.column_stack([head.left_out for head in heads]),
        penalty=float(np.exp(np.mean(np.log([head.penalty for head in heads])))),
    )
