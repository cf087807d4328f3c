"""The commands of `automl-cxr cache`."""

from __future__ import annotations

import dataclasses
import time

import click

from automl_cxr.cli.options import debug_option, json_option
from automl_cxr.cli.output import human_bytes, print_json, print_line, print_table
from automl_cxr.cli.sections import CommandSection, SectionedGroup


@click.group(
    cls=SectionedGroup,
    section=CommandSection.MAINTAIN,
    short_help="Show or clear the cached images and features.",
    invoke_without_command=True,
)
@json_option
@debug_option
@click.pass_context
def cache(context: click.Context, as_json: bool) -> None:
    """Show the size and the contents of the cache: decoded images, features of frozen layers, copies from other machines, and
    compiled functions.

    The contents can be computed again at any time.
    """
    if context.invoked_subcommand is not None:
        return
    import pandas as pd

    from automl_cxr.cache_folder import cache_folder
    from automl_cxr.data.cache_listing import list_cache_entries
    from automl_cxr.data.feature_cache import FeatureCache
    from automl_cxr.data.image_space import image_limit

    entries, limit, limit_of_images = list_cache_entries(), FeatureCache().limit, image_limit(cache_folder() / "decoded")
    if as_json:
        listed = [dataclasses.asdict(entry) for entry in entries]
        print_json({"folder": str(cache_folder()), "images_limit": limit_of_images, "features_limit": limit, "entries": listed})
        return
    rows = [
        {
            "kind": entry.kind,
            "what": entry.what,
            "images": entry.n_images,
            "size": human_bytes(entry.n_bytes),
            "last used": time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.last_used)),
        }
        for entry in entries
    ]
    kinds = ("images", "features", "copies", "compiled")
    used = {kind: human_bytes(sum(entry.n_bytes for entry in entries if entry.kind == kind)) for kind in kinds}
    print_line(
        f"{cache_folder()}: images {used['images']} of at most {human_bytes(limit_of_images)}, "
        f"features {used['features']} of at most {human_bytes(limit)}, "
        f"copies {used['copies']}, compiled functions {used['compiled']}"
    )
    if rows:
        print_table(pd.DataFrame(rows), title="cache entries")


@cache.command("clear")
@json_option
@debug_option
def clear(as_json: bool) -> None:
    """Delete the cached images, features, copies and compiled functions. Do not run it during a search.

    Entries that are being written, and images that a process on this machine uses, are kept.
    """
    from automl_cxr.data.cache_listing import clear_cache

    freed = clear_cache()
    if as_json:
        print_json({"freed_bytes": freed})
        return
    print_line(f"{human_bytes(freed)} freed")
