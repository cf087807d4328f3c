"""Random CSV tables beside images and arrays, and prediction tables: a consistent result or an error, and no file changed."""

import csv
import io
import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from automl_cxr.data.dataset import load_dataset
from automl_cxr.data.split import PARTS
from automl_cxr.errors import DataError
from automl_cxr.scoring.prediction_tables import read_prediction_tables
from automl_cxr.scoring.predictions import Predictions, align
from tests.fuzzing.damage import damaged_bytes, digests, result_or_error

IMAGES = [f"{name}/{number}.png" for name in ("covid", "normal") for number in range(3)]
FIELDS = (
    st.sampled_from([*IMAGES, "../x.png", "/", ".", "a" * 300, "\ud7ff", "0.png", "images.npy", "labels.csv"])
    | st.sampled_from(["covid", "normal", "Normal", "nan", "-1", "0", "1", "1.0", "1e400", "²", "p1", "train", "PA"])
    | st.sampled_from(["0.5", "0.25", "1e-400", "inf", "-3", "1e308", "1_0", ""])
    | st.text(st.characters(codec="utf-8"), max_size=4)
)  # fmt: skip
HEADERS = st.sampled_from(
    ["image", "path", "label", "patient_id", "split", "view", "index", "id", "covid", "normal", "probability_covid"]
) | st.text(st.characters(codec="utf-8"), max_size=4)
PREDICTIONS = Predictions(
    ("a", "b", "c"), np.array([0, 1, -1]), np.array([[0.5, 0.5], [0.25, 0.75], [1, 0]], np.float32), ("covid", "normal"),
    ("p", "p", "q"),
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn, columns: st.SearchStrategy[list[str]], *, n_rows: int = 6) -> bytes:
    """Write a table whose columns mostly have sensible fields, possibly damaged as text."""
    header = draw(columns)
    usual = {
        "image": IMAGES, "path": IMAGES, "label": ["covid", "normal"], "patient_id": ["p", "q", "r", ""],
        "split": ["train", "valid", "test", ""], "index": ["0", "1", "2", "3", "4", "5"], "covid": ["0.5", "0.25"],
        "normal": ["0.5", "0.75"], "probability_covid": ["0.5", "0.1"],
    }  # fmt: skip
    strange = draw(st.booleans())
    rows = [
        [
            draw(FIELDS) if strange and draw(st.integers(0, 5)) == 0 else next(itertools.islice(fields, row, None))
            for fields in (itertools.cycle(usual.get(name, ["1", "2"])) for name in header)
        ]
        for row in range(draw(st.integers(0, 8)) if strange else n_rows)
    ]
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows])
    content = text.getvalue().encode("utf-8", errors="surrogatepass")
    return draw(damaged_bytes(content)) if draw(st.integers(0, 3)) == 0 else content


USUAL_COLUMNS = st.permutations(["image", "label", "patient_id"]) | st.just(["image", "label"])
ANY_COLUMNS = st.lists(HEADERS, min_size=1, max_size=5)


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for seed, name in enumerate(IMAGES):
        (folder / name).parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def array_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("array")
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (6, 16, 16), dtype=np.uint8))
    return folder


def check_loaded(root, folder):
    before = digests(folder)
    dataset = result_or_error(load_dataset, root)
    assert digests(folder) == before
    if dataset is None:
        return
    table = dataset.table
    assert table["image"].is_unique
    assert set(table["label"]) == set(dataset.classes)
    assert len(dataset.classes) >= 2
    assert (table["patient_id"] != "").all()
    assert set(table["split"]) <= {"", *PARTS}


@given(tables(USUAL_COLUMNS | ANY_COLUMNS))
def test_a_table_of_images_is_used_or_refused(image_folder, content):
    table = image_folder / "table.csv"
    table.write_bytes(content)
    try:
        check_loaded(table, image_folder)
        check_loaded(image_folder, image_folder)  # the folder contains classes and a table
    finally:
        table.unlink()


