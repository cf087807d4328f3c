"""Progress bars of functions that are called in a notebook."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from automl_cxr.html_tables import escaped
from automl_cxr.notebook import NotebookOutput, is_notebook

_P = ParamSpec("_P")
_R = TypeVar("_R")


def bar_html(share: float) -> str:
    """Return a bar as HTML.

    Args:
        share: Finished share, 0 to 1.
    """
    return f'<progress value="{share:.4f}" max="1" style="width: 20em; vertical-align: middle"></progress>'


@contextlib.contextmanager
def notebook_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar in the current cell. The value is called with (finished items, all items)."""
    output, started = NotebookOutput(), time.monotonic()

    def on_progress(n_done: int, n_all: int) -> None:
        share, seconds = n_done / max(1, n_all), time.monotonic() - started
        output.show(f"<div>{bar_html(share)} {escaped(title)}: {n_done:,} of {n_all:,}, {seconds:.0f} s</div>")

    try:
        yield on_progress
    finally:
        output.flush()


def bar_in_notebook(title: str) -> contextlib.AbstractContextManager[Callable[[int, int], None] | None]:
    """Return ``notebook_bar`` in a notebook, and elsewhere a context manager whose value is None."""
    return notebook_bar(title) if is_notebook() else contextlib.nullcontext()


def with_notebook_bar(title: str) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
    """Decorate a function with the keyword ``on_progress``: in a notebook, a bar is shown if the caller gives none."""

    def decorate(function: Callable[_P, _R]) -> Callable[_P, _R]:
        @functools.wraps(function)
        def call(*args: _P.args, **keywords: _P.kwargs) -> _R:
            if keywords.get("on_progress") is not None or not is_notebook():
                return function(*args, **keywords)
            with notebook_bar(title) as on_progress:
                keywords["on_progress"] = on_progress
                return function(*args, **keywords)

        return call

    return decorate
