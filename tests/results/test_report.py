"""The report of a small finished study, and what it says where there is less to say."""

import re
import shutil
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from automl_cxr import api
from automl_cxr.errors import StudyError
from automl_cxr.results.figures.search import plot_learning_curves
from automl_cxr.results.report import build_report
from automl_cxr.results.report.evidence import gather_evidence
from automl_cxr.results.report.methods import methods_paragraphs
from automl_cxr.results.report.sealed_part import sealed_section
from automl_cxr.results.report.summary import warnings_of
from automl_cxr.results.report.wording import counted, duration, listed, times
from automl_cxr.study.store import StudyStore


@pytest.fixture(scope="module")
def page(finished):
    return build_report(finished._store)


def titles(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_report_has_its_sections_and_asks_nobody(finished, page):
    wanted = ["Summary", "Test part", "Quality of the predictions", "Search", "Hyperparameters", "Quality against costs"]
    wanted += ["Ensembles", "Data and split", "Sample images", "Methods"]
    assert [title for title in titles(page) if title in wanted] == wanted
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=['\"]?(https?:|//)", page)
    n_judged = np.bincount(finished._store.split.valid.labels)
    assert page.count("src='data:image/jpeg;base64,") == np.minimum(n_judged, 6).sum(), "six images of each class at most"
    assert len(page) < 15e6


def test_what_it_says_is_what_the_record_says(finished, page):
    best, board = finished.best, finished.leaderboard()
    assert f"is trial {best.number}: macro_f1 {best.score:.4f} ({board['macro_f1_low'][0]:.4f} to" in page
    assert finished._store.split_digest in page
    for name, value in best.params.items():
        assert f"<td>{name}</td><td>{value:.4g}" in page or f"<td>{name}</td><td>{value}" in page


def test_the_methods_name_split_search_seeds_and_versions(finished):
    evidence = replace(gather_evidence(finished._store), test_opened=(), ensembles={})  # whatever other tests have made
    data, search, best, evaluation, computation = methods_paragraphs(evidence)
    split = finished._store.split
    assert data.startswith("The data set comprised 60 chest radiographs of three classes (")
    assert f"{len(split.train.images)} images of {len(set(split.train.patients))} patients for training" in data
    assert "We searched two hyperparameters of convolutional networks" in search
    assert "dense_units from 4 to 16; learning_rate from 0.001 to 0.1, logarithmic" in search
    assert "to maximize macro-averaged F1 on the validation part" in search
    assert "Of four trials, four ran to completion; together" in search
    assert f"number {finished.best.number}, seed {finished.best.seed}" in best
    assert evaluation.endswith("The test part has not been evaluated.")
    assert "Keras 3." in computation
    assert "The seed 0 decided split and proposals" in computation
    for paragraph in (data, search, best, evaluation, computation):
        assert paragraph.endswith(".")
        assert not re.search(r"\.\.|  | ,|None|nan|\bone \w+s\b", paragraph), paragraph


def test_the_test_part_stands_there_only_as_the_study_recorded_it(finished):
    unopened = replace(gather_evidence(finished._store), test_opened=(), ensembles={})
    assert "never opened" in sealed_section(unopened).parts[0].text
    look = {"when": "2026-01-02T03:04:05+0000", "what": "trial 1", "scores": {"macro_f1": 0.4321, "accuracy": 0.5}}
    once = replace(unopened, test_opened=[look])
    said, table = sealed_section(once).parts
    assert said.text == "The test part was opened once."
    assert table.table["macro_f1"].tolist() == [0.4321]
    assert "was evaluated once, where trial 1 reached macro-averaged F1 0.432." in methods_paragraphs(once)[3]
    assert any("was opened twice" in warning for warning in warnings_of(replace(unopened, test_opened=[look, look])))


def test_a_report_opens_nothing(finished, page):
    before = finished._store.test_opened()
    build_report(finished._store)
    assert finished._store.test_opened() == before


def test_without_the_data_pictures_are_left_out_and_that_is_said(tmp_path, finished):
    page = build_report(finished._store, data=str(tmp_path / "gone"))
    assert "Pictures are left out." in page
    assert "src='data:image/jpeg" not in page


def test_ensembles_are_drawn_with_their_gain(finished):
    copy = api.copy_study("done", "joined", runs=finished.folder.parent)
    built = copy.ensemble(top=2, method="average", name="a-pair")
    page = build_report(copy._store)
    assert "Ensemble a-pair: two members, method average" in page
    assert "Weights of ensemble a-pair" in page
    assert ("Gain of each method, members of a-pair" in page) == (built.combination.judgement is not None)


def test_failed_trials_are_told_with_their_reason(finished):
    copy = api.copy_study("done", "failing", runs=finished.folder.parent)
    trial = copy._store.study.ask()
    trial.set_user_attr("error", "NonFiniteLossError: <the loss> is NaN")
    copy._store.study.tell(trial, state=TrialState.FAIL)
    page = build_report(copy._store)
    assert "<td>NonFiniteLossError: &lt;the loss&gt; is NaN</td>" in page
    assert "One trial failed" in page


def test_no_report_before_a_trial_is_finished(tmp_path, finished):
    shutil.copytree(finished.folder, tmp_path / "empty", ignore=shutil.ignore_patterns("trials", "ensembles"))
    spec = finished._store.spec
    store = StudyStore.create(
        type(spec)(**{**vars(spec), "name": "empty"}),
        finished._store.split,
        runs=tmp_path,
        storage=f"sqlite:///{tmp_path / 's.db'}",
        directions=["maximize"],
    )
    with pytest.raises(StudyError, match=r"needs a finished trial; study 'empty' has none at all yet\."):
        build_report(store)


def test_a_large_study_still_makes_a_small_file(finished):
    own, rng = finished._store.study.get_trials(), np.random.default_rng(0)
    study = optuna.create_study(direction="maximize")  # in memory: 500 trials are seconds of SQLite
    study.add_trials(own)
    study.add_trials(
        [
            create_trial(
                state=TrialState.PRUNED,
                params=own[0].params,
                distributions=own[0].distributions,
                intermediate_values={epoch: float(score) for epoch, score in enumerate(rng.random(20), 1)},
            )
            for _ in range(500)
        ]
    )
    store = StudyStore("done", study, finished.folder)
    figure = plot_learning_curves(store)
    assert len(figure.data) < 12
    assert len(figure.to_json()) < 200_000
    assert figure.data[0].name == "150 of 500 others"
    assert len(build_report(store)) < 8e6


def test_two_objectives_are_drawn_against_each_other(finished):
    table = finished.figures.cost()
    assert table.layout.xaxis.type == "log"
    with pytest.raises(StudyError, match="knows its latency"):
        finished.figures.cost("latency")


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (counted(1, "trial"), "one trial"),
        (counted(0, "class", "classes"), "no classes"),
        (counted(1204, "image"), "1,204 images"),
        (listed(["a"]), "a"),
        (listed(["a", "b"]), "a and b"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (listed([]), ""),
        (times(1), "once"),
        (times(3), "three times"),
        (duration(41.4), "41 s"),
        (duration(59.9), "60 s"),
        (duration(7500), "2 h 5 min"),
        (duration(7200), "2 h"),
    ],
)
def test_words(written, wanted):
    assert written == wanted
