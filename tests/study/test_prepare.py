import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from automl_cxr.data.image_rows import open_images
from automl_cxr.errors import DataError, StudyError, StudyMismatchError, UnknownNameError, UsageError
from automl_cxr.records import SplitRecord
from automl_cxr.results.report.text_format import images_without_patient
from automl_cxr.results.study_data import load_study_dataset
from automl_cxr.study.spaces import shipped
from automl_cxr.study.spec import StudySpec
from automl_cxr.study.store import StudyStore, check_study_name
from automl_cxr.study.study_folder import claim_folder
from automl_cxr.study.study_info import describe_study


@pytest.mark.slow
def test_a_prepared_study_has_its_split_and_spec_on_disk(prepare):
    prepared = prepare(seed=4)
    store = prepared.store
    split, spec = store.split, store.spec
    assert prepared.is_new
    assert spec.classes == ("effusion", "normal", "opacity")
    assert spec.normal_class == "normal"
    assert spec.normal_index == 1
    assert (spec.image_size, spec.batch_size, spec.epochs, spec.seed) == (32, 32, 30, 4)
    assert StudySpec.from_json(spec.to_json()) == spec
    assert SplitRecord.from_json(split.to_json()) == split
    images = open_images(prepared.images)
    assert images.shape == (len(split.train.images) + len(split.valid.images), 32, 32)
    assert not set(split.train.patients) & set(split.valid.patients)


def test_only_the_ids_of_test_images_are_stored(prepare, phantoms):
    store = prepare().store
    content = json.loads((store.folder / "split.json").read_text())
    assert content["test"]
    assert all(isinstance(image, str) for image in content["test"])
    stored = set(content["train"]["images"]) | set(content["valid"]["images"])
    assert not stored & set(content["test"])
    assert len(stored) + len(content["test"]) == 60


def test_the_decoded_pixels_equal_those_of_the_files_in_order(prepare, phantoms):
    from automl_cxr.data.decode import decode_image, fit_square

    prepared = prepare()
    split = prepared.store.split
    images = open_images(prepared.images)
    for row, image in enumerate((*split.train.images, *split.valid.images)):
        assert np.array_equal(images[row], fit_square(decode_image(phantoms / image), 32))


@pytest.fixture
def half_named(tmp_path, phantoms):
    """A table of the phantoms in which half of the images have no patient."""
    images = sorted(path.relative_to(phantoms).as_posix() for path in phantoms.rglob("*.png"))
    rows = [f"{phantoms / image},{image.split('/')[0]},{f'p{row}' if row % 2 else ''}" for row, image in enumerate(images)]
    table = tmp_path / "half.csv"
    table.write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    return table


def test_many_images_without_a_patient_need_a_choice_that_is_recorded(prepare, half_named):
    with pytest.raises(DataError, match=r"received 30 of 60 images \(50\.0 %\) without one.*--unknown-patients"):
        prepare(data=str(half_named))
    separate = prepare(data=str(half_named), name="separate", unknown_patients="separate")
    assert any(note.startswith("30 of 60 images (50.0 %) have no patient: each of them") for note in separate.notes)
    assert (separate.store.spec.unknown_patients, separate.store.split.n_without_patient) == ("separate", 30)
    assert describe_study(separate.store).n_without_patient == 30
    assert "without a known patient were each treated as a" in images_without_patient(separate.store.split, "separate")
    dropped = prepare(data=str(half_named), name="dropped", unknown_patients="drop").store
    n_used = sum(map(len, (dropped.split.train.images, dropped.split.valid.images, dropped.split.test)))
    assert (n_used, dropped.split.n_without_patient) == (30, 30)
    assert len(load_study_dataset(dropped).table) == 30
    with pytest.raises(StudyMismatchError, match="unknown_patients 'drop'; received 'separate'"):
        prepare(data=str(half_named), name="dropped", unknown_patients="separate")
    assert not prepare(data=str(half_named), name="dropped").is_new


def test_a_study_without_the_choice_can_be_continued_with_separate(prepare, half_named):
    """Studies of earlier versions have no such setting and treated these images as patients of their own."""
    store = prepare(data=str(half_named), unknown_patients="separate").store
    path = store.folder / "study.json"
    values = json.loads(path.read_text())
    del values["unknown_patients"]
    path.write_text(json.dumps(values))
    assert not prepare(data=str(half_named), unknown_patients="separate").is_new


