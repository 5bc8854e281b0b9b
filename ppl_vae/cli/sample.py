"""``ppl-vae sample`` and ``ppl-vae reconstruct``: a picture of images, or values."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.output import show
from ppl_vae.cli.output_file import output_file
from ppl_vae.cli.runs import Run
from ppl_vae.io.atomic import replaced_file
from ppl_vae.models import ConditionalVAE
from ppl_vae.pixels import Range, as_pixels, pixel_range

VALUES = (".csv", ".npy")
SUFFIXES = (*VALUES, ".pdf", ".png", ".svg")


def sample(flags: Any) -> int:
    """Draw from a run's model, and return the exit code."""
    one, number = Run(Path(flags.run)), flags.number
    if one.is_table:
        from ppl_vae.cli import tables  # slow to import

        return tables.sample(flags)
    file = _file(one, flags, "samples")
    for flag in ("given", "num_particles"):
        if getattr(flags, flag) is not None:
            typed = f"--{flag.replace('_', '-')}"
            raise UsageError(f"{typed} is for a run of a table, and {one.folder} is none")
    pair = one.pair(flags.device)
    pyro.set_rng_seed(flags.seed)
    x = _generated(pair, number, mean=not flags.draw)

    return _write(one, pair, file, {"x": x}, lambda plots, x, **at: plots.images(x, **at))


def reconstruct(flags: Any) -> int:
    """Reconstruct test data of a run, and return the exit code."""
    from ppl_vae.training.data_stream import validation_data  # slow to import

    one, number = Run(Path(flags.run)), flags.number
    file = _file(one, flags, "reconstructions")
    pair: Any = one.pair(flags.device)
    test = one.data("test")
    asked, number = number, min(number, len(test))
    like = next(pair.parameters())
    some = validation_data(pair, test.subset(range(number)), flags.seed, like)
    shown = some.rows(slice(None))
    pyro.set_rng_seed(flags.seed)
    x, again = shown.args[0].cpu(), pair.reconstruct(*shown.args, **shown.kwargs).cpu()
    if (mask := shown.kwargs.get("mask")) is not None:
        x = x.masked_fill(~mask.cpu(), torch.nan)  # blank in the picture

    def draw(plots: Any, x: Tensor, again: Tensor, **at: Any) -> None:
        plots.reconstructions(x, again, columns=min(10, number), **at)

    how_many = "" if number == asked else f", {number} of {asked}, all test data"
    return _write(one, pair, file, {"x": x, "reconstruction": again}, draw, how_many)


def _generated(pair: Any, number: int, mean: bool) -> Tensor:
    if not isinstance(pair, ConditionalVAE):
        return pair.generate(number, mean=mean).cpu()
    if pair.num_classes is None:
        raise UsageError(
            "sample: this ConditionalVAE is conditioned on vectors, which cannot be typed; use "
            "ppl_vae.load(run / 'model').generate(c) in Python"
        )
    device = next(pair.parameters()).device
    labels = torch.arange(number, device=device) * pair.num_classes // number
    return pair.generate(labels, mean=mean).cpu()


def _file(run: Run, flags: Any, name: str) -> Path:
    """Return the file to write: by default a picture of images, and values of other data."""
    if flags.file is None:
        images = len(run.data("test").event_shape) > 1
        return run.folder / f"{name}{'.png' if images else '.csv'}"
    return output_file(flags.file_flag, flags.file, SUFFIXES, run.folder, run.sources)


def _write(
    run: Run,
    pair: Any,
    file: Path,
    values: Mapping[str, Tensor],
    draw: Callable[..., object],
    how_many: str = "",
) -> int:
    """Write values, or a picture of them, and print where."""
    suffix = file.suffix.lower()
    if suffix not in VALUES:
        test = run.data("test")
        some = next(iter(test.drawn_for(pair)))  # up to 1,000 of them
        ends = pixel_range(some.x)
        _picture(file, test.event_shape, [as_pixels(x, ends) for x in values.values()], ends, draw)
        show(f"picture: {file}{how_many}")
        return SUCCESS
    with replaced_file(file) as temporary:
        if suffix == ".csv":
            _as_csv(temporary, values)
        else:
            each = list(values.values())
            with temporary.open("wb") as binary:  # by name, NumPy adds .npy to .NPY
                np.save(binary, (torch.stack(each) if len(each) > 1 else each[0]).numpy())
    show(f"values: {file}{how_many}")
    return SUCCESS


def _as_csv(file: Path, values: Mapping[str, Tensor]) -> None:
    """Write a row for each datum and a column for each value: x1, x2, ..."""
    rows = {name: x.flatten(1) for name, x in values.items()}
    header = [f"{name}{i + 1}" for name, x in rows.items() for i in range(x.shape[1])]
    with file.open("w", newline="", encoding="utf-8") as text:
        table = csv.writer(text)
        table.writerow(header)
        # As text a float32 has its own digits, not those of a float64.
        table.writerows(torch.cat(list(rows.values()), 1).numpy().astype(str))


def _picture(
    file: Path,
    shape: tuple[int, ...],
    pixels: list[Tensor],
    ends: Range,
    draw: Callable[..., object],
) -> None:
    """Draw pixels; the picture says which values are black and white, if these are not 0 and 1."""
    import matplotlib as mpl  # slow to import

    mpl.use("Agg")
    from matplotlib.figure import Figure

    from ppl_vae import plots

    event = shape if len(shape) > 1 else None  # of flat data: square images, if they can be
    figure = Figure(figsize=(6, 6), layout="constrained")
    if ends != (0, 1):
        figure.suptitle(f"black is {ends[0]:g}, white {ends[1]:g}", fontsize="small")
    try:
        draw(plots, *pixels, shape=event, ax=figure.subplots())
    except ValueError as error:
        csv_file = file.with_suffix(".csv")
        raise UsageError(f"{file}: {error}\nFor the values: --out {csv_file}") from error
    with replaced_file(file) as temporary:
        figure.savefig(temporary, dpi=150)
