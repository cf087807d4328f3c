"""The command `serve`, and `predict --sr`."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from automl_cxr.cli import _run
from automl_cxr.serving.server import TOKEN_VARIABLE
from tests.data.conftest import write_dicom  # noqa: F401 - a fixture
from tests.results.conftest import finished  # noqa: F401 - a fixture
from tests.serving.conftest import png, radiograph  # noqa: F401 - fixtures


def location(study):
    return "--runs", str(study._store.folder.parent)


def test_an_address_beyond_this_machine_needs_a_token(finished, capsys, monkeypatch):  # noqa: F811
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert _run(["serve", "done", "--host", "0.0.0.0", *location(finished)]) == 2
    assert TOKEN_VARIABLE in capsys.readouterr().err


def test_a_missing_package_is_named(finished, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert _run(["serve", "done", *location(finished)]) == 2
    assert "pip install 'automl-cxr[serve]'" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert _run(["predict", "done", ".", "--sr", "reports", *location(finished)]) == 2
    assert "pip install 'automl-cxr[sr]'" in capsys.readouterr().err


def test_a_used_port_is_reported(finished, capsys):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as used:
        assert _run(["serve", "done", "--port", str(used.getsockname()[1]), *location(finished)]) == 2
    assert "Choose another --port" in capsys.readouterr().err


def test_reports_are_not_written_into_a_folder_with_files(finished, capsys, tmp_path):  # noqa: F811
    (tmp_path / "notes.txt").write_text("kept")
    assert _run(["predict", "done", str(tmp_path), "--sr", str(tmp_path), *location(finished)]) == 2
    assert "new or empty folder" in capsys.readouterr().err


def test_reports_of_predictions(finished, radiograph, capsys, tmp_path):  # noqa: F811
    file = radiograph()
    assert _run(["predict", "done", str(file), "--sr", str(tmp_path / "reports"), *location(finished)]) == 0
    assert "reports of 1 of 1 images" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["0001_image_sr.dcm"]


@pytest.mark.slow
def test_the_server_starts_predicts_and_ends(finished):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from automl_cxr.cli import main; main()", "serve", "done", "--port", str(port)]
    environment = {**os.environ, TOKEN_VARIABLE: "0123456789abcdef"}
    with subprocess.Popen([*command, *location(finished)], stderr=subprocess.PIPE, text=True, env=environment) as server:
        assert f"http://127.0.0.1:{port}/" in next(line for line in server.stderr if "Serving" in line)
        answer = httpx.post(
            f"http://127.0.0.1:{port}/predict",
            files={"file": png()},
            headers={"Authorization": "Bearer 0123456789abcdef"},
            timeout=60,
            trust_env=False,
        )
        assert answer.status_code == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
