"""Where a report goes, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ppl_vae.errors import path_of


def destination(out: str | Path) -> tuple[Path, Path]:
    """Return the paths of page and numbers, having made sure that they can be written.

    Args:
        out: a folder, or a path that ends in ``.html``; the JSON lies beside it.

    Raises:
        OSError: if they cannot; the message says what to do.
    """
    out = path_of("report", "out", out)
    page = out if out.suffix == ".html" else out / "report.html"
    paths = page, page.with_suffix(".json")
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=page.parent):
            pass
        for path in paths:
            if path.is_symlink():
                raise FileExistsError(None, "there is a link of that name", str(path))
            if path.is_dir():
                raise IsADirectoryError(None, "there is a folder of that name", str(path))
    except OSError as error:
        raise OSError(
            f"report: cannot write to out={str(out)!r} ({error.strerror}: {error.filename}); give "
            f"a folder or a path ending in .html that can be written"
        ) from error
    return paths


def write(texts: Mapping[Path, str]) -> None:
    """Write texts beside their places, then put all of them there, or none."""
    written: dict[Path, Path] = {}
    try:
        for path, text in texts.items():
            temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
            written[path] = temporary
            temporary.unlink(missing_ok=True)  # not through a link of that name
            try:
                with temporary.open("x", encoding="utf-8") as file:
                    file.write(text)
            except OSError as error:  # that of a full disk names no file
                raise OSError(error.errno, error.strerror, str(path)) from error
        for path, temporary in written.items():
            os.replace(temporary, path)
    finally:
        for temporary in written.values():
            temporary.unlink(missing_ok=True)
