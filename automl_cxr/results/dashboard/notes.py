"""The notes of a study and of its trials on the dashboard, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from automl_cxr.errors import StudyError
from automl_cxr.records import TrialRecord
from automl_cxr.results.report.methods import methods_paragraphs
from automl_cxr.results.report.report_data import read_report_data
from automl_cxr.results.report.summary import warnings_of
from automl_cxr.results.report.text_format import duration
from automl_cxr.study.store import StudyStore

_MAX_NOTES = 300  # notes of trials; the dashboard reads all notes for each trial


def note_of_study(store: StudyStore) -> str:
    """Return the warnings and the methods of a study; an empty string before the first finished trial."""
    try:
        data = read_report_data(store)
    except StudyError:
        return ""
    warnings = "".join(f"- {_escape_markdown(warning)}\n" for warning in warnings_of(data))
    return f"{warnings}\n" + "\n\n".join(map(_escape_markdown, methods_paragraphs(data)))


def notes_of_trials(store: StudyStore, *, links: Mapping[int, str] = MappingProxyType({})) -> Mapping[int, str]:
    """Return notes by trial number: scores, rank and size of finished trials, and reasons for failed and refused trials.

    If there are more than 300 notes, the best finished trials come first, then the latest failed ones; the rest is omitted.

    Args:
        store: The study.
        links: Markdown that is appended to the note of a trial, by trial number.
    """
    ranked = store.ranked()
    front = {record.number for record in store.pareto_front()}
    notes = {
        record.number: _note_of_finished(store, record, rank, len(ranked), front) for rank, record in enumerate(ranked, start=1)
    }
    for record in reversed(store.records()):
        if record.error or record.refusal:
            notes[record.number] = _escape_markdown(f"{record.state}: {record.error or record.refusal}")
        elif record.number in links:
            notes.setdefault(record.number, _escape_markdown(str(record.state)))
    first = list(notes.items())[:_MAX_NOTES]
    return {number: f"{text}\n\n{links[number]}" if number in links else text for number, text in first}


def _note_of_finished(store: StudyStore, record: TrialRecord, rank: int, n_ranked: int, front: set[int]) -> str:
    objectives = store.spec.objectives
    values: Sequence[float | None] = record.values or (record.score,)
    scores = ", ".join(f"**{name} {value:.6g}**" for name, value in zip(objectives, values, strict=True))
    facts = [
        f"rank {rank} of {n_ranked}",
        "on the Pareto front" if len(objectives) > 1 and record.number in front else "",
        "" if record.is_feasible else f"violates {', '.join(store.spec.requirements)}",
        f"{record.n_parameters:,} parameters" if record.n_parameters else "",
        f"best epoch {record.best_epoch} of {len(record.scores)}" if record.best_epoch else "",
        duration(record.seconds) if record.seconds is not None else "",
        "model saved" if store.has_model(record.number) else "",
    ]
    return f"{scores}: {_escape_markdown(', '.join(filter(None, facts)))}"


def _escape_markdown(text: str) -> str:
    """Escape Markdown characters, because names of classes and files come from users."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~" else letter for letter in text)
