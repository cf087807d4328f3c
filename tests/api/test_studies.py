"""Listing, copying and deleting whole studies: real SQLite storages and files, trials of milliseconds."""

import json
import shutil

import optuna
import pytest

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.study import deletion
from automl_cxr.study.copying import copy_study
from automl_cxr.study.deletion import delete_study, weigh_deletion
from automl_cxr.study.heartbeat import DriverHeartbeat
from automl_cxr.study.prepare import PreparedStudy
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_info import describe_study, list_studies


@pytest.fixture
def place(tmp_path):
    return {"runs": tmp_path, "storage": f"sqlite:///{tmp_path / 'studies.db'}"}


def interrupted_at(number):
    def interrupt(proposal, epoch):
        if proposal.number == number and epoch == 2:
            raise KeyboardInterrupt

    return interrupt


def begin_and_interrupt(prepare, quick_search, **settings):
    """Leave a study of two COMPLETE trials and one that its dead search left RUNNING."""
    prepared = prepare(**settings)
    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=4, between_epochs=interrupted_at(2))
    return prepared


def record_search(store, driver):
    entry = SearchEntry.begin(driver, position=2, command="", sampler="tpe", budget={}, full_trials=None)
    store.record_search(entry)


class TestTheCatalogue:
    def test_every_study_of_a_storage_is_summarised(self, prepare, quick_search, place, tmp_path):
        begun = begin_and_interrupt(prepare, quick_search)
        prepare(name="t", objective=["log_loss"])
        optuna.create_study(study_name="strange", storage=place["storage"])
        shutil.rmtree(tmp_path / "t")
        first, strange, emptied = list_studies(**place)
        assert (first.name, first.space, first.objective) == ("s", "scratch", "macro_f1")
        assert first.trials == {"running": 1, "complete": 2}
        best = begun.store.ranked()[0]
        assert (first.best, first.best_trial) == (best.score, best.number)
        assert first.changed == begun.store.study.get_trials()[2].datetime_start
        assert first.folder == tmp_path / "s"
        assert (emptied.objective, emptied.best, emptied.changed, emptied.folder) == ("log_loss", None, None, None)
        assert (strange.name, strange.space, strange.trials) == ("strange", "", {})

    def test_the_best_of_a_score_to_minimise_is_the_lowest(self, prepare, quick_search, place):
        prepared = prepare(objective=["log_loss"])
        quick_search(prepared, trials=4)
        assert list_studies(**place)[0].best == min(record.score for record in prepared.store.records())

    def test_a_study_is_described_with_its_searches_and_files(self, prepare, quick_search, tmp_path):
        prepared = begin_and_interrupt(prepare, quick_search, seed=4)
        quick_search(prepared, trials=4)
        (tmp_path / "s" / "ensembles" / "ga-2").mkdir(parents=True)
        with DriverHeartbeat(prepared.store.folder) as lease:
            record_search(prepared.store, lease.driver)
            details = describe_study(prepared.store)
        assert details.spec == prepared.store.spec
        assert sum(details.images.values()) == 60
        assert [(search.trials, search.at_work) for search in details.searches] == [(2, False), (2, False), (0, True)]
        assert details.searches[0].last_ended < details.searches[1].last_ended
        assert details.searches[2].last_ended is None
        assert (details.models, details.ensembles, details.test_opened) == (3, ["ga-2"], 0)
        files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
        assert describe_study(prepared.store).n_bytes == sum(path.stat().st_size for path in files)

    def test_a_storage_that_is_not_there_is_not_made(self, tmp_path):
        with pytest.raises(StudyError, match="Run a search first"):
            list_studies(runs=tmp_path, storage=f"sqlite:///{tmp_path / 'none.db'}")
        assert not (tmp_path / "none.db").exists()


