"""Lists, copies and deletions of studies, with real SQLite storages and files and fast trials."""

import json
import shutil

import optuna
import pytest

from automl_cxr.errors import StudyError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.study import deletion
from automl_cxr.study.copying import copy_study
from automl_cxr.study.deletion import delete_study, preview_deletion
from automl_cxr.study.heartbeat import DriverHeartbeat
from automl_cxr.study.prepare import PreparedStudy
from automl_cxr.study.provenance import SearchEntry
from automl_cxr.study.store import StudyStore
from automl_cxr.study.study_info import describe_study, list_studies


@pytest.fixture
def location(tmp_path):
    return {"runs": tmp_path, "storage": f"sqlite:///{tmp_path / 'studies.db'}"}


def interrupt_at(number):
    def interrupt(proposal, epoch):
        if proposal.number == number and epoch == 2:
            raise KeyboardInterrupt

    return interrupt


def start_and_interrupt(prepare, quick_search, **settings):
    """Return a study with two COMPLETE trials and an abandoned RUNNING trial."""
    prepared = prepare(**settings)
    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=4, between_epochs=interrupt_at(2))
    return prepared


def record_search(store, driver):
    entry = SearchEntry.begin(driver, position=2, command="", sampler="tpe", budget={}, full_trials=None)
    store.record_search(entry)


class TestListing:
    @pytest.mark.slow
    def test_every_study_in_a_storage_is_listed(self, prepare, quick_search, location, tmp_path):
        prepared = start_and_interrupt(prepare, quick_search)
        prepare(name="t", objective=["log_loss"])
        optuna.create_study(study_name="foreign", storage=location["storage"])
        shutil.rmtree(tmp_path / "t")
        foreign, first, without_files = list_studies(**location)
        assert (first.name, first.space, first.objective) == ("s", "scratch", "macro_f1")
        assert first.trials == {"running": 1, "complete": 2}
        best = prepared.store.ranked()[0]
        assert (first.best, first.best_trial) == (best.score, best.number)
        assert first.changed == prepared.store.study.get_trials()[2].datetime_start
        assert first.folder == tmp_path / "s"
        assert (without_files.objective, without_files.best, without_files.changed, without_files.folder) == (
            "log_loss",
            None,
            None,
            None,
        )
        assert (foreign.name, foreign.space, foreign.trials) == ("foreign", "", {})

    def test_the_best_score_of_a_minimised_objective_is_the_lowest(self, prepare, quick_search, location):
        prepared = prepare(objective=["log_loss"])
        quick_search(prepared, trials=4)
        assert list_studies(**location)[0].best == min(record.score for record in prepared.store.records())

    def test_details_contain_searches_and_files(self, prepare, quick_search, tmp_path):
        prepared = start_and_interrupt(prepare, quick_search, seed=4)
        quick_search(prepared, trials=4)
        (tmp_path / "s" / "ensembles" / "ga-2").mkdir(parents=True)
        with DriverHeartbeat(prepared.store.folder) as heartbeat:
            record_search(prepared.store, heartbeat.driver)
            details = describe_study(prepared.store)
        assert details.spec == prepared.store.spec
        assert sum(details.images.values()) == 60
        assert [(search.trials, search.at_work) for search in details.searches] == [(2, False), (2, False), (0, True)]
        assert details.searches[0].last_ended < details.searches[1].last_ended
        assert details.searches[2].last_ended is None
        assert (details.models, details.ensembles, details.test_opened) == (3, ["ga-2"], 0)
        files = [path for path in (tmp_path / "s").rglob("*") if path.is_file()]
        assert describe_study(prepared.store).n_bytes == sum(path.stat().st_size for path in files)

    def test_a_missing_storage_is_not_created(self, tmp_path):
        with pytest.raises(StudyError, match="Run a search first"):
            list_studies(runs=tmp_path, storage=f"sqlite:///{tmp_path / 'none.db'}")
        assert not (tmp_path / "none.db").exists()


