"""``ppl-vae explore``: a local page to play with trained runs, or the same as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.output import show
from ppl_vae.cli.report import common_data, named, names
from ppl_vae.cli.runs import Run


def run(flags: Any) -> int:
    """Serve the page of runs until Ctrl-C, or write it; return the exit code."""
    from ppl_vae import explorer  # slow to import

    runs = [Run(Path(folder).expanduser()) for folder in flags.runs]
    if flags.export is not None:
        for flag, typed in (("--port", flags.port), ("--no-browser", flags.no_browser or None)):
            if typed is not None:
                raise UsageError(
                    f"{flag} is for a server, and --export writes a file; leave it out"
                )
    pairs, data = (
        _of_tables(runs, flags) if any(r.is_table for r in runs) else _of_pairs(runs, flags)
    )
    options = {
        "site": flags.site,
        "plane": flags.plane,
        "num_data": None if flags.num_data == "all" else flags.num_data,
        "seed": flags.seed,
    }
    if flags.export is not None:
        show(f"page: {explorer.export(pairs, data, flags.export, **options)}")
        return SUCCESS
    explorer.explore(
        pairs,
        data,
        **options,
        port=flags.port,
        show=not flags.no_browser,
        started=lambda address: show(f"explore: {address}, for browsers here; Ctrl-C ends it"),
    )
    return SUCCESS


def _of_pairs(runs: Sequence[Run], flags: Any) -> tuple[dict[str, Any], Any]:
    """Return the pairs of runs by name, and their common test data."""
    if flags.data is not None:
        raise UsageError("--data is for a run of a table; others have test data of their own")
    pairs = named(runs, flags.device)
    return pairs, common_data(runs, pairs).data("test")


def _of_tables(runs: Sequence[Run], flags: Any) -> tuple[dict[str, Any], Any]:
    """Return the models of tables by name, and the rows to look at."""
    from ppl_vae.cli import tables  # slow to import

    other = next((r for r in runs if not r.is_table), None)
    if other is not None:
        raise UsageError(f"{other.folder} is no run of a table, and another is; explore them apart")
    return tables.explored([str(r.folder) for r in runs], names(runs), flags)
