"""Self-contained HTML pages: text, tables, figures, diagrams and pictures under headings, rendered with Jinja2 templates."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    import jinja2
    import plotly.graph_objects as go

_HIDDEN_BUTTONS = ["lasso2d", "select2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]  # cover titles on a phone
_JPEG_QUALITY = 85  # small files, and sharp edges of overlays


@dataclass(frozen=True)
class Text:
    """A paragraph. A warning is highlighted."""

    template: ClassVar[str] = "parts/text.html.j2"

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption. The index is not shown. Long texts are wrapped if ``is_wrapped`` is true."""

    template: ClassVar[str] = "parts/table.html.j2"

    table: pd.DataFrame
    caption: str = ""
    is_wrapped: bool = False


@dataclass(frozen=True)
class Plot:
    """A Plotly figure with a caption, as wide as the page."""

    template: ClassVar[str] = "parts/plot.html.j2"

    figure: go.Figure
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """An image with a caption. ``pixels`` is uint8, (height, width) or (height, width, 3)."""

    pixels: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Pictures:
    """A grid of pictures."""

    template: ClassVar[str] = "parts/pictures.html.j2"

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Box:
    """A box of a diagram with lines of text; position and size in pixels."""

    x: int
    y: int
    width: int
    height: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Diagram:
    """A diagram of boxes, arrows and lines (x1, y1, x2, y2) with a caption; all in pixels from the top left corner."""

    template: ClassVar[str] = "parts/diagram.html.j2"

    width: int
    height: int
    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int, int, int], ...]
    lines: tuple[tuple[int, int, int, int], ...] = ()
    caption: str = ""


Part = Text | Table | Plot | Pictures | Diagram


@dataclass(frozen=True)
class Section:
    """A heading and the parts below it, in order."""

    title: str
    parts: Sequence[Part]


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Render a page as HTML. All texts are escaped, because class names and file names come from users.

    Args:
        title: Title and first heading of the page.
        sections: Sections of the page. Sections without parts are omitted.
    """
    shown = [section for section in sections if section.parts]
    has_plots = any(isinstance(part, Plot) for section in shown for part in section.parts)
    template = _environment().get_template("page.html.j2")
    return template.render(title=title, sections=shown, plotly_script=_plotly_script() if has_plots else "")


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("automl_cxr.results", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"format_cell": _format_cell, "plotly_html": _plotly_html, "jpeg_data_uri": _jpeg_data_uri}
    return environment


def _plotly_script() -> str:
    import plotly.offline  # takes a second to import

    return plotly.offline.get_plotlyjs()


def _plotly_html(figure: go.Figure) -> str:
    """Return the HTML of a figure, which the template marks as safe: Plotly escapes the texts in its JSON."""
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        config={"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": _HIDDEN_BUTTONS},
        default_height="26rem",
    )


def _format_cell(cell: Any) -> str:
    """Format a table cell: booleans as yes or no, floats with four decimals (small ones with four digits), None as empty."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if not isinstance(cell, float):
        return "" if cell is None else str(cell)
    if math.isnan(cell):
        return ""
    return f"{cell:.4f}" if abs(cell) >= 0.01 or cell == 0 else f"{cell:.4g}"


def _jpeg_data_uri(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=_JPEG_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
