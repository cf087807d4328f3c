import io
import json
import re
import shutil
import subprocess

import numpy as np
import openpyxl
import pandas as pd
import pytest

from automl_cxr.csv_io import read_rows
from automl_cxr.errors import UnknownNameError, UsageError
from automl_cxr.results.tables import FORMATS, fold_intervals, format_of, format_table, safe_cells, table_of_rows, to_plain_csv

EVIL = "<script>alert(1)</script>"
TABLE = pd.DataFrame(
    {
        "rank": [1, 2],
        "macro_f1": [0.5, float("nan")],
        "macro_f1_low": [0.4, float("nan")],
        "macro_f1_high": [0.6, float("nan")],
        "tied": [True, False],
        "params_rate": [0.000123456, 0.1],
        "=name_&_1": ["=1+1|x", EVIL],
    }
)


def test_optional_integers_remain_integers():
    rows = [{"units": 512, "rate": 1, "known": True}, {"rate": None}, {"units": float("nan"), "rate": 0.5, "known": False}]
    table = table_of_rows(rows)
    assert format_table(table, "csv").splitlines() == ["units,rate,known", "512,1.0,True", ",,", ",0.5,False"]
    assert json.loads(format_table(table, "json"))[0]["units"] == 512
    assert "| 512 | 1.0000 | yes |" in format_table(table, "md")
    assert table.sort_values("units", ignore_index=True)["units"][0] == 512
    assert table_of_rows([], ["units"]).empty


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_contains_every_row(kind):
    written = format_table(TABLE, kind)
    if kind == "csv":
        read_table = pd.read_csv(io.StringIO(written))
        assert read_table["params_rate"].tolist() == TABLE["params_rate"].tolist()
        assert read_table["'=name_&_1"].tolist() == ["'=1+1|x", EVIL]
    elif kind == "json":
        assert [row["macro_f1"] for row in json.loads(written)] == [0.5, None]
    elif kind == "md":
        assert len(written.splitlines()) == 2 + 2
        assert "=1+1\\|x" in written
        assert "<script>" not in written
    elif kind == "html":
        assert written.count("<tr>") == 1 + 2
        assert "<script>" not in written
    elif kind == "xlsx":
        sheet = openpyxl.load_workbook(io.BytesIO(written)).active
        rows = list(sheet.iter_rows(values_only=True))
        assert rows[0] == (*list(TABLE.columns)[:-1], "'=name_&_1")
        assert rows[1] == (1, 0.5, 0.4, 0.6, True, 0.000123456, "'=1+1|x")
        assert rows[2][1] is None
        assert {cell.data_type for row in sheet.iter_rows() for cell in row} <= {"n", "s", "b"}, "a formula has the type f"
    else:
        assert written.splitlines()[1] == r"\begin{tabular}{rrrrrl}"
        assert r"1 & 0.5000 & 0.400..0.600 & yes & 0.0001235 & =1+1|x \\" in written
        assert r"=name\_\&\_1" in written


def test_latex_escapes_special_characters(tmp_path):
    special = pd.DataFrame({"a_b%": ["\\input{x}", "#$&~^{}<>", "two\nlines"]})
    written = format_table(special, "latex")
    body = written.split("\n", 1)[1]
    for character in "&%$#_{}":
        for found in re.finditer(re.escape(character), re.sub(r"\\(begin|end)\{tabular\}(\{\w+\})?", "", body)):
            preceding = re.sub(r"\\(begin|end)\{tabular\}(\{\w+\})?", "", body)[max(0, found.start() - 20) : found.start()]
            assert preceding.endswith("\\") or re.search(r"\\text\w+\{?$", preceding), (character, preceding)
    assert r"\textbackslash{}input\{x\}" in written
    if shutil.which("pdflatex"):
        page = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{written}\\end{{document}}\n"
        (tmp_path / "t.tex").write_text(page)
        subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_notes_are_in_the_formats_that_support_text():
    table = TABLE.copy()
    table.attrs["notes"] = ("Not comparable <b>at all</b>.",)
    for kind in ("md", "html", "latex", "xlsx"):
        written = format_table(table, kind)
        if kind == "xlsx":
            assert openpyxl.load_workbook(io.BytesIO(written)).active["A4"].value == table.attrs["notes"][0]
        else:
            assert "Not comparable" in written
    assert "<b>" not in format_table(table, "html")
    assert format_table(table, "csv") == format_table(TABLE, "csv")


def test_the_format_depends_on_the_file_name(tmp_path):
    names = ["a.csv", "a.JSON", "a.md", "a.html", "a.xlsx", "a.tex", "a"]
    assert [format_of(tmp_path / name) for name in names] == ["csv", "json", "md", "html", "xlsx", "latex", "csv"]
    with pytest.raises(UsageError, match=r"must end in \.csv.*received a\.pdf"):
        format_of(tmp_path / "a.pdf")
    with pytest.raises(UnknownNameError, match="Did you mean 'json'"):
        format_table(TABLE, "jsn")


def test_formula_cells_are_escaped():
    table = safe_cells(pd.DataFrame({"=evil": ["=1+1", "@x", "+ve", "-2+3", "-cmd", "fine", 3, -1.5]}))
    assert list(table.columns) == ["'=evil"]
    assert table.iloc[:, 0].tolist() == ["'=1+1", "'@x", "'+ve", "'-2+3", "'-cmd", "fine", 3, -1.5]


def test_numbers_are_not_formulas():
    numbers = ["-1", "+0.5", "-00001", "-.5", "+1.", "-1e-3", "+2E5"]
    assert safe_cells(pd.DataFrame({"-1": numbers})).to_dict("list") == {"-1": numbers}


def test_a_table_for_programs_is_read_unchanged(tmp_path):
    cells = ["-1", "+ve", "=cmd", "@x", "-00001", 'a "b", c', "two\nlines", "a\rb", "", "NA", "\t"]
    table = pd.DataFrame({"=name": cells, "probability_-1": np.float32(1 / 3)})
    (tmp_path / "t.csv").write_text(to_plain_csv(table), encoding="utf-8", newline="")
    header, rows = read_rows(tmp_path / "t.csv")
    assert header == ["=name", "probability_-1"]
    assert [row[0] for row in rows] == cells
    assert {np.float32(row[1]) for row in rows} == {np.float32(1 / 3)}


def test_only_complete_intervals_are_folded():
    table = pd.DataFrame({"f1_low": [0.5], "x": [1.0], "x_low": [0.25], "x_high": [float("inf")], "y_high": [2]})
    folded = fold_intervals(table)
    assert list(folded.columns) == ["f1_low", "x", "x 95%", "y_high"]
    assert folded["x 95%"].tolist() == ["0.250..inf"]


def test_integers_stay_integers_next_to_missing_values():
    table = pd.DataFrame({"rank": pd.Series([float("nan"), 1], dtype=object), "f1": [0.5, 0.5], "f1_low": 0.4, "f1_high": 0.6})
    assert format_table(table, "csv").splitlines()[2].startswith("1,")
    assert format_table(table, "latex").splitlines()[6].startswith("1 &")
    assert fold_intervals(table)["rank"].tolist()[1:] == [1]
