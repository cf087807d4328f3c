"""The file with the metadata of a study's images."""

import pandas as pd
import pytest

from automl_cxr.data.image_metadata import METADATA_FILE, load_image_metadata, save_image_metadata
from automl_cxr.errors import DataError


def test_metadata_are_read_as_they_were_written(tmp_path):
    table = pd.DataFrame({"sex": ["female", ""], "site": ['a, "b"', "007"]}, index=["x/1.png", "ä 2.png"])
    save_image_metadata(table, tmp_path)
    pd.testing.assert_frame_equal(load_image_metadata(tmp_path), table, check_dtype=False)


def test_a_study_without_metadata_has_no_file(tmp_path):
    save_image_metadata(pd.DataFrame(index=["1.png"]), tmp_path)
    assert not (tmp_path / METADATA_FILE).exists()
    assert load_image_metadata(tmp_path).columns.empty


def test_another_file_is_refused(tmp_path):
    (tmp_path / METADATA_FILE).write_text("sex,age\nfemale,5\n")
    with pytest.raises(DataError, match=r"must have the column image first, and others once; .* has sex, age"):
        load_image_metadata(tmp_path)
