"""Tables of other programs: order of columns and images, kinds of scores, and error messages."""

import numpy as np
import pytest

from automl_cxr.errors import DataError
from automl_cxr.scoring.prediction_tables import read_prediction_tables
from automl_cxr.scoring.predictions import Predictions, align

PLAIN = """image,label,covid,normal,other
a.png,covid,0.7,0.2,0.1
b.png,normal,0.1,0.8,0.1
c.png,other,0.2,0.2,0.6
"""


@pytest.fixture
def write(tmp_path):
    def write_table(text, name="t.csv"):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write_table


def test_columns_and_images_are_matched_by_name(write):
    shuffled = "label,other,image,class,normal,covid\n,0.6,c.png,other,0.2,0.2\nnormal,0.1,b.png,normal,0.8,0.1\n"
    shuffled = shuffled.replace("\n,", "\nother,") + "covid,0.1,a.png,covid,0.2,0.7\n"
    first, second = read_prediction_tables([write(PLAIN), write(shuffled, "s.csv")])
    assert second.predictions.classes == ("covid", "normal", "other")
    stacked, images = align([first.predictions, second.predictions])
    assert (stacked[0] == stacked[1]).all()
    assert images.labels.tolist() == [0, 1, 2]
    assert first.note == "columns used: image, label, covid, normal, other; not used: none"
    assert second.note == "columns used: image, label, other, normal, covid; not used: class"


def test_tables_and_npz_of_this_program_are_read(write, tmp_path):
    program_table = "image,class,probability_covid,probability_normal,probability_other\na.png,covid,0.7,0.2,0.1\n"
    (table,) = read_prediction_tables([write(program_table)])
    assert table.predictions.classes == ("covid", "normal", "other")
    assert table.predictions.labels.tolist() == [-1]
    Predictions(("a.png",), np.array([2]), np.array([[0.1, 0.2, 0.7]]), ("other", "normal", "covid"), ("p",)).to_npz(
        tmp_path / "x.npz"
    )
    first, second = read_prediction_tables([write(PLAIN), tmp_path / "x.npz"])
    assert second.predictions.probabilities[0] == pytest.approx([0.7, 0.2, 0.1])
    assert second.predictions.labels.tolist() == [0]
    assert first.predictions.patients == ("p", "b.png", "c.png"), "the patients of one table are used for all"


def test_other_scores_are_converted_to_probabilities_with_a_note(write):
    sums = PLAIN.replace("0.7,0.2,0.1", "7,2,1")
    logits = PLAIN.replace("0.7,0.2,0.1", "2,-1,0")
    scaled, soft = read_prediction_tables([write(sums), write(logits, "l.csv")])
    assert scaled.predictions.probabilities[0] == pytest.approx([0.7, 0.2, 0.1])
    assert scaled.note.endswith("; not used: none; 1 of 3 rows do not sum to 1: divided by their sums")
    assert soft.predictions.probabilities[0] == pytest.approx(np.exp([2, -1, 0]) / np.exp([2, -1, 0]).sum())
    assert "logits" in soft.note
    (rounded,) = read_prediction_tables([write(PLAIN.replace("0.7,0.2,0.1", "0.7003,0.2,0.1"))])
    assert rounded.note.endswith("not used: none")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "no rows"),
        ("image,label,a,b\n", "no rows"),
        ("file,label,a,b\nx,a,1,0\n", "no column image"),
        ("image,label,a\nx,a,1\n", "fewer than two columns have the name of a class: a of a"),
        ("image,label,a,b\nx,a,1,0\ny,a,1,0\n", "fewer than two columns have the name of a class: a of a, b"),
        ("image,a,b\nx,1,0\n", "fewer than two columns have the name of a class: none of a, b"),
        ("image,label,a,b\nx,a,1,0\ny,b,1\n", r"line 3 of '.*t\.csv' has 3 instead of 4"),
        ("image,label,a,b\nx,a,1,0,0\n", r"line 2 of '.*t\.csv' has 5 instead of 4"),
        ('image,label,a,b\nx,a,1,0\n"y,b,1,0\nz,a,1,0\n', r"t\.csv' is not valid CSV from line 3 on"),
        ("image,label,a,b,a\nx,a,1,0,0\n", "two columns with the name 'a'"),
        ("image,label,a,b\nx,a,much,0\ny,b,1,0\n", "a score is not a number"),
        ("image,label,a,b\nx,a,nan,0\ny,b,1,0\n", "not finite"),
        ("image,label,a,b\nx,a,0,0\ny,b,1,0\n", "all 0"),
        ("image,label,a,b\nx,c,1,0\n", "the label 'c' has no column among a, b"),
        ("image,label,probability_a,probability_b\nx,c,1,0\n", "the label 'c' has no column among a, b"),
        ("image,label,a,b\nx,a,1,0\nx,b,1,0\n", "'x' more than once"),
    ],
)
def test_an_invalid_table_is_refused_on_one_line(write, text, rule):
    with pytest.raises(DataError, match=rule) as refused:
        read_prediction_tables([write(text)])
    assert "\n" not in str(refused.value)


def test_the_error_for_other_classes_images_or_labels_names_the_file(write):
    with pytest.raises(DataError, match=r"Received covid, healthy, other in o\.csv \(.*\), and covid, normal, other in t\.csv"):
        read_prediction_tables([write(PLAIN), write(PLAIN.replace("normal", "healthy"), "o.csv")])
    for text, rule in (
        (PLAIN.replace("c.png", "d.png"), r"same images. Received in o\.csv, against t\.csv: 1 missing, 1 more"),
        (
            PLAIN.replace("c.png,other", "c.png,covid"),
            r"same labels. Received in o\.csv, against t\.csv: different labels",
        ),
    ):
        tables = read_prediction_tables([write(PLAIN), write(text, "o.csv")])
        with pytest.raises(DataError, match=rule):
            align([table.predictions for table in tables], names=[table.name for table in tables])


