"""The walls of the house: which room may import which, and what the command line's help must not pay for."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "automl_cxr"

# Rooms of each layer, from the ground up; a module imports lower layers and its own room only.
LAYERS = (
    {"errors"},
    {"trunk", "machine"},
    {"engine", "data", "scoring", "records", "config"},
    {"model", "ensemble", "auditing"},
    {"trial"},
    {"cross_validation", "heads_together"},
    {"study"},
    {"splicing"},
    {"results"},
    {"api"},
    {"cli"},
)
LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

# Rule 2: where each heavy library may be named.
HOMES = {
    "keras": ("model/", "trial.py", "cross_validation.py"),
    "tensorflow": ("model/devices.py", "model/exported.py", "model/gradients.py"),
    "jax": ("model/devices.py", "model/gradients.py"),
    "torch": ("model/devices.py", "model/gradients.py"),
    "ray": ("engine/ray_execution.py", "engine/shipping.py"),
    "optuna": (
        "engine/study_proposer.py",
        "engine/optuna_proposer.py",
        "engine/fold_pruners.py",
        "engine/halving.py",
        "engine/kerastuner_proposer.py",
        "engine/priors.py",
        "engine/proposers.py",
        "study/database_piece.py",
        "study/driver_storage.py",
        "study/forwarded_storage.py",
        "study/journal.py",
        "study/patient_storage.py",
        "study/storages.py",
        "engine/epoch_values.py",
        "study/store.py",
        "study/catalogue.py",
        "study/copying.py",
        "study/deletion.py",
        "results/importance.py",
        "results/dashboard/shown_storage.py",
    ),
    "keras_tuner": ("engine/kerastuner_proposer.py",),
    "optuna_dashboard": ("results/dashboard/serving.py",),
    "deap": ("ensemble/genetic.py",),
    "plotly": ("results/figures/", "results/report/", "results/page.py", "results/splices.py"),
    "pydicom": ("data/dicom.py",),
    "shap": ("results/shap_values.py",),
}
HEAVY = (
    "keras",
    "tensorflow",
    "ray",
    "optuna",
    "optuna_dashboard",
    "keras_tuner",
    "deap",
    "plotly",
    "sklearn",
    "pandas",
    "numpy",
    "PIL",
    "pydicom",
    "shap",
)

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_names(module: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__.py"])
def test_arrows_only_point_down(module):
    room = room_of(module)
    for name in imported_names(module):
        parts = name.split(".")
        if parts[0] != "automl_cxr" or parts[1] in (room, "__version__"):
            continue
        other = parts[1]
        assert other in LAYER_OF, f"{module} imports {name}: the front door is not for the rooms"
        assert LAYER_OF[other] < LAYER_OF[room], f"{module} (layer {LAYER_OF[room]}) imports {name} (layer {LAYER_OF[other]})"


@pytest.mark.parametrize("library", HOMES)
def test_libraries_stay_in_their_rooms(library):
    strangers = [
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imported_names(module)) and not module.startswith(HOMES[library])
    ]
    assert strangers == []


def test_every_module_is_reached_without_import_circles():
    # A circle shows when a module is the first to be imported: try each in a process of its own, without running Keras.
    names = [module.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for module in MODULES]
    light = [
        f"automl_cxr.{name}" for name in names if room_of(name.replace(".", "/")) in ("data", "scoring", "ensemble", "records")
    ]
    script = "import importlib, sys; importlib.import_module(sys.argv[1])"
    for name in light:
        subprocess.run([sys.executable, "-c", script, name], check=True)


def loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_help_imports_nothing_heavy():
    code = "from automl_cxr.cli import _run\nassert _run(['--help']) == 0\nassert _run(['search', '--help']) == 0"
    assert loaded_by(code) == set()


def test_data_of_other_kinds_do_not_load_pydicom():
    assert "pydicom" not in loaded_by("import automl_cxr.data.inspection, automl_cxr.data.layouts, automl_cxr.data.dicom_tags")


def test_the_driver_does_not_load_keras():
    code = "import automl_cxr.api, automl_cxr.study.objective, automl_cxr.engine.ray_execution, automl_cxr.engine.proposers"
    assert not loaded_by(code) & {"keras", "keras_tuner", "tensorflow", "plotly"}
