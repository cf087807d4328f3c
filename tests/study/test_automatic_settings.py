"""The settings that follow from the data and the space: folds, image size and pruner."""

import pytest

from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import UsageError
from automl_cxr.study.automatic_settings import MAX_FOLDED_IMAGES, choose_folds, choose_image_size, limit_enlargement
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.settings import resolve_settings


@pytest.fixture
def small_images(tmp_path):
    return draw_phantoms(tmp_path / "small", n_images=60, image_size=32)


def test_small_data_sets_are_divided_into_folds():
    assert choose_folds(MAX_FOLDED_IMAGES - 1) == 5
    assert choose_folds(MAX_FOLDED_IMAGES) == 0


def test_small_images_are_enlarged_at_most_four_times(prepare, small_images):
    prepared = prepare(space=None, data=str(small_images), image_size=None, pruner=None, fixed={"family": "scratch"})
    assert prepared.store.spec.image_size == 128
    assert any("have about 32 pixels and are enlarged to 128" in note for note in prepared.notes)
    assert limit_enlargement(224, 56) == limit_enlargement(224, 1000) == 224


def test_images_are_larger_if_the_originals_are_and_there_are_few():
    assert choose_image_size(MAX_FOLDED_IMAGES - 1, 320) == 320
    assert choose_image_size(MAX_FOLDED_IMAGES, 320) == choose_image_size(100, 319) == 224


def test_a_study_of_the_space_auto_has_folds_and_the_pruner_for_them(prepare):
    spec = prepare(space=None, fixed={"family": "scratch"}, image_size=None, pruner=None).store.spec
    assert (spec.space_name, spec.folds, spec.pruner, spec.image_size) == ("auto", 5, "wilcoxon", 224)


def test_a_study_is_continued_with_its_folds(prepare):
    settings = {"space": "auto", "fixed": {"family": "scratch"}, "image_size": None, "pruner": None}
    prepare(**settings)
    assert not prepare(**settings).is_new
    assert not prepare(**settings, folds="auto").is_new


@pytest.mark.parametrize(
    "options", [{"valid_fraction": 0.2}, {"pruner": "asha"}, {"sampler": "kt-hyperband"}, {"folds": 0}, {"space": "scratch"}]
)
def test_settings_without_folds_are_respected(options):
    assert resolve_settings(SearchOptions(**options), None)["folds"] == 0


def test_other_spaces_can_choose_the_folds_automatically(prepare):
    assert prepare(space="scratch", folds="auto", pruner=None).store.spec.folds == 5


def test_a_space_with_images_larger_than_those_of_the_study_is_refused(prepare, tmp_path):
    file = tmp_path / "sizes.toml"
    file.write_text('[image_size]\ntype = "choice"\nvalues = [32, 64]\ndefault = 32\n')
    with pytest.raises(UsageError, match=r"received 64 in space sizes and --image-size 32. Use --image-size 64"):
        prepare(space=str(file))
    assert prepare(space=str(file), image_size=64, name="large").store.spec.space.preset() == {"image_size": 32}
