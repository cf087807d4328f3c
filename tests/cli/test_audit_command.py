import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

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


def test_names_like_formulas_are_unchanged_in_a_cleaned_table(tmp_path, capsys):
    names = ["=cmd.png", "+x.png", "-rf.png", "@x.png", " lead.png", 'two "q", lines\n.png', *(f"{n}.png" for n in range(14))]
    rng = np.random.default_rng(0)
    for name in names:
        Image.fromarray(rng.integers(0, 256, (24, 24), np.uint8)).save(tmp_path / name)
    shutil.copy(tmp_path / "0.png", tmp_path / "=copy.png")
    patients = ["-00001", "=cmd", "@x", "+1", "p"]
    rows = [[name, ("-1", "+ve")[n % 2], patients[n % 5], "", "-PA"] for n, name in enumerate([*names, "=copy.png"])]
    table = tmp_path / "labels.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient_id", "split", "view"], *rows])
    assert _run(["data", "audit", str(table), "--fix", str(tmp_path / "clean.csv")]) == 0
    before, after = load_dataset(table).table, load_dataset(tmp_path / "clean.csv").table
    kept = before[before["image"] != "=copy.png"].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, kept)
    assert set(after["label"]) == {"-1", "+ve"}
    assert set(after["patient_id"]) == set(patients)
    assert (tmp_path / "clean.changes.csv").read_text().splitlines()[1].startswith("'=copy.png,dropped,"), "for people"
    capsys.readouterr()


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


def test_inspect_lists_files_that_are_left_out_or_uniform_and_images_without_a_patient(tmp_path, phantoms, capsys):
    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    folder = next(path for path in sorted(data.iterdir()) if path.is_dir())
    (folder / "scan.nii").write_bytes(bytes(range(256)))
    Image.new("L", (64, 64), 9).save(folder / "blank.png")
    assert _run(["data", "inspect", str(data)]) == 0
    output = capsys.readouterr().out
    assert f"{folder.name}/scan.nii: not an image in a known format" in output
    assert f"{folder.name}/blank.png: uniform: every pixel has the grey level 9" in output
    assert "images without a patient: 1" in output
    assert "1 of 61 images (1.6 %) have no patient: each of them is a patient of its own." in output
    assert _run(["data", "inspect", str(data), "--unknown-patients", "drop", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (sum(row["images"] for row in found["classes"]), found["n_without_patient"]) == (60, 1)
    assert _run(["data", "audit", str(data), "--unknown-patients", "separate"]) == 0
    assert "cannot be read: 1" in capsys.readouterr().out


def test_the_list_of_changes_does_not_replace_another_file(run_audit, tmp_path):
    other = tmp_path / "clean.changes.csv"
    other.write_text("version,what\n1,my notes\n")
    code, output = run_audit("--fix", tmp_path / "clean.csv")
    assert (code, "which is another file. Choose another --fix" in output.err) == (2, True)
    assert other.read_text() == "version,what\n1,my notes\n"
    assert not (tmp_path / "clean.csv").exists()
