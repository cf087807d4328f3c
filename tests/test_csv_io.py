"""Strict reading of CSV files, and that written tables are read unchanged."""

import string
from pathlib import Path

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


@pytest.mark.parametrize(("separator", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_another_separator_is_named(csv_file: Path, separator: str, name: str) -> None:
    write(csv_file, f"path{separator}score\na{separator}0,5\n")
    with pytest.raises(DataError, match=f"must be separated by commas; received {name} in .* Save it as CSV with commas"):
        read_rows(csv_file)
    write(csv_file, f"0{separator}a\n1{separator}b\n")
    with pytest.raises(DataError, match=f"must be separated by commas; received {name}"):
        read_lines(csv_file)
    assert read_lines(write(csv_file, f"label\na{separator}b\n")) == [["label"], [f"a{separator}b"]]


@pytest.mark.parametrize("content", ["a,b\n1,2\n".encode("utf-16"), "a,b\n1,2\n".encode("utf-16-le"), b"a,b\ncaf\xe9,1\n"])
def test_other_encodings_are_refused(csv_file: Path, content: bytes) -> None:
    csv_file.write_bytes(content)
    with pytest.raises(DataError, match="Save it as CSV in UTF-8"):
        read_rows(csv_file)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "no.csv", "No such file")):
        with pytest.raises(DataError, match=reason):
            read_header(path)
