"""The classes of an external site under the names of a study."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from automl_cxr.data.dataset import Dataset
from automl_cxr.errors import DataError, UnknownNameError
from automl_cxr.scoring.metrics import is_normal_name

_MEANS = "macro-F1, macro-AUC and macro average precision"


@dataclass(frozen=True)
class MatchedClasses:
    """The images of a site whose classes the study has.

    Attributes:
        dataset: The images, with the study's class names; its classes are those of the study that have images, in their order.
        notes: Sentences for the user on classes that are absent or not used.
    """

    dataset: Dataset
    notes: tuple[str, ...]


def match_classes(
    dataset: Dataset,
    class_map: Mapping[str, str],
    *,
    site: str,
    folder: str,
    study: str,
    classes: Sequence[str],
    study_map: Mapping[str, str] | None = None,
) -> MatchedClasses:
    """Give the images of a site the class names of a study.

    Classes are never guessed: names that differ are proposed in the error message only.

    Args:
        dataset: The images of the site.
        class_map: The study's class by the site's class, where they differ; "" for images that are not used. Entries for other
            sites are allowed.
        site: Name of the site, for messages.
        folder: Its folder or table, for the command in a message.
        study: Name of the study.
        classes: Classes of the study.
        study_map: The map with which the study named the classes of its own data; its entries are proposed.

    Raises:
        UnknownNameError: The study does not have a class of ``class_map``.
        DataError: The site has a class that the study does not have and the map does not name, or images of fewer than two
            classes of the study.
    """
    for target in class_map.values():
        if target and target not in classes:
            raise UnknownNameError(f"class of study '{study}' in --class-map", target, classes)
    unknown = [name for name in dataset.classes if class_map.get(name, name) not in ("", *classes)]
    if unknown:
        raise DataError(
            _explain_unknown(
                dataset,
                class_map,
                unknown,
                site=site,
                folder=folder,
                study=study,
                classes=classes,
                study_map=study_map or {},
            )
        )
    labels = dataset.table["label"].map(lambda name: class_map.get(name, name))
    is_used = labels != ""
    table = dataset.table.assign(label=labels)[is_used].reset_index(drop=True)
    present = tuple(name for name in classes if (labels == name).any())
    if len(present) < 2:
        raise DataError(
            f"A site must have images of at least two classes of study '{study}' ({', '.join(classes)}); {site} has "
            f"{present[0] if present else 'none'}, so precision and AUC would be meaningless. `automl-cxr predict {study} "
            f"{shlex.quote(folder)}` lists the predicted class of each image."
        )
    notes = []
    if not is_used.all():
        unused = ", ".join(name for name in dataset.classes if class_map.get(name) == "")
        notes.append(f"{int((~is_used).sum())} of {len(labels)} images of {site} ({unused}) are not used (--class-map).")
    if len(present) < len(classes):
        absent = ", ".join(name for name in classes if name not in present)
        notes.append(
            f"{site} has images of {len(present)} of {len(classes)} classes ({', '.join(present)}; none of {absent}). Its "
            f"{_MEANS} are means over these classes, and an image that is predicted as another class counts as an error. They "
            "cannot be compared with scores over all classes."
        )
    return MatchedClasses(replace(dataset, table=table, classes=present), tuple(notes))


def _explain_unknown(
    dataset: Dataset,
    class_map: Mapping[str, str],
    unknown: Sequence[str],
    *,
    site: str,
    folder: str,
    study: str,
    classes: Sequence[str],
    study_map: Mapping[str, str],
) -> str:
    """Return the message for classes that the study does not have, with the command for names that are nearly equal."""
    n_images = dataset.table["label"].value_counts()
    listed = ", ".join(f"'{name}' ({n_images[name]} images)" for name in unknown)
    taken = {class_map.get(name, name) for name in dataset.classes if name not in unknown}
    open_classes = [one for one in classes if one not in taken]
    similar = {name: study_map.get(name) or _similar_class(name, open_classes) for name in unknown}
    proposed = {name: other for name, other in similar.items() if other}
    others = [name for name in unknown if name not in proposed]
    message = (
        f"The classes of a site must be those of study '{study}' ({', '.join(classes)}), or be assigned to them with "
        f"--class-map; {site} has {listed}. "
    )
    if others:
        example = others[0]
        message += (
            f"Add '{example}=CLASS' with the class of the study for each of {', '.join(others)}, or '{example}=' to use none "
            "of its images"
        )
        message += "; " if proposed else f": --class-map {shlex.quote(','.join(f'{name}=CLASS' for name in others))}."
    if proposed:
        # Entries that were already given are repeated, so that the command can be copied.
        entries = {**{name: other for name, other in class_map.items() if name in dataset.classes}, **proposed}
        pairs = ",".join(f"{name}={other}" for name, other in entries.items())
        command = f"automl-cxr leaderboard {study} --external {shlex.quote(folder)} --class-map {shlex.quote(pairs)}"
        names = "some names are" if others else "The names are"
        message += f"{names} known or differ in spelling only: `{command}`."
    return message


def _similar_class(name: str, classes: Sequence[str]) -> str:
    """Return the only class whose name is equal except for case and separators, or that is also without a finding; else ""."""
    folded = _fold(name)
    found = [one for one in classes if _fold(one) == folded] or [one for one in classes if _are_normal(name, one)]
    return found[0] if len(found) == 1 else ""


def _fold(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def _are_normal(name: str, other: str) -> bool:
    return is_normal_name(name) and is_normal_name(other)
