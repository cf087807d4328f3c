"""The images of a data set that are used: radiographs of the chosen projections, without masks and other objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from automl_cxr.data.data_options import DataOptions
from automl_cxr.data.dicom_tags import Headers, fill_views, leave_out_other_objects, note_other_body_parts, read_headers
from automl_cxr.data.exclusions import ExclusionCounter
from automl_cxr.data.layout_rows import ImageRow
from automl_cxr.data.masks import leave_out_masks
from automl_cxr.data.projections import check_view_column, choose_projections


def select_images(
    root: Path, rows: Sequence[ImageRow], options: DataOptions, notes: list[str], excluded: ExclusionCounter
) -> tuple[list[ImageRow], Headers]:
    """Leave out images that are not to be used, and fill in missing views.

    Args:
        root: Folder that the images' paths are relative to.
        rows: All images.
        options: How the data are read.
        notes: Notes for the user, to which notes are appended.
        excluded: Counter of the images that are left out.

    Returns:
        The images to use, and the header of each DICOM file, also of those that are left out.

    Raises:
        UnknownNameError: There is no such projection.
        UsageError: The chosen column of views contains no projections.
        DataError: No image is left.
    """
    if options.view_column is not None:
        check_view_column(rows, options.view_column)
    images = leave_out_masks(rows, options.classes, notes)
    excluded.count(images, "a mask")
    headers = read_headers(root, images)
    images = fill_views(leave_out_other_objects(images, headers, notes), headers)
    excluded.count(images, "not a radiograph")
    images = choose_projections(images, options.projections, notes)
    excluded.count(images, "a projection that is not used")
    note_other_body_parts(images, headers, notes)
    return images, headers
