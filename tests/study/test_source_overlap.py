"""Test and validation images of a study that were used for models from which it starts."""

import shutil

import pandas as pd
import pytest

from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.study.image_hashes import HASHES_FILE, ImageHashes
from automl_cxr.study.model_sources import Source, find_hashes
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study
from automl_cxr.study.source_overlap import check_sources, load_source_checks, source_warnings
from automl_cxr.study.store import StudyStore

SPACE = """
family = "scratch"
n_blocks = 1
[dropout]
type = "float"
low = 0.0
high = 0.5
"""


def hashes(names):
    return frozenset(name.encode() * 16 for name in names)


def images(train="", valid="", test="", earlier=""):
    return ImageHashes(train=hashes(train), valid=hashes(valid), test=hashes(test), earlier=hashes(earlier))


def check(source, own, **settings):
    (result,) = check_sources([Source(name="x", images=source, **settings)], own, allows_test_overlap=True)
    return result.n_test, result.n_valid


class TestCounting:
    @pytest.mark.parametrize("part", ["train", "valid", "earlier"])
    def test_test_images_that_trained_or_selected_the_source_count(self, part):
        assert check(images(**{part: "abc"}), images(train="d", valid="e", test="bcf")) == (2, 0)

    def test_test_images_of_both_studies_do_not_count(self):
        assert check(images(train="a", test="bc"), images(train="d", valid="e", test="bc")) == (0, 0)

    @pytest.mark.parametrize(("part", "n_valid"), [("train", 2), ("earlier", 2), ("valid", 0)])
    def test_validation_images_that_trained_the_source_count(self, part, n_valid):
        assert check(images(**{part: "abc"}), images(train="d", valid="bce", test="f")) == (0, n_valid)

    def test_all_images_are_validation_images_with_folds(self):
        assert check(images(train="ab"), images(train="abc", test="f")) == (0, 2)

    def test_configurations_do_not_contain_training_images(self):
        assert check(images(train="ab"), images(train="d", valid="a", test="b"), gives_weights=False) == (1, 0)

    def test_copies_of_an_image_in_two_parts_of_the_same_split_do_not_count(self):
        same = images(train="ab", valid="bc", test="acd")
        assert check(same, same) == (0, 0)


@pytest.fixture
def write_space(tmp_path):
    def write(name, text):
        (tmp_path / f"{name}.toml").write_text(text)
        return str(tmp_path / f"{name}.toml")

    return write


@pytest.fixture
def space(write_space):
    return write_space("small", SPACE)


@pytest.fixture
def transfer(write_space):
    return write_space("transfer", 'family = "transfer"\nbackbone = "squeezenet"\nn_dense = 0')


@pytest.fixture
def concat(write_space):
    networks = 'backbone = "squeezenet"\nsecond_backbone = "squeezenet"'
    return write_space("concat", f'family = "concat"\n{networks}\nprojection = 0\nn_dense = 0')


