"""Columns of a table that may name patients, by their names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

_PERSONS = frozenset({"patient", "patients", "subject", "person", "participant", "individual", "mrn", "pid", "case"})
_SHORT = frozenset({"pat", "pt", "subj"})  # also other words, such as the prothrombin time, if they are alone
_VISITS = frozenset({"study", "exam", "examination", "accession", "visit", "encounter", "admission", "record"})
_NUMBERS = frozenset(
    {"id", "ids", "uid", "no", "nr", "num", "number", "nummer", "key", "code", "hash", "name", "anon", "index"}
)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_JOINED = re.compile(
    rf"({'|'.join(sorted(_PERSONS | _SHORT | _VISITS))})(?:en|in)?(id|uid|no|nr|num|number|nummer)"
)  # subjectid


def may_name_patients(column: str) -> bool:
    """Return whether a column may contain a number of a person, or of a visit, by the words of its name.

    "MRN", "Case No" and "StudyInstanceUID" may; "Patient Age" and "Study Date" may not.
    """
    words: list[str] = []
    for word in map(str.casefold, _WORD.findall(column)):
        joined = _JOINED.fullmatch(word)
        words.extend(joined.groups() if joined else [word])
    if not _PERSONS.isdisjoint(words):
        return set(words) <= _PERSONS | _VISITS | _NUMBERS
    return not (_VISITS | _SHORT).isdisjoint(words) and not _NUMBERS.isdisjoint(words)


def patient_column_note(table: str, unused: Sequence[str]) -> str:
    """Return a note on columns that are not used and may name patients; "" if there are none.

    Args:
        table: Name of the table, in which no column of patients was found.
        unused: Names of its columns that are not used.
    """
    columns = [name.strip() for name in unused if may_name_patients(name)]
    if not columns:
        return ""
    listed = ", ".join(f"'{name}'" for name in columns)
    return (
        f"{table}: {'the column' if len(columns) == 1 else 'the columns'} {listed} may name patients and "
        f"{'is' if len(columns) == 1 else 'are'} not used. If images of one patient share its value: --patient-column "
        f"{shlex.quote(columns[0])}."
    )
