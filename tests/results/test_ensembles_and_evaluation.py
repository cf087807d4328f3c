import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from automl_cxr import api
from automl_cxr.api.study import Study
from automl_cxr.errors import DataError, StudyError, UnknownNameError, UsageError
from automl_cxr.results import classifier
from automl_cxr.results.classifier import load_ensemble
from automl_cxr.scoring.metrics import score_predictions
from automl_cxr.scoring.predictions import Predictions


@pytest.fixture(scope="module")
def ensemble(finished):
    return finished.ensemble(top=3, method="ga")


def test_an_ensemble_is_at_least_as_good_as_its_best_member(ensemble):
    assert len(ensemble.trials) == 3
    assert sum(ensemble.weights) == pytest.approx(1)
    assert list(ensemble.scores) == ["best", "average", "geometric", "greedy", "ga", "ga-by-class", "stacking"]
    assert ensemble.scores["best"] == max(ensemble.member_scores)
    assert ensemble.scores["greedy"] >= ensemble.scores["best"]
    assert list(ensemble.methods["method"]) == list(ensemble.scores)
    assert ensemble.recommended in ensemble.scores


def test_members_are_the_best_trials_with_a_model(finished, ensemble):
    assert list(ensemble.trials) == finished.leaderboard()["trial"].tolist()[:3]
    assert len(finished.ensemble(top=9, method="average", name="all").trials) == 3


@pytest.mark.long
def test_members_can_be_named_or_selected_by_disagreement(finished, ensemble):
    named = finished.ensemble(members=ensemble.trials[1:], method="sweep", name="named")
    assert named.trials == ensemble.trials[1:]
    assert named.score >= max(named.member_scores)
    assert set(finished.ensemble(diverse=True, top=2, method="average", name="diverse").trials) <= set(ensemble.trials)


@pytest.mark.slow
def test_every_combination_rule_can_be_loaded(finished, phantoms):
    files = [phantoms / image for image in finished._store.split.valid.images]
    for method in ("ga-by-class", "stacking"):
        ensemble = finished.ensemble(top=3, method=method, objective="log_loss")
        probabilities, _ = load_ensemble(ensemble.folder).predict(files)
        assert probabilities == pytest.approx(Predictions.from_npz(ensemble.folder / "valid.npz").probabilities, abs=1e-5)


def test_a_table_of_another_program_can_be_a_member(finished, ensemble, tmp_path):
    valid = Predictions.from_npz(ensemble.folder / "valid.npz")
    rows = [
        f"{name},{valid.classes[label]}," + ",".join(str(p) for p in row[::-1])
        for name, label, row in zip(valid.ids, valid.labels, valid.probabilities, strict=True)
    ]
    table = tmp_path / "other.csv"
    table.write_text("\n".join([f"image,label,{','.join(valid.classes[::-1])}", *rows[::-1]]))
    mixed = finished.ensemble(top=2, predictions=[table], method="average", name="joined")
    assert mixed.combination.names == (*(f"trial {number}" for number in ensemble.trials[:2]), "other.csv")
    assert mixed.member_scores[2] == pytest.approx(score_predictions(valid)["macro_f1"])
    with pytest.raises(DataError, match="without a model"):
        load_ensemble(mixed.folder)
    of_trials = [finished._store.trial_folder(number) / "valid.npz" for number in mixed.trials]
    combined, _ = api.apply_ensemble(mixed.folder, [*of_trials, table])
    again = Predictions.from_npz(mixed.folder / "valid.npz")
    columns = [f"probability_{name}" for name in again.classes]
    assert combined.set_index("image").loc[list(again.ids), columns].to_numpy() == pytest.approx(again.probabilities, abs=1e-6)
    with pytest.raises(UsageError, match="one table for each member"):
        api.apply_ensemble(mixed.folder, [table])


def test_a_moved_ensemble_folder_works(finished, ensemble, tmp_path, phantoms):
    moved = tmp_path / "elsewhere"
    shutil.copytree(ensemble.folder, moved)
    classifier = load_ensemble(moved)
    files = [phantoms / image for image in finished._store.split.valid.images]
    probabilities, unreadable = classifier.predict(files)
    assert unreadable == {}
    saved = Predictions.from_npz(ensemble.folder / "valid.npz")
    assert probabilities == pytest.approx(saved.probabilities, abs=1e-5)


def test_the_same_seed_builds_the_same_ensemble(finished, ensemble):
    assert finished.ensemble(top=3, method="ga", name="again").weights == ensemble.weights