class TestCopying:
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["within one storage", "into another"])
    def test_a_copy_is_continued_apart(self, prepare, quick_search, place, tmp_path, elsewhere):
        original = begin_and_interrupt(prepare, quick_search)
        ensemble = tmp_path / "s" / "ensembles" / "pair"
        ensemble.mkdir(parents=True)
        (ensemble / "ensemble.json").write_text(json.dumps({"study": "s", "split_digest": original.store.split_digest}))
        original.store.record_test_opening("trial 0", {"macro_f1": 0.5})
        running = original.store.record(2).params
        to = {"runs": tmp_path / "o", "storage": f"sqlite:///{tmp_path / 'o.db'}"} if elsewhere else place
        copied = copy_study(original.store, "copy", **to)
        assert copied.spec.name == "copy"
        assert copied.split_digest == original.store.split_digest
        assert copied.study.metric_names == ["macro_f1"]
        assert [record.state for record in copied.records()] == [TrialState.COMPLETE] * 2 + [TrialState.WAITING]
        assert copied.records(TrialState.COMPLETE) == original.store.records(TrialState.COMPLETE)
        assert (copied.predictions(1).probabilities == original.store.predictions(1).probabilities).all()
        assert json.loads((copied.folder / "ensembles" / "pair" / "ensemble.json").read_text())["study"] == "copy"
        assert len(copied.study.user_attrs["test_opened"]) == 1
        assert not copied.records(TrialState.RUNNING)

        listener = quick_search(PreparedStudy(copied, original.images, None, (), is_new=False), trials=4)
        assert (listener.resumed, listener.ended) == ([], [2, 3])
        assert copied.record(2).params == running
        assert original.store.record(2).state is TrialState.RUNNING
        assert len(original.store.records()) == 3
        assert quick_search(original, trials=3).resumed == [2]

    def test_what_a_search_at_work_is_writing_stays_with_it(self, prepare, quick_search, place):
        prepared = prepare()
        quick_search(prepared, trials=2)
        with DriverHeartbeat(prepared.store.folder) as lease:
            trial = prepared.store.study.ask()
            trial.set_user_attr("driver", lease.driver)
            (prepared.store.folder / "trials" / f".00002-{lease.driver}").mkdir()
            (prepared.store.folder / "trials" / "00002").mkdir()  # its files are in place, but it is not told COMPLETE yet
            copied = copy_study(prepared.store, "copy", **place)
        assert sorted(path.name for path in (copied.folder / "trials").iterdir()) == ["00000", "00001"]
        assert not (copied.folder / "drivers").exists()

    def test_a_promotion_that_was_running_can_be_made_again(self, prepare, quick_search, place):
        prepared = prepare()
        quick_search(prepared, trials=1)
        parent = prepared.store.study.get_trials()[0]
        attrs = {"parent": 0, "rung": 9, "bracket": 1, "round": 1, "driver": "gone"}
        create = optuna.trial.create_trial
        state = optuna.trial.TrialState.RUNNING
        prepared.store.study.add_trial(
            create(state=state, params=parent.params, distributions=parent.distributions, user_attrs=attrs)
        )
        copied = copy_study(prepared.store, "copy", **place)
        failed = copied.study.get_trials()[1]
        assert copied.record(1).state is TrialState.FAILED
        assert failed.user_attrs == {"error": "It was running, continuing trial 0, when the study was copied."}

    @pytest.mark.parametrize(("name", "rule"), [("s", "the folder has a 's' already"), ("a/b", "folder's name")])
    def test_a_name_must_be_free_and_a_folders(self, prepare, place, name, rule):
        store = prepare().store
        with pytest.raises(UsageError, match=rule):
            copy_study(store, name, **place)

    def test_a_copy_that_was_killed_is_said_and_can_be_deleted(self, prepare, quick_search, place, tmp_path, monkeypatch):
        prepared = prepare()
        quick_search(prepared, trials=1)

        def die(*_):
            (tmp_path / ".copy.0123456789abcdef0123456789abcdef").mkdir()
            raise KeyboardInterrupt

        monkeypatch.setattr("automl_cxr.study.copying.os.replace", die)
        with pytest.raises(KeyboardInterrupt):
            copy_study(prepared.store, "copy", **place)
        monkeypatch.undo()
        with pytest.raises(StudyError, match="its files are not at"):
            StudyStore.open("copy", **place)
        assert delete_study("copy", **place).folder is None
        assert not (tmp_path / ".copy.0123456789abcdef0123456789abcdef").exists()
        assert [study.name for study in list_studies(**place)] == ["s"]

    def test_a_copy_that_finds_no_room_leaves_nothing(self, prepare, quick_search, place, tmp_path):
        prepared = prepare()
        quick_search(prepared, trials=1)
        (tmp_path / "full").write_text("a file where a folder should be")
        with pytest.raises(StudyError, match="Cannot write"):
            copy_study(prepared.store, "copy", runs=tmp_path / "full", storage=place["storage"])
        assert [study.name for study in list_studies(**place)] == ["s"]


class TestDeleting:
    def test_record_and_files_go(self, prepare, quick_search, place, tmp_path):
        prepared = prepare()
        quick_search(prepared, trials=3, keep_models=2)
        prepare(name="t")
        loss = weigh_deletion("s", **place)
        assert (loss.trials, loss.models, loss.ensembles) == ({"complete": 3}, 2, [])
        assert loss.n_bytes > 0
        assert delete_study("s", **place) == loss
        assert [study.name for study in list_studies(**place)] == ["t"]
        assert not list(tmp_path.glob("s*/")) + list(tmp_path.glob(".deleted*"))
        assert prepare().is_new

    def test_a_study_at_work_is_refused(self, prepare, place):
        store = prepare().store
        with DriverHeartbeat(store.folder), pytest.raises(StudyError, match="works on 's' now"):
            delete_study("s", **place)
        assert store.spec.name == "s"

    @pytest.mark.parametrize("step", ["optuna.delete_study", "shutil.rmtree"])
    def test_a_deletion_that_was_killed_is_finished_by_another(self, prepare, quick_search, place, tmp_path, monkeypatch, step):
        quick_search(prepare(), trials=1)
        prepare(name="t")

        def die(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(deletion.optuna if "optuna" in step else deletion.shutil, step.split(".")[1], die)
        with pytest.raises(KeyboardInterrupt):
            delete_study("s", **place)
        monkeypatch.undo()
        assert not (tmp_path / "s").exists()
        left = {study.name: study.folder for study in list_studies(**place)}
        assert left == ({"s": None, "t": tmp_path / "t"} if "optuna" in step else {"t": tmp_path / "t"})
        delete_study("s" if "s" in left else "t", **place)
        assert not list(tmp_path.glob(".deleted*"))

    def test_the_folder_of_another_study_is_not_touched(self, prepare, place, tmp_path):
        prepare()
        prepare(name="t", seed=1)
        shutil.rmtree(tmp_path / "s")
        shutil.copytree(tmp_path / "t", tmp_path / "s")
        with pytest.raises(StudyError, match="those of another study"):
            delete_study("s", **place)
        assert (tmp_path / "s" / "study.json").is_file()

    def test_an_unknown_study_is_said(self, prepare, place):
        prepare()
        with pytest.raises(StudyError, match="It holds: s"):
            delete_study("t", **place)
