"""Tables of features are matched by id, path or file name, and refused if they are damaged."""

import numpy as np
import pytest

from automl_cxr.data.cache_listing import clear_cache, list_cache_entries
from automl_cxr.data.feature_table import open_recorded_table, read_feature_table, save_rows
from automl_cxr.errors import DataError

VALUES = np.arange(6, dtype=np.float64).reshape(3, 2)
IMAGES = ["x/a.png", "y/b.png", "y/c.v2.png"]


def write(file, ids, features=VALUES, **others):
    np.savez(file, ids=np.asarray(ids), features=np.asarray(features), **others)
    return file


@pytest.mark.parametrize(
    "ids",
    [
        IMAGES,
        ["a.png", "b.png", "c.v2.png"],
        ["a", "b", "c.v2"],
        ["/data/x/a.png", "/data/y/b.png", "/data/y/c.v2.png"],
    ],
)
def test_rows_are_found_by_id_path_and_file_name(ids, tmp_path):
    table = read_feature_table(write(tmp_path / "t.npz", ids))
    selected = table.select([IMAGES[2], IMAGES[0]], tmp_path.__class__("/data"))
    assert selected.dtype == np.float32
    assert selected.tolist() == [[4, 5], [0, 1]]


def test_missing_images_are_named(tmp_path):
    table = read_feature_table(write(tmp_path / "t.npz", ["a", "b", "other"]))
    with pytest.raises(DataError, match=r"none for 1 of 3, such as y/c.v2.png\. Its ids, such as a, b, other"):
        table.select(IMAGES, tmp_path)


def test_equal_file_names_are_not_matched(tmp_path):
    table = read_feature_table(write(tmp_path / "t.npz", ["a", "b", "c"]))
    with pytest.raises(DataError, match=r"same id names x/a.png, y/a.png\. Use longer"):
        table.select(["x/a.png", "y/a.png"], tmp_path)


@pytest.mark.parametrize(
    ("ids", "features", "message"),
    [
        (["a", "b", "a"], VALUES, "repeats 1, such as a"),
        (["a", "b", "c"], [[1, 2], [np.nan, 1], [np.inf, 2]], "2 images .* such as b, c"),
        (["a", "b", "c"], VALUES * 1e300, "must be finite"),
        (["a", "b"], VALUES, "one id and one vector"),
        ([1, 2, 3], VALUES, "one id and one vector"),
        (["a", "b", "c"], VALUES[:, 0], "one id and one vector"),
        (["a", "b", "c"], VALUES.astype(str), "must be numbers"),
        (["a", "b", "c"], np.array([[None]] * 3), "cannot be read"),
    ],
)
def test_a_damaged_table_is_refused(ids, features, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_feature_table(write(tmp_path / "t.npz", ids, features))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="must exist"):
        read_feature_table(tmp_path / "none.npz")
    np.savez(tmp_path / "t.npz", x=VALUES)
    with pytest.raises(DataError, match=r"numpy\.savez"):
        read_feature_table(tmp_path / "t.npz")


def test_the_table_of_a_study_must_not_change(tmp_path):
    file = write(tmp_path / "t.npz", ["a", "b", "c"])
    digest = read_feature_table(file).digest
    assert open_recorded_table(file, digest).n_features == 2
    write(file, ["a", "b", "c"], VALUES + 1)
    with pytest.raises(DataError, match="is another file"):
        open_recorded_table(file, digest)


def test_saved_rows_are_named_by_their_content_and_are_part_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AUTOML_CXR_CACHE", str(tmp_path))
    first, second = save_rows(VALUES.astype(np.float32)), save_rows(VALUES.astype(np.float32) + 1)
    assert first != second
    assert np.load(first).tolist() == VALUES.tolist()
    listed = [(entry.kind, entry.what, entry.n_images) for entry in list_cache_entries(tmp_path)]
    assert listed == [("features", "rows of a table, 2 features", 3)] * 2
    assert clear_cache(tmp_path) == 2 * (128 + 4 * VALUES.size)  # with the header of the file
    assert not first.exists()
