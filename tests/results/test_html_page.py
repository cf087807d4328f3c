import re

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from automl_cxr.results.html_page import Picture, Pictures, Plot, Section, Table, Text, render_page

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>'\" & </script>"


def test_every_text_is_escaped():
    figure = go.Figure(go.Bar(x=[EVIL], y=[1.0], name=EVIL)).update_layout(title=EVIL)
    picture = Picture(np.zeros((4, 4), dtype=np.uint8), EVIL)
    parts = [Text(EVIL), Table(pd.DataFrame({EVIL: [EVIL]}), EVIL), Plot(figure, EVIL), Pictures([picture])]
    page = render_page(EVIL, [Section(EVIL, parts)])
    assert "<img src=x" not in page
    assert "<script>alert" not in page
    assert page.count("<script") == page.count("</script>")
    escaped = "&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&#39;&#34; &amp; &lt;/script&gt;"
    assert f"<h1>{escaped}</h1>" in page
    assert page.count(escaped) == 11, "title, three headings and links, text, column, cell, three captions, alternative text"


def test_a_page_without_figures_does_not_contain_plotly():
    page = render_page("Page", [Section("Text", [Text("short")]), Section("Nothing", [])])
    assert len(page) < 4_000
    assert "Nothing" not in page, "a section without parts has no heading"


def test_plotly_is_embedded_once_and_the_page_makes_no_external_requests():
    plot = Plot(go.Figure(go.Scatter(x=[1, 2], y=[3, 4])))
    page = render_page("Page", [Section("One", [plot, plot]), Section("Two", [plot])])
    assert page.count("plotly.js v") == 1
    assert len(re.findall(r'Plotly\.newPlot\(\s*"', page)) == 3
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=['\"]?https?:", page)
    assert "default-src 'none'" in page


def test_cells_are_formatted_for_reading():
    table = pd.DataFrame({"score": [0.81234567, float("nan")], "rate": [0.000123456, 0.0], "name": ["a", None], "n": [3, 4]})
    page = render_page("Page", [Section("Table", [Table(table)])])
    cells = re.findall(r"<td>(.*?)</td>", page)
    assert cells == ["0.8123", "0.0001235", "a", "3", "", "0.0000", "", "4"]


def test_pictures_may_be_grey_or_coloured():
    rng = np.random.default_rng(0)
    shapes = [(8, 6), (8, 6, 3)]
    pictures = [Picture(rng.integers(0, 256, shape, dtype=np.uint8), "one") for shape in shapes]
    page = render_page("Page", [Section("Pictures", [Pictures(pictures)])])
    assert page.count('src="data:image/jpeg;base64,') == 2
