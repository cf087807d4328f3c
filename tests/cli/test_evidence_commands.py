"""Comparisons, calibration and net benefit on the command line, for trials that are not trained."""

import json

import pytest

from automl_cxr.cli import _run


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments):
        code = _run([*map(str, arguments), "--runs", str(tmp_path)])
        return code, *capfd.readouterr()

    return run_command


@pytest.fixture
def study(prepare, quick_search):
    prepared = prepare(folds=2)
    quick_search(prepared, trials=2)
    return prepared.store


def test_evaluate_prints_calibration_and_net_benefit(study, run):
    code, out, err = run("evaluate", "s", "--trial", 0, "--split", "valid")
    assert code == 0, err
    assert "calibration" in out
    assert "slope 95%" in out
    assert "net benefit of decisions" in out
    assert "not normal" in out
    result = json.loads(run("evaluate", "s", "--trial", 0, "--split", "valid", "--json")[1])
    assert {row["class"] for row in result["calibration"]} == set(study.spec.classes)
    assert {row["outcome"] for row in result["net_benefit"]} == {"not normal"}


def test_errors_compares_the_models_by_auc(study, run):
    code, out, err = run("errors", "s", "--top", 2)
    assert code == 0, err
    assert "DeLong's test" in out
    assert "p_holm" in out
    n_patients = len(set(study.split.train.patients))
    assert f"images of {n_patients} patients as independent" in err
    rows = json.loads(run("errors", "s", "--top", 2, "--json")[1])["auc_differences"]
    assert [row["class"] for row in rows] == list(study.spec.classes)
    assert "DeLong" not in run("errors", "s", "--trials", 0)[1]
