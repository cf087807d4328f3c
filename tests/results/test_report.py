"""The report of a small finished study, and of studies with missing data."""

import re
import shutil
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from automl_cxr import api
from automl_cxr.data.audit.shortcut_results import Shortcut
from automl_cxr.errors import StudyError
from automl_cxr.results.figures.search import plot_learning_curves
from automl_cxr.results.html_page import Pictures
from automl_cxr.results.report import build_report
from automl_cxr.results.report.audit import study_audit_sections
from automl_cxr.results.report.errors import errors_sections
from automl_cxr.results.report.heatmaps import compute_heatmaps, heatmaps_section
from automl_cxr.results.report.leaderboard import leaderboard_section
from automl_cxr.results.report.methods import methods_paragraphs
from automl_cxr.results.report.report_data import locate_images, read_report_data
from automl_cxr.results.report.samples import samples_section
from automl_cxr.results.report.summary import summary_section, warnings_of
from automl_cxr.results.report.test_set import evaluations_section
from automl_cxr.results.report.text_format import counted, duration, listed, times
from automl_cxr.study.store import StudyStore


@pytest.fixture(scope="module")
def page(finished):
    return build_report(finished._store, latency=True)


@pytest.fixture(scope="module")
def located(finished):
    return locate_images(read_report_data(finished._store))


def section_of(page, title):
    """Return the HTML below a heading."""
    return page.split(f"<h2>{title}</h2>")[1].split("</section>")[0]