def test_large_members_are_loaded_one_at_a_time(ensemble, phantoms, finished, monkeypatch):
    files = [*(phantoms / image for image in finished._store.split.valid.images), ensemble.folder / "ensemble.json"]
    expected, unreadable = load_ensemble(ensemble.folder).predict(files)
    monkeypatch.setattr(classifier, "_MODEL_BYTES", 1)
    steps = []
    separate_probabilities, separate_unreadable = load_ensemble(ensemble.folder).predict(
        files, on_progress=lambda *pair: steps.append(pair)
    )
    assert np.array_equal(separate_probabilities, expected)
    assert list(separate_unreadable) == list(unreadable) == [len(files) - 1]
    assert steps == sorted(steps)
    assert len(steps) == 3
    assert steps[-1] == (len(files), len(files))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"top": 0}, UsageError),
        ({"method": "gaa"}, UnknownNameError),
        ({"name": "../up"}, UsageError),
        ({"name": ""}, UsageError),
        ({"members": [0, 0]}, UsageError),
        ({"members": [0], "diverse": True}, UsageError),
        ({"members": [99]}, StudyError),
        ({"method": "sweep", "top": 3}, UsageError),
        ({"objective": "macro_f2"}, UnknownNameError),
    ],
)
def test_invalid_options_are_refused(finished, settings, error):
    with pytest.raises(error):
        finished.ensemble(**settings)


@pytest.mark.parametrize("content", ["", "{}", '{"members": 3, "study": "s", "classes": []}', "[]"])
def test_a_damaged_folder_is_reported(tmp_path, content):
    (tmp_path / "ensemble.json").write_text(content)
    with pytest.raises(DataError, match="is not an ensemble folder"):
        load_ensemble(tmp_path)


def damage(folder, **changes):
    record = json.loads((folder / "ensemble.json").read_text())
    record |= {key: value for key, value in changes.items() if key in record}
    record["members"][0] |= {key: value for key, value in changes.items() if key in record["members"][0]}
    (folder / "ensemble.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"file": "../../../study.json"}, "is outside the folder"),
        ({"file": "/etc/hostname"}, "is outside the folder"),
        ({"file": "members/nothing.keras"}, "No such file"),
        ({"sha256": "0" * 64}, "has changed"),
        ({"image_size": "32"}, "image size"),
        ({"rule": {"kind": "average", "weights": [-3, 1, 1]}}, "not an ensemble folder"),
        ({"rule": {"kind": "average", "weights": "heavy"}}, "not an ensemble folder"),
    ],
    ids=str,
)
def test_a_modified_folder_is_refused(ensemble, tmp_path, changes, rule):
    copy = tmp_path / "copy"
    shutil.copytree(ensemble.folder, copy)
    damage(copy, **changes)
    with pytest.raises(DataError, match=rule):
        load_ensemble(copy)


@pytest.mark.parametrize("changes", [{"classes": ["a", "b"]}, {"image_size": 48}], ids=str)
def test_a_model_that_does_not_match_its_record_is_refused(ensemble, tmp_path, phantoms, changes):
    copy = tmp_path / "copy"
    shutil.copytree(ensemble.folder, copy)
    damage(copy, **changes)
    with pytest.raises(DataError, match="must match its record"):
        load_ensemble(copy).predict(sorted(phantoms.rglob("*.png"))[:2])


def test_an_ensemble_that_cannot_be_written_leaves_no_folder(finished, monkeypatch):
    rename = Path.replace

    def fail_for_folders(path, target):
        if path.is_dir():
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", fail_for_folders)
    with pytest.raises(StudyError, match="No space left"):
        finished.ensemble(top=2, method="average", name="never")
    assert not [path for path in (finished.folder / "ensembles").iterdir() if "never" in path.name]


class TestEvaluation:
    def test_a_classifier_of_another_split_is_refused(self, ensemble, prepare):
        other = prepare(seed=7).store
        with pytest.raises(DataError, match="differs from that of study"):
            Study(other).evaluate(ensemble)

    def test_validation_scores_are_those_of_the_leaderboard(self, finished):
        evaluation = finished.evaluate(finished.best.number, part="valid")
        best = finished.leaderboard().iloc[0]
        assert evaluation.scores["macro_f1"] == pytest.approx(best["macro_f1"])
        assert evaluation.intervals["macro_f1"].low == pytest.approx(best["macro_f1_low"])
        assert evaluation.confusion.to_numpy().sum() == len(evaluation.predictions)
        assert evaluation.n_opened == 0

    def test_opening_the_test_part_is_recorded_every_time(self, finished, ensemble):
        n_before = len(finished._store.study.user_attrs.get("test_opened", []))
        first = finished.evaluate()
        second = finished.evaluate(ensemble)
        assert (first.n_opened, second.n_opened) == (n_before + 1, n_before + 2)
        opened = finished._store.study.user_attrs["test_opened"]
        assert "ensemble ga-3" in opened[-1]["what"]
        assert opened[-1]["scores"]["macro_f1"] == second.scores["macro_f1"]
        split = finished._store.split
        assert set(first.predictions.ids) == set(split.test)
        assert not set(first.predictions.patients) & set(split.train.patients + split.valid.patients)

    def test_a_trial_may_be_named(self, finished):
        number = finished.leaderboard()["trial"][1]
        assert finished.evaluate(int(number), part="valid").classifier == f"trial {number}"

    def test_a_trial_without_a_model_is_refused(self, finished):
        last = int(finished.leaderboard()["trial"].iloc[-1])
        with pytest.raises(StudyError, match="--keep-models"):
            finished.evaluate(last, part="valid")

    def test_changed_data_are_refused(self, finished, phantoms, tmp_path):
        copy = tmp_path / "copy"
        shutil.copytree(phantoms, copy)
        assert finished.evaluate(part="valid", data=str(copy)).scores
        next((copy / "normal").glob("*.png")).unlink()
        with pytest.raises(DataError, match="differ from those of study"):
            finished.evaluate(part="valid", data=str(copy))

    def test_an_unknown_trial_number_is_refused(self, finished):
        for method in (finished.evaluate, finished.classifier, finished.figures.confusion):
            with pytest.raises(StudyError, match="has trials 0 to 3; received 99"):
                method(99)

    def test_an_unknown_part_is_refused(self, finished):
        with pytest.raises(UnknownNameError, match="Did you mean 'valid'"):
            finished.evaluate(part="val")


