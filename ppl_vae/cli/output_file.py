"""The file that a command writes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ppl_vae.cli.class_names import LOGGERS
from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.runs import CHECKPOINTS, HISTORY, MODEL, VALIDATION

OF_TRAINING = (HISTORY, VALIDATION, CHECKPOINTS, MODEL, *LOGGERS)
"""What a training writes into the folder of a run that has a suffix of an output, or may."""


def output_file(
    flag: str,
    given: str,
    suffixes: Sequence[str],
    run: Path,
    sources: Sequence[str | None] = (),
) -> Path:
    """Return the file to write.

    Args:
        flag: that was typed.
        given: its value.
        suffixes: one of which the file has, in capitals or not.
        run: whose training's files are never written to; others in its folder are.
        sources: files and folders of the data, which are never written to; others are names.

    Raises:
        UsageError: for another suffix, a folder that is not there, and a file of the data or of
            the training.
    """
    file = Path(given).expanduser()
    if file.suffix.lower() not in suffixes:
        one = " or ".join(suffixes) if len(suffixes) == 2 else f"one of {', '.join(suffixes)}"
        raise UsageError(f"{flag} must end in {one}, got {given!r}")
    if not file.parent.is_dir():
        raise UsageError(f"{flag} {given}: there is no folder {file.parent}")
    for source in sources:
        if source is not None and _is_of(file, Path(source).expanduser()):
            raise UsageError(f"{flag} {given} would change the data, {source}; give another file")
    for name in OF_TRAINING:
        if _is_of(file, run / name):
            raise UsageError(
                f"{flag} {given} would change the run, {run}, whose training wrote it; give "
                f"another file"
            )
    return file


def _is_of(file: Path, data: Path) -> bool:
    """Return whether a file is that of the data, or lies in their folder."""
    if data.is_dir():
        return data.resolve() in file.resolve().parents
    return data.is_file() and file.exists() and os.path.samefile(file, data)
