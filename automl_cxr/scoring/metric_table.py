"""The table of metrics, one row for each. It does not import NumPy, so that help texts can list the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """A metric and the functions that compute it.

    Functions are named as "module:function", with a module of ``automl_cxr.scoring``. Where ``needs_normal_class`` is true they
    take the index of the class without a finding as an additional last argument.

    Attributes:
        name: Name on the command line.
        direction: "maximize" or "minimize".
        description: One line for help texts and reports.
        function: Function that computes the score. Its arguments and result depend on ``inputs``.
        inputs: "probabilities" for a function of labels (n,) and probabilities (n, k) that returns a number; "confusion" for a
            function of confusion matrices (..., k, k) that returns scores (...); "one_vs_rest" for a function of labels (n,)
            and probabilities (..., n, k) that returns a score for each class, (..., k), of which the metric is the mean.
        weighted: Optional function with weights (n, n_resamples) as a third argument that returns scores (n_resamples,). With
            "one_vs_rest" its first two arguments are the membership and the probability of one class, (n,). It makes bootstrap
            intervals faster.
        stacked: Optional function of labels (n,) and probabilities (..., n, k) that returns scores (...). It makes ensembles
            faster.
        per_class: For "confusion" only: a function of confusion matrices that returns the score of each class, (..., k), if the
            metric is its mean. It is then also defined over a part of the classes.
        parameters: Keyword arguments of all three functions.
        needs_normal_class: Whether the metric is defined only if the class without a finding is known.
    """

    name: str
    direction: Direction
    description: str
    function: str
    inputs: Literal["probabilities", "confusion", "one_vs_rest"] = "probabilities"
    weighted: str = ""
    stacked: str = ""
    per_class: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs_normal_class: bool = False


def _sensitivity_row(percent: int) -> MetricRow:
    return MetricRow(
        name=f"sensitivity_at_{percent}_specificity",
        direction="maximize",
        description=f"sensitivity for any finding at {percent} % specificity",
        function="ranking:sensitivity_at_specificity",
        weighted="ranking:weighted_sensitivity_at_specificity",
        stacked="ranking:sensitivity_at_specificity",
        parameters={"specificity": percent / 100},
        needs_normal_class=True,
    )


METRIC_ROWS = (
    MetricRow(
        name="macro_f1",
        direction="maximize",
        description="mean F1 over the classes",
        function="confusion:macro_f1",
        inputs="confusion",
        per_class="confusion:f1_per_class",
    ),
    MetricRow(
        name="accuracy",
        direction="maximize",
        description="share of images that are predicted correctly",
        function="confusion:accuracy",
        inputs="confusion",
    ),
    MetricRow(
        name="balanced_accuracy",
        direction="maximize",
        description="mean recall over the classes",
        function="confusion:balanced_accuracy",
        inputs="confusion",
    ),
    MetricRow(
        name="cohen_kappa",
        direction="maximize",
        description="Cohen's kappa: agreement with the truth beyond chance",
        function="confusion:cohen_kappa",
        inputs="confusion",
    ),
    MetricRow(
        name="macro_auc",
        direction="maximize",
        description="mean one-vs-rest area under the ROC curve",
        function="ranking:auc_per_class",
        inputs="one_vs_rest",
        weighted="ranking:weighted_auc",
    ),
    MetricRow(
        name="macro_average_precision",
        direction="maximize",
        description="mean average precision over the classes",
        function="ranking:average_precision_per_class",
        inputs="one_vs_rest",
        weighted="ranking:weighted_average_precision",
    ),
    MetricRow(
        name="log_loss",
        direction="minimize",
        description="mean negative log probability of the true class",
        function="calibration:log_loss",
        weighted="calibration:weighted_log_loss",
    ),
    MetricRow(
        name="calibration_error",
        direction="minimize",
        description="expected calibration error: difference between confidence and accuracy",
        function="calibration:expected_calibration_error",
        weighted="calibration:weighted_calibration_error",
        stacked="calibration:stacked_calibration_error",
    ),
    MetricRow(
        name="fnfr",
        direction="minimize",
        description="False No-Finding Rate: share of images with a finding that are predicted as normal",
        function="confusion:fnfr",
        inputs="confusion",
        needs_normal_class=True,
    ),
    _sensitivity_row(90),
    _sensitivity_row(95),
)
