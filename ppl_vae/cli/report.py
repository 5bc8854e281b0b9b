"""``ppl-vae report``: one page on one run, or on several side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppl_vae.cli.errors import FAILURE, SUCCESS, UsageError
from ppl_vae.cli.output import say, show
from ppl_vae.cli.runs import Run
from ppl_vae.io.atomic import refuse_links
from ppl_vae.report import Report, report
from ppl_vae.report.options import destination
from ppl_vae.spec import entries

FOLDER = "report"
_SAME = (
    *(entry.name for entry in entries("data") if entry.load and entry.name != "root"),
    *("name", "binarise", "seed"),
)


def run(flags: Any) -> int:
    """Write the page, and return the exit code."""
    runs = [Run(Path(folder)) for folder in flags.runs]
    if flags.out is not None:
        return _written(runs, Path(flags.out), flags)
    out = runs[0].folder / FOLDER
    refuse_links(runs[0].folder)
    try:
        destination(out)
    except OSError as error:  # the run is read-only: print the numbers
        with tempfile.TemporaryDirectory() as folder:
            show(reported(runs, Path(folder), flags, figures=False))
        say(f"error: {error}; here, --out")
        return FAILURE
    return _written(runs, out, flags)


def _written(runs: Sequence[Run], out: Path, flags: Any) -> int:
    result = reported(runs, out, flags)
    show(result, f"report: {result.page}")
    return SUCCESS


def reported(runs: Sequence[Run], out: Path, flags: Any, *, figures: bool = True) -> Report:
    """Evaluate runs on their common test data.

    Raises:
        UsageError: if their data differ, or a folder is not a run.
    """
    first = runs[0].configuration.data
    for other in runs[1:]:
        for entry in _SAME:
            here, there = (getattr(c, entry) for c in (first, other.configuration.data))
            if here != there:
                raise UsageError(
                    f"{other.folder} has data.{entry} = {there!r}, and {runs[0].folder} {here!r}; "
                    f"report runs of the same data"
                )
    names = [one.name for one in runs]
    if len(set(names)) < len(names):
        names = [str(one.folder) for one in runs]
    if len(set(names)) < len(names):
        raise UsageError("a run is given twice; give each once")
    pairs = {name: one.pair(flags.device) for name, one in zip(names, runs, strict=True)}
    # Masses are given the levels of noisy data; a density must have been trained on the noise.
    noisy = [one for one in runs if one.configuration.data.dequantise]
    for one, pair in zip(runs, pairs.values(), strict=True):
        if noisy and one not in noisy and not pair.observation.is_discrete:
            raise UsageError(
                f"{noisy[0].folder} has data.dequantise = True, and {one.folder} False, under a "
                f"density ({type(pair.likelihood).__name__}); report runs of the same data"
            )
    source = (noisy or runs)[0]
    train = source.data("train")
    curves = {name: one.history() for name, one in zip(names, runs, strict=True)}
    return report(
        pairs,
        source.data("test"),
        out,
        train=train if train.labelled.any() else None,
        history={name: curve for name, curve in curves.items() if curve} or None,
        num_data=None if flags.num_data == "all" else flags.num_data,
        num_samples=flags.num_samples,
        annealed_data=flags.annealed_data,
        gap_data=flags.gap_data,
        seed=flags.seed,
        progress=not flags.quiet,
        compile=flags.compile,
        figures=figures,
    )
