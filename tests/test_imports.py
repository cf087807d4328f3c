"""The import rules: which package may import which, where each library may be imported, and what `--help` may load."""

import ast
import functools
import graphlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "automl_cxr"

# Packages and modules of each layer, from the bottom up; a module imports lower layers and its own package only.
LAYERS = (
    {
        "errors",
        "io",
        "notebook",
        "cache_folder",
        "prefetch",
        "request_rules",
        "table_files",
        "tasks",
        "terminal",
        "text_records",
        "version",
    },
    {"csv_io", "encoder_files", "file_copies", "hardware", "conv_spec", "optuna_private", "html_tables"},
    {"architectures", "notebook_bars"},
    {"data", "scoring", "config", "records", "weight_files"},
    {"storage", "engine", "choices", "input_sizes"},
    {"model", "ensemble", "data_audit"},
    {"training"},
    {"study"},
    {"splicing"},
    {"results", "tracking"},
    {"serving"},
    {"api"},
    {"cli"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

# Where each heavy library may be imported.
IMPORTING_MODULES = {
    "keras": ("model/", "training/"),
    "tensorflow": ("model/devices.py", "model/export_check.py", "model/gradients.py", "model/host_calls.py"),
    "jax": ("model/compilation_cache.py", "model/devices.py", "model/gradients.py", "model/host_calls.py"),
    "torch": ("model/devices.py", "model/gradients.py", "model/host_calls.py"),
    "ray": ("engine/ray_execution.py", "engine/file_transfer.py"),
    "optuna": (
        "optuna_private.py",
        "engine/base_proposer.py",
        "engine/optuna_proposer.py",
        "engine/hub_samplers.py",
        "engine/fold_pruners.py",
        "engine/successive_halving.py",
        "engine/kerastuner_proposer.py",
        "engine/warm_start_view.py",
        "engine/registry.py",
        "engine/intermediate_values.py",
        "storage/",
        "study/store.py",
        "study/trial_records.py",
        "study/sealed_test_set.py",
        "study/study_info.py",
        "study/copying.py",
        "study/deletion.py",
        "results/importance.py",
        "results/dashboard/",
    ),
    "mlflow": ("tracking/mlflow_tracker.py",),
    "wandb": ("tracking/wandb_tracker.py",),
    "tensorboardX": ("tracking/tensorboard_tracker.py",),
    "keras_tuner": ("engine/kerastuner_proposer.py",),
    "optuna_dashboard": ("results/dashboard/",),
    "deap": ("ensemble/genetic.py",),
    "IPython": ("notebook.py",),
    "jinja2": ("results/html_page.py",),
    "plotly": ("results/figures/", "results/report/", "results/dashboard/", "results/html_page.py", "results/splice_plots.py"),
    "pydicom": (
        "data/dicom.py",
        "data/dicom_frame.py",
        "data/dicom_grey.py",
        "data/dicom_values.py",
        "serving/structured_report.py",
    ),
    "fastapi": ("serving/app.py",),
    "uvicorn": ("serving/server.py",),
    "highdicom": ("serving/structured_report.py",),
    "shap": ("results/explain/shap_values.py",),
}
HEAVY = (
    "keras",
    "tensorflow",
    "ray",
    "optuna",
    "optuna_dashboard",
    "keras_tuner",
    "deap",
    "jinja2",
    "plotly",
    "sklearn",
    "pandas",
    "numpy",
    "PIL",
    "pydicom",
    "shap",
    "fastapi",
    "uvicorn",
    "highdicom",
)

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@functools.cache  # a parse of all modules takes seconds
def imported_names(module: str) -> frozenset[str]:
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / module).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def package_of(module: str) -> str:
    return module.split("/")[0].removesuffix(".py")


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__.py"])
def test_modules_import_only_lower_layers(module):
    package = package_of(module)
    for name in imported_names(module):
        parts = name.split(".")
        if parts[0] != "automl_cxr" or parts[1] == package:
            continue
        other = parts[1]
        assert other in LAYER_OF, f"{module} imports {name}: only users import from the root package"
        assert LAYER_OF[other] < LAYER_OF[package], (
            f"{module} (layer {LAYER_OF[package]}) imports {name} (layer {LAYER_OF[other]})"
        )


def imported_modules(module: str) -> set[str]:
    """List the modules of this package that a module imports anywhere, in functions and for type checking too."""
    found = set()
    for name in imported_names(module):
        parts = name.split(".")
        if parts[0] != "automl_cxr":
            continue
        for end in range(len(parts), 0, -1):
            path = "/".join(parts[1:end])
            candidates = [f"{path}.py", f"{path}/__init__.py"] if path else ["__init__.py"]
            match = next((candidate for candidate in candidates if candidate in MODULES), None)
            if match is not None:
                found.add(match)
                break
    return found - {module}


def test_the_whole_package_has_no_import_cycle():
    graph = {module: imported_modules(module) for module in MODULES}
    try:
        list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", IMPORTING_MODULES)
def test_libraries_are_imported_only_in_the_permitted_modules(library):
    violations = [
        module
        for module in MODULES
        if any(name.split(".")[0] == library for name in imported_names(module))
        and not module.startswith(IMPORTING_MODULES[library])
    ]
    assert violations == []


def loaded_by(code: str) -> set[str]:
    script = f"import sys, json\n{code}\nprint(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    out = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return set(json.loads(out.splitlines()[-1]))


def test_help_imports_no_heavy_library():
    code = "from automl_cxr.cli import _run\nassert _run(['--help']) == 0\nassert _run(['search', '--help']) == 0"
    assert loaded_by(code) == set()


def test_reading_other_data_does_not_load_pydicom():
    assert "pydicom" not in loaded_by("import automl_cxr.data.inspection, automl_cxr.data.layouts, automl_cxr.data.dicom_tags")


@pytest.mark.slow
def test_the_driver_does_not_load_keras():
    code = "import automl_cxr.api, automl_cxr.study.objective, automl_cxr.engine.ray_execution, automl_cxr.engine.registry"
    assert not loaded_by(code) & {"keras", "keras_tuner", "tensorflow", "plotly"}
