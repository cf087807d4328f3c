"""A study with folds: leaderboard, ensemble, evaluation and figures use the out-of-fold predictions."""

import io

import pytest

from automl_cxr import api
from automl_cxr.engine.protocol import Proposal
from automl_cxr.results.replay import _ReplayObjective, trial_config
from automl_cxr.results.study_data import decode_study_images, load_study_dataset
from automl_cxr.results.verification import verify_study
from automl_cxr.scoring.intervals import bootstrap_interval
from automl_cxr.scoring.metrics import METRICS
from automl_cxr.scoring.predictions import Predictions
from tests.results.conftest import TINY_SPACE


@pytest.fixture(scope="module")
def progress():
    return io.StringIO()


@pytest.fixture(scope="module")
def folded(tmp_path_factory, phantoms, progress):
    runs = tmp_path_factory.mktemp("runs")
    (runs / "tiny.toml").write_text(TINY_SPACE)
    return api.search(
        str(runs / "tiny.toml"), phantoms, name="folded", folds=2, trials=2, epochs=1, image_size=16, batch_size=64,
        fixed={"n_blocks": 1}, runs=runs, executor="inline", stream=progress,
    )  # fmt: skip


def test_the_progress_of_the_search_names_the_folds(folded, progress):
    output = progress.getvalue()
    assert f"{len(folded._store.split.train.images)} images in 2 folds and " in output
    for trial in folded.trials:
        first, second = trial.scores.values()
        assert f"trial {trial.number} complete: macro_f1 {trial.score:.4f} (folds {first:.4f}, {second:.4f})" in output
    assert "after 2 folds" in repr(folded.best)


def test_the_leaderboard_scores_the_out_of_fold_predictions(folded):
    table = folded.leaderboard()
    assert not {"epochs", "best_epoch"} & set(table)
    for row in table.itertuples():
        predictions, trial = folded._store.predictions(row.trial), folded.trials[row.trial]
        assert len(predictions) == len(folded._store.split.train.images)
        assert row.macro_f1 == METRICS["macro_f1"].function(predictions.labels, predictions.probabilities, None) == trial.score
        interval = bootstrap_interval(predictions, seed=0)
        assert (row.macro_f1_low, row.macro_f1_high) == (interval.low, interval.high)
        assert row.fold_mean == pytest.approx((trial.scores[1] + trial.scores[2]) / 2)
        assert row.fold_sd == pytest.approx(abs(trial.scores[1] - trial.scores[2]) / 2**0.5)


@pytest.mark.long
def test_an_ensemble_is_fitted_on_out_of_fold_predictions(folded):
    ensemble = folded.ensemble(top=2)
    out_of_fold = Predictions.from_npz(ensemble.folder / "valid.npz")
    assert out_of_fold.ids == folded._store.split.train.images
    assert folded.evaluate(ensemble, part="valid").scores["macro_f1"] == ensemble.score
    assert set(folded.evaluate(ensemble).predictions.ids) == set(folded._store.split.test)


def test_the_valid_part_uses_out_of_fold_predictions_and_the_train_part_the_saved_model(folded):
    valid, train = (folded.evaluate(folded.best.number, part=part) for part in ("valid", "train"))
    assert valid.scores["macro_f1"] == folded.best.score
    assert "trial" in repr(valid)
    assert [evaluation.place for evaluation in (valid, train)] == ["out of fold", "train part"]
    assert valid.predictions.ids == train.predictions.ids == folded._store.split.train.images
    assert (valid.predictions.probabilities != train.predictions.probabilities).any(), "train uses the saved model"
    assert valid.n_opened == train.n_opened == 0
    test = folded.evaluate()
    assert set(test.predictions.ids) == set(folded._store.split.test)


def test_figures_show_folds(folded):
    curves = folded.figures.learning_curves()
    assert curves.layout.xaxis.title.text == "fold"
    assert list(curves.data[0].x) == [1, 2]
    assert "out of fold" in folded.figures.confusion().layout.title.text


def test_verification_uses_the_networks_of_the_folds(folded):
    checks = verify_study(folded._store).trials
    assert [check.problems for check in checks] == [(), ()]
    assert all(check.predictions_differ_by < 1e-5 for check in checks)


@pytest.mark.slow
def test_a_trial_stopped_at_a_fold_is_replayed_up_to_this_fold(folded, tmp_path):
    store = folded._store
    config = trial_config(store, 1)
    objective = _ReplayObjective(
        config=config,
        images=decode_study_images(store, load_study_dataset(store), config),
        split=store.folder / "split.json",
        folder=tmp_path,
        weights_folder=None,
        rungs=(),
        objectives=("macro_f1",),
        normal_class=None,
        classes=store.spec.classes,
        folds=2,
    )
    reports = list(objective(Proposal(1, {}, epochs=1)))
    assert [(report.epoch, report.score) for report in reports] == [(1, pytest.approx(folded.trials[1].scores[1]))]
    assert not (tmp_path / "valid.npz").exists()


def test_the_epochs_of_all_folds_are_counted(folded):
    assert folded._store.n_epochs() == 2 * 2


def test_errors_are_out_of_fold(folded):
    errors = folded.errors(top=2)
    assert errors.place == "out of fold"
    assert set(errors.images.ids) == set(folded._store.split.train.images)
