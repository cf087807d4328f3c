"""The site is built without warnings, loads nothing from the network, and mentions only existing names."""

import html
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import automl_cxr
from automl_cxr import cli
from automl_cxr.study.option_fields import options_of
from automl_cxr.study.options import SearchOptions

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def commands_of(group: click.Group, names=()):
    for name, command in group.commands.items():
        if not isinstance(command, click.Group) or command.invoke_without_command:
            yield (*names, name), command
        if isinstance(command, click.Group):
            yield from commands_of(command, (*names, name))


COMMANDS = dict(commands_of(cli.commands))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("mkdocs", reason="building the site needs MkDocs (dependency group docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return folder


def test_pages_load_nothing_from_other_sites(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(COMMANDS)
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=['\"]?(?:https?:)?//", text), page.name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(['\"]?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


def test_each_command_has_a_page_with_its_options(site):
    index = (site / "commands" / "index.html").read_text(encoding="utf-8")
    for names, command in COMMANDS.items():
        page = html.unescape((site / "commands" / f"{'-'.join(names)}.html").read_text(encoding="utf-8"))
        assert f"automl-cxr {' '.join(names)}" in index
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            texts = parameter.opts if isinstance(parameter, click.Option) else [parameter.make_metavar(click.Context(command))]
            assert all(text in page for text in texts), f"{texts} of {' '.join(names)}"
        assert " ".join((command.help or "").split()[:5]).replace("`", "") in re.sub(r"<[^>]+>", "", page)


def test_the_python_page_has_every_public_name(site):
    page = (site / "python.html").read_text(encoding="utf-8")
    for name in automl_cxr.__all__:
        assert f"{name}(" in page or f">{name}<" in page, name
    for name in (name for name in vars(automl_cxr.Study) if not name.startswith("_")):
        assert re.search(rf"<h3[^>]*>{name}</h3>", page), name
    assert "``" not in page


def test_the_page_of_options_has_every_option_and_keyword(site):
    page = html.unescape((site / "options.html").read_text(encoding="utf-8"))
    for option in options_of(SearchOptions):
        assert f"<code>--{option.flag}</code>, <code>{option.name}</code>" in page


def test_markdown_characters_in_help_texts_are_escaped(site):
    page = html.unescape((site / "commands" / "search.html").read_text(encoding="utf-8"))
    assert "[default:" in page
    assert not re.search(r"\\[\[\]*_|<]", page)


OPTIONS_OF_RAY_AND_SLURM = {
    *("--head", "--port", "--num-cpus", "--num-gpus", "--block", "--generate"),
    *("--job-name", "--nodes", "--ntasks", "--ntasks-per-node", "--gpus-per-node", "--cpus-per-task", "--signal"),
    *("--nodelist", "--exclude"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_mention_only_existing_commands_options_and_names(page):
    text = page.read_text(encoding="utf-8")
    existing_options = {name for command in COMMANDS.values() for option in command.params for name in option.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - existing_options - OPTIONS_OF_RAY_AND_SLURM == set()
    for first, second in re.findall(r"automl-cxr ([a-z]+)(?: ([a-z]+)\b)?", text):
        assert (first, second) in COMMANDS or (first,) in COMMANDS, f"{first} {second}"
    for name in set(re.findall(r"automl_cxr\.(\w+)\(", text)):
        assert name in automl_cxr.__all__
    for name in set(re.findall(r"\bstudy\.(\w+)", text)) - {"json", "toml"}:
        assert hasattr(automl_cxr.Study, name), name
