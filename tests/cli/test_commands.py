"""Tests of all commands as users type them, in this process; one search runs with Ray in its own processes."""

import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import optuna
import psutil
import pytest

from automl_cxr import cli
from automl_cxr.cli import options as cli_options
from automl_cxr.data.feature_cache import FeatureCache, Features

SPACE = """
family = "scratch"
n_blocks = 2
filters = 4
[dense_units]
type = "int"
low = 4
high = 16
default = 8
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; return its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_options, "_debug", False)

    def run_command(*arguments):
        code = cli._run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run_command


@pytest.fixture(scope="module")
def searched(tmp_path_factory, phantoms):
    """Search a study from the command line without Ray; return its runs folder."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.toml").write_text(SPACE)
    arguments = ["search", "--space", folder / "tiny.toml", "--data", phantoms, "--name", "s", "--trials", 3, "--epochs", 2]
    arguments += ["--image-size", 32, "--batch-size", 64, "--executor", "inline", "--runs", folder / "runs"]
    assert cli._run([str(argument) for argument in arguments]) == 0
    return folder / "runs"


def all_commands():
    def walk(command, names):
        yield names, command
        for name, sub in getattr(command, "commands", {}).items():
            yield from walk(sub, (*names, name))

    return list(walk(cli.commands, ()))


@pytest.mark.parametrize(
    "arguments", [arguments for arguments, _ in all_commands()], ids=lambda arguments: " ".join(arguments) or "automl-cxr"
)
def test_every_command_has_help(run, arguments):
    code, out, err = run(*arguments, "--help")
    assert code == 0
    assert err == ""
    assert out.startswith("Usage: automl-cxr")


def test_every_option_has_a_help_text():
    for arguments, command in all_commands():
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in ("seed", "port", "name"):
                assert option.help, f"{' '.join(arguments)}: {option.opts}"


@pytest.mark.long
def test_a_report_is_one_file(run, tmp_path, searched):
    code, out, err = run("report", "s", "--runs", searched, "--latency", "--out", "r.html")
    assert (code, out) == (0, "")
    assert re.search(r"Report written to r\.html \(\d\.\d MB\)", err)
    page = (tmp_path / "r.html").read_text()
    for title in ("Leaderboard", "Errors", "Heat maps", "Audit of the data", "Sample images", "Methods"):
        assert f"<h2>{title}</h2>" in page, title
    assert "Heat maps are omitted" not in page
    assert "Score against latency" in page
    assert run("report", "s", "--runs", searched, "--no-explain", "--data", "nowhere", "--out", "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text()
    assert "<h2>Heat maps</h2>" not in page
    assert "Pictures are omitted." in page


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["report", "s"], 1, "Run a search first"),
        (["report", "s", "--out", "no/such/r.html"], 2, "its folder must exist"),
    ],
)
def test_a_report_that_cannot_be_written_is_an_error(run, arguments, code, message):
    assert run(*arguments)[0] == code
    assert message in run(*arguments)[2]


