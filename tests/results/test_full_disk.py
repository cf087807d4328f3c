"""Commands that write results on a full disk: an error in one line, no partial file, and success after space is made."""

import os

import pytest

from automl_cxr import cli
from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.io import DISK_FULL
from tests.full_disk import files_limited_to, list_files

LIMIT = 500  # bytes; each file that a command writes is larger

COMMANDS = {
    "report": (["report", "done", "--no-explain", "--out", "report.html"], "report.html"),
    "leaderboard": (["leaderboard", "done", "--out", "board.csv"], "board.csv"),
    "spreadsheet": (["leaderboard", "done", "--out", "board.xlsx"], "board.xlsx"),
    "errors": (["errors", "done", "--out", "errors.html"], "errors.html"),
    "predict": (["predict", "done", "{images}", "--out", "predictions.csv"], "predictions.csv"),
    "explain": (["explain", "done", "--per-class", "1", "--out", "maps"], "maps/index.csv"),
    "export": (["export", "done", "--out", "model.keras"], "model.keras"),
    "savedmodel": (["export", "done", "--format", "savedmodel", "--out", "model"], "model"),
    "ensemble": (["ensemble", "build", "done", "--top", "2", "--name", "{name}"], "{runs}/done/ensembles/{name}"),
}


@pytest.fixture
def run(finished, phantoms, tmp_path, monkeypatch, capfd):
    """Run a command in an empty folder; return its exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AUTOML_CXR_RUNS", str(finished.folder.parent))

    def run_command(arguments):
        code = cli._run(arguments)
        return code, capfd.readouterr().err

    return run_command


@pytest.mark.long
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_a_full_disk_leaves_no_partial_file_and_succeeds_later(run, finished, tmp_path, command):
    new_images = draw_phantoms(tmp_path / "new", n_images=12, image_size=32, seed=2)  # not the test images of the study
    values = {"images": new_images, "name": "full-disk", "runs": finished.folder.parent}
    arguments, result = ([part.format(**values) for part in COMMANDS[command][0]], COMMANDS[command][1].format(**values))
    folders = (tmp_path, finished.folder)
    before = [list_files(folder) for folder in folders]
    with files_limited_to(LIMIT):
        code, err = run(arguments)
    last_line = err.splitlines()[-1]
    assert code in (1, 2), err
    assert last_line.startswith("automl-cxr: ")
    assert "Traceback" not in err
    if command != "savedmodel":  # TensorFlow does not always name the reason
        assert any(os.strerror(number) in last_line for number in DISK_FULL), err
    assert [list_files(folder) for folder in folders] == before
    code, err = run(arguments)
    assert code == 0, err
    assert (tmp_path / result).exists()
