"""Labelled images of external sites, with the class names and the projections of a study."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from automl_cxr.data.class_map import load_class_map
from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dataset import Dataset, load_dataset
from automl_cxr.data.projections import (
    LATERAL,
    OTHER,
    UNKNOWN,
    count_projections,
    describe_counts,
    included_projections,
    projection_of,
)
from automl_cxr.errors import DataError, UnknownNameError, UsageError
from automl_cxr.results.site_classes import match_classes
from automl_cxr.results.site_findings import match_findings
from automl_cxr.study.data_preparation import digest_table
from automl_cxr.study.store import StudyStore
from automl_cxr.tasks import MULTICLASS


@dataclass(frozen=True)
class ExternalSite:
    """Labelled images of an external site.

    Attributes:
        name: Name of the folder or table; the prefix of the site's columns.
        folder: The folder or table.
        dataset: The images.
        class_map: The study's class by the site's class, where they differ; "" for images (or findings) that are not used.
        notes: Sentences for the user.
    """

    name: str
    folder: str
    dataset: Dataset
    class_map: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def table_digest(self) -> str:
        """Digest of the image names, labels and patients."""
        return digest_table(self.dataset)

    def for_study(self, store: StudyStore) -> ExternalSite:
        """Return the images with the class names of a study, without images of classes and projections that are not used.

        Raises:
            UnknownNameError: The study does not have a class of ``class_map``.
            DataError: The site has another class, or images of fewer than two classes of the study. Of several findings, it has
                none of the study.
        """
        dataset, notes = _select_projections(self.dataset, store.spec.projections, self.name)
        if dataset.is_multilabel:
            found = match_findings(dataset, self.class_map, site=self.name, study=store.name, findings=store.spec.classes)
            return ExternalSite(self.name, self.folder, found.dataset, notes=(*notes, *found.notes))
        matched = match_classes(
            dataset,
            self.class_map,
            site=self.name,
            folder=self.folder,
            study=store.name,
            classes=store.spec.classes,
            study_map=store.spec.class_map,
        )
        return ExternalSite(self.name, self.folder, matched.dataset, notes=(*notes, *matched.notes))


def open_sites(
    folders: Sequence[str | Path],
    class_map: Mapping[str, str] | str | Path | None = None,
    *,
    task: str = MULTICLASS,
) -> list[ExternalSite]:
    """Load the images of external sites, in any supported layout.

    Args:
        folders: Folder or table of each site.
        class_map: The study's class by the site's class, as in ``load_class_map``, for all sites.
        task: Task of the studies, a name in ``tasks.TASKS``.

    Raises:
        UsageError: Two sites have the same name, the map has another form, or no site is given for it.
        UnknownNameError: No site has a class of the map.
        DataError: There are no images, or fewer than two classes.
    """
    entries = load_class_map(class_map)
    if entries and not folders:
        raise UsageError("--class-map applies to the classes of external sites; received no site. Add one with --external.")
    sites = [
        ExternalSite(Path(folder).expanduser().absolute().stem, str(folder), _load_site(folder, task), entries)
        for folder in folders
    ]
    names = [site.name for site in sites]
    if len(set(names)) < len(names):
        raise UsageError(f"The folders of external sites must have different names; received {', '.join(names)}. Rename one.")
    known = {name for site in sites for name in site.dataset.classes}
    for name in entries:
        if name not in known:
            raise UnknownNameError("class of a site in --class-map", name, known)
    return sites


def _load_site(folder: str | Path, task: str) -> Dataset:
    """Load the images of a site. An error names the way to read the site with options, if it exists."""
    try:
        # A site may have few images with a finding, and all of them are scored.
        return load_dataset(folder, DataOptions(task=task, min_positives=0))
    except DataError as error:
        if not Path(folder).expanduser().exists():
            raise
        raise DataError(
            f"{error} To read an external site with options, save it as a table, `automl-cxr data inspect "
            f"{shlex.quote(str(folder))} OPTIONS --save site.csv`, and name the table, --external site.csv."
        ) from error


def _select_projections(dataset: Dataset, requested: Sequence[str] | None, site: str) -> tuple[Dataset, tuple[str, ...]]:
    """Leave out the images of a site whose projection is known and not one of the study. Return a note on others."""
    views = dataset.table["view"]
    counts = count_projections(views)
    if requested is None:
        if counts.keys().isdisjoint((LATERAL, OTHER)):
            return dataset, ()
        return dataset, (f"Not all images of {site} are frontal ({describe_counts(counts)}); all of them are scored.",)
    is_used = views.map(projection_of).isin([*included_projections(requested), UNKNOWN])
    if is_used.all():
        return dataset, ()
    note = (
        f"{int((~is_used).sum())} of {len(views)} images of {site} are not of the study's projections ({','.join(requested)}) "
        f"and are not scored: {describe_counts(count_projections(views[~is_used]))}."
    )
    table = dataset.table[is_used].reset_index(drop=True)
    if dataset.is_multilabel:
        return replace(dataset, table=table), (note,)
    present = set(table["label"])
    return replace(dataset, table=table, classes=tuple(name for name in dataset.classes if name in present)), (note,)
