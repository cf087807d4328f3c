"""Random damage to valid files, and the property that all fuzz tests check."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import strategies as st

from automl_cxr.errors import AutomlCxrError
from automl_cxr.terminal import printable_line

ResultT = TypeVar("ResultT")

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 40)
    | st.sampled_from([-(10**400), 2**63, 2**31, 10**12, 10**400])
    | st.floats(-2, 2)
    | st.sampled_from([float("nan"), float("inf"), 1e308, -0.0])
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(["", "..", "/", "a\nb", "\x1b]0;x\x07", "train", "1", "nan"])
)
JSON_VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5
)
NESTED = st.sampled_from(["[" * 100_000, '{"a":' * 5_000, "9" * 5_000, '"\\ud800"', "null", "[]", "{}", "", "0"])


def result_or_error(call: Callable[..., ResultT], *arguments: object, **options: object) -> ResultT | None:
    """Return the result of a call, or None if it raises an error of this package with a message of one line."""
    try:
        return call(*arguments, **options)
    except AutomlCxrError as error:
        message = printable_line(str(error))
        assert message.strip()
        assert len(message) < 3000, f"a message of {len(message)} characters: {message[:300]}"
        return None


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Truncate a file, or change, insert, remove or repeat some of its bytes."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        # Half of the positions are in the header, where most values have a meaning.
        at = draw(st.integers(0, min(len(data), 400)) | st.integers(0, len(data)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "remove", "repeat"]))
        if kind == "cut":
            del data[at:]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=8))
        elif kind == "remove":
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == "repeat":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        elif at < len(data):
            data[at] = (
                data[at] ^ 1 << draw(st.integers(0, 7)) if kind == "flip" else draw(st.sampled_from([0, 1, 127, 128, 255]))
            )
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, values: Any) -> Any:
    """Replace, remove or add some values of a JSON document."""
    document = copy.deepcopy(values)
    for _ in range(draw(st.integers(1, 2))):
        parent, key = None, None
        node = document
        while isinstance(node, (dict, list)) and node and (parent is None or draw(st.integers(0, 3))):
            parent, key = node, draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
            node = parent[key]
        if parent is None:
            return draw(JSON_VALUES)
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace":
            parent[key] = draw(JSON_VALUES)
        elif kind == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.text(max_size=4))] = draw(JSON_VALUES)
        else:
            parent.insert(key, draw(JSON_VALUES))
    return document


def digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 digest of each file in a folder, by path; "" for a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }
