"""The command `automl-cxr describe`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from automl_cxr.cli.options import debug_option, json_option, set_option
from automl_cxr.cli.output import print_json, print_line, print_table
from automl_cxr.cli.sections import CommandSection, SectionedCommand

if TYPE_CHECKING:
    from automl_cxr.model.memory_estimate import MemoryEstimate
    from automl_cxr.model.summary import ModelSummary
    from automl_cxr.study.presets import Preset


@click.command(cls=SectionedCommand, section=CommandSection.SEARCH, short_help="Show the layers and the cost of a network.")
@click.argument("name")
@set_option
@click.option("--image-size", type=click.IntRange(16, 2048), help="Height and width of the images, in pixels.")
@click.option("--n-classes", type=click.IntRange(2), help="Number of classes  [default: the published number, else 2]")
@json_option
@debug_option
def describe(
    name: str, fixed: tuple[tuple[str, Any], ...], image_size: int | None, n_classes: int | None, as_json: bool
) -> None:
    """Show the layers, output shapes, parameters and costs of a network, and the memory that its training needs.

    NAME is a system listed by `automl-cxr systems`, a search space (its default configuration is shown), a TOML file of a
    system or search space, or a backbone.
    """
    from automl_cxr import api

    values = dict(fixed) if image_size is None else {**dict(fixed), "image_size": image_size}
    system, summary, memory = api.describe(name, values, n_classes=n_classes)
    if as_json:
        print_json(_as_json(system, summary, memory))
        return
    import pandas as pd

    rows = pd.DataFrame([dataclasses.asdict(layer) for layer in summary.layers])
    rows["output_shape"] = [" x ".join(map(str, layer.output_shape)) for layer in summary.layers]
    print_table(rows.rename(columns=lambda column: column.replace("_", " ")), title=f"{name}: {system.description}")
    parts = pd.DataFrame([{"part": part, **dataclasses.asdict(sums)} for part, sums in summary.parts.items()])
    print_table(parts.rename(columns=lambda column: column.replace("_", " ")), title="parts")
    print_line(f"parameters: {summary.parameters:,} ({summary.weight_bytes / 1e6:,.1f} MB)")
    print_line(f"trainable: {summary.trainable:,}; not trainable: {summary.non_trainable:,}")
    if summary.frozen_phase_trainable is not None:
        print_line(f"trainable while the backbone is frozen: {summary.frozen_phase_trainable:,}")
    print_line(f"multiply-adds per image: {summary.multiply_adds:,}")
    _print_memory(memory)
    for branch, points in summary.splice_points.items():
        print_line(f"splice points of {branch}: {', '.join(f'{number} {at}' for number, at in enumerate(points, start=1))}")
    for what, count in system.published.items():
        found = getattr(summary, what)
        comparison = "the same here" if found == count else f"here {found:,}"
        print_line(f"published {what.replace('_', ' ')}: {count:,} ({comparison})")


def _print_memory(memory: MemoryEstimate) -> None:
    available = "unknown" if memory.there is None else f"{memory.there / 1e9:,.1f} GB"
    print_line(
        f"memory for training, approximately: {memory.one_image / 1e6:,.0f} MB with one image per batch, "
        f"{memory.each_image / 1e6:,.1f} MB for each further image, {memory.batch / 1e6:,.0f} MB with "
        f"{memory.batch_size} images per batch; available: {available}"
    )
    if not memory.fits:
        print_line("The memory of this machine is insufficient; a search would refuse the network.")


def _as_json(system: Preset, summary: ModelSummary, memory: MemoryEstimate) -> dict[str, Any]:
    return {
        "name": system.name,
        "description": system.description,
        **dataclasses.asdict(summary),
        "memory": {**dataclasses.asdict(memory), "fits": memory.fits},
        "published": dict(system.published),
        "config": dataclasses.asdict(system.config),
    }
