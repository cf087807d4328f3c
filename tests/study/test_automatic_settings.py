"""The settings that follow from the data and the space: folds, image size and pruner."""

import pytest

from automl_cxr.data.phantoms import draw_phantoms
from automl_cxr.errors import DataError, UsageError
from automl_cxr.study.automatic_settings import MAX_FOLDED_IMAGES, choose_folds, choose_image_size, limit_enlargement
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_images
from automl_cxr.study.settings import resolve_settings


@pytest.fixture
def small_images(tmp_path):
    return draw_phantoms(tmp_path / "small", n_images=60, image_size=32)


def test_small_data_sets_are_divided_into_folds():
    assert choose_folds(MAX_FOLDED_IMAGES - 1) == (5, 3, 2)
    assert choose_folds(MAX_FOLDED_IMAGES) == ()


def draw_few_patients(folder, n_patients, *, damaged=()):
    """Draw two images of each patient of two classes; one class has few patients."""
    drawn = draw_phantoms(folder / "drawn", n_images=60, image_size=32, seed=3)
    few, many = folder / "few" / "normal", folder / "few" / "opacity"
    few.mkdir(parents=True)
    many.mkdir()
    for target, name, number in ((few, "normal", n_patients), (many, "opacity", 7)):
        for place, image in enumerate(sorted((drawn / name).glob("*.png"))[: 2 * number]):
            patient = place // 2
            content = b"no picture" if (name, patient) in damaged else image.read_bytes()
            (target / f"person{patient}_{place % 2}.png").write_bytes(content)
    return str(folder / "few")


def prepare_few_patients(data, **options):
    return prepare_images(SearchOptions(data=data, folds="auto", image_size=32, patients=r"^.*person\d+", **options))


@pytest.mark.parametrize(("n_patients", "folds"), [(6, 5), (4, 3), (3, 2)])
def test_a_class_with_few_patients_gets_fewer_folds(tmp_path, n_patients, folds):
    prepared = prepare_few_patients(draw_few_patients(tmp_path, n_patients))
    assert prepared.split.n_folds == folds
    notes = [note for note in prepared.notes if "folds instead of 5" in note]
    assert len(notes) == (folds < 5)
    assert all(f"class 'normal' has only {n_patients - 1} patients" in note for note in notes)


def test_two_patients_of_a_class_are_enough_without_a_test_part(tmp_path):
    data = draw_few_patients(tmp_path, 2)
    with pytest.raises(
        DataError, match=r"class 'normal' has 2 patients .*: 'normal/person0', 'normal/person1'.*--test-fraction 0"
    ):
        prepare_few_patients(data)
    assert prepare_few_patients(data, test_fraction=0).split.n_folds == 2


def test_the_refusal_names_unreadable_images(tmp_path):
    data = draw_few_patients(tmp_path, 3, damaged={("normal", 0), ("normal", 1)})
    with pytest.raises(DataError, match=r"each of the 2 folds; class 'normal' has [01] patients?.*images cannot be read"):
        prepare_few_patients(data)


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


def test_a_study_records_the_names_of_its_classes(prepare, phantoms):
    settings = {"data": str(phantoms), "classes": ("healthy", "sick")}
    class_map = "normal=healthy,opacity=sick,effusion=sick"
    spec = prepare(**settings, class_map=class_map).store.spec
    assert (spec.classes, spec.data_options.class_map["opacity"], spec.normal_class) == (("healthy", "sick"), "sick", "healthy")
    assert not prepare(**settings, class_map=class_map).is_new
