"""A study as HTML for notebooks: its settings, its best trials and the recommendation."""

from __future__ import annotations

from collections import Counter

from automl_cxr.html_tables import facts_table, note_line, rows_table, title_line
from automl_cxr.records import TrialRecord
from automl_cxr.results.recommendation_record import load_recommendation
from automl_cxr.study.store import StudyStore

_N_SHOWN = 5


def study_html(store: StudyStore) -> str:
    """Return a study as HTML. Names of classes, studies and parameters are escaped."""
    spec, states = store.spec, Counter(str(record.state) for record in store.records())
    recommended = load_recommendation(store)
    facts = {
        "space": spec.space_name,
        "findings" if spec.is_multilabel else "classes": ", ".join(spec.classes),
        "image size": f"{spec.image_size} pixels",
        "trials": ", ".join(f"{count} {state}" for state, count in states.items()) or "none yet",
        "folder": store.folder,
    }
    parts = [title_line(f"Study {spec.name}"), facts_table(facts)]
    ranked = store.ranked()
    if ranked:
        shown = ranked[:_N_SHOWN]
        parts.append(title_line(f"Best {len(shown)} of {len(ranked)} finished trials"))
        parts.append(rows_table(("trial", spec.objective, "parameters", "hyperparameters"), map(_trial_row, shown)))
    if recommended is not None:
        parts.append(note_line(recommended.sentence))
    return "".join(parts)


def _trial_row(record: TrialRecord) -> tuple[object, ...]:
    violation = "" if record.is_feasible else " (violates a requirement)"
    return f"{record.number}{violation}", record.score, record.n_parameters, record.params_text
