"""Where the progress of a search is shown: lines and a live status line on a stream, or one output of a notebook cell."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from automl_cxr.html_tables import escaped, note_line
from automl_cxr.notebook import NotebookOutput, is_notebook
from automl_cxr.notebook_bars import bar_html
from automl_cxr.terminal import printable_line

_N_EVENTS = 5  # that a notebook shows


class ProgressView(Protocol):
    """Shows the progress of a search.

    Attributes:
        is_live: Whether the status is shown while trials run.
    """

    is_live: bool

    def start(self) -> None:
        """Show the status from now on."""

    def stop(self) -> None:
        """Show the last status, and stop."""

    def note(self, text: str) -> None:
        """Show a sentence that stays visible."""

    def event(self, text: str) -> None:
        """Show the start or the end of a trial, or another event."""

    def refresh(self) -> None:
        """Show the status after a change."""


class StreamView:
    """Lines on a stream, and on a terminal a live status line.

    Args:
        stream: Output stream.
        status: Returns the status in one line.
    """

    def __init__(self, stream: TextIO, status: Callable[[], str]) -> None:
        self._console = Console(file=stream, highlight=False, force_jupyter=False)
        self._live = Live(
            console=self._console,
            get_renderable=lambda: Text(status(), overflow="ellipsis", no_wrap=True),
            refresh_per_second=2,
            transient=True,
        )
        self.is_live = self._console.is_terminal

    def start(self) -> None:
        if self.is_live:
            self._live.start()

    def stop(self) -> None:
        self._live.stop()

    def note(self, text: str) -> None:
        self._console.print(printable_line(text), markup=False, soft_wrap=True)

    def event(self, text: str) -> None:
        self.note(text)

    def refresh(self) -> None:
        """Do nothing: the status is drawn twice per second."""


class NotebookView:
    """One output of a notebook cell: notes, a bar, the status and the last events.

    Args:
        status: Returns the status in one line.
        share: Returns the finished share of the search, 0 to 1; None if no limit of the budget tells it.
    """

    is_live = True

    def __init__(self, status: Callable[[], str], share: Callable[[], float | None]) -> None:
        self._status, self._share = status, share
        self._notes: list[str] = []
        self._events: deque[str] = deque(maxlen=_N_EVENTS)
        self._output = NotebookOutput()

    def start(self) -> None:
        self.refresh()

    def stop(self) -> None:
        self.refresh()
        self._output.flush()

    def note(self, text: str) -> None:
        self._notes.append(text)
        self.refresh()

    def event(self, text: str) -> None:
        self._events.append(text)
        self.refresh()

    def refresh(self) -> None:
        share = self._share()
        bar = "" if share is None else bar_html(share)
        events = "".join(f"<div>{escaped(text)}</div>" for text in self._events)
        notes = "".join(map(note_line, self._notes))
        self._output.show(f'{notes}<div>{bar} {escaped(self._status())}</div><div style="opacity: .75">{events}</div>')


def open_view(stream: TextIO | None, status: Callable[[], str], share: Callable[[], float | None]) -> ProgressView:
    """Return the view for a stream; without one, for the notebook cell or stderr."""
    if stream is None and is_notebook():
        return NotebookView(status, share)
    return StreamView(stream or sys.stderr, status)
