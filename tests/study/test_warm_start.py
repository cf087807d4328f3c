"""A study that begins with what an earlier one found."""

import json

import optuna
import pytest

from automl_cxr.errors import StudyError, StudyMismatchError, UsageError
from automl_cxr.records import TrialState
from automl_cxr.study.copying import copy_study
from automl_cxr.study.prepare import PreparedStudy
from automl_cxr.study.warm_start import enqueue_missing, read_warm_start_points

SPACE = """
family = "scratch"
n_blocks = 1
[filters]
type = "int"
low = 2
high = {high}
default = 3
[dropout]
type = "float"
low = 0.0
high = 0.5
default = 0.25
"""


@pytest.fixture
def spaces(tmp_path):
    (tmp_path / "wide.toml").write_text(SPACE.format(high=30))
    (tmp_path / "narrow.toml").write_text(SPACE.format(high=6))
    (tmp_path / "other.toml").write_text('[optimizer]\ntype = "choice"\nvalues = ["adam", "sgd"]\ndefault = "adam"')
    return {name: str(tmp_path / f"{name}.toml") for name in ("wide", "narrow", "other")}


@pytest.fixture
def earlier(prepare, quick_search, spaces):
    """Search twelve trials of a study named "old"."""
    prepared = prepare(name="old", space=spaces["wide"])
    quick_search(prepared, trials=12)
    return prepared.store


def marks(store):
    return [trial.user_attrs.get("warm_start") for trial in store.study.get_trials()]


def test_the_preset_and_then_the_best_are_tried_and_the_scores_are_told(prepare, quick_search, spaces, earlier):
    prepared = prepare(space=spaces["wide"], warm_start="old", warm_start_top=3)
    best = [record for record in earlier.ranked() if record.number != 0][:3]  # trial 0 was the preset there too
    assert marks(prepared.store) == ["preset", *(record.number for record in best)]
    assert {record.state for record in prepared.store.records()} == {TrialState.WAITING}
    quick_search(prepared, trials=6)
    records = prepared.store.records()
    assert records[0].params == {"filters": 3, "dropout": 0.25}
    assert [record.params for record in records[1:4]] == [record.params for record in best]
    assert [record.number for record in records] == list(range(6))
    assert {record.state for record in records} == {TrialState.COMPLETE}
    priors = read_warm_start_points(prepared.store)
    assert [(prior.values, prior.scores) for prior in priors] == [
        (record.params, [record.score]) for record in earlier.records()
    ]
    assert any("its best 3 configurations are tried first" in note for note in prepared.notes)
    assert any("learns from 12 scores of 'old'" in note for note in prepared.notes)
    assert len(prepared.store.ranked()) == 6, "told scores are no results"


def test_a_study_that_goes_on_enqueues_nothing_again(prepare, quick_search, spaces, earlier):
    prepared = prepare(space=spaces["wide"], warm_start="old")
    quick_search(prepared, trials=2)
    optuna.delete_study(study_name="old", storage=prepared.store.study._storage)  # it is not asked again
    again = prepare(space=None)
    assert again.store.spec.warm_start == "old"
    quick_search(again, trials=9)
    assert [mark for mark in marks(again.store) if mark is not None] == marks(again.store)[:6]
    assert len(read_warm_start_points(again.store)) == 12
    with pytest.raises(StudyMismatchError, match="begun with warm_start 'old'"):
        prepare(space=None, warm_start="s")


def test_a_start_that_was_killed_is_completed(prepare, spaces, earlier, monkeypatch):
    enqueue, n_enqueued = optuna.Study.enqueue_trial, []

    def die_at_the_third(study, *arguments, **settings):
        if len(n_enqueued) == 2:
            raise KeyboardInterrupt
        n_enqueued.append(1)
        enqueue(study, *arguments, **settings)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(space=spaces["wide"], warm_start="old")
    monkeypatch.undo()
    store = prepare(space=None).store
    assert len(marks(store)) == len(set(marks(store))) == 6


