"""The Python interface: every command of the command line as a function.

For example::

    study = automl_cxr.search("fused", data="covid/", trials=20)
    study.leaderboard()
    study.figures.learning_curves()
    ensemble = study.ensemble(top=6)
    study.evaluate(ensemble)
"""

from automl_cxr.api.auditing import audit, changes_file
from automl_cxr.api.classifiers import (
    apply_ensemble,
    combine_predictions,
    describe,
    open_classifier,
    predict,
    record_test_images,
    serve,
)
from automl_cxr.api.inspecting import inspect
from automl_cxr.api.locations import locate, open_study
from automl_cxr.api.search import search
from automl_cxr.api.splices import Splices, splice
from automl_cxr.api.studies import copy_study, delete_study, list_studies
from automl_cxr.api.study import Study
from automl_cxr.study.options import EXECUTORS, SearchOptions, SpliceOptions
from automl_cxr.weight_files import AvailableWeights, list_weights

__all__ = [
    "EXECUTORS",
    "AvailableWeights",
    "SearchOptions",
    "SpliceOptions",
    "Splices",
    "Study",
    "apply_ensemble",
    "audit",
    "changes_file",
    "combine_predictions",
    "copy_study",
    "delete_study",
    "describe",
    "inspect",
    "list_studies",
    "list_weights",
    "locate",
    "open_classifier",
    "open_study",
    "predict",
    "record_test_images",
    "search",
    "serve",
    "splice",
]