def titles(page):
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_a_report_has_its_sections_and_no_external_requests(finished, page):
    expected = ["Summary", "Test part", "Leaderboard", "Quality of the predictions", "Errors", "Errors: most confident"]
    expected += ["Right by all 3 models", "Heat maps", "Search", "Hyperparameters", "Score against costs", "Ensembles"]
    expected += ["Data and split", "Audit of the data", "Sample images", "Methods"]
    assert [title for title in titles(page) if title in expected] == expected
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=['\"]?(https?:|//)", page)
    n_images = np.bincount(finished._store.split.valid.labels)
    n_samples = section_of(page, "Sample images").count('src="data:image/jpeg;base64,')
    assert n_samples == np.minimum(n_images, 6).sum(), "at most six images of each class"
    assert len(page) < 15e6


def test_the_summary_agrees_with_the_leaderboard_and_the_record(finished, page):
    best, board = finished.best, finished.leaderboard()
    assert f"is trial {best.number}: macro_f1 {best.score:.4f} (95% interval {board['macro_f1_low'][0]:.4f} to" in page
    assert finished._store.split_digest in page
    assert finished.corrected_score().sentence() in section_of(page, "Summary")
    for name, value in best.params.items():
        assert f"<td>{name}</td><td>{value:.4g}" in page or f"<td>{name}</td><td>{value}" in page


def test_the_methods_name_split_search_seeds_and_versions(finished):
    # Other tests add evaluations and ensembles to the study.
    report_data = replace(read_report_data(finished._store), test_opened=(), ensembles={})
    data, search, best, evaluation, computation = methods_paragraphs(report_data)
    split = finished._store.split
    assert data.startswith("The data set comprised 60 chest radiographs of three classes (")
    assert f"{len(split.train.images)} images of {len(set(split.train.patients))} patients for training" in data
    assert "We searched two hyperparameters of convolutional networks" in search
    assert "dense_units from 4 to 16; learning_rate from 0.001 to 0.1 (log scale)" in search
    assert "to maximise macro-averaged F1 on the validation part" in search
    assert "Of four trials, four ran to completion. In total, training took" in search
    assert f"number {finished.best.number}, seed {finished.best.seed}" in best
    assert evaluation.startswith("These scores are optimistic, because the same images were used to select epochs and trials.")
    assert f"macro-averaged F1 of the best trial was {finished.corrected_score().value:.3f} (95% interval: " in evaluation
    assert evaluation.endswith("The test part has not been evaluated.")
    assert "Keras 3." in computation
    assert "The seed 0 determined the split and the proposed configurations" in computation
    for paragraph in (data, search, best, evaluation, computation):
        assert paragraph.endswith(".")
        assert not re.search(r"\.\.|  | ,|None|nan|\bone \w+s\b", paragraph), paragraph


def test_the_recorded_uses_of_the_test_part_are_reported(finished):
    unopened = replace(read_report_data(finished._store), test_opened=(), ensembles={})
    assert "never evaluated" in evaluations_section(unopened).parts[0].text
    entry = {"when": "2026-01-02T03:04:05+0000", "what": "trial 1", "scores": {"macro_f1": 0.4321, "accuracy": 0.5}}
    once = replace(unopened, test_opened=[entry])
    text, table = evaluations_section(once).parts
    assert text.text == "The test part was evaluated once."
    assert table.table["macro_f1"].tolist() == [0.4321]
    evaluated = "The test part was evaluated once. Macro-averaged F1 of trial 1 was 0.432."
    assert evaluated in methods_paragraphs(once)[3]
    assert any("was evaluated twice" in warning for warning in warnings_of(replace(unopened, test_opened=[entry, entry])))


def test_a_report_does_not_open_the_test_part(finished, page):
    before = finished._store.test_opened()
    build_report(finished._store, explain=False)
    assert finished._store.test_opened() == before


@pytest.mark.parametrize(("low", "high", "verdict", "is_warning"), [
    (0.0, 0.001, "is above the baseline.", False),
    (0.0, 0.999, "is not clearly above the baseline, because the intervals overlap.", True),
    (0.999, 1.0, "is below the baseline.", True),
])  # fmt: skip
def test_the_summary_compares_the_best_trial_with_the_baseline(finished, located, low, high, verdict, is_warning):
    baseline = Shortcut(macro_f1=(low + high) / 2, low=low, high=high, chance=0.33, n_folds=5)
    audit = replace(located.audit, shortcut=baseline)
    interval = replace(located.intervals["macro_f1"], low=0.4, high=0.6)
    report_data = replace(located, audit=audit, intervals={**located.intervals, "macro_f1": interval})
    paragraph = summary_section(report_data).parts[1]
    assert paragraph.text.startswith(f"{audit.baseline} The macro-F1 of trial {finished.best.number}, ")
    assert paragraph.text.endswith(verdict)
    assert paragraph.is_warning == is_warning
    assert set(audit.warnings) <= set(warnings_of(report_data))


def test_a_study_without_an_audit_has_no_baseline(located):
    without_audit = replace(located, audit=None)
    assert "no audit" in study_audit_sections(without_audit)[0].parts[0].text
    assert "baseline" not in summary_section(without_audit).parts[1].text


def test_the_audit_has_pictures_only_if_the_images_of_the_study_are_found(located):
    def pictures(report_data):
        return [part for section in study_audit_sections(report_data) for part in section.parts if isinstance(part, Pictures)]

    lettering = replace(located.audit.lettering[0], examples=(located.predictions.ids[0],))
    report_data = replace(located, audit=replace(located.audit, root="gone", lettering=(lettering,)))
    assert pictures(report_data)
    assert not pictures(replace(report_data, root=None))


def test_the_leaderboard_has_the_baseline_ties_and_latencies(finished, located):
    table = leaderboard_section(replace(located, milliseconds={finished.best.number: 1.5})).parts[0].table
    board = finished.leaderboard()
    assert table["trial"].tolist() == ["shortcut baseline", *board["trial"]]
    assert table["tied"].tolist()[1:] == board["tied"].tolist()
    assert table["milliseconds"].dropna().tolist() == [1.5]
    assert table["macro_f1 95%"][0] == f"{located.audit.shortcut.low:.3f}..{located.audit.shortcut.high:.3f}"


def test_latencies_of_the_saved_models_are_plotted(finished, page):
    assert "Score against latency" in section_of(page, "Score against costs")
    bare = build_report(finished._store, explain=False)
    assert "Latency is not known." in section_of(bare, "Score against costs")
    assert "<h2>Heat maps</h2>" not in bare


def test_errors_of_the_best_three_have_pictures(finished, located):
    sections = errors_sections(located)
    assert sections[0].parts[1].table["model"].tolist() == [f"trial {n}" for n in finished.leaderboard()["trial"][:3]]
    grids = [part for section in sections for part in section.parts if isinstance(part, Pictures)]
    assert grids
    assert max(len(grid.pictures) for grid in grids) <= 8


def test_heat_maps_show_sample_images_of_each_class(finished, located):
    report_data = replace(located, heatmaps=compute_heatmaps(located))
    section = heatmaps_section(report_data)
    heatmaps = [picture for part in section.parts if isinstance(part, Pictures) for picture in part.pictures]
    n_images = np.bincount(finished._store.split.valid.labels)
    assert len(heatmaps) == np.minimum(n_images, 3).sum()
    assert all(picture.pixels.shape == (448, 448, 3) for picture in heatmaps)
    samples = [
        picture.caption for part in samples_section(located).parts if isinstance(part, Pictures) for picture in part.pictures
    ]
    named = {caption.partition(":")[0].rpartition("/")[2] for caption in samples}
    assert {picture.caption.partition(":")[0] for picture in heatmaps} <= named
    assert report_data.heatmaps.off_lung_evidence["class"].tolist()[-1] == "all"
    warned = replace(report_data, heatmaps=replace(report_data.heatmaps, warnings=["Class 'x' looks at letters."]))
    assert "Class 'x' looks at letters." in warnings_of(warned)
    assert any(getattr(part, "is_warning", False) for part in heatmaps_section(warned).parts)


def test_a_damaged_model_removes_only_the_heat_maps(finished):
    copy = api.copy_study("done", "damaged", runs=finished.folder.parent)
    copy._store.model_file(copy.best.number).write_bytes(b"no model")
    page = build_report(copy._store)
    assert section_of(page, "Heat maps").count("<p>Heat maps are omitted. ") == 1
    assert "<h2>Methods</h2>" in page


def test_without_the_images_the_report_states_that_pictures_are_left_out(tmp_path, finished):
    page = build_report(finished._store, data=str(tmp_path / "gone"))
    for title in ("Sample images", "Heat maps"):
        assert "Pictures are omitted. The data folder" in section_of(page, title)
    assert "Errors of each model" in page
    assert 'src="data:image/jpeg' not in page


@pytest.mark.long
def test_ensembles_are_plotted_with_their_gain(finished):
    copy = api.copy_study("done", "joined", runs=finished.folder.parent)
    built = copy.ensemble(top=2, method="average", name="a-pair")
    page = build_report(copy._store, explain=False)
    assert "Ensemble a-pair: two members, method average" in page
    assert "Weights of ensemble a-pair" in page
    assert ("Gain of each method, members of a-pair" in page) == (built.combination.comparison is not None)


def test_failed_trials_are_listed_with_their_reason(finished):
    copy = api.copy_study("done", "failing", runs=finished.folder.parent)
    trial = copy._store.study.ask()
    trial.set_user_attr("error", "NonFiniteLossError: <the loss> is NaN")
    copy._store.study.tell(trial, state=TrialState.FAIL)
    page = build_report(copy._store, explain=False)
    assert "<td>NonFiniteLossError: &lt;the loss&gt; is NaN</td>" in page
    assert "One trial failed" in page


def test_a_report_requires_a_finished_trial(tmp_path, finished):
    shutil.copytree(finished.folder, tmp_path / "empty", ignore=shutil.ignore_patterns("trials", "ensembles"))
    spec = finished._store.spec
    store = StudyStore.create(
        type(spec)(**{**vars(spec), "name": "empty"}),
        finished._store.split,
        runs=tmp_path,
        storage=f"sqlite:///{tmp_path / 's.db'}",
        directions=["maximize"],
    )
    with pytest.raises(StudyError, match=r"needs a finished trial; study 'empty' has no trials yet\."):
        build_report(store)


def test_the_report_of_a_large_study_is_a_small_file(finished):
    trials, rng = finished._store.study.get_trials(), np.random.default_rng(0)
    study = optuna.create_study(direction="maximize")  # in memory, because 500 trials take seconds with SQLite
    study.add_trials(trials)
    study.add_trials(
        [
            create_trial(
                state=TrialState.PRUNED,
                params=trials[0].params,
                distributions=trials[0].distributions,
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
    assert len(build_report(store, explain=False)) < 8e6


def test_a_cost_that_no_trial_has_is_refused(finished):
    table = finished.figures.cost()
    assert table.layout.xaxis.type == "log"
    with pytest.raises(StudyError, match="has a recorded latency"):
        finished.figures.cost("latency")


@pytest.mark.parametrize(
    ("formatted", "expected"),
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
def test_numbers_and_lists_in_sentences(formatted, expected):
    assert formatted == expected
