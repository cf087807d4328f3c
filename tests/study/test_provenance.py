"""The provenance of results in a study's record."""

import json
import os
import shutil
import subprocess

import optuna

import automl_cxr
from automl_cxr.hardware import describe_machine
from automl_cxr.study.provenance import _describe_commit, _digest_files, describe_code, describe_versions


def test_every_search_has_an_entry(prepare, quick_search):
    prepared = prepare()
    quick_search(prepared, trials=1)
    quick_search(prepared, trials=3)
    first, second = prepared.store.searches()
    assert (first.position, second.position) == (0, 1)
    assert first.driver != second.driver
    assert (first.budget["n_trials"], second.budget["n_trials"]) == (1, 3)
    assert [prepared.store.facts(number)["driver"] for number in range(3)] == [first.driver, second.driver, second.driver]
    assert second.versions["optuna"] == optuna.__version__
    assert second.code["version"] == automl_cxr.__version__
    assert second.machine["host"] == os.uname().nodename


def test_versions_of_all_packages_that_affect_results_are_recorded():
    versions = describe_versions()
    assert {"python", "backend", "keras", "keras-tuner", "deap", "scikit-learn", "pandas", "numpy", "tensorflow"} <= set(
        versions
    )
    assert json.dumps(describe_machine())
    assert describe_machine()["cores"] >= 1
    assert describe_machine()["memory_bytes"] > 2**20


def test_the_digest_of_the_code_depends_on_names_and_contents(tmp_path):
    (tmp_path / "a.py").write_text("one")
    before = _digest_files(tmp_path)
    (tmp_path / "notes.txt").write_text("not code")
    assert _digest_files(tmp_path) == before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert _digest_files(tmp_path) != before
    assert len(describe_code()["digest"]) == 64


def test_the_commit_of_a_modified_checkout_is_marked(tmp_path):
    assert _describe_commit(tmp_path) is None
    git = [shutil.which("git"), "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org"]
    (tmp_path / "a.py").write_text("one")
    for arguments in (["init", "-q"], ["add", "a.py"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *arguments], check=True)
    commit = _describe_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "a.py").write_text("two")
    assert _describe_commit(tmp_path) == f"{commit}-dirty"
