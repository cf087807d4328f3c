"""Metadata of images: sex, age, site, scanner and further columns of tables, and the form in which their values are stored."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.layout_rows import ImageRow, Metadata
from automl_cxr.data.projections import UNKNOWN, projection_of
from automl_cxr.data.table_columns import match_key
from automl_cxr.errors import UnknownNameError

SEX, AGE, VIEW, SITE, SCANNER = "sex", "age", "view", "site", "scanner"
METADATA_NAMES: Mapping[str, tuple[str, ...]] = {
    SEX: ("sex", "gender", "patient_sex", "patient_gender", "PatientSex_DICOM", "sex_at_birth"),
    AGE: ("age", "patient_age", "age_years", "age_in_years", "age_at_study", "age_at_exam", "anchor_age", "PatientAge_DICOM"),
    SITE: ("site", "hospital", "institution", "institution_name", "centre", "center", "site_id", "hospital_id"),
    SCANNER: ("scanner", "manufacturer", "manufacturer_model_name", "scanner_model", "device", "device_model", "machine"),
}
"""Names of columns of tables for each kind of metadata that is read without a choice, in order of preference."""

SUBGROUP_COLUMN = "column of subgroups"
"""Kind of the unknown name, if a chosen column does not exist."""
MAX_AGE = 120  # years; larger numbers are errors, such as the 414 years in ChestX-ray14
_AGE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>y|yr|yrs|year|years|m|mo|month|months|w|week|weeks|d|day|days)?\+?")
_YEARS_OF_UNIT = {"y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
_SEXES = {
    **dict.fromkeys(("f", "female", "woman", "w"), "female"),
    **dict.fromkeys(("m", "male", "man"), "male"),
    **dict.fromkeys(("o", "other", "x", "diverse", "nonbinary"), "other"),
}
_MISSING = frozenset({"", "nan", "<na>", "none", "null", "na", "n/a", "unknown", "unk", "u", "-", "?", "not reported"})


def metadata_columns(header: Sequence[str], options: DataOptions) -> dict[str, int]:
    """Find the columns of metadata in the header of a table.

    Args:
        header: Names of the columns.
        options: The further columns that the user chose (``subgroups``).

    Returns:
        The position of the column by the name of the metadata: "sex", "age", "site" or "scanner", or the name that the user
        typed. Names are compared regardless of case and separators.
    """
    places = {match_key(name): place for place, name in reversed(list(enumerate(header))) if match_key(name)}
    accepted = {**{name: (name,) for name in options.subgroups or ()}, **METADATA_NAMES}
    found = {}
    for name, spellings in accepted.items():
        place = next((places[match_key(one)] for one in spellings if match_key(one) in places), None)
        if place is not None and name != VIEW:
            found[name] = place
    return found


def read_metadata(columns: Mapping[str, Sequence[str]], row: int) -> Metadata:
    """Return the known values of a row of a table, from the texts of each column of metadata."""
    return tuple((name, text) for name, texts in columns.items() if (text := clean_value(name, texts[row])))


def common_metadata(rows: Sequence[Metadata]) -> Metadata:
    """Return the values on which several rows of an image agree; the others are unknown."""
    first, *others = rows
    return tuple(entry for entry in first if all(entry in other for other in others))


def clean_value(name: str, text: str) -> str:
    """Return a value in the form in which it is stored; "" if it is unknown.

    Args:
        name: Name of the metadata. A sex is "female", "male", "other" or the text; an age is a number of years, from texts such
            as "077Y", "18M" and "63"; a view is the name of a projection. Other texts are unchanged.
        text: Text of a table or a DICOM header.
    """
    cleaned = " ".join(text.split())
    if cleaned.casefold() in _MISSING:
        return ""
    if name == SEX:
        return _SEXES.get(cleaned.casefold(), cleaned)
    if name == AGE:
        return _clean_age(cleaned)
    if name == VIEW:
        projection = projection_of(cleaned)
        return "" if projection == UNKNOWN else projection
    return cleaned


def _clean_age(text: str) -> str:
    match = _AGE.fullmatch(text.casefold())
    if match is None:
        return ""
    years = float(match["number"]) * _YEARS_OF_UNIT[(match["unit"] or "y")[0]]
    return f"{years:.4g}" if years <= MAX_AGE else ""


def check_chosen(rows: Iterable[ImageRow], options: DataOptions, columns: Iterable[str]) -> None:
    """Check that each column that the user chose exists in a table or a DICOM header.

    Raises:
        UnknownNameError: No image has a value of the column, and no table has the column.
    """
    if not options.subgroups:
        return
    known = {name for row in rows for name, _ in row.metadata} | {VIEW}
    listed = list(columns)
    keys = {match_key(name) for column in listed for name in column.split(", ")}
    for name in options.subgroups:
        if name not in known and match_key(name) not in keys:
            raise UnknownNameError(SUBGROUP_COLUMN, name, dict.fromkeys([*sorted(known), *listed]))
