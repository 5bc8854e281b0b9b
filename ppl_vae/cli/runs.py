"""The folder of a run, for the commands that read it."""

from __future__ import annotations

import csv
import shlex
import sys
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from ppl_vae import io
from ppl_vae.cli import datasets
from ppl_vae.cli.configuration import FILE, TABLE_SETTINGS, Configuration, is_pair, read
from ppl_vae.cli.data_source import located, places
from ppl_vae.cli.errors import UsageError
from ppl_vae.data import Dataset
from ppl_vae.errors import reason
from ppl_vae.files import read_bytes
from ppl_vae.io import DamagedError
from ppl_vae.io.format import HISTORY_BYTES, TABLE
from ppl_vae.models import Pair

MODEL, CHECKPOINTS = "model", "checkpoints"
HISTORY, VALIDATION = "history.csv", "validation.csv"
DATA = "data.sha256"
"""The checksum of the data that a run was trained on, of a file or a folder."""


@dataclass(frozen=True)
class Run:
    """The folder that ``ppl-vae fit`` wrote."""

    folder: Path

    @property
    def name(self) -> str:
        """What the folder is called."""
        return self.folder.resolve().name

    @property
    def is_table(self) -> bool:
        """Whether the folder has a model of tables, or is a run that makes one."""
        return any((self.folder / name).is_file() for name in (TABLE, TABLE_SETTINGS))

    @cached_property
    def configuration(self) -> Configuration:
        """The resolved configuration."""
        if (self.folder / TABLE_SETTINGS).is_file():
            raise UsageError(
                f"RUN: {self.folder} is a run of a table, for {program()} impute, sample, encode, "
                f"evaluate, report, explore and export; in Python: "
                f"ppl_vae.tables.load({str(self.folder)!r})"
            )
        if not (self.folder / FILE).is_file():
            raise UsageError(f"RUN: {_not_a_run(self.folder)}")
        tree = read(self.folder / FILE)
        if is_pair(tree):
            raise UsageError(
                f"RUN: {self.folder} is a saved pair, not a run; {_run_or_load(self.folder)}"
            )
        return Configuration.of(tree)

    def pair(self, device: str) -> Pair:
        """Return the trained pair, to evaluate it."""
        _ = self.configuration  # raises if this is not a run
        if not (self.folder / MODEL).is_dir():
            raise UsageError(_unfinished(self.folder))
        pair = io.load(self.folder / MODEL, device=device_of(device)).eval()
        if not isinstance(pair, Pair):
            raise UsageError(f"{self.folder}: a {type(pair).__name__} has no programs to evaluate")
        return pair

    def data(self, split: str) -> Dataset:
        """Return the training or the test data of the run, binarised as there.

        Warns if a file or folder of data has changed since: rows for testing may be others now, and
        have been trained on.
        """
        name = located(self.folder, self.configuration.data.name)
        settings = replace(self.configuration.data, name=name)
        data = datasets.loaded(settings, split)
        recorded = self.folder / DATA
        now = datasets.checksum(settings.name) if recorded.is_file() else None
        if now is not None and recorded.read_text(encoding="utf-8").strip() != now:
            warnings.warn(
                f"{settings.name} has changed since {self.folder} was trained: its test data may "
                f"be others, and may have been trained on; train anew, or restore it",
                stacklevel=2,
            )
        return data.dequantised(settings.seed) if settings.dequantise else data

    @property
    def sources(self) -> list[str]:
        """The files and folders that the data may be, which no command writes to."""
        return places(self.folder, self.configuration.data.name)

    def history(self) -> list[tuple[float, float]]:
        """Return step and loss of each entry of the history."""
        path = self.folder / HISTORY
        if not path.exists():
            return []
        text = read_bytes(path, HISTORY_BYTES, error=DamagedError).decode("utf-8", "replace")
        try:
            rows = csv.DictReader(text.splitlines(keepends=True))
            return [(float(row["step"]), float(row["loss"])) for row in rows]
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            raise DamagedError(f"{path} is not the history of a run: {reason(error)}") from error


def _unfinished(folder: Path) -> str:
    return f"{folder}: the training has not finished; go on with: {resume(folder)}"


def _not_a_run(folder: Path) -> str:
    if folder.is_file():
        own = folder.parent if (folder.parent / FILE).is_file() else "the folder that fit wrote"
        return f"{folder} is a file, not a run; give {own}"
    if not folder.exists():
        return f"there is no folder {folder}; give the folder that ppl-vae fit wrote"
    return f"{folder} is not a run: {FILE} is missing; give the folder that ppl-vae fit wrote"


def _run_or_load(pair: Path) -> str:
    run = pair.resolve().parent
    if pair.resolve().name == MODEL and (run / FILE).is_file():
        return f"give its run, {pair.parent}"
    return f"load it in Python, ppl_vae.load({str(pair)!r}), or train from it, fit --init {pair}"


def pair_in(given: str) -> Path:
    """Return the folder of a saved pair, given it or its run."""
    folder = Path(given).expanduser()
    if (folder / MODEL / FILE).is_file():
        return folder / MODEL
    if not (folder / FILE).is_file():
        what = "neither a run nor a saved pair" if folder.is_dir() else "no such folder"
        raise UsageError(f"--init {given}: {what}; give the folder of a trained run")
    if not is_pair(read(folder / FILE)):
        raise UsageError(f"--init {_unfinished(folder)}")
    return folder


def is_device(kind: str) -> bool:
    """Tell whether there is a device of a kind, such as ``cuda``."""
    if kind in ("cuda", "gpu") and torch.cuda.is_available():
        return True
    return kind in ("auto", "cpu") or (kind in ("mps", "gpu") and torch.backends.mps.is_available())


def device_of(name: str) -> torch.device:
    """Return a device; ``auto`` is an accelerator where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (colon and not index.isdecimal()):
        raise UsageError(f"--device must be cpu, cuda, cuda:1, mps or auto, got {name!r}")
    number = torch.cuda.device_count() if kind == "cuda" else 1
    if not is_device(kind) or int(index or 0) >= number:
        raise UsageError(f"--device: torch has no {name} here; give cpu or auto")
    return torch.empty(0, device=name).device


def program() -> str:
    """Return how this program was called."""
    called_as_module = Path(sys.argv[0]).name == "__main__.py"
    return f"{Path(sys.executable).name} -m ppl_vae" if called_as_module else "ppl-vae"


def resume(folder: Path, command: str = "fit") -> str:
    """Return the command that goes on with the training in a folder."""
    return f"{program()} {command} {shlex.quote(str(folder))} --resume"