def test_a_continued_study_keeps_its_settings(prepare):
    existing = prepare(epochs=7, seed=3, sampler="random").store.spec
    continued = prepare(space=None)
    assert not continued.is_new
    assert continued.store.spec == existing


@pytest.mark.parametrize(
    ("change", "named"),
    [({"image_size": 48}, "image_size 32"), ({"seed": 1}, "seed 0"), ({"space": "fused"}, "space_name 'scratch'"),
     ({"objective": ["accuracy"]}, "objectives macro_f1; received accuracy"),
     ({"valid_fraction": 0.2}, "valid_fraction 0.15")],
)  # fmt: skip
def test_other_settings_are_refused(prepare, change, named):
    prepare()
    with pytest.raises(StudyMismatchError, match=named):
        prepare(**change)


def test_changed_data_are_refused(prepare, phantoms, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy)
    prepare(data=str(copy))
    next((copy / "opacity").glob("*.png")).unlink()
    with pytest.raises(StudyMismatchError, match="changed since"):
        prepare(data=str(copy))


def test_moved_data_are_accepted(prepare, phantoms, tmp_path):
    prepare()
    moved = tmp_path / "moved"
    shutil.copytree(phantoms, moved)
    assert not prepare(data=str(moved)).is_new


def test_unreadable_images_are_left_out_and_reported(prepare, phantoms, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy)
    broken = [sorted((copy / name).glob("*.png"))[0] for name in ("normal", "opacity", "effusion")]
    for path in broken:
        path.write_bytes(b"not an image")
    prepared = prepare(data=str(copy))
    split = prepared.store.split
    assert set(split.unreadable) <= {path.relative_to(copy).as_posix() for path in broken}
    assert not set(split.unreadable) & {*split.train.images, *split.valid.images}
    assert split.unreadable, "of three broken images at least one is not in the test part with this seed"
    assert any("cannot be read and are excluded" in note for note in prepared.notes)
    assert len(open_images(prepared.images)) == len(split.train.images) + len(split.valid.images)
    assert not prepare(data=str(copy)).is_new


