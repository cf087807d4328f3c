"""The table of metrics, one row for each. It does not import NumPy, so that help texts can list the names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from automl_cxr.tasks import MULTICLASS, MULTILABEL

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True, kw_only=True)
class ClassFunctions:
    """The functions of a metric of one class for each image.

    Functions are named as "module:function", with a module of ``automl_cxr.scoring``. Where ``needs_normal_class`` of the row
    is true they take the index of the class without a finding as an additional last argument.

    Attributes:
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
        influence: For "one_vs_rest" only: optional function of the membership and the probability of one class, (n,), that
            returns the influence of each image on the score, (n,), for intervals of many images.
    """

    function: str
    inputs: Literal["probabilities", "confusion", "one_vs_rest"] = "probabilities"
    weighted: str = ""
    stacked: str = ""
    per_class: str = ""
    influence: str = ""


@dataclass(frozen=True, kw_only=True)
class FindingFunctions:
    """The functions of a metric of several findings for each image; labels that are not known do not count.

    Functions are named as in ``ClassFunctions``.

    Attributes:
        function: Function that computes the score. Its arguments and result depend on ``inputs``.
        inputs: "finding" for a function of one finding's presence (n,) and probabilities (..., n), over the images whose label
            is known, that returns scores (...), NaN where undefined, of which the metric is the mean over the findings;
            "counts" for a function of counts (..., k, 4), see ``finding_counts``, that returns scores (...); "labels" for a
            function of label codes (n, k) and probabilities (..., n, k) that returns scores (...).
        rounded: Optional function with the arguments of ``function``, for "finding", that computes approximate scores fast.
        weighted: Function with weights (n, n_resamples) as a third argument, and otherwise probabilities of one model, that
            returns scores (n_resamples,). Not for "counts", which are weighted themselves.
        prepared: Instead of ``weighted``, a function without weights that returns a function of weights (n, n_resamples) to
            scores (n_resamples,), so that values that do not depend on the weights are computed once.
        influence: Optional function of presence (n,) and probabilities (n,), for "finding", that returns the influence of each
            image on the score, (n,), for intervals of many images (``finding_ranking.auc_influence``).
    """

    function: str
    inputs: Literal["finding", "counts", "labels"] = "finding"
    rounded: str = ""
    weighted: str = ""
    prepared: str = ""
    influence: str = ""


@dataclass(frozen=True, kw_only=True)
class MetricRow:
    """A metric and the functions that compute it for each task.

    Attributes:
        name: Name on the command line.
        direction: "maximize" or "minimize".
        description: One line for help texts and reports.
        classes: Functions for one class of each image; None if the metric is not defined for this task.
        findings: Functions for several findings of each image; None if the metric is not defined for this task.
        parameters: Keyword arguments of all functions.
        needs_normal_class: Whether the metric of classes is defined only if the class without a finding is known.
        is_raised_by_noise: Whether random errors of small samples make the score larger than that of the population, because
            it sums absolute differences. Its values are at least 0.
    """

    name: str
    direction: Direction
    description: str
    classes: ClassFunctions | None = None
    findings: FindingFunctions | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs_normal_class: bool = False
    is_raised_by_noise: bool = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks for which the metric is defined, names in ``tasks.TASKS``."""
        defined = ((MULTICLASS, self.classes), (MULTILABEL, self.findings))
        return tuple(task for task, functions in defined if functions is not None)


def _sensitivity_row(percent: int) -> MetricRow:
    return MetricRow(
        name=f"sensitivity_at_{percent}_specificity",
        direction="maximize",
        description=f"sensitivity for any finding at {percent} % specificity; of several findings, the mean over them",
        classes=ClassFunctions(
            function="ranking:sensitivity_at_specificity",
            weighted="ranking:weighted_sensitivity_at_specificity",
            stacked="ranking:sensitivity_at_specificity",
        ),
        findings=FindingFunctions(
            function="ranking:sensitivities",
            weighted="ranking:weighted_sensitivities",
            influence="finding_ranking:sensitivity_influence",
        ),
        parameters={"specificity": percent / 100},
        needs_normal_class=True,
    )


