"""Content hashes of the images of a study, and the images that were used for a model file."""

import hashlib
import shutil

import pytest

from automl_cxr.errors import DataError, StudyError
from automl_cxr.study.image_hashes import HASHES_FILE, ImageHashes
from automl_cxr.study.model_sources import find_hashes, source_of_model


def hashes_of(root, images):
    return {hashlib.sha256((root / image).read_bytes()).digest()[:16] for image in images}


def test_a_new_study_stores_the_hashes_of_all_its_images(prepare, phantoms):
    store = prepare().store
    split, hashes = store.split, find_hashes(store.folder)
    assert hashes.train == hashes_of(phantoms, split.train.images)
    assert hashes.valid == hashes_of(phantoms, split.valid.images)
    assert hashes.test == hashes_of(phantoms, split.test)
    assert hashes.earlier == frozenset()
    assert (store.folder / HASHES_FILE).stat().st_size < 60 * 16 + 1200


def test_a_continued_study_does_not_hash_its_test_images_again(prepare, monkeypatch):
    prepare()
    monkeypatch.setattr("automl_cxr.study.data_preparation.hash_files", None)
    assert not prepare().is_new


class TestStudiesOfEarlierVersions:
    @pytest.fixture
    def old(self, prepare, phantoms, tmp_path):
        """Create a study of images at ``data``, and delete its hashes."""
        shutil.copytree(phantoms, tmp_path / "data")
        store = prepare(data=str(tmp_path / "data")).store
        hashes = find_hashes(store.folder)
        (store.folder / HASHES_FILE).unlink()
        return store, hashes

    def test_the_hashes_are_computed_once(self, old, tmp_path):
        store, hashes = old
        assert find_hashes(store.folder) == hashes
        shutil.rmtree(tmp_path / "data")
        assert find_hashes(store.folder) == hashes

    def test_moved_images_are_found_in_the_given_folder_only(self, old, tmp_path):
        store, hashes = old
        (tmp_path / "data").rename(tmp_path / "moved")
        with pytest.raises(DataError, match=r"evaluate s --split valid --data DIR` once with their current folder"):
            find_hashes(store.folder)
        assert find_hashes(store.folder, root=tmp_path / "moved") == hashes

    def test_images_that_have_changed_are_not_hashed(self, old, tmp_path):
        store, _ = old
        first, second = (tmp_path / "data" / image for image in store.split.train.images[:2])
        shutil.copy(first, second)
        with pytest.raises(DataError, match="or have changed"):
            find_hashes(store.folder)

    def test_the_next_search_stores_them(self, old, prepare, tmp_path):
        store, hashes = old
        (tmp_path / "data").rename(tmp_path / "moved")
        prepare(data=str(tmp_path / "moved"))
        assert find_hashes(store.folder) == hashes


def test_a_damaged_file_is_an_error(prepare):
    store = prepare().store
    complete = (store.folder / HASHES_FILE).read_bytes()
    for content in (b"", b"garbage", b"PK\x03\x04", complete[:-40]):
        (store.folder / HASHES_FILE).write_bytes(content)
        with pytest.raises(StudyError, match="is damaged") as raised:
            find_hashes(store.folder)
        assert "pickle" not in str(raised.value)


def test_a_damaged_file_of_the_study_of_a_warm_start_is_an_error(prepare, quick_search):
    earlier = prepare(name="earlier")
    quick_search(earlier, trials=3)
    (earlier.store.folder / HASHES_FILE).write_bytes(b"garbage")
    with pytest.raises(StudyError, match="is damaged"):
        prepare(name="later", warm_start="earlier")


def test_saved_hashes_are_read_unchanged(tmp_path):
    hashes = ImageHashes(train=frozenset({bytes(range(16))}), valid=frozenset(), test=frozenset({b"t" * 16, b"u" * 16}))
    hashes.save(tmp_path / "hashes.npz")
    assert ImageHashes.load(tmp_path / "hashes.npz") == hashes


class TestModelFiles:
    @pytest.fixture
    def study(self, prepare, quick_search):
        prepared = prepare()
        quick_search(prepared, trials=3, keep_models=2)
        return prepared.store

    def test_each_model_has_the_hashes_of_its_study_beside_it(self, study):
        with_model = [record.number for record in study.records() if study.has_model(record.number)]
        assert len(with_model) == 2
        for record in study.records():
            beside = study.trial_folder(record.number) / "model.image_hashes.npz"
            assert beside.is_file() == study.has_model(record.number)
        assert study.model_file(with_model[0]).with_name("model.image_hashes.npz").samefile(study.folder / HASHES_FILE)

    def test_a_model_is_recognised_in_its_study_and_in_a_copied_trial_folder(self, study, tmp_path):
        hashes, trial = find_hashes(study.folder), study.model_file(study.ranked()[0].number).parent
        shutil.copytree(trial, tmp_path / "elsewhere")
        assert source_of_model(tmp_path / "elsewhere" / "model.keras").images == hashes
        (trial / "model.image_hashes.npz").unlink()
        assert source_of_model(trial / "model.keras").images == hashes

    def test_the_images_of_a_copied_file_are_unknown(self, study, tmp_path):
        shutil.copy(study.model_file(study.ranked()[0].number), tmp_path / "weights.keras")
        assert source_of_model(tmp_path / "weights.keras").images is None
