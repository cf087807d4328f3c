"""One output of a notebook cell that is replaced, such as a progress bar. A notebook keeps every printed line."""

from __future__ import annotations

import time
from typing import Any

_SECONDS_BETWEEN_UPDATES = 0.25  # each update is a message to the browser


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    from rich.console import Console  # takes 30 ms, which commands without progress need not wait for

    return Console().is_jupyter


class NotebookOutput:
    """An output of the current cell that shows the last HTML that it was given. Nothing is shown before the first one."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._html = self._shown = ""
        self._last = 0.0

    def show(self, html: str) -> None:
        """Replace the output, at most four times per second. ``flush`` shows what was left out."""
        self._html = html
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_UPDATES:
            self.flush()

    def flush(self) -> None:
        """Show the last HTML."""
        if self._html == self._shown:
            return
        from IPython.display import HTML, display  # a kernel has imported it; it is no dependency

        if self._handle is None:
            self._handle = display(HTML(self._html), display_id=True)
        else:
            self._handle.update(HTML(self._html))
        self._shown, self._last = self._html, time.monotonic()