def test_every_command_has_a_one_line_summary_under_a_heading(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    listed = run("--help")[1].partition("Data:")[2]
    lines = [line for line in listed.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(cli.commands.commands)
    assert [line for line in listed.splitlines() if line and line not in lines] == ["Search:", "Results:", "Ship:", "Maintain:"]
    assert "..." not in listed


def test_help_names_all_samplers_pruners_metrics_methods_and_layouts(run):
    from automl_cxr.data.layouts import LAYOUTS
    from automl_cxr.engine.registry import FOLD_PRUNERS, PRUNERS, SAMPLERS
    from automl_cxr.ensemble.build import METHODS
    from automl_cxr.results.tables import FORMATS
    from automl_cxr.scoring.metrics import METRICS

    _, search_help, _ = run("search", "--help")
    layouts = [row.name for row in (LAYOUTS.values() if hasattr(LAYOUTS, "values") else LAYOUTS)]
    for name in (*SAMPLERS, *PRUNERS, *FOLD_PRUNERS, *METRICS, *layouts):
        assert name in search_help, name
    _, ensemble_help, _ = run("ensemble", "build", "--help")
    assert all(name in ensemble_help for name in METHODS)
    _, leaderboard_help, _ = run("leaderboard", "--help")
    assert all(name in leaderboard_help for name in FORMATS)


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["serch"], 2, "search"),
        (["search", "--trials", "0"], 2, "--trials"),
        (["search", "--trials", "many"], 2, "not a valid integer"),
        (["search", "--time", "soon"], 2, "2h or 1h30m"),
        (["search", "--time", "0s"], 2, "above 0"),
        (["search", "--space", "fusd"], 2, "Did you mean 'fused'"),
        (["search", "--space", "mine.toml"], 2, "existing TOML file"),
        (["search", "--data", "no such folder"], 1, "must exist"),
        (["search", "--objective", "macro_f2"], 2, "Did you mean 'macro_f1'"),
        (["search", "--objective", "latency"], 2, "Name a metric before it"),
        (["search", "--objective", "fnfr", "--objective", "parameters", "--pruner", "median"], 2, "one objective only"),
        (["search", "--require", "parameters<10"], 2, "written like parameters<=10e6"),
        (["search", "--executor", "rya"], 2, "Did you mean 'ray'"),
        (["search", "--executor", "inline", "--concurrency", "2"], 2, "--concurrency needs --executor ray"),
        (["search", "--study", "dmo"], 2, "Did you mean 'demo'"),
        (["data", "inspect", "nowhere"], 1, "must exist"),
        (["spaces", "show", "scrach"], 2, "Did you mean 'scratch'"),
        (["describe", "cxr14-fussed"], 2, "Did you mean 'cxr14-fused'"),
        (["describe", "scratch", "--set", "dropout"], 2, "set like dropout=0.3"),
        (["describe", "scratch", "--set", "dropuot=1"], 2, "Did you mean 'dropout'"),
        (["describe", "scratch", "--set", "dropout=x"], 2, "must be of type float"),
        (["describe", "fused", "--image-size", "40"], 1, "at least 67 pixels"),
        (["search", "--weights", "nowhere"], 2, "folder of pretrained weights must exist"),
        (["leaderboard", "s"], 1, "Run a search first"),
        (["leaderboard", "s", "--format", "jsn"], 2, "Did you mean 'json'"),
        (["ensemble", "build", "s", "--top", "0"], 2, "--top"),
        (["ensemble", "build"], 2, "received neither"),
        (["ensemble", "build", "s", "x.npz"], 2, "need the option --predictions"),
        (["ensemble", "build", "s", "--shrinkage", "2"], 2, "--shrinkage"),
        (["ensemble", "build", "--predictions", "x.csv"], 1, "No such file"),
        (["ensemble", "apply", "nowhere", "x.csv"], 1, "is not an ensemble folder"),
        (["evaluate", "s"], 1, "Run a search first"),
        (["predict", "s"], 2, "PATHS"),
        (["predict", "no/such/ensemble", "x.png"], 2, "ensemble.json"),
        (["predict", "s", "x.png", "--out", "no/such/p.csv"], 2, "its folder must exist"),
        (["data", "inspect", ""], 2, "empty path"),
        (["search", "--data", ""], 2, "empty path"),
        (["search", "--name", ""], 2, "folder name"),
        (["search", "--name", "studies.db"], 2, "the name of a file"),
        (["storage", "serve", "--host", "0.0.0.0"], 2, "--insecure"),
        (["search", "--address", "127.0.0.1:1"], 2, "No Ray cluster responds"),
        (["splice", "squeezenet"], 2, "Missing argument 'B'"),
        (["splice", "squeezenet", "mine"], 1, "'mine' is neither a backbone"),
        (["splice", "squeezenet", "vgg16", "--format", "jsn"], 2, "Did you mean 'json'"),
        (["splice", "squeezenet", "vgg16", "--figure", "no/such/f.html"], 2, "its folder must exist"),
        (["dashboard"], 1, "Run a search first"),
        (["verify", "s"], 1, "Run a search first"),
        (["replay", "s"], 2, "TRIAL"),
        (["replay", "s", "0", "--tolerance", "-1"], 2, "--tolerance"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors_print_a_message_and_return_an_exit_code(run, arguments, code, message):
    received, out, err = run(*arguments)
    assert received == code
    assert message in err
    assert "Traceback" not in err + out
    assert out == ""


def test_debug_shows_the_traceback(run):
    _, _, err = run("leaderboard", "s", "--debug")
    assert "Traceback" in err


def test_the_cache_is_shown_and_cleared(run, tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AUTOML_CXR_CACHE_LIMIT", "2GB")
    monkeypatch.setenv("AUTOML_CXR_IMAGE_LIMIT", "3GB")
    cached = Features({"network": "a"}, (3, 500), "float32", "squeezenet@vector, 112 pixels")
    FeatureCache().open([cached], lambda _missing: iter([(np.zeros((3, 500)),)]))
    code, out, _ = run("cache")
    assert code == 0
    assert "images 0 bytes of at most 3.0 GB, features 6.0 kB of at most 2.0 GB, copies 0 bytes" in out
    assert "squeezenet@vector, 112 pixels, float32" in out
    result = json.loads(run("cache", "--json")[1])
    assert [entry["n_bytes"] for entry in result["entries"]] == [6000]
    assert run("cache", "clear") == (0, "6.0 kB freed\n", "")
    assert json.loads(run("cache", "clear", "--json")[1]) == {"freed_bytes": 0}
    monkeypatch.setenv("AUTOML_CXR_CACHE_LIMIT", "much")
    assert run("cache")[0] == 2


def test_systems_are_listed(run):
    _, out, _ = run("systems")
    assert "cxr14-fused " in out
    assert json.loads(run("systems", "--json")[1])["cxr14-fused"]["reference"]["parameters"] == 9_211_847


def test_a_network_is_described_as_text(run):
    code, out, _ = run("describe", "lung3-3")
    assert code == 0
    assert "block1_conv1" in out
    assert "62 x 62 x 32" in out
    assert "parameters: 92,579" in out
    assert "published parameters: 92,579 (the same here)" in out
    _, out, _ = run("describe", "lung3-3", "--n-classes", 4, "--set", "dropout=0.5")
    assert "here 123,332" in out
    _, out, _ = run("describe", "squeezenet", "--image-size", 64)
    assert "splice points of squeezenet: 1 fire2_concat, 2 fire3_concat" in out


def test_a_network_that_exceeds_the_memory_is_described_without_building_it(run):
    arguments = ["describe", "scratch", "--set", "n_blocks=1", "--set", "filters=1024", "--set", "pooling=flatten"]
    code, out, _ = run(*arguments, "--set", "dense_units=8192", "--image-size", 2048)
    assert code == 0
    assert "parameters: 4,398,0" in out
    assert "The memory of this machine is insufficient; a search would refuse the network." in out
    result = json.loads(run("describe", "lung3-3", "--json")[1])["memory"]
    assert result["fits"]
    assert result["batch"] == result["one_image"] + (result["batch_size"] - 1) * result["each_image"]


@pytest.mark.long
def test_two_objectives_and_a_bound_are_searched_from_a_study_file_or_from_options(run, phantoms):
    space = SPACE.replace("[dense_units]", "[space.dense_units]")
    Path("two.toml").write_text(f'objective = ["macro_f1", "parameters"]\nrequire = "parameters<=1e6"\n[space]{space}')
    common = ["--data", phantoms, "--name", "two", "--image-size", 32, "--epochs", 1, "--trials", 1, "--executor", "inline"]
    code, out, err = run("search", "--study", "two.toml", *common)
    assert code == 0, err
    assert "on the Pareto front: trial 0, macro_f1 0." in out
    code, out, err = run("search", *common, "--objective", "macro_f1", "--objective", "parameters", "--json")
    assert code == 0, err
    assert json.loads(out)["pareto"][0].keys() == {"trial", "macro_f1", "parameters"}
    code, out, _ = run("leaderboard", "two")
    assert out.splitlines()[1].split()[:4] == ["rank", "trial", "feasible", "pareto"]
    assert out.splitlines()[2].split()[0] == "shortcut"  # the shortcut baseline, which is not a trial
    assert out.splitlines()[3].split()[2:4] == ["yes", "yes"]


@pytest.mark.long
def test_a_published_system_is_trained_by_its_name(run, phantoms):
    arguments = ["search", "--study", "lung3-3", "--data", phantoms, "--image-size", 32, "--epochs", 1, "--executor", "inline"]
    code, out, err = run(*arguments, "--set", "learning_rate=0.01", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["study"] == "lung3-3-data"
    assert result["trials"] == {"complete": 1}
    config = json.loads(Path("automl_runs/lung3-3-data/trials/00000/config.json").read_text())
    assert (config["optimizer"], config["learning_rate"], config["batch_size"], config["image_size"]) == (
        "adadelta",
        0.01,
        128,
        32,
    )


def test_spaces_are_listed_and_shown(run):
    code, out, _ = run("spaces")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} >= {"scratch", "fused"}
    _, text, _ = run("spaces", "show", "fused")
    assert "[taps]" in text
    assert set(json.loads(run("spaces", "--json")[1])) >= {"scratch", "fused"}


@pytest.mark.long
def test_pairs_of_cuts_are_scored_printed_and_plotted(run, phantoms):
    arguments = ["splice", "squeezenet", "squeezenet", "--data", phantoms, "--cuts", "1,2", "--image-size", 32, "--finetune", 0]
    arguments += ["--set", "weights=none", "--set", "second_weights=none"]
    code, out, err = run(*arguments, "--figure", "splices.html")
    assert code == 0
    assert "squeezenet (first) and squeezenet (second)" in out
    assert "fire2_concat" in out
    assert "Best pair: fire2_concat + fire3_concat" in err
    assert "heatmap" in Path("splices.html").read_text(encoding="utf-8")
    code, out, err = run(*arguments, "--out", "pairs.csv")
    assert (code, out) == (0, "")
    assert Path("pairs.csv").read_text(encoding="utf-8").startswith("rank,first_cut,second_cut,macro_f1,")
    result = json.loads(run(*arguments, "--json")[1])
    assert len(result["networks"]) == 3
    assert result["study"] is None


def test_phantoms_are_drawn_and_inspected(run):
    code, out, _ = run("data", "demo", "chests", "--images", 24, "--image-size", 48)
    assert (code, "24 phantom radiographs" in out) == (0, True)
    shutil.copy("chests/metadata.csv", "chests/normal/broken.png")
    code, out, _ = run("data", "inspect", "chests")
    assert code == 0
    for text in ("layout folders", "normal", "opacity", "effusion", "48x48", "cannot be read: 1", "normal/broken.png"):
        assert text in out
    result = json.loads(run("data", "inspect", "chests", "--json")[1])
    assert {row["class"]: row["unreadable"] for row in result["classes"]} == {"effusion": 0, "normal": 1, "opacity": 0}


class TestAfterASearch:
    def test_the_leaderboard_is_printed_and_written(self, run, searched):
        code, out, err = run("leaderboard", "s", "--runs", searched)
        assert code == 0
        assert "macro_f1 95%" in out
        assert len(out.splitlines()) == 2 + 1 + 3
        assert "shortcut baseline" in out.splitlines()[2]
        assert "Shortcut baseline: " in err
        code, out, err = run("leaderboard", "s", "--runs", searched, "--format", "csv", "--out", "board.csv")
        assert (code, out) == (0, "")
        assert "3 trials written to board.csv" in err
        with Path("board.csv").open(newline="") as file:
            assert [row["rank"] for row in csv.DictReader(file)] == ["", "1", "2", "3"]
        assert len(json.loads(run("leaderboard", "s", "--runs", searched, "--json")[1])) == 1 + 3
        code, out, err = run("leaderboard", "s", "--runs", searched, "--out", "board.xlsx", "--columns", "trial,macro_f1")
        assert (code, out) == (0, "")
        assert Path("board.xlsx").read_bytes()[:2] == b"PK"
        out = run("leaderboard", "s", "--runs", searched, "--columns", "trial,macro_f1", "--sort", "log_loss")[1]
        assert out.splitlines()[1].split() == ["trial", "macro_f1", "macro_f1", "95%"]
        for arguments, remedy in (
            (["--columns", "acuracy"], "Did you mean 'accuracy'"),
            (["--sort", "acuracy"], "Did you mean 'accuracy'"),
            (["--metric", "acuracy"], "Did you mean 'accuracy'"),
            (["--format", "xlsx"], "Write it to a file with --out"),
            (["s"], "given only once"),
        ):
            code, _, err = run("leaderboard", "s", *arguments, "--runs", searched)
            assert (code, remedy in err) == (2, True), err
        code, _, err = run("leaderboard", "s", "--runs", searched, "--out", "no/such/folder/board.csv")
        assert (code, "Cannot write" in err) == (2, True)

    def test_a_search_prints_the_score_corrected_for_the_choice(self, run, searched):
        arguments = ["search", "--name", "s", "--trials", 3, "--runs", searched, "--executor", "inline"]
        code, out, err = run(*arguments)
        assert code == 0, err
        assert "Corrected for the choice among 3 trials, the macro_f1 of trial " in out
        result = json.loads(run(*arguments, "--json")[1])
        assert result["corrected"]["uncorrected"] == pytest.approx(result["best"]["score"])
        assert f"{result['corrected']['value']:.4f} (95% interval" in out

    def test_the_environment_variable_sets_the_runs_folder(self, run, searched, monkeypatch):
        monkeypatch.setenv("AUTOML_CXR_RUNS", str(searched))
        assert run("leaderboard", "s")[0] == 0
        assert "Its studies: s" in run("leaderboard", "t")[2]

    @pytest.mark.slow
    def test_ensemble_evaluate_and_predict(self, run, searched, phantoms):
        code, out, err = run("ensemble", "build", "s", "--runs", searched, "--top", 2, "--name", "pair")
        assert code == 0
        for method in ("ga", "ga-by-class", "average", "geometric", "greedy", "best", "stacking", "sweep"):
            assert method in out
        assert "out of fold" in out
        folder = searched / "s" / "ensembles" / "pair"
        assert str(folder) in out
        assert f"next: automl-cxr evaluate {folder}" in out
        code, out, err = run("evaluate", folder, "--runs", searched)
        assert code == 0
        assert "test part" in out
        assert "confusion matrix" in out
        assert "recorded" in err or "evaluated" in err
        code, _, err = run("ensemble", "build", "s", "--runs", searched, "--top", 2, "--name", "pair")  # the same members again
        assert code == 0, err
        assert "test" in json.loads((folder / "ensemble.json").read_text())
        result = json.loads(run("evaluate", "s", "--runs", searched, "--split", "valid", "--json")[1])
        assert set(result["intervals"]) == {
            *("macro_f1", "accuracy", "balanced_accuracy", "cohen_kappa", "macro_auc", "macro_average_precision"),
            *("log_loss", "calibration_error", "fnfr"),
            *("sensitivity_at_90_specificity", "sensitivity_at_95_specificity"),
        }
        Path("broken.png").write_bytes(b"no")
        code, out, err = run("predict", folder, phantoms / "normal", "broken.png", "--runs", searched, "--out", "p.csv")
        assert code == 0
        assert "broken.png: " in err
        with Path("p.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(list((phantoms / "normal").glob("*.png")))
        assert list(rows[0]) == ["image", "class", "probability_effusion", "probability_normal", "probability_opacity"]
        code, _, err = run("predict", folder, "broken.png", "--runs", searched)
        assert code == 1

    def test_a_trial_is_exported(self, run, searched):
        pytest.importorskip("tf2onnx", reason="ONNX is written by tf2onnx")
        folder = next((searched / "s" / "trials").glob("0*/model.keras")).parent
        code, out, err = run("export", folder, "--out", "chest.onnx", "--json")
        assert code == 0, err
        result = json.loads(out)
        assert (result["format"], Path(result["file"]).name) == ("onnx", "chest.onnx")
        assert Path("chest.onnx").is_file()
        assert json.loads(Path(result["description"]).read_text())["name"] == f"trial {int(folder.name)}"
        code, _, err = run("export", "s", "--runs", searched, "--out", "chest.onnx", "--format", "keras")
        assert (code, "must end in .keras; received chest.onnx" in err) == (2, True)

    @pytest.mark.long
    def test_trials_are_verified_and_replayed(self, run, searched):
        code, out, err = run("verify", "s", "--runs", searched)
        assert (code, err) == (0, "")
        assert out.count(" sound") == 3
        result = json.loads(run("verify", "s", 1, "--runs", searched, "--json")[1])
        assert (result["is_sound"], [check["trial"] for check in result["trials"]]) == (True, [1])
        code, out, err = run("replay", "s", 2, "--runs", searched)
        assert code == 0, out
        assert err == ""
        assert out.splitlines()[-1].startswith("the same (differs by ")
        assert "score: recorded 0." in out
        code, _, err = run("replay", "s", 9, "--runs", searched)
        assert (code, "trials 0 to 2; received 9" in err) == (1, True)

    def test_a_missing_file_is_reported(self, run, searched, tmp_path):
        shutil.copytree(searched, tmp_path / "copy")
        (tmp_path / "copy" / "s" / "trials" / "00001" / "history.csv").unlink()
        code, out, _ = run("verify", "s", "--runs", "copy")
        assert code == 1
        assert "trial 1: history.csv is missing" in out
        assert json.loads(run("verify", "s", "--runs", "copy", "--json")[1])["is_sound"] is False

    @pytest.mark.slow
    def test_studies_are_listed_shown_copied_and_deleted(self, run, searched, monkeypatch):
        location = ("--runs", searched)
        code, out, err = run("studies", "copy", "s", "other", *location)
        assert code == 0, err
        assert "trials: 3 complete" in out
        assert f"next: automl-cxr search --name other --runs {searched}" in out
        _, out, _ = run("studies", *location)
        assert [line.split()[0] for line in out.splitlines()] == ["studies", "name", "other", "s"]
        listed = json.loads(run("studies", *location, "--json")[1])
        assert listed["other"]["complete"] == 3
        _, out, _ = run("studies", "show", "other", *location)
        for text in (
            "space_name",
            "split by patient",
            "trials: 3 complete",
            "best macro_f1",
            "test part: ",
            "models of trials: 3",
        ):
            assert text in out
        assert json.loads(run("studies", "show", "other", *location, "--json")[1])["spec"]["name"] == "other"
        for typed, code_expected in (("no\n", 2), ("", 2), ("other\n", 0)):
            monkeypatch.setattr("sys.stdin", io.StringIO(typed))
            code, out, err = run("studies", "delete", "other", *location)
            assert code == code_expected
            assert "This deletes study 'other': trials: 3 complete; models 3" in err
        assert "Deleted study 'other'" in out
        assert set(json.loads(run("studies", *location, "--json")[1])) == {"s"}
        assert run("studies", "copy", "s", "other", *location)[0] == 0
        deleted = json.loads(run("studies", "delete", "other", *location, "--yes", "--json")[1])
        assert deleted["models"] == 3
        code, _, err = run("studies", *location, "show", "s")
        assert (code, "Options must follow" in err) == (2, True)

    def test_too_few_trials_have_no_importances(self, run, searched):
        code, out, err = run("importance", "s", "--runs", searched)
        assert (code, out) == (1, "")
        assert "study 's' has 3" in err

    def test_a_repeated_search_runs_no_further_trials(self, run, searched, phantoms):
        code, out, err = run(
            "search", "--name", "s", "--data", phantoms, "--trials", 3, "--executor", "inline", "--runs", searched, "--json"
        )
        assert code == 0
        assert "continued" in err
        result = json.loads(out)
        assert result["trials"] == {"complete": 3}
        counts = result["trial_counts"]
        assert (counts["asked"], counts["complete"], counts["failed"]) == (3, 3, {})
        _, out, _ = run("search", "--name", "s", "--trials", 3, "--executor", "inline", "--runs", searched)
        assert "trials: 3 requested, 3 complete\n" in out

    def test_other_settings_are_refused(self, run, searched, phantoms):
        code, _, err = run("search", "--name", "s", "--data", phantoms, "--image-size", 64, "--runs", searched)
        assert code == 2
        assert "created with image_size 32; received 64" in err


def test_the_number_of_the_best_trial_is_an_integer_if_another_study_has_none(run, tmp_path):
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    optuna.create_study(study_name="empty", storage=url)
    optuna.create_study(study_name="full", storage=url).add_trial(optuna.trial.create_trial(value=0.5))
    code, out, err = run("studies", "--storage", url, "--runs", tmp_path)
    assert code == 0, err
    assert out.splitlines()[-1].split()[-4:-2] == ["0.5000", "0"]
    listed = json.loads(run("studies", "--storage", url, "--runs", tmp_path, "--json")[1])
    assert (listed["full"]["best_trial"], listed["empty"]["best_trial"]) == (0, None)


def test_a_deleted_working_directory_is_reported(run, tmp_path, monkeypatch):
    (tmp_path / "deleted").mkdir()
    monkeypatch.chdir(tmp_path / "deleted")
    (tmp_path / "deleted").rmdir()
    code, out, err = run("studies", "--runs", tmp_path)
    assert (code, out) == (2, "")
    assert err.startswith("automl-cxr: The working directory must exist")
    assert err.count("\n") == 1
    assert run("--help")[0] == 0


@pytest.mark.long
def test_typed_options_take_precedence_over_a_study_file(run, phantoms):
    Path("tiny.toml").write_text(SPACE)
    Path("mine.toml").write_text(
        f'name = "m"\nspace = "tiny.toml"\ndata = "{phantoms}"\nimage-size = 32\nepochs = 1\ntrials = 1\nexecutor = "inline"'
    )
    code, out, _ = run("search", "--study", "mine.toml", "--trials", 2, "--json")
    assert code == 0
    assert json.loads(out)["trials"] == {"complete": 2}
    assert json.loads(Path("automl_runs/m/study.json").read_text())["image_size"] == 32
    Path("mine.toml").write_text("image_sise = 3")
    code, _, err = run("search", "--study", "mine.toml")
    assert (code, "Did you mean 'image-size'" in err) == (2, True)


def start_automl_cxr(*arguments, **settings):
    # A background process of a shell and its children ignore Ctrl-C. Therefore the handler is installed again.
    install_handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script = f"{install_handler}; from automl_cxr.cli import main; main()"
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], text=True, **settings)


@pytest.mark.long
def test_a_search_with_ray_continues_after_an_interrupt_and_a_kill(tmp_path, phantoms):
    (tmp_path / "tiny.toml").write_text(SPACE)
    arguments = ["search", "--space", "tiny.toml", "--data", phantoms, "--name", "r", "--trials", 4, "--epochs", 2]
    arguments += ["--image-size", 32, "--batch-size", 64, "--concurrency", 1, "--json"]
    pipes = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}

    def run_until(text, signal_number):
        search = start_automl_cxr(*arguments, **pipes)
        log = ""
        for line in search.stderr:
            log += line
            if text in line:
                os.kill(search.pid, signal_number)
                break
        out, remaining_log = search.communicate(timeout=120)
        return search.returncode, out, log + remaining_log

    code, _, log = run_until("trial 1 starts", signal.SIGINT)  # one trial is complete and one is unfinished
    assert code == 130, log
    assert "the same command continues" in log
    code, _, log = run_until("was interrupted and is run again", signal.SIGKILL)
    assert code == -signal.SIGKILL, log
    search = start_automl_cxr(*arguments, **pipes)
    out, log = search.communicate(timeout=200)
    assert search.returncode == 0, log
    assert json.loads(out)["trials"] == {"complete": 4}, log
    trials = tmp_path / "automl_runs" / "r" / "trials"
    assert sorted(path.name for path in trials.iterdir()) == [f"{number:05d}" for number in range(4)]


@pytest.mark.long
def test_a_background_search_that_ignores_ctrl_c_ends_on_sigterm_and_can_be_continued(tmp_path, phantoms):
    (tmp_path / "tiny.toml").write_text(SPACE)
    arguments = ["search", "--space", "tiny.toml", "--data", phantoms, "--name", "b", "--trials", 1, "--epochs", 500]
    arguments += ["--image-size", 32, "--batch-size", 8, "--concurrency", 1]
    script = "from automl_cxr.cli import main; main()"
    # A shell without job control starts background processes with SIGINT ignored.
    command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", script, *map(str, arguments)]
    search = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert any("trial 0 starts" in line for line in search.stderr)
    children = psutil.Process(search.pid).children(recursive=True)
    search.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        search.wait(timeout=1)
    search.terminate()
    _, log = search.communicate(timeout=60)
    assert search.returncode == 130, log
    assert "Interrupted. Finished trials are stored; the same command continues the search." in log
    assert "Traceback" not in log
    assert "SIGTERM" not in log, "the handler of Ray, which prints a stack, was removed"
    _, remaining = psutil.wait_procs(children, timeout=30)
    assert remaining == []
    storage = f"sqlite:///{tmp_path / 'automl_runs' / 'studies.db'}"
    assert [trial.state.name for trial in optuna.load_study(study_name="b", storage=storage).trials] == ["RUNNING"]


def studies_in_dashboard(runs, cwd):
    """Open the printed address of a dashboard as a browser does; return the names of its studies."""
    import http.cookiejar
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    dashboard = start_automl_cxr("dashboard", "--runs", runs, "--port", port, cwd=cwd, stderr=subprocess.PIPE)
    try:
        address = re.fullmatch(r"Dashboard at (\S+) \(stop with Ctrl-C\)\n", dashboard.stderr.readline())[1]
        assert address.startswith(f"http://127.0.0.1:{port}/dashboard?token=")
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
        with browser.open(address, timeout=60) as response:
            assert response.url == f"http://127.0.0.1:{port}/dashboard"
        with browser.open(f"http://127.0.0.1:{port}/api/studies", timeout=60) as response:
            studies = json.load(response)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/studies", timeout=60)
    finally:
        dashboard.send_signal(signal.SIGINT)
        dashboard.communicate(timeout=30)
    assert dashboard.returncode == 0
    return {study["study_name"] for study in studies["study_summaries"]}


@pytest.mark.long
def test_the_dashboard_shows_the_study(tmp_path, searched):
    assert "s" in studies_in_dashboard(searched, tmp_path)


@pytest.mark.long
def test_a_runs_folder_may_have_special_characters(run, phantoms, tmp_path):
    (tmp_path / "tiny.toml").write_text(SPACE)
    runs = tmp_path / "50%41 off? #1 a:b@c" / "runs"
    arguments = ["--space", "tiny.toml", "--data", phantoms, "--name", "a b#c", "--trials", 1, "--epochs", 1]
    arguments += ["--image-size", 32, "--batch-size", 64, "--executor", "inline", "--runs", runs]
    code, out, err = run("search", *arguments)
    assert code == 0, err
    assert "next: automl-cxr leaderboard 'a b#c'" in out
    assert sorted(path.name for path in runs.iterdir() if path.name[0] != ".") == ["a b#c", "studies.db"]
    assert json.loads(run("leaderboard", "a b#c", "--runs", runs, "--format", "json")[1])
    assert run("evaluate", "a b#c", "--runs", runs)[0] == 0
    code, out, err = run("studies", "copy", "a b#c", "copied?", "--runs", runs)
    assert code == 0, err
    assert studies_in_dashboard(runs, tmp_path) == {"a b#c", "copied?"}
    assert run("studies", "delete", "copied?", "--yes", "--runs", runs)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [runs.parent.name, "tiny.toml"]


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("500MB", 500_000_000), ("6gb", 6_000_000_000), ("1.5GiB", 3 * 2**29), ("2k", 2000), ("77", 77)]
)
def test_a_size_has_a_unit(text, n_bytes):
    assert cli_options.Size().convert(text, None, None) == n_bytes


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0", "3 apples", "1ib"])
def test_an_invalid_size_is_refused(text):
    with pytest.raises(click.BadParameter, match="size"):
        cli_options.Size().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Nodule/Mass, Lung Opacity", ["Nodule/Mass", "Lung Opacity"]),
        ('Mass,"Edema, mild"', ["Mass", "Edema, mild"]),
        ('Mass, "a ""b"", c"', ["Mass", 'a "b", c']),
        ("5\" tube,d'or", ['5" tube', "d'or"]),
    ],
)
def test_names_that_contain_a_comma_are_quoted(text, names):
    assert cli_options.Names().convert(text, None, None) == names


@pytest.mark.parametrize(("text", "message"), [("", "must not be empty"), ("a,,b", "must not be empty"), ('a,"b', r'A,"B, C"')])
def test_lists_of_names_are_checked(text, message):
    with pytest.raises(click.BadParameter, match=message):
        cli_options.Names().convert(text, None, None)
