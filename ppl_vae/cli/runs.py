"""The folder of a run, as the other commands read it."""

from __future__ import annotations

import csv
import io
import shlex
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from ppl_vae import storage
from ppl_vae.cli import datasets
from ppl_vae.cli.configuration import FILE, Configuration, read
from ppl_vae.cli.errors import UsageError
from ppl_vae.data import Dataset
from ppl_vae.errors import reason
from ppl_vae.files import read_bytes
from ppl_vae.models import Pair
from ppl_vae.storage import DamagedError

LARGEST = 2**28
"""Bytes of a history, at most."""
MODEL, HISTORY, VALIDATION, CHECKPOINTS = "model", "history.csv", "validation.csv", "checkpoints"


@dataclass(frozen=True)
class Run:
    """The folder that ``ppl-vae fit`` wrote.

    Args:
        folder: where it is.
    """

    folder: Path

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.folder.resolve().name

    @cached_property
    def configuration(self) -> Configuration:
        """The resolved configuration.

        Raises:
            UsageError: if the folder is no run.
            ConfigError: if it cannot be read.
        """
        if not (self.folder / FILE).is_file():
            raise UsageError(
                f"{self.folder} is no folder of a run: {FILE} is missing; give the --out of a "
                f"ppl-vae fit"
            )
        return Configuration.of(read(self.folder / FILE))

    def pair(self, device: str) -> Pair:
        """Return the trained pair, to evaluate it.

        Raises:
            UsageError: if the training has not come to its end, or there is no such device.
            StorageError: if the files cannot be used.
        """
        _ = self.configuration  # says what is wrong where this is no run
        if not (self.folder / MODEL).is_dir():
            raise UsageError(
                f"{self.folder}: the training has not come to its end, so that there is no model; "
                f"go on with: {resume(self.folder)}"
            )
        pair = storage.load(self.folder / MODEL, device=device_of(device)).eval()
        if not isinstance(pair, Pair):
            raise UsageError(f"{self.folder}: a {type(pair).__name__} has no programs to evaluate")
        return pair

    def data(self, split: str) -> Dataset:
        """Return the training or the test data of the run, as they were drawn there."""
        settings = self.configuration.data
        data = datasets.loaded(settings, split)
        return data.dequantised(settings.seed) if settings.dequantise else data

    def history(self) -> list[tuple[float, float]]:
        """Return step and loss of each entry of the history."""
        path = self.folder / HISTORY
        if not path.exists():
            return []
        text = read_bytes(path, LARGEST, error=DamagedError).decode("utf-8", "replace")
        try:
            return [(float(r["step"]), float(r["loss"])) for r in csv.DictReader(io.StringIO(text))]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DamagedError(f"{path} is no history of a training: {reason(error)}") from error


def device_of(name: str) -> torch.device:
    """Return a device; ``auto`` is an accelerator where there is one.

    Raises:
        UsageError: if there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device: cannot use {name!r} ({reason}); try cpu") from error


def program() -> str:
    """Return how this program was called."""
    called_as_module = Path(sys.argv[0]).name == "__main__.py"
    return f"{Path(sys.executable).name} -m ppl_vae" if called_as_module else "ppl-vae"


def resume(folder: Path) -> str:
    """Return the command that goes on with the training in a folder."""
    return f"{program()} fit {shlex.quote(str(folder))} --resume"
