"""Strict reading of CSV files, and that written tables are read unchanged."""

import gzip
import string
from pathlib import Path

import openpyxl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from automl_cxr.csv_io import format_rows, read_header, read_lines, read_rows
from automl_cxr.errors import DataError

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.sampled_from(
    ["-1", "+ve", "=cmd", "@x", "NA", "007", 'a "b"', "two\nlines", "a\rb", "a\r\nb", " x ", "", "\ufeffx", "1E5", "x,y"]
)
TABLES = st.integers(2, 4).flatmap(lambda n: st.lists(st.lists(CELLS, min_size=n, max_size=n), min_size=1, max_size=6))
NOT_CSV = st.text(st.sampled_from(string.ascii_lowercase[:3] + ',"\n\r \0'), max_size=30)


@pytest.fixture(scope="module")
def csv_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("csv") / "t.csv"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(TABLES)
@example([["\ufeffpath", "label"], ["a", "b"]])
def test_a_written_table_is_read_unchanged(csv_file: Path, rows: list[list[str]]) -> None:
    write(csv_file, format_rows(rows))
    if any("," in text and text.splitlines()[1:] for row in rows[1:] for text in row):
        return  # such text may be refused, because it may look like rows between quotation marks
    if any(separator in name for separator in ";\t|" for name in rows[0]):
        return  # another separator may be found in such names
    header, read = read_rows(csv_file)
    first = [rows[0][0].removeprefix("\ufeff"), *rows[0][1:]]  # a byte order mark is not part of a name
    assert [header, *read] == [first, *rows[1:]]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(NOT_CSV)
