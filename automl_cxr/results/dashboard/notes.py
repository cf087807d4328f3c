"""What is said of a study and of its trials on the dashboard, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from automl_cxr.errors import StudyError
from automl_cxr.records import TrialRecord
from automl_cxr.results.report.methods import methods_paragraphs
from automl_cxr.results.report.report_data import read_report_data
from automl_cxr.results.report.summary import warnings_of
from automl_cxr.results.report.text_format import duration
from automl_cxr.study.store import StudyStore

_MOST = 300  # trials with a note; the dashboard reads all notes for each of them


def note_of_study(store: StudyStore) -> str:
    """Say how the study was made and what to beware of; nothing before the first finished trial."""
    try:
        evidence = read_report_data(store)
    except StudyError:
        return ""
    warnings = "".join(f"- {_plain(warning)}\n" for warning in warnings_of(evidence))
    return f"{warnings}\n" + "\n\n".join(map(_plain, methods_paragraphs(evidence)))


def notes_of_trials(store: StudyStore) -> Mapping[int, str]:
    """Say of each ended trial, by number, how it compares or why it did not count; of very many, the best and the latest."""
    ranked = store.ranked()
    front = {record.number for record in store.pareto_front()}
    notes = {
        record.number: _of_finished(store, record, rank, len(ranked), front) for rank, record in enumerate(ranked, start=1)
    }
    for record in reversed(store.records()):
        if record.error or record.refusal:
            notes[record.number] = _plain(f"{record.state}: {record.error or record.refusal}")
    return dict(list(notes.items())[:_MOST])


def _of_finished(store: StudyStore, record: TrialRecord, rank: int, n_ranked: int, front: set[int]) -> str:
    objectives = store.spec.objectives
    values: Sequence[float | None] = record.values or (record.score,)
    scores = ", ".join(f"**{name} {value:.6g}**" for name, value in zip(objectives, values, strict=True))
    facts = [
        f"rank {rank} of {n_ranked}",
        "on the Pareto front" if len(objectives) > 1 and record.number in front else "",
        "" if record.is_feasible else f"breaks {', '.join(store.spec.requirements)}",
        f"{record.n_parameters:,} parameters" if record.n_parameters else "",
        f"best epoch {record.best_epoch} of {len(record.scores)}" if record.best_epoch else "",
        duration(record.seconds) if record.seconds is not None else "",
        "model kept" if store.has_model(record.number) else "",
    ]
    return f"{scores}: {_plain(', '.join(filter(None, facts)))}"


def _plain(text: str) -> str:
    """Take the meaning from what Markdown would read as its own: names of classes and files are other people's."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|~" else letter for letter in text)