@given(tables(st.permutations(["image", "patient_id", "split"]) | ANY_COLUMNS))
def test_metadata_beside_class_folders_are_used_or_refused(image_folder, content):
    metadata = image_folder / "metadata.csv"
    metadata.write_bytes(content)
    try:
        check_loaded(image_folder, image_folder)
    finally:
        metadata.unlink()


@given(tables(st.permutations(["index", "label"]) | st.just(["label"]) | ANY_COLUMNS))
@example("label\n²\n1\n2\n3\n4\n5\n".encode())
def test_the_labels_of_an_array_are_used_or_refused(array_folder, content):
    (array_folder / "labels.csv").write_bytes(content)
    check_loaded(array_folder, array_folder)


@given(tables(st.permutations(["image", "label", "covid", "normal"]) | ANY_COLUMNS))
def test_a_prediction_table_is_used_or_refused(tmp_path, content):
    (tmp_path / "table.csv").write_bytes(content)
    check_predictions(result_or_error(read_prediction_tables, [tmp_path / "table.csv"]))
    check_predictions(result_or_error(read_prediction_tables, [tmp_path / "table.csv"], classes=("covid", "normal")))


def test_the_reason_for_a_damaged_prediction_file_is_short(tmp_path):
    """A damaged length of a name in the archive makes the name as long as the file."""
    PREDICTIONS.to_npz(tmp_path / "table.npz")
    content = bytearray((tmp_path / "table.npz").read_bytes())
    content[26:28] = (300).to_bytes(2, "little")
    (tmp_path / "table.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"\(File name in directory") as refused:
        Predictions.from_npz(tmp_path / "table.npz")
    assert len(str(refused.value)) < 500


@given(st.data())
def test_a_damaged_prediction_file_is_used_or_refused(tmp_path, data):
    PREDICTIONS.to_npz(tmp_path / "table.npz")
    content = data.draw(damaged_bytes((tmp_path / "table.npz").read_bytes()))
    (tmp_path / "table.npz").write_bytes(content)
    check_predictions(result_or_error(read_prediction_tables, [tmp_path / "table.npz"]))


ARRAYS = st.sampled_from(
    [
        np.array(["a", "b", "c"]), np.array(["a", "a", "b"]), np.array([0, 1, -1]), np.array([0, 1, 2**40]), np.zeros(3),
        np.array([[0.5, 0.5]] * 3, np.float32), np.array([[0.5, 0.5, 0]] * 3), np.array([[np.nan, 1]] * 3), np.zeros((0, 2)),
        np.array("a"), np.array([b"a", b"b"]), np.zeros(3, np.complex64), np.zeros(3, "M8[s]"), np.zeros((3, 2), np.float16),
        np.array(["x", "y"]), np.zeros(3, [("a", "f4")]), np.zeros((3, 0), np.float32), np.array([], str), np.full(3, 2**63),
    ]
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["ids", "labels", "probabilities", "classes", "patients", "other"]), ARRAYS))
@example({"labels": np.array(["a", "b", "c"])})
def test_arrays_of_other_shapes_and_types_are_refused(tmp_path, replaced):
    usual = {name: np.asarray(getattr(PREDICTIONS, name)) for name in ("ids", "labels", "probabilities", "classes", "patients")}
    np.savez(tmp_path / "table.npz", **(usual | replaced))
    check_predictions(result_or_error(read_prediction_tables, [tmp_path / "table.npz"]))


def check_predictions(tables):
    for table in tables or ():
        one = table.predictions
        assert len(one.classes) >= 2
        assert one.probabilities.shape == (len(one), len(one.classes))
        assert np.isfinite(one.probabilities).all()
        assert np.allclose(one.probabilities.sum(axis=1), 1, atol=2e-3)
        assert set(one.labels) <= set(range(-1, len(one.classes)))
        assert len(one.patients) == len(one)
        align([one, one])
