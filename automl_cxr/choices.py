"""Names that options accept, for help texts.

The tables that implement most of these names import NumPy, pandas or Optuna, which `automl-cxr --help` must not load. A test
compares every tuple here with its table.
"""

from __future__ import annotations

from automl_cxr.scoring.metric_table import METRIC_ROWS

METRIC_NAMES = tuple(row.name for row in METRIC_ROWS)
COST_NAMES = ("parameters", "multiply_adds", "weight_bytes", "latency")
OPTUNA_SAMPLERS = ("tpe", "random", "gp", "cmaes", "qmc", "grid", "nsga2", "nsga3")
KERASTUNER_SAMPLERS = ("kt-hyperband", "kt-bayesian", "kt-random", "kt-grid")
PRUNER_NAMES = ("asha", "hyperband", "median", "none")
FOLD_PRUNER_NAMES = ("wilcoxon", "median", "none")
FIDELITY_NAMES = ("epochs", "image_size")
LAYOUT_NAMES = (
    *(
        "names",
        "chexpert",
        "mimic",
        "padchest",
        "vindr",
        "vindr-kaggle",
        "rsna",
        "covidx",
        "ieee8023",
        "siim-covid",
        "indiana",
        "nih",
    ),
    *("tuberculosis", "radiography", "arrays", "csv", "split-folders", "class-splits", "folders"),
)
TASK_NAMES = ("multiclass", "multilabel")
UNCERTAIN_NAMES = ("drop", "zeros", "ones")
MISSING_NAMES = ("unknown", "absent")
UNKNOWN_PATIENTS_NAMES = ("separate", "drop")
PROJECTION_NAMES = ("PA", "AP", "frontal", "lateral", "other", "unknown")
TABLE_FORMATS = ("csv", "json", "md", "html", "xlsx", "latex")
ENSEMBLE_METHODS = ("auto", "best", "average", "geometric", "greedy", "sweep", "ga", "ga-by-class", "stacking")
EXPLANATION_METHODS = ("gradcam", "activations", "shap")
EXPORT_FORMATS = ("keras", "onnx", "tflite", "savedmodel")
IMPORTANCE_EVALUATORS = ("ped-anova", "fanova")
CHECKLISTS = ("claim", "tripod-ai")


def list_choices(names: tuple[str, ...]) -> str:
    """Join names for a sentence, such as "a, b or c"."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else "".join(names)
