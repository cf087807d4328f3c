"""`automl-cxr cache`: what is kept of what was computed, and clearing it."""

from __future__ import annotations

import dataclasses
import time

import click

from automl_cxr.cli.options import debug_option, json_option
from automl_cxr.cli.output import human_bytes, print_json, print_table
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
    """Show what is kept of decoded images and of frozen layers' features, all of which can be computed again."""
    if context.invoked_subcommand is not None:
        return
    import pandas as pd

    from automl_cxr.data.cache import cache_folder
    from automl_cxr.data.cache_listing import list_cache_entries
    from automl_cxr.data.feature_cache import FeatureCache

    entries, limit = list_cache_entries(), FeatureCache().limit
    if as_json:
        told = [dataclasses.asdict(entry) for entry in entries]
        print_json({"folder": str(cache_folder()), "features_limit": limit, "entries": told})
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
    taken = {kind: human_bytes(sum(one.n_bytes for one in entries if one.kind == kind)) for kind in ("images", "features")}
    click.echo(f"{cache_folder()}: images {taken['images']}, features {taken['features']} of at most {human_bytes(limit)}")
    if rows:
        print_table(pd.DataFrame(rows), title="kept")


@cache.command("clear")
@json_option
@debug_option
def clear(as_json: bool) -> None:
    """Remove decoded images and features, but for what is being written; not for while a search runs."""
    from automl_cxr.data.cache_listing import clear_cache

    freed = clear_cache()
    if as_json:
        print_json({"freed_bytes": freed})
        return
    click.echo(f"{human_bytes(freed)} freed")