def test_values_that_the_space_has_not_are_left_to_the_sampler(prepare, quick_search, spaces, earlier):
    prepared = prepare(space=spaces["narrow"], warm_start="old", fixed={"kernel_size": 5})
    best = [record for record in earlier.ranked() if record.number != 0][:5]
    assert any(record.params["filters"] > 6 for record in best)
    quick_search(prepared, trials=6)
    for record, before in zip(prepared.store.records()[1:], best, strict=True):
        assert record.params["dropout"] == before.params["dropout"]
        assert record.params["filters"] <= 6
        assert before.params["filters"] > 6 or record.params["filters"] == before.params["filters"]
    told = " ".join(prepared.notes)
    assert "is out of range" in told
    assert "none of its trials is whole in space narrow" in told, "another kernel size is another trial"
    assert read_warm_start_points(prepared.store) == ()


def test_only_whole_points_of_the_space_are_told(prepare, spaces, earlier):
    store = prepare(space=spaces["narrow"], warm_start="old").store
    fitting = [record for record in earlier.records() if record.params["filters"] <= 6]
    assert 0 < len(fitting) < 12
    assert [dict(prior.values) for prior in read_warm_start_points(store)] == [record.params for record in fitting]


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"epochs": 7}, "epochs"), ({"objective": ["accuracy"]}, "objectives"), ({"image_size": 48}, "image_size")],
)
def test_scores_that_do_not_compare_are_not_told(prepare, spaces, earlier, settings, named):
    prepared = prepare(space=spaces["wide"], warm_start="old", **settings)
    assert read_warm_start_points(prepared.store) == ()
    assert len(prepared.store.records(TrialState.WAITING)) == 6
    assert any(f"not told to the sampler: they were made with other settings ({named})" in note for note in prepared.notes)


def test_a_test_part_that_the_earlier_study_saw_is_said(prepare, spaces, earlier):
    note = "images of the sealed test part served 'old'"
    assert any(note in said for said in prepare(space=spaces["wide"], warm_start="old", seed=1).notes)
    assert not any(note in said for said in prepare(name="t", space=spaces["wide"], warm_start="old").notes)


def test_samplers_without_use_for_scores_are_said(prepare, spaces, earlier):
    notes = prepare(space=spaces["wide"], warm_start="old", sampler="kt-hyperband").notes
    assert any("kt-hyperband takes no scores" in note for note in notes)


def test_what_gives_nothing_begins_no_study(prepare, spaces, earlier, tmp_path):
    prepare(name="empty", space=spaces["wide"])
    for settings, error, rule in [
        ({"warm_start": "empty"}, StudyError, "has none yet"),
        ({"warm_start": "odl"}, StudyError, "No study 'odl'"),
        ({"warm_start": "old", "space": spaces["other"]}, UsageError, "filters is not searched here"),
        ({"warm_start_top": 3}, UsageError, "Add --warm-start"),
        ({"warm_start": "old", "warm_start_top": 0}, UsageError, "at least one"),
    ]:
        with pytest.raises(error, match=rule):
            prepare(**{"space": spaces["wide"], **settings})
    assert not (tmp_path / "s").exists()


def test_a_copy_keeps_what_its_original_began_with(prepare, quick_search, spaces, earlier, tmp_path):
    prepared = prepare(space=spaces["wide"], warm_start="old")

    def die(proposal, epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=2, between_epochs=die)
    copied = copy_study(prepared.store, "copy", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")
    before = marks(copied)
    enqueue_missing(copied)
    assert marks(copied) == before == marks(prepared.store)
    quick_search(PreparedStudy(copied, prepared.images, None, (), is_new=False), trials=6)
    assert copied.record(0).params == {"filters": 3, "dropout": 0.25}
    assert json.loads((copied.folder / "warm_start.json").read_text())["study"] == "old"
