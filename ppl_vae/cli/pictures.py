"""``ppl-vae sample`` and ``ppl-vae reconstruct``: images, as a picture or as an array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.output import show
from ppl_vae.cli.runs import Run
from ppl_vae.models import ConditionalVAE, Pair
from ppl_vae.storage.atomic import replaced_file

SUFFIXES = (".npy", ".pdf", ".png", ".svg")


def sample(flags: Any) -> int:
    """Draw from a run's model, and return the exit code."""
    one, number = Run(Path(flags.run)), _positive(flags.number)
    file = _file(one, flags.file, "samples.png")
    pair = one.pair(flags.device)
    pyro.set_rng_seed(flags.seed)
    x = _generated(pair, number, mean=not flags.draw)

    def draw(shape: tuple[int, ...], ax: Any) -> None:
        from ppl_vae import plots

        plots.images(x, shape=shape, ax=ax)

    return _write(one, file, x, draw)


def reconstruct(flags: Any) -> int:
    """Reconstruct test data of a run, and return the exit code."""
    from ppl_vae.training.sources import fixed  # slow to import

    one, number = Run(Path(flags.run)), _positive(flags.number)
    file = _file(one, flags.file, "reconstructions.png")
    pair: Any = one.pair(flags.device)
    test = one.data("test")
    number = min(number, len(test))
    shown = fixed(pair, test.subset(range(number)), flags.seed, next(pair.parameters()))
    pyro.set_rng_seed(flags.seed)
    x, again = shown.args[0].cpu(), pair.reconstruct(*shown.args, **shown.kwargs).cpu()
    if (mask := shown.kwargs.get("mask")) is not None:
        x = x.masked_fill(~mask.cpu(), torch.nan)  # a picture has a gap there

    def draw(shape: tuple[int, ...], ax: Any) -> None:
        from ppl_vae import plots

        plots.reconstructions(x, again, columns=min(10, number), shape=shape, ax=ax)

    return _write(one, file, torch.stack([x, again]), draw)


def _generated(pair: Any, number: int, mean: bool) -> Tensor:
    if not isinstance(pair, ConditionalVAE):
        return pair.generate(number, mean=mean).cpu()
    if pair.num_classes is None:
        raise UsageError(
            "sample: this ConditionalVAE is given vectors, which a command line has none of; use "
            "ppl_vae.load(run / 'model').generate(c) in Python"
        )
    labels = torch.arange(number, device=_device(pair)) * pair.num_classes // number
    return pair.generate(labels, mean=mean).cpu()


def _device(pair: Pair) -> torch.device:
    return next(pair.parameters()).device


def _positive(number: int) -> int:
    if number < 1:
        raise UsageError(f"-n must be 1 or more, got {number}")
    return number


def _file(run: Run, given: str | None, name: str) -> Path:
    file = run.folder / name if given is None else Path(given)
    if file.suffix not in SUFFIXES:
        raise UsageError(f"--file must end in one of {', '.join(SUFFIXES)}, got {str(file)!r}")
    if not file.parent.is_dir():
        raise UsageError(f"--file: there is no folder {file.parent}")
    return file


def _write(
    run: Run, file: Path, values: Tensor, draw: Callable[[tuple[int, ...], Any], None]
) -> int:
    """Write values, or the picture of them, and say where."""
    if file.suffix == ".npy":
        with replaced_file(file) as temporary:
            np.save(temporary, values.numpy())
    else:
        _picture(file, run.data("test").event_shape, draw)
    show(f"{'values' if file.suffix == '.npy' else 'picture'}: {file}")
    return SUCCESS


def _picture(
    file: Path, shape: tuple[int, ...], draw: Callable[[tuple[int, ...], Any], None]
) -> None:
    import matplotlib as mpl  # slow to import

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    try:
        draw(shape, figure.subplots())
    except ValueError as error:
        raise UsageError(f"{error}; or write the values: --file {file.stem}.npy") from error
    with replaced_file(file) as temporary:
        figure.savefig(temporary, dpi=150)
