"""What notebooks show for the objects of the Python interface: HTML with the facts, in which every text is escaped."""

import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from automl_cxr.html_tables import escaped, facts_table, rows_table
from automl_cxr.records import TrialRecord, TrialState

EVIL = "<img src=x onerror=alert(1)>\x1b[2J&\"'"
SHOWN_TAGS = {"div", "table", "tr", "th", "td"}


def tags_and_text(html: str) -> tuple[set[str], str]:
    found, texts = set(), []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.add(tag)
    parser.handle_data = texts.append
    parser.feed(html)
    return found, " ".join(texts)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, ""), (True, "yes"), (2388195, "2,388,195"), (0.83934, "0.8393"), (1.5e-5, "1.5e-05"), (float("nan"), "nan")],
)
def test_values_are_formatted(value, text):
    assert escaped(value) == text


def test_names_values_and_headers_are_escaped():
    html = facts_table({EVIL: EVIL, "absent": None}) + rows_table([EVIL], [[EVIL]])
    found, text = tags_and_text(html)
    assert found <= SHOWN_TAGS
    assert text.count("<img src=x onerror=alert(1)>\\x1b[2J") == 4
    assert "absent" not in text


def test_a_trial_shows_its_hyperparameters_and_the_reason_of_a_failure():
    trial = TrialRecord(number=3, state=TrialState.FAILED, params={"layers": EVIL, "dropout": 0.25}, error=EVIL)
    found, text = tags_and_text(trial._repr_html_())
    assert found <= SHOWN_TAGS
    assert "dropout=0.25" in text
    assert text.count("<img") == 2
    assert repr(trial).startswith("Trial 3: failed")


def test_a_study_shows_its_best_trials_and_the_recommendation(finished):
    found, text = tags_and_text(finished._repr_html_())
    assert found <= SHOWN_TAGS
    assert f"{finished.best.score:.4f}" in text
    assert "4 complete" in text
    assert finished.recommended.sentence in text


def test_the_recommended_classifier_and_its_networks_are_shown(finished):
    _, text = tags_and_text(finished.recommended._repr_html_())
    assert f"{finished.recommended.score:.4f}" in text
    classifier = replace(finished.classifier(), name=EVIL, classes=(EVIL, "b"), warnings=(EVIL,), notes=(EVIL,))
    found, text = tags_and_text(classifier._repr_html_())
    assert found <= SHOWN_TAGS
    assert text.count("<img") == 4
    assert "32 pixels, stretch" in text


def test_an_evaluation_shows_scores_with_intervals_for_the_part_and_each_class(finished):
    evaluation = replace(finished.evaluate(finished.best.number, part="valid"), classifier=EVIL, warnings=(EVIL,))
    found, text = tags_and_text(evaluation._repr_html_())
    assert found <= SHOWN_TAGS
    assert f"{evaluation.scores['macro_f1']:.4f}" in text
    assert f"{evaluation.intervals['macro_f1'].low:.4f}" in text
    assert all(name in text for name in evaluation.per_class.index)


def test_an_ensemble_shows_the_weight_of_each_member(finished):
    ensemble = finished.ensemble(top=2, method="average", name="shown")
    found, text = tags_and_text(ensemble._repr_html_())
    assert found <= SHOWN_TAGS
    assert text.count("0.5000") == 2


def test_tables_for_notebooks_need_no_library():
    code = "import sys, automl_cxr.html_tables; sys.exit(bool({'jinja2', 'IPython', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