class TestCopying:
    @pytest.mark.slow
    @pytest.mark.parametrize("into_another_storage", [False, True], ids=["within one storage", "into another"])
    def test_a_copy_is_continued_independently(self, prepare, quick_search, location, tmp_path, into_another_storage):
        original = start_and_interrupt(prepare, quick_search)
        ensemble = tmp_path / "s" / "ensembles" / "pair"
        ensemble.mkdir(parents=True)
        (ensemble / "ensemble.json").write_text(json.dumps({"study": "s", "split_digest": original.store.split_digest}))
        original.store.record_test_opening("trial 0", {"macro_f1": 0.5})
        running = original.store.record(2).params
        target = {"runs": tmp_path / "o", "storage": f"sqlite:///{tmp_path / 'o.db'}"} if into_another_storage else location
        copied = copy_study(original.store, "copy", **target)
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

    def test_files_of_a_running_search_are_not_copied(self, prepare, quick_search, location):
        prepared = prepare()
        quick_search(prepared, trials=2)
        with DriverHeartbeat(prepared.store.folder) as heartbeat:
            trial = prepared.store.study.ask()
            trial.set_user_attr("driver", heartbeat.driver)
            (prepared.store.folder / "trials" / f".00002-{heartbeat.driver}").mkdir()
            (prepared.store.folder / "trials" / "00002").mkdir()  # its files are committed, but its state is not COMPLETE yet
            copied = copy_study(prepared.store, "copy", **location)
        assert sorted(path.name for path in (copied.folder / "trials").iterdir()) == ["00000", "00001"]
        assert not (copied.folder / "drivers").exists()

    def test_a_running_promotion_fails_in_the_copy(self, prepare, quick_search, location):
        prepared = prepare()
        quick_search(prepared, trials=1)
        parent = prepared.store.study.get_trials()[0]
        attrs = {"parent": 0, "rung": 9, "bracket": 1, "round": 1, "driver": "gone"}
        create_trial = optuna.trial.create_trial
        state = optuna.trial.TrialState.RUNNING
        prepared.store.study.add_trial(
            create_trial(state=state, params=parent.params, distributions=parent.distributions, user_attrs=attrs)
        )
        copied = copy_study(prepared.store, "copy", **location)
        failed = copied.study.get_trials()[1]
        assert copied.record(1).state is TrialState.FAILED
        assert failed.user_attrs == {"error": "When the study was copied, this trial was running as a continuation of trial 0."}

    @pytest.mark.parametrize(("name", "rule"), [("s", "the folder already contains 's'"), ("a/b", "folder name")])
    def test_a_name_must_be_new_and_valid(self, prepare, location, name, rule):
        store = prepare().store
        with pytest.raises(UsageError, match=rule):
            copy_study(store, name, **location)

    @pytest.mark.slow
    def test_an_interrupted_copy_is_reported_and_can_be_deleted(self, prepare, quick_search, location, tmp_path, monkeypatch):
        prepared = prepare()
        quick_search(prepared, trials=1)

        def interrupt(*_):
            (tmp_path / ".copy.0123456789abcdef0123456789abcdef.partial").mkdir()
            raise KeyboardInterrupt

        monkeypatch.setattr("pathlib.Path.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            copy_study(prepared.store, "copy", **location)
        monkeypatch.undo()
        with pytest.raises(StudyError, match="its files are not at"):
            StudyStore.open("copy", **location)
        assert delete_study("copy", **location).folder is None
        assert not (tmp_path / ".copy.0123456789abcdef0123456789abcdef.partial").exists()
        assert [study.name for study in list_studies(**location)] == ["s"]

    def test_a_failed_copy_leaves_no_study(self, prepare, quick_search, location, tmp_path):
        prepared = prepare()
        quick_search(prepared, trials=1)
        (tmp_path / "full").write_text("a file where a folder should be")
        with pytest.raises(StudyError, match="Cannot write"):
            copy_study(prepared.store, "copy", runs=tmp_path / "full", storage=location["storage"])
        assert [study.name for study in list_studies(**location)] == ["s"]


class TestDeleting:
    @pytest.mark.long
    def test_record_and_files_are_deleted(self, prepare, quick_search, location, tmp_path):
        prepared = prepare()
        quick_search(prepared, trials=3, keep_models=2)
        prepare(name="t")
        preview = preview_deletion("s", **location)
        assert (preview.trials, preview.models, preview.ensembles) == ({"complete": 3}, 2, [])
        assert preview.n_bytes > 0
        assert delete_study("s", **location) == preview
        assert [study.name for study in list_studies(**location)] == ["t"]
        assert not list(tmp_path.glob("s*/")) + list(tmp_path.glob(".deleted*"))
        assert prepare().is_new

    def test_a_study_with_a_running_search_is_not_deleted(self, prepare, location):
        store = prepare().store
        with DriverHeartbeat(store.folder), pytest.raises(StudyError, match="is running on 's'"):
            delete_study("s", **location)
        assert store.spec.name == "s"

    @pytest.mark.long
    @pytest.mark.parametrize("step", ["optuna.delete_study", "shutil.rmtree"])
    def test_an_interrupted_deletion_is_completed_by_another(
        self, prepare, quick_search, location, tmp_path, monkeypatch, step
    ):
        quick_search(prepare(), trials=1)
        prepare(name="t")

        def interrupt(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(deletion.optuna if "optuna" in step else deletion.shutil, step.split(".")[1], interrupt)
        with pytest.raises(KeyboardInterrupt):
            delete_study("s", **location)
        monkeypatch.undo()
        assert not (tmp_path / "s").exists()
        folder_by_name = {study.name: study.folder for study in list_studies(**location)}
        assert folder_by_name == ({"s": None, "t": tmp_path / "t"} if "optuna" in step else {"t": tmp_path / "t"})
        delete_study("s" if "s" in folder_by_name else "t", **location)
        assert not list(tmp_path.glob(".deleted*"))

    def test_the_folder_of_another_study_is_not_deleted(self, prepare, location, tmp_path):
        prepare()
        prepare(name="t", seed=1)
        shutil.rmtree(tmp_path / "s")
        shutil.copytree(tmp_path / "t", tmp_path / "s")
        with pytest.raises(StudyError, match="do not belong to study"):
            delete_study("s", **location)
        assert (tmp_path / "s" / "study.json").is_file()

    def test_an_unknown_study_is_an_error(self, prepare, location):
        prepare()
        with pytest.raises(StudyError, match="Its studies: s"):
            delete_study("t", **location)
