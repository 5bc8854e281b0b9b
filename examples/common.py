"""What the examples share: flags, data, a progress bar and a place for the figure."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from ppl_vae import data


class Run:
    """One run of an example: its flags, its data and its training steps.

    Args:
        description: the script's docstring, for ``--help``.
        steps: training steps on the bundled digits and other small sets.
        large_steps: training steps on sets of more than 10,000.
        batch_size: data per step.
        binarise: how grey pixels become 0 and 1, or ``"none"``.
    """

    def __init__(
        self,
        description: str,
        *,
        steps: int = 2000,
        large_steps: int = 20_000,
        batch_size: int = 100,
        binarise: str = "dynamic",
    ) -> None:
        flags = _flags(description)
        self.flags = flags
        # Denormal numbers make a matrix product on a CPU a hundred times slower, and labels of
        # vanishing probability make them; this must come before the first parallel operation.
        torch.set_flush_denormal(True)
        mpl.use("Agg")
        pyro.set_rng_seed(flags.seed)
        pyro.clear_param_store()
        self.name = Path(sys.argv[0]).stem
        self.out = _writable(flags.out or Path("runs") / f"{self.name}-{flags.dataset_name}")
        self.device = _device(flags.device)
        self.train, self.test = (_load(flags, split) for split in ("train", "test"))
        if flags.smoke:
            self.train = self.train.subset(range(min(200, len(self.train))))
            self.test = self.test.subset(range(min(50, len(self.test))))
        self.binarise = binarise
        self.batch_size = batch_size
        self.pixels = math.prod(self.train.event_shape)
        self.steps = large_steps if len(self.train) > 10_000 else steps
        if flags.epochs is not None:
            self.steps = flags.epochs * math.ceil(len(self.train) / batch_size)
        if flags.smoke:
            self.steps = 5
        # The test set is binarised once, so that all figures are of the same data.
        test = self.test if binarise == "none" else self.test.binarised(seed=0)
        self.test_x = test.tensor(device=self.device)

    def batches(self, label: str = "training") -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield (x, labels) for ``self.steps`` steps, binarised anew, under a progress bar."""
        batches = self.train.to(self.device).batches(
            self.batch_size, binarise=self.binarise, seed=self.flags.seed
        )
        self._bar = tqdm(total=self.steps, desc=label, unit="step", mininterval=0.5)
        with self._bar:
            for step, batch in enumerate(_endless(batches)):
                if step == self.steps:
                    return
                yield batch
                self._bar.update()

    def show(self, loss: float) -> None:
        """Show the loss of the step, in nats per datum, beside the progress bar."""
        self._smoothed = 0.99 * getattr(self, "_smoothed", loss) + 0.01 * loss
        self._bar.set_postfix_str(f"loss {self._smoothed:.2f} nats", refresh=False)

    def save(self, figure) -> None:
        """Write the figure under the run's folder and say where it is."""
        path = self.out / f"{self.name}.png"
        figure.savefig(path, dpi=120, bbox_inches="tight")
        print(f"figure: {path}")


def _flags(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", default="digits", help=f"{', '.join(data.LOADERS)}, or a .npy, .npz or folder")
    add("--data-root", help="where the data lie (default: $PPL_VAE_DATA, or ./data)")
    add(
        "--epochs",
        type=_positive,
        help="passes over the data (default: the steps of the script)",
    )
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help="cpu, cuda, mps, ...")
    add("--out", type=Path, help="folder for the figure (default: runs/<example>-<dataset>)")
    add("--smoke", action="store_true", help="a few steps on a few data, to see that it runs")
    flags = parser.parse_args()
    flags.dataset_name = Path(flags.dataset).stem
    return flags


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {text}")
    return int(text)


def _writable(folder: Path) -> Path:
    """Make the folder now: an hour of training is not lost to a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        sys.exit(f"--out: cannot write to {folder} ({error.strerror}); give another folder")
    return folder


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"--device: cannot use {name!r} ({str(error).splitlines()[0]}); try cpu")


def _load(flags: argparse.Namespace, split: str) -> data.Dataset:
    try:
        return data.load(flags.dataset, root=flags.data_root, split=split)
    except (OSError, ValueError) as error:
        sys.exit(f"--dataset {flags.dataset}: {error}")


def _endless(batches) -> Iterator[tuple[Tensor, Tensor | None]]:
    while True:
        yield from batches