@pytest.fixture(scope="module")
def finished_runs(tmp_path_factory, phantoms, quick_search):
    """Run two trials of a study named "old"; return the runs folder."""
    runs = tmp_path_factory.mktemp("finished")
    (runs / "small.toml").write_text(SPACE)
    options = SearchOptions(space=str(runs / "small.toml"), data=str(phantoms), name="old", image_size=32, pruner="none")
    quick_search(prepare_study(options, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}"), trials=2)
    return runs


@pytest.fixture
def earlier(finished_runs, tmp_path):
    """Return the study "old", which has two trials."""
    shutil.copytree(finished_runs, tmp_path, dirs_exist_ok=True)
    return StudyStore.open("old", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")


@pytest.fixture
def changed(phantoms, tmp_path):
    """Copy the images under other names, with one label changed, so that the table of the data differs."""
    folder = tmp_path / "changed"
    for file in sorted(phantoms.rglob("*.png")):
        target = folder / file.parent.name / f"renamed_{file.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    moved = next((folder / "normal").iterdir())
    moved.rename(folder / "opacity" / moved.name)
    return str(folder)


def model_of(store):
    return str(store.model_file(store.ranked()[0].number))


class TestStartingFromAnotherStudy:
    @pytest.fixture
    def settings(self, earlier, space, transfer, concat):
        return {
            "warm start": {"space": space, "warm_start": "old"},
            "weights": {"space": transfer, "fixed": {"weights": model_of(earlier)}},
            "second_weights": {"space": concat, "fixed": {"second_weights": model_of(earlier)}},
        }

    @pytest.mark.parametrize("kind", ["warm start", "weights", "second_weights"])
    def test_test_images_that_it_used_are_refused_unless_allowed(self, prepare, earlier, changed, settings, tmp_path, kind):
        settings = {"data": changed, **settings[kind]}
        with pytest.raises(DataError, match=r"\d+ of \d+ were used to train or select .*old.*--test-overlap allow"):
            prepare(**settings)
        assert not (tmp_path / "s").exists()
        prepared = prepare(**settings, test_overlap="allow")
        own, used = find_hashes(prepared.store.folder), find_hashes(earlier.folder)
        (check,) = load_source_checks(prepared.store.folder)
        assert check.n_test == len(own.test & (used.train | used.valid)) > 0
        assert check.n_valid == (0 if kind == "warm start" else len(own.valid & used.train))
        assert own.earlier == used.train | used.valid
        assert f"{check.n_test} of {len(own.test)} test images were used" in source_warnings(prepared.store.folder)[0]
        assert set(source_warnings(prepared.store.folder)) <= set(prepared.notes)
        continued = prepare(data=changed, space=None)
        assert set(source_warnings(prepared.store.folder)) <= set(continued.notes), "the option is not needed again"

    @pytest.mark.parametrize("kind", ["warm start", "weights"])
    def test_the_same_split_is_accepted(self, prepare, settings, kind):
        store = prepare(**settings[kind]).store
        assert source_warnings(store.folder) == []
        assert [check.is_known for check in load_source_checks(store.folder)] == [True]

    @pytest.mark.slow
    def test_the_images_of_its_own_sources_count_too(self, prepare, quick_search, earlier, space, tmp_path):
        other = draw_phantoms(tmp_path / "other", n_images=60, image_size=64, seed=2)
        between = prepare(name="between", data=str(other), space=space, warm_start="old")
        quick_search(between, trials=2)
        with pytest.raises(DataError, match="were used to train or select study 'between'"):
            prepare(space=space, warm_start="between", seed=1)

    def test_each_weights_file_that_the_space_contains_is_checked(self, prepare, earlier, tmp_path):
        (tmp_path / "choice.toml").write_text(
            'family = "transfer"\nbackbone = "squeezenet"\n[weights]\ntype = "choice"\n'
            f'values = ["imagenet", "{model_of(earlier)}"]'
        )
        with pytest.raises(DataError, match="used to train or select the weights"):
            prepare(space=str(tmp_path / "choice.toml"), seed=1)

    def test_weights_in_the_weights_folder_are_checked(self, prepare, earlier, transfer, tmp_path):
        trial = earlier.model_file(earlier.ranked()[0].number).parent
        shutil.copytree(trial, tmp_path / "weights")
        with pytest.raises(DataError, match="were used to train or select"):
            prepare(space=transfer, fixed={"weights": "model.keras"}, weights_folder=str(tmp_path / "weights"), seed=1)

    @pytest.mark.slow
    def test_weights_are_checked_again_if_a_continued_study_takes_them_from_another_folder(
        self, prepare, quick_search, earlier, transfer, tmp_path
    ):
        quick_search(prepare(name="same", seed=1), trials=1)
        for name, study in (("first", "same"), ("second", "old")):
            shutil.copytree(tmp_path / study / "trials" / "00000", tmp_path / name)
        settings = {"fixed": {"weights": "model.keras"}, "seed": 1, "space": transfer}
        store = prepare(**settings, weights_folder=str(tmp_path / "first")).store
        assert source_warnings(store.folder) == []
        with pytest.raises(DataError, match=r"second/model\.keras"):
            prepare(weights_folder=str(tmp_path / "second"), space=None)
        prepare(weights_folder=str(tmp_path / "second"), space=None, test_overlap="allow")
        assert "second/model.keras" in source_warnings(store.folder)[0]
        assert len(load_source_checks(store.folder)) == 2
        assert find_hashes(earlier.folder).train <= find_hashes(store.folder).earlier

    def test_heads_of_another_study_are_checked(self, prepare, earlier, concat):
        with pytest.raises(DataError, match="used to train or select the fitted heads"):
            prepare(space=concat, fixed={"heads": str(earlier.folder / "heads")}, seed=1)

    def test_a_source_that_cannot_be_checked_is_stated(self, prepare, earlier, transfer, tmp_path):
        shutil.copy(model_of(earlier), tmp_path / "weights.keras")
        prepared = prepare(space=transfer, fixed={"weights": str(tmp_path / "weights.keras")}, seed=1)
        (warning,) = source_warnings(prepared.store.folder)
        assert warning in prepared.notes
        assert "weights.keras are unknown, so it was not checked" in warning

    @pytest.mark.slow
    def test_a_study_of_an_earlier_version_is_checked_by_the_images_at_their_new_place(
        self, prepare, quick_search, phantoms, space, tmp_path
    ):
        shutil.copytree(phantoms, tmp_path / "data")
        old = prepare(name="old", space=space, data=str(tmp_path / "data"))
        quick_search(old, trials=2)
        (old.store.folder / HASHES_FILE).unlink()
        (tmp_path / "data").rename(tmp_path / "moved")
        with pytest.raises(DataError, match="were used to train or select study 'old'"):
            prepare(space=space, warm_start="old", data=str(tmp_path / "moved"), seed=1)

    def test_a_continued_study_of_an_earlier_version_is_checked(self, prepare, earlier, space):
        store = prepare(space=space, warm_start="old", seed=1, test_overlap="allow").store
        (store.folder / "sources.json").unlink()
        with pytest.raises(DataError, match="--test-overlap allow"):
            prepare(space=None)
        prepare(space=None, test_overlap="allow")
        assert source_warnings(store.folder)

    def test_an_unknown_value_is_refused(self, prepare):
        with pytest.raises(UnknownNameError, match="Did you mean 'allow'"):
            prepare(test_overlap="alow")


def test_images_in_a_table_with_another_label_are_recognised(prepare, earlier, phantoms, space, tmp_path):
    files = sorted(phantoms.rglob("*.png"))
    labels = [file.parent.name for file in files]
    labels[0] = "normal" if labels[0] == "opacity" else "opacity"
    pd.DataFrame({"path": files, "label": labels}).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(DataError, match="used to train or select study 'old'"):
        prepare(space=space, warm_start="old", data=str(tmp_path / "table.csv"), seed=1)
