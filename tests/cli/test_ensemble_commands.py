"""Tests of the ensemble commands with tables of predictions; no network is built."""

import csv
import io
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from automl_cxr import cli
from automl_cxr.cli.ensemble_commands import build_ensemble
from automl_cxr.ensemble.build import DEFAULT_METHOD
from automl_cxr.ensemble.genetic_settings import DEFAULT_SETTINGS
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.prediction_tables import read_prediction_tables
from tests.ensemble.drawing import draw

QUICK = ["--population", 20, "--generations", 10, "--patience", 5, "--halvings", 1]
CLASSES = ("covid", "normal", "other")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments):
        code = cli._run([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return run_command


@pytest.fixture
def tables(tmp_path):
    """Write three tables of the same 120 images in different orders of rows and columns. The scores of the last sum to 10."""
    probabilities, labels = draw(3, 120, 3, 0)
    rng = np.random.default_rng(0)
    files = []
    for number, member in enumerate(probabilities):
        columns, scale = rng.permutation(3), 10 if number == 2 else 1
        file = tmp_path / f"model{number}.csv"
        with file.open("w", newline="") as stream:
            table = csv.writer(stream)
            table.writerow(["image", "patient_id", "label", *(CLASSES[column] for column in columns)])
            for row in rng.permutation(120):
                scores = (scale * member[row, columns]).tolist()
                table.writerow([f"{row}.png", f"p{row // 2}", CLASSES[labels[row]], *scores])
        files.append(file)
    return files


def test_every_setting_of_the_genetic_algorithm_is_an_option():
    options = {option.name: option.default for option in build_ensemble.params}
    assert options["method"] == DEFAULT_METHOD
    for setting in fields(DEFAULT_SETTINGS):
        assert setting.name in options
        if setting.name != "seed":
            assert options[setting.name] == getattr(DEFAULT_SETTINGS, setting.name)


@pytest.mark.slow
def test_an_ensemble_is_built_from_tables_and_applied_to_tables(run, tables):
    code, out, err = run("ensemble", "build", "--predictions", *tables, *QUICK)
    assert code == 0, err
    assert err.count("columns used: image, label, patient_id, ") == 3
    assert "; not used: none; 120 of 120 rows do not sum to 1: divided by their sums" in err
    for text in ("model0.csv", "ga-by-class", "stacking", "out-of-fold ECE", "against the best member", "calibration:"):
        assert text in out
    assert "next: automl-cxr ensemble apply ensembles/auto-3 TABLES..." in out
    record = json.loads(Path("ensembles/auto-3/ensemble.json").read_text())
    assert [row["name"] for row in record["members"]] == [file.name for file in tables]
    code, out, _ = run("ensemble", "apply", "ensembles/auto-3", *tables)
    assert code == 0
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 120
    assert list(rows[0])[:2] == ["image", "class"]
    code, _, err = run("ensemble", "apply", "ensembles/auto-3", *tables, "--out", tables[0].name)
    assert (code, "must not replace the table" in err) == (2, True)
    code, _, err = run("ensemble", "apply", "ensembles/auto-3", *tables[:2])
    assert (code, "one table for each member" in err) == (2, True)
    assert run("evaluate", "ensembles/auto-3")[0] == 1


def test_index_and_fold_columns_are_no_classes_and_are_printed(run, tables):
    expected = [score_predictions(table.predictions)["macro_f1"] for table in read_prediction_tables(tables[:2])]
    for file in tables:
        lines = file.read_text().splitlines()
        numbered = [f"{number},{line},{number % 5}" for number, line in enumerate(lines[1:])]
        file.write_text("\n".join([f",{lines[0]},fold", *numbered]))
    code, out, err = run("ensemble", "build", "--predictions", *tables[:2], "--method", "average", *QUICK, "--json")
    assert code == 0, err
    built = json.loads(out)
    assert [member["score"] for member in built["members"]] == pytest.approx(expected)
    assert all("; not used: a column without a name, fold" in note for note in built["notes"])
    assert set(json.loads(Path(built["folder"], "ensemble.json").read_text())["classes"]) == set(CLASSES)


@pytest.mark.slow
def test_names_like_formulas_are_unchanged_in_tables_that_are_read_again(run, tables):
    for file in tables:
        text = file.read_text().replace("covid", "-1").replace("normal", "+ve").replace("other", "=cmd")
        file.write_text(text.replace(".png,p", ".png,-0000").replace("\n", "\n@"))
        file.write_text(file.read_text().removesuffix("@"))
    assert run("ensemble", "build", "--predictions", *tables[:2], *QUICK)[0] == 0
    code, _, err = run("ensemble", "apply", "ensembles/auto-2", *tables[:2], "--out", "combined.csv")
    assert code == 0, err
    (combined,) = read_prediction_tables(["combined.csv"])
    assert set(combined.predictions.classes) == {"-1", "+ve", "=cmd"}
    assert set(combined.predictions.ids) == {f"@{row}.png" for row in range(120)}
    code, _, err = run("ensemble", "apply", "ensembles/auto-2", "combined.csv", "combined.csv")
    assert code == 0, err


@pytest.mark.long
def test_the_same_seed_gives_the_same_weights(run, tables):
    arguments = ["ensemble", "build", "--predictions", *tables, *QUICK, "--json"]
    results = [json.loads(run(*arguments, "--seed", seed)[1]) for seed in (1, 1, 2)]
    assert results[0] == results[1]
    assert results[0]["members"] != results[2]["members"]
    assert results[0]["methods"][0].keys() == {"method", "fitted", "out_of_fold", "gain", "gain_low", "gain_high"}
    assert results[0]["calibration"].keys() == {"temperature", "error_before", "error_after"}


@pytest.mark.long
def test_an_objective_may_require_the_normal_class(run, tables):
    arguments = ["ensemble", "build", "--predictions", *tables, "--method", "average", *QUICK, "--objective", "fnfr", "--json"]
    assert json.loads(run(*arguments)[1])["objective"] == "fnfr"
    assert json.loads(run(*arguments, "--normal-class", "other")[1])["members"][0]["score"] >= 0
    code, _, err = run(*arguments, "--normal-class", "norml")
    assert (code, "Did you mean 'normal'" in err) == (2, True)


@pytest.mark.long
def test_a_folder_with_other_files_is_refused_and_other_members_get_another_folder(run, tables):
    thesis = Path("ensembles/mine/thesis.docx")
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    build = ["ensemble", "build", "--method", "average", *QUICK, "--predictions"]
    code, out, err = run(*build, *tables[:2], "--name", "mine")
    assert (code, out) == (2, "")
    assert "ensembles/mine contains 'thesis.docx', which is not a file of an ensemble. Choose another --name" in err
    assert thesis.read_text() == "years of work"
    for members, folder in ((tables[:2], "average-2"), (tables[1:], "average-2-2"), (tables[:2], "average-2")):
        code, out, err = run(*build, *members)
        assert (code, f"ensemble: ensembles/{folder}\n" in out) == (0, True), err
    code, _, err = run(*build, *tables[1:], "--name", "average-2")
    assert (code, "of other members (model0.csv, model1.csv)" in err) == (2, True)
    assert sorted(path.name for path in Path("ensembles").iterdir()) == ["average-2", "average-2-2", "mine"]


def test_control_characters_of_names_do_not_reach_the_terminal(run, tables):
    evil = tables[0].with_name("a\x1b[31m\x9b\nb.csv")
    evil.write_text(tables[0].read_text())
    code, out, err = run("ensemble", "build", "--method", "average", *QUICK, "--predictions", evil, tables[1], "--name", "e")
    assert code == 0, err
    assert "a\\x1b[31m\\x9b\\nb.csv" in out
    assert not {"\x1b", "\x9b"} & set(out + err)
    data = json.loads(Path("ensembles/e/ensemble.json").read_text())
    assert data["members"][0]["name"] == evil.name
    evil.unlink()
    code, _, err = run("ensemble", "apply", "ensembles/e", evil, tables[1])
    assert code == 1
    assert err.count("\n") == 1
    assert "a\\x1b[31m\\x9b\\nb.csv" in err
    code, _, err = run("ensemble", "apply", "ensembles/e\x1b]0;x\x07", tables[1], "--nothing\x1b")
    assert code == 2
    assert "\x1b" not in err


def test_near_duplicates_are_reported(run, tables):
    copy = tables[0].with_name("copy.csv")
    copy.write_text(tables[0].read_text())
    _, out, _ = run("ensemble", "build", "--predictions", tables[0], "--predictions", copy, tables[1], *QUICK)
    assert "model0.csv and copy.csv are nearly identical (the correlation of their errors is 1.000)." in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--members", "1,2"], 2, "need the trials of a study"),
        (["--diverse"], 2, "need the trials of a study"),
        (["--method", "sweep"], 2, "is for 2 members; received 3"),
        (["--method", "gaa"], 2, "Did you mean 'ga'"),
        (["--name", "../up"], 2, "folder name"),
        (["--members", "a"], 2, "given by their numbers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_print_a_message(run, tables, arguments, code, message):
    received, out, err = run("ensemble", "build", "--predictions", *tables, *arguments)
    assert (received, out) == (code, "")
    assert message in err