METRIC_ROWS = (
    MetricRow(
        name="macro_f1",
        direction="maximize",
        description="mean F1 over the classes or findings",
        classes=ClassFunctions(function="confusion:macro_f1", inputs="confusion", per_class="confusion:f1_per_class"),
        findings=FindingFunctions(function="finding_counts:macro_f1", inputs="counts"),
    ),
    MetricRow(
        name="micro_f1",
        direction="maximize",
        description="F1 of all labels of all findings together",
        findings=FindingFunctions(function="finding_counts:micro_f1", inputs="counts"),
    ),
    MetricRow(
        name="accuracy",
        direction="maximize",
        description="share of images that are predicted correctly",
        classes=ClassFunctions(function="confusion:accuracy", inputs="confusion"),
    ),
    MetricRow(
        name="balanced_accuracy",
        direction="maximize",
        description="mean recall over the classes",
        classes=ClassFunctions(function="confusion:balanced_accuracy", inputs="confusion"),
    ),
    MetricRow(
        name="cohen_kappa",
        direction="maximize",
        description="Cohen's kappa: agreement with the truth beyond chance",
        classes=ClassFunctions(function="confusion:cohen_kappa", inputs="confusion"),
    ),
    MetricRow(
        name="macro_auc",
        direction="maximize",
        description="mean area under the ROC curve over the classes (one-vs-rest) or findings",
        classes=ClassFunctions(
            function="ranking:auc_per_class",
            inputs="one_vs_rest",
            weighted="ranking:weighted_auc",
            influence="finding_ranking:auc_influence",
        ),
        findings=FindingFunctions(
            function="finding_ranking:areas_under_roc",
            rounded="finding_ranking:rounded_areas_under_roc",
            weighted="ranking:weighted_auc",
            influence="finding_ranking:auc_influence",
        ),
    ),
    MetricRow(
        name="macro_average_precision",
        direction="maximize",
        description="mean average precision over the classes or findings",
        classes=ClassFunctions(
            function="ranking:average_precision_per_class",
            inputs="one_vs_rest",
            weighted="ranking:weighted_average_precision",
        ),
        findings=FindingFunctions(
            function="finding_ranking:average_precisions",
            weighted="ranking:weighted_average_precision",
            influence="finding_ranking:average_precision_influence",
        ),
    ),
    MetricRow(
        name="log_loss",
        direction="minimize",
        description="mean negative log probability of the true class, or of the known labels of findings",
        classes=ClassFunctions(function="calibration:log_loss", weighted="calibration:weighted_log_loss"),
        findings=FindingFunctions(
            function="finding_calibration:log_loss", inputs="labels", prepared="finding_calibration:prepared_log_loss"
        ),
    ),
    MetricRow(
        name="calibration_error",
        direction="minimize",
        description="expected calibration error: difference between confidence and accuracy; of findings, the mean difference "
        "between probability and frequency",
        classes=ClassFunctions(
            function="calibration:expected_calibration_error",
            weighted="calibration:weighted_calibration_error",
            stacked="calibration:stacked_calibration_error",
        ),
        findings=FindingFunctions(
            function="finding_calibration:calibration_errors", prepared="finding_calibration:prepared_calibration_errors"
        ),
        is_raised_by_noise=True,
    ),
    MetricRow(
        name="fnfr",
        direction="minimize",
        description="False No-Finding Rate: share of images with a finding that are predicted as normal",
        classes=ClassFunctions(function="confusion:fnfr", inputs="confusion"),
        needs_normal_class=True,
    ),
    _sensitivity_row(90),
    _sensitivity_row(95),
)

CLASS_METRICS: Mapping[str, str] = {
    "f1": "harmonic mean of precision and recall of",
    "precision": "share of correct predictions among the images predicted as",
    "recall": "share of correct predictions among the images of",
    "specificity": "share of the other classes' images that are not predicted as",
    "auc": "one-vs-rest area under the ROC curve of",
    "average_precision": "one-vs-rest average precision of",
}
"""Metrics of a single class or finding, which are named ``<kind>_<class>``, with descriptions that end with the name."""
