import json

import pytest

from automl_cxr.cli import _run
from automl_cxr.data.dataset import load_dataset


@pytest.fixture
def run_audit(phantoms, tmp_path, capsys):
    def audit(*arguments):
        code = _run(["data", "audit", str(phantoms), *map(str, arguments)])
        return code, capsys.readouterr()

    return audit


def test_an_audit_prints_tables_and_writes_a_page_and_a_cleaned_table(run_audit, phantoms, tmp_path):
    code, output = run_audit("--out", tmp_path / "audit.html", "--fix", tmp_path / "clean.csv")
    assert code == 0
    assert "Shortcut baseline" in output.out
    assert "suspected burnt-in text" in output.out
    assert "<h2>Duplicates</h2>" in (tmp_path / "audit.html").read_text()
    assert len(load_dataset(tmp_path / "clean.csv").table) == len(load_dataset(phantoms).table)
    assert (tmp_path / "clean.changes.csv").read_text() == "image,change,reason\n"


def test_json_contains_the_whole_audit(run_audit):
    code, output = run_audit("--json")
    audit = json.loads(output.out)
    assert code == 0
    assert audit["shortcut"]["low"] <= audit["shortcut"]["macro_f1"] <= audit["shortcut"]["high"]
    assert audit["found_duplicates"] == []
    assert len(audit["differences"]) == 22


def test_a_page_that_cannot_be_written_is_refused_before_the_audit(run_audit, tmp_path):
    code, output = run_audit("--out", tmp_path / "no" / "audit.html")
    assert code == 2
    assert "Choose another --out" in output.err


def test_the_audited_table_is_not_replaced(tmp_path, capsys):
    table = tmp_path / "mine.csv"
    table.write_text("path,label,note\na.png,ill,keep me\n")
    assert _run(["data", "audit", str(table), "--fix", str(table)]) == 2
    assert "Choose another --fix" in capsys.readouterr().err
    assert "keep me" in table.read_text()
    assert not (tmp_path / "mine.changes.csv").exists()


def test_the_list_of_changes_does_not_replace_another_file(run_audit, tmp_path):
    other = tmp_path / "clean.changes.csv"
    other.write_text("version,what\n1,my notes\n")
    code, output = run_audit("--fix", tmp_path / "clean.csv")
    assert (code, "which is another file. Choose another --fix" in output.err) == (2, True)
    assert other.read_text() == "version,what\n1,my notes\n"
    assert not (tmp_path / "clean.csv").exists()
