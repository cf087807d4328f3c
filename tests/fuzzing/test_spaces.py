"""Damaged search spaces and study files: a valid space, or an error of this package."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from automl_cxr.config import TrialConfig
from automl_cxr.engine.space import Space
from automl_cxr.study.spaces import load_space, shipped
from automl_cxr.study.study_files import load_study_options
from tests.fuzzing.damage import damaged_bytes, result_or_error

VALUES = st.recursive(
    st.booleans() | st.integers(-3, 300) | st.sampled_from([10**400, -(10**400), 2**63, "\ud7ff"])
    | st.floats(-2, 2) | st.sampled_from([math.nan, math.inf, -math.inf, 1e308, 5e-324])
    | st.sampled_from(["", "focal", "ce", "adam", "scratch", "transfer", "concat", "int", "float", "choice", "densenet121"])
    | st.sampled_from(["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z"]).map(lambda text: f"@{text}"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["loss", "family", "x", "n_blocks"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
NAMES = st.sampled_from([*TrialConfig.names(), "space", "description", "unknown"])
KEYS = st.sampled_from(["type", "low", "high", "step", "log", "default", "values", "when", "name", "unknown"])
TYPED = st.fixed_dictionaries(
    {"type": st.sampled_from(["int", "float", "choice"])},
    optional={
        "low": VALUES,
        "high": VALUES,
        "step": VALUES,
        "log": VALUES,
        "default": VALUES,
        "values": VALUES,
        "when": VALUES,
    },
)
SPACES = st.dictionaries(NAMES, VALUES | TYPED | st.dictionaries(KEYS, VALUES, max_size=4), max_size=4)
FILES = {**shipped("search_spaces"), **shipped("studies")}


def to_toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {to_toml(one)}' for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_toml, value)) + "]"
    if isinstance(value, str):
        return value[1:] if value.startswith("@") else f'"{value}"'
    return str(value).lower()


def document_of(table: dict[str, object]) -> str:
    return "\n".join(f'"{key}" = {to_toml(value)}' for key, value in table.items())


@pytest.fixture(scope="module")
def toml_file(tmp_path_factory):
    return tmp_path_factory.mktemp("toml") / "own.toml"


def check_usable(space: Space) -> None:
    """Draw points of a space and build configurations from them, as a search does."""
    generator = np.random.default_rng(0)
    for _ in range(3):
        point = space.sample(generator)
        space.check(point)
        result_or_error(TrialConfig.from_values, {**space.constants, **point})
    space.preset()


@given(SPACES)
@example({"family": {"type": []}})
@example({"image_size": 10**400})
@example({"dropout": 10**400})
@example({"dropout": {"type": "float", "low": 0, "high": 1, "step": 1e-12}})
@example({"dropout": {"type": "float", "low": 0, "high": 1e308, "step": 5e-324}})
@example({"dense_units": {"type": "int", "low": 1, "high": 2**63}})
def test_any_table_is_a_usable_space_or_an_error(toml_file, table):
    toml_file.write_text(document_of(table), encoding="utf-8")
    space = result_or_error(load_space, str(toml_file))
    if space is not None:
        check_usable(space)


@given(st.sampled_from(sorted(FILES)).flatmap(lambda name: damaged_bytes(FILES[name].read_bytes())))
@example(b"a=" + b"[" * 100_000)
@example(b"a=" + b"9" * 5_000)
def test_a_damaged_file_is_a_usable_space_or_an_error(toml_file, content):
    toml_file.write_bytes(content)
    space = result_or_error(load_space, str(toml_file))
    if space is not None:
        check_usable(space)
    options = result_or_error(load_study_options, str(toml_file))
    assert options is None or all(isinstance(text, str) for text in options.values())
