"""A page for a browser: text, tables, figures and pictures under headings, in one file that asks nobody for anything."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image

if TYPE_CHECKING:
    import plotly.graph_objects as go

_BUTTONS = ["lasso2d", "select2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]  # which would hide titles on a phone
_JPEG_QUALITY = 85  # of radiographs on a page; what is drawn over them still has sharp edges
# Whatever a page is made of, a browser loads nothing for it. Plotly compiles the shaders of its WebGL figures (eval).
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "worker-src blob:"
)
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem; color: #1d2733; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid #ccd5de; }
nav { columns: 14rem; font-size: .9rem; } nav a { display: block; }
a { color: #14558f; }
p.warning { background: #fff2d6; border-left: .3rem solid #d98a00; padding: .5rem .8rem; }
.scroll { overflow-x: auto; margin: .3rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
td, th { padding: .25em .7em; border-bottom: 1px solid #dde4ea; text-align: left; white-space: nowrap; }
figcaption { font-size: .85rem; color: #4a5868; text-align: left; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: .8rem; }
figure { margin: 1rem 0; } .pictures figure { margin: 0; }
.pictures img { width: 100%; background: #000; }
.pictures figcaption { overflow-wrap: anywhere; line-height: 1.25; }
"""


@dataclass(frozen=True)
class Text:
    """A paragraph; a warning stands out."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Table:
    """A table without its index, and what it shows."""

    table: pd.DataFrame
    caption: str = ""


@dataclass(frozen=True)
class Plot:
    """A Plotly figure, which takes the width of the page, and what it shows."""

    figure: go.Figure
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """Pixels, uint8 (height, width) or (height, width, 3), and what they show."""

    pixels: np.ndarray
    caption: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures in a grid."""

    pictures: Sequence[Picture]


Part = Text | Table | Plot | Pictures


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, in order."""

    title: str
    parts: Sequence[Part]


def render_page(title: str, sections: Sequence[Section]) -> str:
    """Write a page as HTML. Every text is escaped: class names and file names are other people's.

    Args:
        title: Its first heading.
        sections: What stands on it; those without parts are left out.
    """
    shown = [section for section in sections if section.parts]
    links = "".join(f"<a href='#s{number}'>{html.escape(section.title)}</a>" for number, section in enumerate(shown))
    bodies = "".join(
        f"<section id='s{number}'><h2>{html.escape(section.title)}</h2>\n{''.join(map(_render, section.parts))}</section>\n"
        for number, section in enumerate(shown)
    )
    has_plots = any(isinstance(part, Plot) for section in shown for part in section.parts)
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n"
        f"<meta http-equiv='Content-Security-Policy' content=\"{_POLICY}\">\n"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{_plotly_script() if has_plots else ''}</head>\n"
        f"<body><h1>{html.escape(title)}</h1><nav>{links}</nav>\n{bodies}</body></html>\n"
    )


def _plotly_script() -> str:
    import plotly.offline  # a second to load, and pages without figures need it not

    return f"<script>{plotly.offline.get_plotlyjs()}</script>"


def _render(part: Part) -> str:
    match part:
        case Text(text, is_warning):
            kind = " class='warning'" if is_warning else ""
            return f"<p{kind}>{html.escape(text)}</p>\n"
        case Table(table, caption):
            return _render_table(table, caption)
        case Plot(figure, caption):
            drawn = figure.to_html(
                full_html=False,
                include_plotlyjs=False,
                config={"responsive": True, "displaylogo": False, "modeBarButtonsToRemove": _BUTTONS},
                default_height="26rem",
            )
            return f"<figure>{drawn}<figcaption>{html.escape(caption)}</figcaption></figure>\n"
        case Pictures(pictures):
            return f"<div class='pictures'>{''.join(map(_render_picture, pictures))}</div>\n"


def _render_table(table: pd.DataFrame, caption: str) -> str:
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(_written(cell))}</td>" for cell in row) + "</tr>\n"
        for row in table.itertuples(index=False)
    )
    told = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""  # not of the table: it would scroll with it
    body = f"<table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table>"
    return f"<figure>{told}<div class='scroll'>{body}</div></figure>\n"


def _written(cell: Any) -> str:
    """Write yes or no, numbers with four digits behind the point, small ones with four that count, nothing for None."""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if not isinstance(cell, float):
        return "" if cell is None else str(cell)
    if math.isnan(cell):
        return ""
    return f"{cell:.4f}" if abs(cell) >= 0.01 or cell == 0 else f"{cell:.4g}"


def _render_picture(picture: Picture) -> str:
    file = io.BytesIO()
    Image.fromarray(picture.pixels).save(file, format="JPEG", quality=_JPEG_QUALITY)
    source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
    caption = html.escape(picture.caption)
    return f"<figure><img src='{source}' alt='{caption}' loading='lazy'><figcaption>{caption}</figcaption></figure>"
