"""The classifier that a search recommends, with fast trials whose predictions the tests replace."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from automl_cxr.api.locations import open_study
from automl_cxr.api.study import Study
from automl_cxr.ensemble.genetic_settings import GeneticSettings
from automl_cxr.errors import StudyError
from automl_cxr.results.classifier import classifier_of_study
from automl_cxr.results.compared_models import select_models
from automl_cxr.results.recommendation import recommend
from automl_cxr.results.recommendation_record import load_recommendation
from automl_cxr.scoring.predictions import Predictions
from automl_cxr.study.copying import copy_study
from automl_cxr.study.options import SearchOptions
from automl_cxr.study.prepare import prepare_study
from automl_cxr.study.store import StudyStore

DISTINCT = [range(24), range(24, 48), range(48, 72)]  # errors on different images: the average has none
EQUAL = [range(24)] * 3
QUICK = GeneticSettings(population=4, generations=1, halvings=0)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, phantoms, quick_search):
    """Search a study of five fast trials once; return its runs folder."""
    runs = tmp_path_factory.mktemp("searched")
    request = SearchOptions(space="scratch", data=str(phantoms), name="s", image_size=32, pruner="none")
    prepared = prepare_study(request, runs=runs, storage=f"sqlite:///{runs / 'studies.db'}")
    quick_search(prepared, trials=5, keep_models=5)
    return runs


@pytest.fixture
def study(searched, tmp_path):
    """Return a function that copies the searched study and replaces the predictions of its trials.

    Trials for which no errors are given lose their models, so that they are no candidates.
    """

    def copy(errors_by_trial):
        shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
        store = StudyStore.open("s", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")
        for number in range(5):
            if number < len(errors_by_trial):
                write_predictions(store, number, errors_by_trial[number])
            else:
                store.drop_model(number)
        return store

    return copy


@pytest.fixture
def new_study(prepare, quick_search):
    """Return a function that searches a study of three fast trials with errors on different images."""

    def search(**settings):
        prepared = prepare(**settings)
        quick_search(prepared, trials=3)
        for number, wrong in enumerate(DISTINCT):
            write_predictions(prepared.store, number, wrong)
        return prepared.store

    return search


def usable(store):
    """List the trials that have a model, best first."""
    return [record.number for record in store.eligible() if store.has_model(record.number)]


def write_predictions(store, number, wrong, *, confidence=0.6):
    """Replace the predictions of a trial. The images at the positions ``wrong`` are misclassified."""
    labels = np.arange(90) % 3
    predicted = labels.copy()
    predicted[list(wrong)] = (labels[list(wrong)] + 1) % 3
    probabilities = 0.1 + confidence * np.eye(3)[predicted] + 0.1 * np.eye(3)[labels]
    names = tuple(f"i{image}" for image in range(90))
    predictions = Predictions(names, labels, (probabilities / probabilities.sum(1, keepdims=True)), store.spec.classes, names)
    predictions.to_npz(store.trial_folder(number) / "valid.npz")


def test_an_ensemble_of_trials_with_different_errors_is_recommended(study):
    store = study(DISTINCT)
    recommended = recommend(store)
    assert (recommended.kind, recommended.ensemble, recommended.method) == ("ensemble", "recommended", "geometric")
    assert sorted(recommended.trials) == [0, 1, 2]
    assert (recommended.place, recommended.n_trials, recommended.score) == ("out of fold", 5, pytest.approx(1))
    assert recommended.sentence.startswith("Use ensemble recommended (trials ")
    assert "against the best single trial of each fold; chosen from 5 finished trials." in recommended.sentence
    assert load_recommendation(store) == recommended
    record = json.loads((store.folder / "ensembles" / "recommended" / "ensemble.json").read_text())
    assert [row["trial"] for row in record["members"]] == list(recommended.trials)
    assert list(store.folder.glob("ensembles/*")) == [store.folder / "ensembles" / "recommended"]


def test_near_duplicates_are_not_combined(study):
    store = study(EQUAL)
    recommended = recommend(store)
    best = usable(store)[0]
    assert (recommended.kind, recommended.trials, recommended.ensemble) == ("trial", (best,), None)
    assert recommended.score == store.record(best).score
    assert recommended.sentence.startswith(f"Use trial {best} (scratch): macro_f1 ")
    assert recommended.sentence.endswith("the other trials make nearly the same errors.")
    assert not (store.folder / "ensembles").exists()


def test_a_trial_without_use_for_the_others_has_no_weight(study):
    good, better, bad = range(24), range(24, 44), range(90)
    recommended = recommend(study([good, better, bad]))
    assert recommended.method == "geometric"
    assert sorted(recommended.trials) == [0, 1]


def test_one_trial_is_recommended_without_a_comparison(study):
    recommended = recommend(study([range(9)]))
    assert recommended.trials == (0,)
    assert recommended.sentence.endswith("on the validation part, the best of 5 finished trials.")
    assert recommended.interval.low < recommended.interval.high


def test_nothing_is_recommended_if_no_trial_meets_the_requirements(new_study):
    store = new_study(require=["macro_f1>=0.99"])
    assert recommend(store) is None
    assert load_recommendation(store) is None
    with pytest.raises(StudyError, match=r"satisfies macro_f1>=0\.99"):
        classifier_of_study(store)


@pytest.mark.parametrize(("limit", "n_members"), [(216, 2), (120, 1)])
def test_the_costs_of_the_members_together_meet_the_requirements(new_study, limit, n_members):
    store = new_study(fixed={"filters": 8}, require=[f"parameters<={limit}"])
    assert [record.n_parameters for record in store.records()] == [108] * 3
    recommended = recommend(store)
    assert len(recommended.trials) == n_members
    assert ("an ensemble would not meet the requirements" in recommended.sentence) == (n_members == 1)


def test_with_several_objectives_the_best_trial_by_the_first_is_recommended(new_study):
    store = new_study(objective=["macro_f1", "parameters"])
    recommended = recommend(store)
    assert recommended.trials == (store.eligible()[0].number,)
    assert recommended.sentence.endswith("by the first objective.")


def test_the_best_trial_is_recommended_if_no_other_trial_helps(study):
    store = study([range(9), range(90)])
    write_predictions(store, 1, range(90), confidence=5)
    recommended = recommend(store)
    assert recommended.kind == "trial"
    assert recommended.sentence.endswith("ensembles of 2 trials are no better.")


def test_members_without_weight_are_left_out(study):
    store = study([range(24), range(24, 44), range(90)])
    recommended = recommend(store)
    record = json.loads((store.folder / "ensembles" / recommended.ensemble / "ensemble.json").read_text())
    assert all(row["weight"] > 0 for row in record["members"])
    assert len(list((store.folder / "ensembles" / recommended.ensemble / "members").glob("*.keras"))) == 2


class TestLaterSearches:
    def test_a_recommended_ensemble_is_replaced_or_removed(self, study):
        store = study(DISTINCT)
        recommend(store)
        store.drop_model(0)
        assert sorted(recommend(store).trials) == [1, 2]
        assert [path.name for path in store.folder.glob("ensembles/*")] == ["recommended"]
        store.drop_model(1)
        assert recommend(store).trials == (2,)
        assert not list(store.folder.glob("ensembles/*"))

    def test_an_ensemble_that_was_evaluated_on_the_test_part_is_kept(self, study):
        store = study(DISTINCT)
        folder = store.folder / "ensembles" / recommend(store).ensemble
        record = json.loads((folder / "ensemble.json").read_text())
        (folder / "ensemble.json").write_text(json.dumps({**record, "test": {"n_images": 9}}))
        write_predictions(store, 0, range(20))
        assert recommend(store).ensemble == "recommended-2"
        write_predictions(store, 0, range(21))
        assert recommend(store).ensemble == "recommended-2"
        assert "test" in json.loads((folder / "ensemble.json").read_text())

    def test_an_ensemble_of_the_user_is_never_replaced(self, study):
        store = study(DISTINCT)
        Study(store).ensemble(members=[0, 1], method="average", name="recommended", settings=QUICK)
        assert recommend(store).ensemble == "recommended-2"
        for number in range(3):
            write_predictions(store, number, range(24))
        assert recommend(store).kind == "trial"
        assert [path.name for path in store.folder.glob("ensembles/*")] == ["recommended"]


class TestOpening:
    def test_a_study_is_opened_as_its_recommended_classifier(self, study):
        store = study(DISTINCT)
        classifier = classifier_of_study(store)
        assert classifier.name == f"trial {usable(store)[0]}"
        assert "no classifier is recommended yet" in classifier.notes[0].lower()
        recommend(store)
        classifier = Study(store).classifier()
        assert classifier.name == "ensemble recommended"
        assert classifier.notes[0].startswith("The recommended classifier is used, ensemble recommended (trials ")
        assert Study(store).classifier(1).name == "trial 1"

    def test_a_deleted_ensemble_is_replaced_by_the_best_trial_with_a_note(self, study):
        store = study(DISTINCT)
        recommend(store)
        shutil.rmtree(store.folder / "ensembles")
        classifier = classifier_of_study(store)
        assert classifier.name == f"trial {usable(store)[0]}"
        assert classifier.notes[0].startswith("The recommended ensemble recommended was deleted, so the best trial is used")

    def test_a_deleted_model_is_replaced_by_that_of_the_next_trial(self, study):
        store = study(EQUAL)
        number = recommend(store).trials[0]
        store.drop_model(number)
        assert classifier_of_study(store).name == f"trial {usable(store)[0]}"

    def test_trials_after_the_recommendation_are_reported(self, study):
        store = study(EQUAL)
        recommended = recommend(store)
        record = dataclasses.asdict(recommended) | {"n_trials": 2}
        (store.folder / "recommended.json").write_text(json.dumps(record))
        assert classifier_of_study(store).notes[1].startswith("It was chosen from 2 finished trials; there are 5 now.")

    @pytest.mark.parametrize("changes", [{"ensemble": "../x"}, {"trials": []}, {"trials": [0, 1]}, {"score": "high"}])
    def test_a_damaged_record_is_an_error(self, study, changes):
        store = study(EQUAL)
        record = dataclasses.asdict(recommend(store)) | changes
        (store.folder / "recommended.json").write_text(json.dumps(record))
        with pytest.raises(StudyError, match=r"recommended\.json is damaged"):
            load_recommendation(store)

    def test_errors_are_those_of_the_recommended_classifier(self, study):
        store = study(DISTINCT)
        recommend(store)
        assert select_models(store).names == ("ensemble recommended",)
        assert select_models(store, top=1).names == (f"trial {store.eligible()[0].number}",)

    def test_a_copy_of_the_study_has_the_recommendation(self, study, tmp_path):
        store = study(DISTINCT)
        recommended = recommend(store)
        copied = copy_study(store, "copy", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")
        assert load_recommendation(copied) == recommended
        classifier = classifier_of_study(copied)
        assert (classifier.study, classifier.folder) == ("copy", tmp_path / "copy" / "ensembles" / "recommended")

    def test_the_python_object_describes_the_recommendation(self, study, tmp_path):
        store = study(DISTINCT)
        assert Study(store).recommended is None
        record = recommend(store)
        opened = open_study("s", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}").recommended
        assert (opened.kind, opened.trial, opened.members) == ("ensemble", None, record.trials)
        assert opened.ensemble == store.folder / "ensembles" / "recommended"
        assert (opened.metric, opened.score, opened.interval) == ("macro_f1", record.score, record.interval)
        assert repr(opened) == opened.sentence == record.sentence
        assert opened.classifier().folder == opened.ensemble