class TestPredicting:
    def test_unreadable_files_are_named_and_the_rest_predicted(self, finished, phantoms, tmp_path):
        folder = tmp_path / "odd names"
        folder.mkdir()
        sources = sorted((phantoms / "normal").glob("*.png"))[:3]
        for source, name in zip(sources, ["=cmd.png", "肺 'a',b.png", "-rf.png"], strict=True):
            shutil.copy(source, folder / name)
        (folder / "broken.png").write_bytes(b"nothing")
        table, problems = api.predict(finished.classifier(), [folder, tmp_path / "missing.png"])
        assert sorted(table["image"]) == sorted(str(folder / name) for name in ["=cmd.png", "肺 'a',b.png", "-rf.png"])
        assert set(problems) == {str(folder / "broken.png"), str(tmp_path / "missing.png")}
        columns = [f"probability_{name}" for name in ("effusion", "normal", "opacity")]
        assert list(table.columns) == ["image", "class", *columns]
        assert table[columns].sum(axis=1).to_numpy() == pytest.approx(1, abs=1e-5)
        assert table["class"].tolist() == [
            columns[best].removeprefix("probability_") for best in table[columns].to_numpy().argmax(axis=1)
        ]

    def test_predictions_do_not_depend_on_the_batch_size(self, finished, phantoms, monkeypatch):
        from automl_cxr.results import classifier

        files = sorted(phantoms.rglob("*.png"))
        single_batch, _ = finished.classifier().predict(files)
        monkeypatch.setattr(classifier, "_BATCH_SIZE", 7)
        steps = []
        in_batches, _ = finished.classifier().predict(files, on_progress=lambda done, total: steps.append((done, total)))
        assert in_batches == pytest.approx(single_batch, abs=1e-6)
        assert steps[-1] == (60, 60)

    def test_a_folder_without_images_is_reported(self, finished, tmp_path):
        table, problems = api.predict(finished.classifier(), [tmp_path])
        assert table.empty
        assert list(problems) == [str(tmp_path)]


class TestFigures:
    def test_figures_have_the_numbers_of_the_record(self, finished):
        history = finished.figures.history()
        best = max(trial.score for trial in finished.trials)
        assert history.data[-1].y[-1] == pytest.approx(best)
        curves = finished.figures.learning_curves()
        assert len(curves.data) == 4
        assert list(curves.data[0].y) == list(finished.trials[0].scores.values())
        confusion = finished.figures.confusion()
        assert np.sum(confusion.data[0].text) == len(finished._store.split.valid.images)
        assert "learning_curves" in repr(finished.figures)


def test_reprs_summarise_the_objects(finished, ensemble):
    assert "4 complete" in repr(finished)
    best = repr(finished.best)
    assert best.startswith(f"Trial {finished.best.number}: complete, score 0.")
    assert "learning_rate=" in best
    assert repr(ensemble).startswith(f"Ensemble of trial {ensemble.trials[0]} (")
    assert ensemble.combination.verdict() in repr(ensemble)
    lines = repr(finished.evaluate(finished.best.number, part="valid")).splitlines()
    assert lines[0].startswith("Evaluation of trial ")
    assert lines[1].split()[0] == "macro_f1"


def test_a_study_can_be_reopened(finished):
    assert finished.best.score == max(trial.score for trial in finished.trials)
    assert json.loads((finished.folder / "study.json").read_text())["name"] == "done"
    assert api.open_study("done", runs=finished.folder.parent).best == finished.best