def test_a_class_without_readable_images_is_refused(prepare, phantoms, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(phantoms, copy)
    for path in (copy / "opacity").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="none of 'opacity'"):
        prepare(data=str(copy))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler": "tp"}, "Did you mean 'tpe'"),
        ({"pruner": "asa"}, "Did you mean 'asha'"),
        ({"objective": ["macrof1"]}, "Did you mean 'macro_f1'"),
        ({"normal_class": "norml"}, "Did you mean 'normal'"),
        ({"classes": ["normal", "opacty"]}, "Did you mean 'opacity'"),
        ({"space": "scrath"}, "Did you mean 'scratch'"),
        ({"layout": "folder"}, "Did you mean 'folders'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_name(prepare, wrong, message):
    with pytest.raises(UnknownNameError, match=message):
        prepare(**wrong)


def test_fnfr_needs_a_normal_class(prepare):
    with pytest.raises(UsageError, match="--normal-class"):
        prepare(objective=["fnfr"], classes=["opacity", "effusion"])
    assert prepare(objective=["fnfr"], name="with").store.spec.objective == "fnfr"


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\nb", "x" * 300])
def test_the_name_of_a_study_must_be_a_folder_name(name):
    with pytest.raises(UsageError, match="folder name"):
        check_study_name(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["covid study", "=1+1", "étude-肺", "-rf", "a,b'c"])
def test_unusual_names_are_accepted(prepare, quick_search, name):
    prepared = prepare(name=name)
    quick_search(prepared, trials=1)
    store = StudyStore.open(
        name, runs=prepared.store.folder.parent, storage=f"sqlite:///{prepared.store.folder.parent / 'studies.db'}"
    )
    assert store.ranked()[0].number == 0


class TestContinuing:
    def test_a_continued_study_keeps_its_data_settings(self, prepare, phantoms):
        existing = prepare(classes=["normal", "opacity"], layout="folders", patients=r"^(\w+)_").store.spec
        continued = prepare(data=None, space=None)
        assert not continued.is_new
        assert continued.store.spec == existing
        assert not any("phantom" in note for note in continued.notes)

    def test_a_study_whose_files_are_missing_is_not_created_again(self, prepare, tmp_path):
        prepare()
        shutil.rmtree(tmp_path / "s")
        with pytest.raises(StudyError, match="its files are not at"):
            prepare(seed=9, objective=["log_loss"])

    @pytest.mark.slow
    def test_files_of_another_study_are_refused(self, prepare, tmp_path):
        prepare()
        prepare(name="t", seed=1)
        shutil.rmtree(tmp_path / "s")
        shutil.copytree(tmp_path / "t", tmp_path / "s")
        with pytest.raises(StudyError, match="do not belong to study"):
            prepare()

    @pytest.mark.slow
    def test_another_storage_does_not_replace_the_folder_of_a_study(self, prepare, quick_search, tmp_path):
        quick_search(prepare(), trials=1)
        before = (tmp_path / "s" / "study.json").read_text()
        (tmp_path / "studies.db").rename(tmp_path / "other.db")
        with pytest.raises(StudyError, match="contains a study that is not in"):
            prepare(image_size=48)
        assert (tmp_path / "s" / "study.json").read_text() == before

    def test_a_partly_created_study_is_created(self, prepare, tmp_path):
        folder = claim_folder("s", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")
        (folder / "trials").mkdir()
        (folder / "study.json").write_text("{")
        assert prepare().is_new

    def test_a_damaged_file_is_an_error(self, prepare, tmp_path):
        prepare()
        (tmp_path / "s" / "study.json").write_text("{")
        with pytest.raises(StudyError, match="is damaged"):
            prepare()

    @pytest.mark.long
    def test_two_processes_create_one_study(self, tmp_path, phantoms):
        script = (
            "import sys; from pathlib import Path; from automl_cxr.study.options import SearchOptions\n"
            "from automl_cxr.study.prepare import prepare_study\n"
            "runs = Path(sys.argv[1])\n"
            "try:\n"
            "    prepared = prepare_study(SearchOptions(data=sys.argv[2], name='s', image_size=32, seed=int(sys.argv[3])),\n"
            "                             runs=runs, storage=f'sqlite:///{runs / \"studies.db\"}')\n"
            "    print('new' if prepared.is_new else 'continued')\n"
            "except ValueError as error:\n"
            "    print(type(error).__name__)\n"
        )
        command = [sys.executable, "-c", script, str(tmp_path / "new" / "runs"), str(phantoms)]
        processes = [subprocess.Popen([*command, seed], stdout=subprocess.PIPE, text=True) for seed in ("1", "2", "1")]
        outputs = sorted(process.communicate(timeout=120)[0].strip() for process in processes)
        assert outputs in (["StudyMismatchError", "continued", "new"], ["StudyMismatchError", "StudyMismatchError", "new"])


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"epochs": 20_000}, {"batch_size": 0}, {"image_size": 12}, {"seed": -1}, {"image_size": "64"},
     {"valid_fraction": "x"}, {"valid_fraction": 0.7}],
    ids=str,
)  # fmt: skip
def test_invalid_settings_create_no_study(prepare, wrong, tmp_path):
    with pytest.raises(UsageError):
        prepare(**wrong)
    assert not (tmp_path / "s").exists()


def test_default_names_of_folders_with_dots_differ(tmp_path, phantoms):
    from automl_cxr.study.options import SearchOptions
    from automl_cxr.study.prepare import _default_name

    for version in ("v1.2", "v1.3"):
        (tmp_path / version).mkdir()
    (tmp_path / "table.csv").write_text("path,label\n")
    names = [_default_name(SearchOptions(data=str(tmp_path / name))) for name in ("v1.2", "v1.3", "table.csv")]
    assert names == ["auto-v1.2", "auto-v1.3", "auto-table"]


