"""The blocks of the tutorial are run in order, and their output is compared with the shown output."""

import contextlib
import doctest
import io
import re
import shlex
from pathlib import Path

import pytest

from automl_cxr import cli

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save\s+this as `([^`]+)`:\s*$")


def blocks_of(text: str) -> list[tuple[str, str, str]]:
    """Return the kind and text of each block, and the text that precedes it."""
    return [(found[1], found[2], text[: found.start()]) for found in BLOCK.finditer(text)]


def matches(expected: str, printed: str) -> bool:
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return doctest.OutputChecker().check_output(expected, printed, flags)


@pytest.mark.slow
def test_every_block_of_the_tutorial_runs_and_prints_the_shown_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOML_CXR_RUNS", raising=False)
    monkeypatch.delenv("AUTOML_CXR_STORAGE", raising=False)
    names, printed, n_compared = {}, "", 0
    for kind, text, preceding_text in blocks_of(TUTORIAL.read_text(encoding="utf-8")):
        match kind:
            case "toml":
                Path(SAVED.search(preceding_text)[1]).write_text(text, encoding="utf-8")
            case "console":
                printed = run_commands(text)
            case "python":
                out = io.StringIO()
                with contextlib.redirect_stdout(out):
                    exec(compile(text, TUTORIAL.name, "exec"), names)
                printed = out.getvalue()
            case "output":
                assert matches(text, printed), f"The tutorial shows:\n{text}\nReceived:\n{printed}"
                n_compared += 1
            case _:
                pytest.fail(f"a block of unknown kind {kind}")
    assert n_compared >= 8
    assert {path.name for path in tmp_path.iterdir()} >= {"board.csv", "errors.html", "predictions.csv", "automl_runs"}


def run_commands(text: str) -> str:
    """Run each line as a command; return the stdout of all."""
    out = io.StringIO()
    for line in text.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "automl-cxr"
        with contextlib.redirect_stdout(out):
            assert cli._run(arguments) == 0, line
    return out.getvalue()


def test_a_different_output_is_detected():
    assert matches("trials: 3 ...\n", "trials: 3 requested\n")
    assert not matches("trials: 3 ...\n", "trials: 4 requested\n")