def test_any_text_is_read_as_rows_of_equal_length_or_refused(csv_file: Path, text: str) -> None:
    write(csv_file, text)
    for read in (read_rows, read_lines):
        try:
            found = read(csv_file)
        except DataError:
            continue
        lines = found if read is read_lines else [found[0], *found[1]]
        assert len({len(line) for line in lines}) <= 1


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("path,label\na,b\na,b,c\n", 3, "has 3 instead of 2"),
        ("path,label\n\n\na,b\na\n", 5, "has 1 instead of 2"),
        ('path,note\n"a\n\nb",x\na,x,y\n', 5, "has 3 instead of 2"),
        ("path,note,label\na,AP, supine,normal\nb,PA,normal\n", 2, "has 4 instead of 3"),
        ("path,label,\na,b\n", 2, "has 2 instead of 3"),
        ("path,label\na,b,\n", 2, "has 3 instead of 2"),
    ],
)
def test_a_row_of_another_length_is_refused_with_its_line(csv_file: Path, text: str, line: int, found: str) -> None:
    write(csv_file, text)
    for read in (read_rows, read_lines):
        with pytest.raises(DataError, match=rf"line {line} of '.*t\.csv' {found}\. Enclose text that contains a comma"):
            read(csv_file)


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        (['1,"normal', *(f"{number},normal" for number in range(20))], 3),
        (['"1,normal', *(f"{number},normal" for number in range(20))], 3),
        (['1,"nor"mal', "2,normal"], 3),
        (['1,"normal', *(f"{number},normal" for number in range(20)), '21,"normal'], 3),
    ],
)
def test_a_quotation_mark_that_is_not_closed_is_refused_with_its_line(csv_file: Path, rows: list[str], line: int) -> None:
    write(csv_file, "\n".join(["path,label", "0,normal", *rows, ""]))
    with pytest.raises(DataError, match=rf"'.*t\.csv' is not valid CSV from line {line} on \(") as refused:
        read_rows(csv_file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_rows_between_two_misplaced_quotation_marks_are_refused(csv_file: Path, column: int) -> None:
    """The file is valid CSV: the field between the marks contains the end of a row, three rows, and the start of a row."""
    rows = [[f"{number}.png", ("normal", "covid")[number % 2], f"p{number}"] for number in range(9)]
    rows[2][column] = '"' + rows[2][column]
    rows[6][column] += '"'
    write(csv_file, "\n".join(["path,label,patient_id", *map(",".join, rows)]))
    with pytest.raises(DataError, match=r"a field of line 4 of '.*t\.csv' contains the following rows"):
        read_rows(csv_file)


def test_text_with_line_breaks_and_commas_is_not_mistaken_for_rows(csv_file: Path) -> None:
    report = "PA view\nlungs clear, no effusion, heart normal"  # one field, then three, as for rows of three columns
    rows = [["path", "label", "report"], ["0.png", "normal", report], ["1.png", "covid", "normal,\nno change"]]
    assert read_rows(write(csv_file, format_rows(rows))) == (rows[0], rows[1:])


def test_line_ends_and_blank_lines_do_not_matter(csv_file: Path) -> None:
    for text in ("\ufeffa,b\r\n1,2\r\n", "a,b\r1,2\r", "a,b\n\n1,2\n\n\n", "a,b\n1,2"):
        assert read_rows(write(csv_file, text)) == (["a", "b"], [["1", "2"]])
        assert read_header(csv_file) == ["a", "b"]
    assert read_rows(write(csv_file, "")) == ([], [])
    assert read_header(csv_file) == []


def test_a_blank_line_is_an_empty_field_only_in_the_middle_of_one_column(csv_file: Path) -> None:
    assert read_lines(write(csv_file, 'a\n\nb\n""\n c \n\n""\n')) == [["a"], [""], ["b"], [""], ["c"]]
    assert read_lines(write(csv_file, "\na,b\n\nc,d\n,\n")) == [["a", "b"], ["c", "d"]]
    assert read_lines(write(csv_file, "\n\n")) == read_lines(write(csv_file, "")) == []


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_another_separator_is_detected(csv_file: Path, separator: str) -> None:
    write(csv_file, f"path{separator}score\na{separator}0,5\n")
    assert read_rows(csv_file) == (["path", "score"], [["a", "0,5"]])
    assert read_lines(write(csv_file, f"0{separator}a\n1{separator}b\n")) == [["0", "a"], ["1", "b"]]
    assert read_lines(write(csv_file, f"label\na{separator}b\n")) == [["label"], [f"a{separator}b"]]
    write(csv_file, f"path{separator}score\na{separator}1{separator}2\n")
    with pytest.raises(DataError, match=r"line 2 of .* has 3 instead of 2"):
        read_rows(csv_file)


def test_commas_separate_fields_that_contain_other_separators_in_each_row(csv_file: Path) -> None:
    write(csv_file, "path,label\na,x;y\nb,z|w\n")
    assert read_rows(csv_file) == (["path", "label"], [["a", "x;y"], ["b", "z|w"]])


def test_the_separator_may_be_declared_in_the_first_line(csv_file: Path) -> None:
    assert read_rows(write(csv_file, "sep=;\npath;label\na;b\n")) == (["path", "label"], [["a", "b"]])
    with pytest.raises(DataError, match=r"line 4 of .* has 1 instead of 2"):
        read_rows(write(csv_file, "sep=;\npath;label\na;b\nc\n"))


def test_spaces_separate_fields_in_text_files_only(tmp_path: Path) -> None:
    text = "p1 a.png covid src\np2 b.png normal src\n"
    assert read_lines(write(tmp_path / "t.txt", text))[0] == ["p1", "a.png", "covid", "src"]
    assert read_lines(write(tmp_path / "t.csv", text))[0] == ["p1 a.png covid src"]
    assert read_lines(write(tmp_path / "u.txt", "scan 1.png\tnormal\nscan 2.png\tcovid\n"))[0] == ["scan 1.png", "normal"]


TEXT = "path,label\n1.png,unauffällig\n2.png,gesichert (beidseits)\n"


# Parameters are names of encodings, not bytes: gzip writes the time into its header, and pytest-xdist requires that all
# processes collect tests of the same names.
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp1252", "utf-8-sig", "gzip"])
def test_encodings_and_compression_are_detected(csv_file: Path, encoding: str) -> None:
    csv_file.write_bytes(gzip.compress(TEXT.encode("latin-1")) if encoding == "gzip" else TEXT.encode(encoding))
    assert read_rows(csv_file) == (["path", "label"], [["1.png", "unauffällig"], ["2.png", "gesichert (beidseits)"]])


@pytest.mark.parametrize(
    "content",
    [b"a,b\n1,\x00\n", gzip.compress(TEXT.encode())[:-9], b"\xff\x00\xfe,\x00"],
    ids=["zero bytes", "truncated gzip", "unknown encoding"],
)
def test_what_is_not_text_is_refused(csv_file: Path, content: bytes) -> None:
    csv_file.write_bytes(content)
    with pytest.raises(DataError, match="Save it as CSV in UTF-8"):
        read_rows(csv_file)


def test_workbooks_are_read_as_their_cells_are_shown(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(["path", "label", "patient_id", None])
    book.active.append(["1.png", "NA", 7.0, None])
    book.active.append([None, None, None, None])
    book.active.append(["2.png", True, "007", None])
    book.create_sheet("empty")
    book.save(tmp_path / "t.xlsx")
    assert read_rows(tmp_path / "t.xlsx") == (["path", "label", "patient_id"], [["1.png", "NA", "7"], ["2.png", "True", "007"]])
    book["empty"].append(["x"])
    book.save(tmp_path / "two.xlsx")
    with pytest.raises(DataError, match=r"several sheets \(Sheet, empty\)"):
        read_header(tmp_path / "two.xlsx")
    (tmp_path / "no.xlsx").write_bytes(b"text")
    with pytest.raises(DataError, match="not an Excel workbook"):
        read_rows(tmp_path / "no.xlsx")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no.csv", "No such file")):
        with pytest.raises(DataError, match=reason):
            read_header(path)