class TestOpening:
    def test_the_error_for_a_missing_study_lists_the_existing_ones(self, prepare):
        store = prepare().store
        with pytest.raises(StudyError, match="Its studies: s"):
            StudyStore.open("t", runs=store.folder.parent, storage=f"sqlite:///{store.folder.parent / 'studies.db'}")

    def test_a_missing_storage_is_not_created(self, tmp_path):
        with pytest.raises(StudyError, match="Run a search first"):
            StudyStore.open("s", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'none.db'}")
        assert not (tmp_path / "none.db").exists()

    def test_missing_files_are_an_error(self, prepare, tmp_path):
        store = prepare().store
        with pytest.raises(StudyError, match="--runs"):
            StudyStore.open("s", runs=tmp_path / "elsewhere", storage=f"sqlite:///{store.folder.parent / 'studies.db'}")

    def test_a_file_that_is_not_a_storage_is_an_error(self, tmp_path):
        (tmp_path / "studies.db").write_text("this is not a database, whatever its name says" * 30)
        with pytest.raises(StudyError, match="cannot be opened"):
            StudyStore.open("s", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")

    def test_a_password_is_not_shown(self, tmp_path):
        with pytest.raises(StudyError) as caught:
            StudyStore.open("s", runs=tmp_path, storage="mysql+nothing://user:secret@localhost/db")
        assert "secret" not in str(caught.value)


class TestFixedHyperparameters:
    def test_fixed_values_are_part_of_the_study(self, prepare):
        store = prepare(fixed={"dropout": 0.1, "otsu": True}).store
        space = store.spec.space
        assert space.constants["dropout"] == 0.1
        assert space.constants["otsu"] is True
        assert "dropout" not in [parameter.name for parameter in space.parameters]
        assert prepare().store.spec.fixed == {"dropout": 0.1, "otsu": True}, "they are kept when they are left out"
        with pytest.raises(StudyMismatchError, match="created with fixed"):
            prepare(fixed={"dropout": 0.2})

    @pytest.mark.parametrize(
        ("fixed", "rule"),
        [
            ({"dropuot": 0.1}, "Did you mean 'dropout'"),
            ({"dropout": 2.0}, "from 0 to 0.9"),
            ({"epochs": 3}, "--epochs"),
            ({"fit": "pad"}, "--fit"),
            ({"backbone": "squeezenet"}, "'backbone'[.] It is used by the families transfer and concat"),
            ({"loss": "ce", "focal_gamma": 1.0}, "with family=scratch, loss=ce does not use 'focal_gamma'"),
            ({"family": "fused"}, "does not use 'filter_growth'"),
        ],
    )
    def test_fixed_values_are_checked(self, prepare, fixed, rule):
        with pytest.raises(UsageError, match=rule):
            prepare(fixed=fixed)

    def test_a_hyperparameter_whose_condition_is_searched_is_accepted(self, prepare):
        assert prepare(fixed={"focal_gamma": 1.0}).store.spec.fixed == {"focal_gamma": 1.0}

    def test_fixing_a_condition_does_not_restrict_the_searched_hyperparameters(self, prepare):
        assert prepare(fixed={"loss": "ce"}).store.spec.fixed == {"loss": "ce"}

    def test_a_space_without_searched_hyperparameters_is_one_configuration(self, prepare):
        store = prepare(space=str(shipped("studies")["radiography4-1"]), name="r").store
        assert store.spec.space_name == "radiography4-1"
        assert store.spec.space.parameters == ()


def test_the_path_of_a_weights_file_becomes_absolute(prepare, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.h5").touch()
    assert prepare(space="transfer", fixed={"weights": "w.h5"}).store.spec.fixed == {"weights": str(tmp_path / "w.h5")}


def test_a_batch_size_in_two_options_is_refused(prepare):
    with pytest.raises(UsageError, match="batch size is set twice"):
        prepare(batch_size=8, fixed={"batch_size": 4})


def test_a_study_continues_when_only_comments_and_options_around_its_space_change(prepare, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('trials = 1\n[space]\nfamily = "scratch"\nfilters = 4')
    prepare(space=str(path))
    path.write_text('# more\ntrials = 5\n[space]\nfamily = "scratch"\nfilters = 4')
    assert not prepare(space=str(path)).is_new
    path.write_text('[space]\nfamily = "scratch"\nfilters = 5')
    with pytest.raises(StudyMismatchError, match="search space changed"):
        prepare(space=str(path))


class TestFit:
    @pytest.mark.slow
    def test_a_fit_changes_the_pixels(self, prepare):
        squares = {fit: prepare(name=fit, fit=fit) for fit in ("stretch", "pad", "crop")}
        assert {fit: prepared.store.spec.fit for fit, prepared in squares.items()} == {fit: fit for fit in squares}
        assert len({prepared.images for prepared in squares.values()}) == 3

    def test_an_unknown_fit_is_refused(self, prepare):
        with pytest.raises(UsageError, match="one of stretch, pad, crop"):
            prepare(fit="squash")


def test_a_folder_of_weights_must_exist_and_may_move(prepare, tmp_path):
    with pytest.raises(UsageError, match="folder of pretrained weights must exist"):
        prepare(weights_folder=str(tmp_path / "none"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert prepare(weights_folder=str(tmp_path / "a")).weights_folder == tmp_path / "a"
    assert prepare().weights_folder == tmp_path / "a"
    assert prepare(weights_folder=str(tmp_path / "b")).weights_folder == tmp_path / "b"


@pytest.mark.slow
def test_folds_contain_the_training_and_validation_images_by_patient(prepare):
    unfolded, folded = prepare(name="whole"), prepare(name="folded", folds=3)
    split, unfolded_split = folded.store.split, unfolded.store.split
    assert split.test == unfolded_split.test, "the test part is the same with and without folds"
    assert split.train.images == unfolded_split.train.images + unfolded_split.valid.images
    assert split.valid.images == ()
    assert split.judged == split.train
    assert unfolded_split.judged == unfolded_split.valid
    assert folded.images == unfolded.images, "the images are not decoded twice"
    assert SplitRecord.from_json(split.to_json()) == split
    assert (split.n_folds, unfolded_split.n_folds) == (3, 0)
    by_fold = [{split.train.patients[row] for row, fold in enumerate(split.folds) if fold == number} for number in (1, 2, 3)]
    assert sum(map(len, by_fold)) == len(set.union(*by_fold)) == len(set(split.train.patients))
    for number in (1, 2, 3):
        assert {split.train.labels[row] for row, fold in enumerate(split.folds) if fold == number} == {0, 1, 2}
    assert prepare(name="folded").store.split == split, "a continued study keeps its folds"
    with pytest.raises(StudyMismatchError, match="folds 3; received 2"):
        prepare(name="folded", folds=2)


def test_given_validation_images_are_added_to_the_folds(prepare, phantoms, tmp_path):
    table = [(path, path.parent.name) for path in sorted(phantoms.glob("*/*.png"))]
    parts = ["test", "valid", "train", "train", "train"]
    rows = [f"{path},{label},{number},{parts[number % 5]}" for number, (path, label) in enumerate(table)]
    (tmp_path / "chest.csv").write_text("\n".join(["path,label,patient_id,split", *rows]))
    prepared = prepare(data=str(tmp_path / "chest.csv"), folds=4)
    split = prepared.store.split
    assert (len(split.train.images), len(split.test)) == (48, 12)
    assert any("are added to the training images" in note for note in prepared.notes)


def test_the_label_column_is_part_of_the_specification_and_class_names_are_checked(prepare, phantoms, tmp_path):
    images = sorted(phantoms.glob("*/*.png"))
    rows = [f"{path},{('-1', 'sick')[number % 2]},{path.parent.name},{number}" for number, path in enumerate(images)]
    data = tmp_path / "chest.csv"
    data.write_text("\n".join(["path,label,reader 2,patient_id", *rows]))
    prepared = prepare(name="second", data=str(data), label_column="reader 2")
    assert prepared.store.spec.classes == ("effusion", "normal", "opacity")
    assert load_study_dataset(prepared.store).classes == prepared.store.spec.classes
    assert not prepare(name="second", data=str(data)).is_new, "a continued study keeps its label column"
    first = prepare(name="first", data=str(data))
    assert any("'-1' (30 images) looks like a missing or uncertain label" in note for note in first.notes)
    assert any("columns used: path, patient_id, label; not used: reader 2" in note for note in first.notes)
    data.write_text(data.read_text().replace(",sick,normal", ",Sick,normal"))
    with pytest.raises(DataError, match="must differ in more than case"):
        prepare(name="third", data=str(data))


@pytest.mark.parametrize(("folds", "pruner"), [(None, "asha"), (0, "asha"), (3, "wilcoxon")])
def test_the_default_pruner_depends_on_folds(prepare, folds, pruner):
    assert prepare(folds=folds, pruner=None).store.spec.pruner == pruner


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"folds": 1}, "must be 2 or more"),
        ({"folds": -3}, "must be 2 or more"),
        ({"folds": 2.0}, "must be 2 or more"),
        ({"folds": 3, "valid_fraction": 0.2}, "each fold is used for validation once"),
        ({"folds": 3, "pruner": "asha"}, r"received --pruner asha with --folds 3\. Use one of wilcoxon, median, none"),
        ({"folds": 3, "pruner": "hyperband"}, "received --pruner hyperband with --folds 3"),
        ({"folds": 3, "sampler": "kt-hyperband"}, "needs trials that report epochs, not folds; received --folds 3"),
        ({"pruner": "wilcoxon"}, r"received no --folds\. Add --folds 5, or use one of asha"),
    ],
)
def test_settings_that_are_incompatible_with_folds_create_no_study(prepare, tmp_path, settings, rule):
    with pytest.raises(UsageError, match=rule):
        prepare(**settings)
    assert not (tmp_path / "s").exists()


def test_more_folds_than_patients_of_a_class_are_refused(prepare):
    with pytest.raises(DataError, match="use fewer --folds"):
        prepare(folds=40)
