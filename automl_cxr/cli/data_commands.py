"""`automl-cxr data`: look at data, draw phantoms."""

from __future__ import annotations

import click

from automl_cxr.cli.printing import print_json, print_table, progress_bar, shown_path
from automl_cxr.cli.words import data_options, debug_option, json_option


@click.group()
def data() -> None:
    """Look at data, or draw phantom radiographs."""


@data.command("inspect")
@click.argument("directory", metavar="DIR")
@data_options
@json_option
@debug_option
def inspect(directory: str, layout: str | None, classes: list[str] | None, patients: str | None, as_json: bool) -> None:
    """Show classes, patients, sizes and splits of DIR, and every file that cannot be read."""
    from automl_cxr.data.inspection import inspect_data

    with progress_bar("decoding") as on_progress:
        found = inspect_data(directory, layout=layout, classes=classes, patients=patients, on_progress=on_progress)
    if as_json:
        tables = {name: getattr(found, name).to_dict(orient="records") for name in ("classes", "splits")}
        print_json({**vars(found), **tables, "root": str(found.root)})
        return
    patients_text = "unknown" if found.n_patients is None else f"{found.n_patients}"
    click.echo(f"{found.root}: layout {found.layout}, {found.classes['images'].sum()} images, patients: {patients_text}")
    print_table(found.classes, title="classes")
    if not found.splits.empty:
        print_table(found.splits, title="given split, images")
    click.echo("sizes (height x width): " + ", ".join(f"{name} {h}x{w}" for name, (h, w) in found.sizes.items()))
    if found.n_patients_in_classes:
        click.echo(f"{found.n_patients_in_classes} patients have images in more than one class")
    for what, reasons in (("cannot be read", found.unreadable), ("left out", found.ignored)):
        if reasons:
            click.echo(f"{what}: {len(reasons)}")
        for path, reason in reasons.items():
            click.echo(f"  {shown_path(path)}: {reason}")
    for note in found.notes:
        click.echo(f"note: {note}")


@data.command("demo")
@click.argument("directory", metavar="DIR")
@click.option("--images", "n_images", type=click.IntRange(12), default=600, show_default=True, help="Images in all.")
@click.option("--image-size", type=click.IntRange(32, 1024), default=128, show_default=True, help="Pixels.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@debug_option
def demo(directory: str, n_images: int, image_size: int, seed: int) -> None:
    """Draw phantom radiographs into DIR: normal, with an opacity, or with an effusion."""
    from automl_cxr.data.phantoms import draw_phantoms

    folder = draw_phantoms(directory, n_images=n_images, image_size=image_size, seed=seed)
    click.echo(f"{n_images} phantom radiographs in {folder}")
