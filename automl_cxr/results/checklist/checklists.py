"""The reporting checklists as data: one TOML file each, whose items name facts of a study."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from automl_cxr.choices import CHECKLISTS
from automl_cxr.errors import UnknownNameError
from automl_cxr.results.checklist.data_facts import DATA_FACTS
from automl_cxr.results.checklist.fact_data import FactData
from automl_cxr.results.checklist.model_facts import MODEL_FACTS
from automl_cxr.text_records import build_record

FACTS: Mapping[str, Callable[[FactData], str]] = {**DATA_FACTS, **MODEL_FACTS}
"""Functions that return the sentences of a fact; an empty text if the study has none."""
METHODS_PREFIX = "methods."
"""A fact with this prefix is a subject of ``results.report.methods.methods_sentences``."""
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Item:
    """An item of a checklist.

    Attributes:
        number: Number in the publication.
        section: Section of a paper to which it belongs.
        topic: What it asks for, in short.
        facts: Names of the facts that answer it.
        place: Heading in the report or on the page of the checklist where more is shown.
        fill: What only a person can state.
    """

    number: str
    section: str
    topic: str
    facts: tuple[str, ...] = ()
    place: str = ""
    fill: tuple[str, ...] = ()

    def answers(self, data: FactData) -> dict[str, str]:
        """Return the sentences that a study can give by the name of the fact; an empty text where it has none."""
        return {name.removeprefix(METHODS_PREFIX): _sentences(name, data) for name in self.facts}


@dataclass(frozen=True)
class Checklist:
    """A reporting checklist.

    Attributes:
        title: Its name.
        source: Its publication.
        items: Its items, in order.
    """

    title: str
    source: str
    items: tuple[Item, ...]


def load_checklist(name: str) -> Checklist:
    """Load a checklist.

    Args:
        name: One of ``choices.CHECKLISTS``.

    Raises:
        UnknownNameError: There is no such checklist.
    """
    if name not in CHECKLISTS:
        raise UnknownNameError("checklist", name, CHECKLISTS)
    content = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    checklist: Checklist = build_record(Checklist, content)
    return checklist


def _sentences(name: str, data: FactData) -> str:
    if name.startswith(METHODS_PREFIX):
        return " ".join(data.methods[name.removeprefix(METHODS_PREFIX)])
    return FACTS[name](data)
