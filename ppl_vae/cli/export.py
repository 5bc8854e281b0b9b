"""``ppl-vae export``: a trained pair as files that run without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ppl_vae import export, io
from ppl_vae.cli.configuration import FILE, is_pair, read
from ppl_vae.cli.errors import SUCCESS, UsageError
from ppl_vae.cli.output import show
from ppl_vae.cli.runs import Run
from ppl_vae.models import Pair


def run(flags: Any) -> int:
    """Write the files of a run or of a saved pair, and return the exit code."""
    one = Run(Path(flags.run).expanduser())
    pair = _pair(one, flags)
    folder = one.folder / flags.to if flags.out is None else Path(flags.out).expanduser()
    write = export.to_onnx if flags.to == "onnx" else export.to_torch
    try:
        found = write(pair, folder, programs=flags.programs, seed=flags.seed)
    except ImportError as error:
        raise UsageError(str(error).replace("to_onnx", "--to onnx", 1)) from error
    show(*(f"{name}: {what}" for name, what in found.rows()), f"export: {folder}")
    return SUCCESS


def _pair(one: Run, flags: Any) -> Any:
    """Return what is exported, on the CPU."""
    if one.is_table:
        from ppl_vae.cli import tables  # slow to import

        return tables.loaded(flags.run, flags)
    if not ((one.folder / FILE).is_file() and is_pair(read(one.folder / FILE))):
        return one.pair("cpu")
    pair = io.load(one.folder, device="cpu")
    if not isinstance(pair, Pair):
        raise UsageError(
            f"RUN: {one.folder} holds a {type(pair).__name__}; save its first and its second, and "
            f"export each"
        )
    return pair
