"""``ppl-vae evaluate`` and ``ppl-vae report``: the numbers of runs, and one page with pictures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae.cli.data_source import identity
from ppl_vae.cli.errors import FAILURE, SUCCESS, UsageError
from ppl_vae.cli.output import say, show
from ppl_vae.cli.runs import Run
from ppl_vae.io.atomic import refuse_links, write_file
from ppl_vae.models import Pair
from ppl_vae.report import Report, TableReport, report
from ppl_vae.report.options import destination
from ppl_vae.spec import entries

NUMBERS, FOLDER = "evaluation.json", "report"
_SAME = (
    *(entry.name for entry in entries("data") if entry.load and entry.name != "root"),
    *("name", "binarise", "seed"),
)


def evaluate(flags: Any) -> int:
    """Print the numbers of one run and write them as JSON; return the exit code."""
    run = Run(Path(flags.run))
    _check([run], flags)
    with tempfile.TemporaryDirectory() as folder:
        result = _any_reported([run], Path(folder), flags, figures=False)
        numbers = result.numbers.read_text(encoding="utf-8")
    show(result)  # whatever becomes of the file
    file = run.folder / NUMBERS
    try:
        write_file(file, numbers)
    except OSError as error:
        say(f"warning: {file} could not be written: {error.strerror or error}")
    else:
        show(f"numbers: {file}")
    return SUCCESS


def run(flags: Any) -> int:
    """Write the page on one run, or on several side by side; return the exit code."""
    runs = [Run(Path(folder)) for folder in flags.runs]
    _check(runs, flags)
    out = runs[0].folder / FOLDER if flags.out is None else Path(flags.out)
    if flags.out is None:
        refuse_links(runs[0].folder)
        try:
            destination(out)
        except OSError as error:  # the run is read-only: print the numbers
            with tempfile.TemporaryDirectory() as folder:
                show(_any_reported(runs, Path(folder), flags, figures=False))
            say(f"error: {error}; here, --out")
            return FAILURE
    result = _any_reported(runs, out, flags)
    show(result, f"report: {result.page}")
    return SUCCESS


def _any_reported(
    runs: Sequence[Run], out: Path, flags: Any, *, figures: bool = True
) -> Report | TableReport:
    """Evaluate a run of a table on a file, or other runs on their test data."""
    if runs[0].is_table:
        from ppl_vae.cli import tables  # slow to import

        return tables.reported(str(runs[0].folder), flags, out, figures=figures)
    return _reported(runs, out, flags, figures=figures)


def _check(runs: Sequence[Run], flags: Any) -> None:
    """Raise UsageError for runs or flags that do not go together, before anything is written."""
    of_tables = [one for one in runs if one.is_table]
    if of_tables and len(runs) > 1:
        raise UsageError(f"{of_tables[0].folder} is a run of a table; report it alone")
    if of_tables:
        from ppl_vae.cli import tables

        tables.check_evaluation(str(runs[0].folder), flags)
        return
    for one in runs:
        _ = one.configuration  # raises if this is not a run
    if flags.data is not None:
        raise UsageError("--data is for a run of a table; others have test data of their own")


def _reported(runs: Sequence[Run], out: Path, flags: Any, *, figures: bool = True) -> Report:
    """Evaluate runs on their common test data."""
    pairs = named(runs, flags.device)
    source = common_data(runs, pairs)
    train = source.data("train")
    curves = {name: one.history() for name, one in zip(pairs, runs, strict=True)}
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
        sections=flags.sections or (),
        seed=flags.seed,
        progress=not flags.quiet,
        compile=flags.compile,
        figures=figures,
    )


def named(runs: Sequence[Run], device: str) -> dict[str, Pair]:
    """Return the pairs of runs of the same data, by name."""
    first = _same(runs[0])
    for other in runs[1:]:
        for entry, there in _same(other).items():
            here = first[entry]
            if here != there:
                raise UsageError(
                    f"{other.folder} has data.{entry} = {there!r}, and {runs[0].folder} {here!r}; "
                    f"give runs of the same data"
                )
    return dict(zip(names(runs), (one.pair(device) for one in runs), strict=True))


def _same(run: Run) -> dict[str, Any]:
    """Return the settings of data that runs side by side have in common."""
    settings = run.configuration.data
    found = {entry: getattr(settings, entry) for entry in _SAME}
    return {**found, "name": identity(run.folder, settings.name)}


def names(runs: Sequence[Run]) -> list[str]:
    """Return the names of runs, or their paths if two have the same; each must be given once."""
    found = [one.name for one in runs]
    if len(set(found)) < len(found):
        found = [str(one.folder) for one in runs]
    if len(set(found)) < len(found):
        raise UsageError("a run is given twice; give each once")
    return found


def common_data(runs: Sequence[Run], pairs: Mapping[str, Pair]) -> Run:
    """Return the run whose data suit all pairs."""
    # Masses are given the levels of noisy data; a density must have been trained on the noise.
    noisy = [one for one in runs if one.configuration.data.dequantise]
    for one, pair in zip(runs, pairs.values(), strict=True):
        if noisy and one not in noisy and not pair.observation.is_discrete:
            raise UsageError(
                f"{noisy[0].folder} has data.dequantise = True, and {one.folder} False, under a "
                f"density ({type(pair.likelihood).__name__}); give runs of the same data"
            )
    return (noisy or runs)[0]
