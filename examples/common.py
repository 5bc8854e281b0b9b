"""What the examples share: flags, data, batches without end, and where the figure goes."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import matplotlib as mpl
import pyro
import torch
from matplotlib.figure import Figure

from ppl_vae import data


def parse_flags(description: str) -> argparse.Namespace:
    """Parse the command line, and seed the random number generators."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="digits", help=f"{', '.join(data.LOADERS)}, or a .npy, .npz or folder")
    add("--data-root", help="folder of the data sets (default: $PPL_VAE_DATA, or ./data)")
    add("--epochs", type=_positive, help="passes over the data (default: the example's steps)")
    add("--seed", type=int, default=0)
    add("--device", type=_device, default="cpu", help="cpu, cuda, mps, ...")
    add("--out", type=Path, help="folder for the figure (default: runs/<example>-<dataset>)")
    add("--smoke", action="store_true", help="a few steps on a few data, to see that it runs")
    flags = parser.parse_args()
    flags.example = Path(sys.argv[0]).stem
    flags.out = flags.out or Path("runs", f"{flags.example}-{Path(flags.dataset).stem}")
    try:  # now, not after an hour of training
        flags.out.mkdir(parents=True, exist_ok=True)
        (flags.out / ".writable").touch()
        (flags.out / ".writable").unlink()
    except OSError as error:
        sys.exit(f"--out: cannot write to {flags.out} ({error.strerror}); give another folder")
    # Label probabilities may be denormal, and a matrix product with those is 100 times slower on a
    # CPU. To be set before the first parallel operation.
    torch.set_flush_denormal(True)
    mpl.use("Agg")
    pyro.set_rng_seed(flags.seed)
    return flags


def load(flags: argparse.Namespace) -> tuple[data.Dataset, data.Dataset]:
    """Return training and test data, or a few of them with ``--smoke``."""
    try:
        train, test = (
            data.load(flags.dataset, root=flags.data_root, split=s) for s in ("train", "test")
        )
    except (OSError, ValueError) as error:
        sys.exit(f"--dataset {flags.dataset}: {error}")
    if flags.smoke:
        return train.subset(range(min(200, len(train)))), test.subset(range(min(20, len(test))))
    return train, test


def num_steps(
    flags: argparse.Namespace, train: data.Dataset, *, large: int = 20_000, batch_size: int = 100
) -> int:
    """Return the number of training steps: 2,000, or ``large`` for more than 10,000 data."""
    if flags.smoke:
        return 5
    if flags.epochs is not None:
        return flags.epochs * math.ceil(len(train) / batch_size)
    return large if len(train) > 10_000 else 2000


def take(batches: data.Batches, steps: int) -> Iterator[tuple]:
    """Yield so many batches, epoch after epoch."""
    return islice(chain.from_iterable(repeat(batches)), steps)


def save(figure: Figure, flags: argparse.Namespace) -> None:
    """Write the figure to the folder of this run."""
    path = flags.out / f"{flags.example}.png"
    figure.savefig(path, dpi=120, bbox_inches="tight")
    print(f"figure: {path}")


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"cannot use {name!r} ({reason}); try cpu") from None
