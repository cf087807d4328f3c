"""The names in help texts are the names in the tables that implement them."""

import pytest

from automl_cxr import choices
from automl_cxr.data.layouts import LAYOUTS
from automl_cxr.data.patients import UNKNOWN_PATIENTS
from automl_cxr.data.projections import PROJECTIONS
from automl_cxr.engine import optuna_proposer
from automl_cxr.engine.registry import FOLD_PRUNERS, PRUNERS, SAMPLERS
from automl_cxr.ensemble.build import AUTO, METHODS
from automl_cxr.results.checklist.checklists import FOLDER as CHECKLIST_FOLDER
from automl_cxr.results.explain.explanation import METHODS as EXPLANATION_METHODS
from automl_cxr.results.export import SUFFIXES
from automl_cxr.results.importance import EVALUATORS
from automl_cxr.results.tables import FORMATS
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.objectives import COSTS
from automl_cxr.study.fidelity import FIDELITIES


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (choices.METRIC_NAMES, METRICS),
        (choices.COST_NAMES, COSTS),
        (choices.OPTUNA_SAMPLERS, optuna_proposer.SAMPLERS),
        ((*choices.OPTUNA_SAMPLERS, *choices.KERASTUNER_SAMPLERS), SAMPLERS),
        (choices.PRUNER_NAMES, PRUNERS),
        (choices.FOLD_PRUNER_NAMES, FOLD_PRUNERS),
        (choices.FIDELITY_NAMES, FIDELITIES),
        (choices.LAYOUT_NAMES, [layout.name for layout in LAYOUTS]),
        (choices.UNKNOWN_PATIENTS_NAMES, UNKNOWN_PATIENTS),
        (choices.PROJECTION_NAMES, PROJECTIONS),
        (choices.TABLE_FORMATS, FORMATS),
        (choices.ENSEMBLE_METHODS, (AUTO, *METHODS)),
        (choices.EXPLANATION_METHODS, EXPLANATION_METHODS),
        (choices.EXPORT_FORMATS, SUFFIXES),
        (choices.IMPORTANCE_EVALUATORS, EVALUATORS),
        (choices.CHECKLISTS, sorted(path.stem for path in CHECKLIST_FOLDER.glob("*.toml"))),
    ],
    ids=lambda value: "" if not isinstance(value, tuple) else value[0],
)
def test_names_equal_those_of_the_table(names, table):
    assert names == tuple(table)


def test_names_are_joined_for_a_sentence():
    assert choices.list_choices(("a", "b", "c")) == "a, b or c"
    assert choices.list_choices(("a",)) == "a"
