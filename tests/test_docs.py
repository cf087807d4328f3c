"""README, CONTRIBUTING and docs: the commands, options, names and files that they mention exist."""

import re
from pathlib import Path

import click
import pytest

import automl_cxr
from automl_cxr import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def list_commands(command, names=()):
    for name, subcommand in command.commands.items():
        if isinstance(subcommand, click.Group):
            yield from list_commands(subcommand, (*names, name))
        if not isinstance(subcommand, click.Group) or subcommand.invoke_without_command:
            yield (*names, name), subcommand


COMMANDS = dict(list_commands(cli.commands))


DOCS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))}


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_is_in_the_readme_or_in_the_docs(names):
    command = f"automl-cxr {' '.join(names)}"
    assert any(command in text for text in (README, *DOCS.values())), command


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_links_to_files_of_the_repository_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [target for target in targets if not ((ROOT / name).parent / target).exists()] == []


def test_every_option_in_the_readme_exists():
    existing_options = {text for command in COMMANDS.values() for option in command.params for text in option.opts} | {"--help"}
    typed = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README))
    assert typed - existing_options == set()


def test_the_python_names_in_the_readme_exist():
    for name in set(re.findall(r"automl_cxr\.(\w+)\(", README)):
        assert name in automl_cxr.__all__
        assert callable(getattr(automl_cxr, name))
    for name in set(re.findall(r"\bstudy\.(\w+)", README)) - {"py", "toml"}:
        assert hasattr(automl_cxr.Study, name), name
    with pytest.raises(AttributeError, match="has no attribute 'serch'"):
        automl_cxr.serch  # noqa: B018


def test_the_files_and_tables_in_contributing_exist():
    for path in set(re.findall(r"`(automl_cxr/[\w/]+(?:\.py)?/?)`", CONTRIBUTING)):
        assert (ROOT / path).exists(), path
    for table, path in re.findall(r"`(_?[A-Z]{3,})`\s+(?:of|in)\s+`(automl_cxr/[\w/.]+)`", CONTRIBUTING):
        assert re.search(rf"^{table}\b", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), f"{table} in {path}"


def test_shipped_spaces_and_studies_are_valid():
    from automl_cxr.study.spaces import load_space, shipped
    from automl_cxr.study.study_files import load_study_options

    assert set(shipped("search_spaces")) >= {"scratch", "fused"}
    for name in shipped("search_spaces"):
        assert load_space(name).description
    for name in shipped("studies"):
        assert load_study_options(name)


@pytest.mark.parametrize("page", [name for name, text in DOCS.items() if "`tests/" in text])
def test_pages_name_only_existing_tests(page):
    for file, name in re.findall(r"`(tests/[\w/.]+)::(?:\w+::)?(\w+)`", DOCS[page]):
        assert re.search(rf"^\s*(def|class) {name}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (
            f"{file}::{name}"
        )
