"""Warm starts: a new study with the best configurations and the scores of an earlier study."""

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
    """Run twelve trials of a study named "old"."""
    prepared = prepare(name="old", space=spaces["wide"])
    quick_search(prepared, trials=12)
    return prepared.store


def sources(store):
    return [trial.user_attrs.get("warm_start") for trial in store.study.get_trials()]


@pytest.mark.slow
def test_the_preset_and_the_best_configurations_run_first_and_the_sampler_gets_the_scores(
    prepare, quick_search, spaces, earlier
):
    prepared = prepare(space=spaces["wide"], warm_start="old", warm_start_top=3)
    best = [record for record in earlier.ranked() if record.number != 0][:3]  # trial 0 was the preset of the earlier study too
    assert sources(prepared.store) == ["preset", *(record.number for record in best)]
    assert {record.state for record in prepared.store.records()} == {TrialState.WAITING}
    quick_search(prepared, trials=6)
    records = prepared.store.records()
    assert records[0].params == {"filters": 3, "dropout": 0.25}
    assert [record.params for record in records[1:4]] == [record.params for record in best]
    assert [record.number for record in records] == list(range(6))
    assert {record.state for record in records} == {TrialState.COMPLETE}
    points = read_warm_start_points(prepared.store)
    assert [(point.values, point.scores) for point in points] == [
        (record.params, (record.score,)) for record in earlier.records()
    ]
    assert any("its best 3 configurations run first" in note for note in prepared.notes)
    assert any("uses 12 scores of 'old'" in note for note in prepared.notes)
    assert len(prepared.store.ranked()) == 6, "scores of the earlier study are not results"


@pytest.mark.slow
def test_a_continued_study_enqueues_no_configuration_twice(prepare, quick_search, spaces, earlier):
    prepared = prepare(space=spaces["wide"], warm_start="old")
    quick_search(prepared, trials=2)
    optuna.delete_study(study_name="old", storage=prepared.store.study._storage)  # it is not needed any more
    again = prepare(space=None)
    assert again.store.spec.warm_start == "old"
    quick_search(again, trials=9)
    assert [source for source in sources(again.store) if source is not None] == sources(again.store)[:6]
    assert len(read_warm_start_points(again.store)) == 12
    with pytest.raises(StudyMismatchError, match="created with warm_start 'old'"):
        prepare(space=None, warm_start="s")


def test_an_interrupted_warm_start_is_completed(prepare, spaces, earlier, monkeypatch):
    enqueue, n_enqueued = optuna.Study.enqueue_trial, []

    def fail_at_the_third(study, *arguments, **settings):
        if len(n_enqueued) == 2:
            raise KeyboardInterrupt
        n_enqueued.append(1)
        enqueue(study, *arguments, **settings)

    monkeypatch.setattr(optuna.Study, "enqueue_trial", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(space=spaces["wide"], warm_start="old")
    monkeypatch.undo()
    store = prepare(space=None).store
    assert len(sources(store)) == len(set(sources(store))) == 6


def test_the_sampler_chooses_values_that_are_not_in_the_space(prepare, quick_search, spaces, earlier):
    prepared = prepare(space=spaces["narrow"], warm_start="old", fixed={"kernel_size": 5})
    best = [record for record in earlier.ranked() if record.number != 0][:5]
    assert any(record.params["filters"] > 6 for record in best)
    quick_search(prepared, trials=6)
    for record, source in zip(prepared.store.records()[1:], best, strict=True):
        assert record.params["dropout"] == source.params["dropout"]
        assert record.params["filters"] <= 6
        assert source.params["filters"] > 6 or record.params["filters"] == source.params["filters"]
    notes = " ".join(prepared.notes)
    assert "is out of range" in notes
    assert "no complete configuration of it is in space narrow" in notes, "the kernel size differs"
    assert read_warm_start_points(prepared.store) == ()


def test_the_sampler_gets_only_complete_points_of_the_space(prepare, spaces, earlier):
    store = prepare(space=spaces["narrow"], warm_start="old").store
    points_in_space = [record for record in earlier.records() if record.params["filters"] <= 6]
    assert 0 < len(points_in_space) < 12
    assert [dict(point.values) for point in read_warm_start_points(store)] == [record.params for record in points_in_space]


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"epochs": 7}, "epochs"), ({"objective": ["accuracy"]}, "objectives"), ({"image_size": 48}, "image_size")],
)
def test_the_sampler_does_not_get_incomparable_scores(prepare, spaces, earlier, settings, name):
    prepared = prepare(space=spaces["wide"], warm_start="old", **settings)
    assert read_warm_start_points(prepared.store) == ()
    assert len(prepared.store.records(TrialState.WAITING)) == 6
    assert any(f"because they are not comparable (different settings: {name})" in note for note in prepared.notes)


def test_a_message_names_samplers_that_cannot_use_scores(prepare, spaces, earlier):
    notes = prepare(space=spaces["wide"], warm_start="old", sampler="kt-hyperband").notes
    assert any("kt-hyperband cannot use scores" in note for note in notes)


@pytest.mark.long
def test_an_invalid_warm_start_creates_no_study(prepare, spaces, earlier, tmp_path):
    prepare(name="empty", space=spaces["wide"])
    for settings, error, rule in [
        ({"warm_start": "empty"}, StudyError, "has none yet"),
        ({"warm_start": "odl"}, StudyError, "No study 'odl'"),
        ({"warm_start": "old", "space": spaces["other"]}, UsageError, "filters is not in the space"),
        ({"warm_start_top": 3}, UsageError, "Add --warm-start"),
        ({"warm_start": "old", "warm_start_top": 0}, UsageError, "at least one"),
    ]:
        with pytest.raises(error, match=rule):
            prepare(**{"space": spaces["wide"], **settings})
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_copy_has_the_warm_start_of_its_original(prepare, quick_search, spaces, earlier, tmp_path):
    prepared = prepare(space=spaces["wide"], warm_start="old")

    def interrupt(proposal, epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick_search(prepared, trials=2, between_epochs=interrupt)
    copied = copy_study(prepared.store, "copy", runs=tmp_path, storage=f"sqlite:///{tmp_path / 'studies.db'}")
    before = sources(copied)
    enqueue_missing(copied)
    assert sources(copied) == before == sources(prepared.store)
    quick_search(PreparedStudy(copied, prepared.images, None, (), is_new=False), trials=6)
    assert copied.record(0).params == {"filters": 3, "dropout": 0.25}
    assert json.loads((copied.folder / "warm_start.json").read_text())["study"] == "old"