def test_only_columns_with_the_name_of_a_class_are_scores(write):
    """pandas writes an index column; cross-validation writes a column fold; both would be the most probable class."""
    rows = PLAIN.splitlines()
    for name in ("", "Unnamed: 0"):
        text = "\n".join(
            [f"{name},{rows[0]},fold,age", *(f"{number},{row},{number},61" for number, row in enumerate(rows[1:]))]
        )
        (table,) = read_prediction_tables([write(text)])
        assert table.predictions.classes == ("covid", "normal", "other")
        assert table.predictions.probabilities[0] == pytest.approx([0.7, 0.2, 0.1])
        left_out = name or "a column without a name"
        assert table.note == f"columns used: image, label, covid, normal, other; not used: {left_out}, fold, age"


def test_the_labels_of_all_tables_and_given_classes_are_names_of_classes(write):
    unlabelled = "image,fold,normal,covid,other\na.png,1,0.2,0.7,0.1\nb.png,2,0.8,0.1,0.1\nc.png,3,0.2,0.2,0.6\n"
    first, second = read_prediction_tables([write(PLAIN), write(unlabelled, "u.csv")])
    assert second.predictions.probabilities.tolist() == first.predictions.probabilities.tolist()
    (alone,) = read_prediction_tables([write(unlabelled, "u.csv")], classes=("other", "covid", "normal"))
    assert alone.predictions.probabilities[0] == pytest.approx([0.1, 0.7, 0.2])
    with pytest.raises(
        DataError, match=r"Received covid, other in p\.csv \(.*not used: normal.*\), and covid, sick, other in mine"
    ):
        read_prediction_tables(
            [write(PLAIN.replace("b.png,normal", "b.png,"), "p.csv")], classes=("covid", "sick", "other"), whose="mine"
        )


def test_a_class_without_images_needs_the_prefix(write):
    text = "image,label,covid,normal,other\na.png,covid,0.7,0.2,0.1\nb.png,normal,0.1,0.8,0.1\n"
    (plain,) = read_prediction_tables([write(text)])
    assert plain.predictions.classes == ("covid", "normal")
    assert plain.note.endswith("not used: other; 2 of 2 rows do not sum to 1: divided by their sums")
    prefixed = text.replace(",covid,normal,other\n", ",probability_covid,probability_normal,probability_other\n")
    (named,) = read_prediction_tables([write(prefixed)])
    assert named.predictions.classes == ("covid", "normal", "other")


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_prediction_tables([tmp_path / "no.csv"])


FINDINGS = """image,patient_id,label_Mass,label_Nodule,probability_Nodule,probability_Mass,decision_Mass
a.png,p,1,0.0,0.9,0.2,0
b.png,p,,-1,0.3,0.8,1
"""


def test_tables_of_several_findings_have_a_label_column_for_each(write):
    (table,) = read_prediction_tables([write(FINDINGS)])
    predictions = table.predictions
    assert predictions.classes == ("Nodule", "Mass")
    assert predictions.labels.tolist() == [[0, 1], [-1, -1]]
    assert predictions.probabilities == pytest.approx(np.array([[0.9, 0.2], [0.3, 0.8]]))
    assert predictions.patients == ("p", "p")
    assert table.note.endswith("not used: decision_Mass")
    (ordered,) = read_prediction_tables([write(FINDINGS)], classes=("Mass", "Nodule"), task="multilabel")
    assert ordered.predictions.labels.tolist() == [[1, 0], [-1, -1]]
    assert ordered.predictions.probabilities[0].tolist() == pytest.approx([0.2, 0.9])


def test_scores_of_findings_may_be_columns_with_their_names(write):
    text = "image,Mass,label_Mass,Nodule,fold\na.png,-2.0,1,3.0,1\nb.png,0.5,0,1.5,2\n"
    (table,) = read_prediction_tables([write(text)], classes=("Mass", "Nodule"), task="multilabel")
    assert table.predictions.labels.tolist() == [[1, -1], [0, -1]]
    assert table.predictions.probabilities[0].tolist() == pytest.approx([1 / (1 + np.exp(2)), 1 / (1 + np.exp(-3))])
    assert "used as logits (sigmoid)" in table.note


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label_Mass,probability_Mass\na,2,0.5\n", "the label '2' in column label_Mass"),
        ("image,label_Mass,probability_Mass\na,yes,0.5\n", "the label 'yes' in column label_Mass"),
        ("image,label_Mass,Mass_score\na,1,0.5\n", "no column has the name of a finding: Mass"),
        ("image,label_Mass,probability_Mass\na,1,nan\n", "a score that is not finite"),
    ],
)
def test_damaged_tables_of_findings_are_refused(write, text, message):
    with pytest.raises(DataError, match=message):
        read_prediction_tables([write(text)])


def test_findings_and_classes_are_not_mixed(write, tmp_path):
    Predictions(("a.png", "b.png"), np.array([0, 1]), np.full((2, 2), 0.5), ("Mass", "Nodule")).to_npz(tmp_path / "c.npz")
    with pytest.raises(DataError, match=r"must be multilabel; received c\.npz, which is multiclass"):
        read_prediction_tables([write(FINDINGS), tmp_path / "c.npz"])
