"""Where a report is written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ppl_vae.errors import path_of


def destination(out: str | Path) -> tuple[Path, Path]:
    """Return the paths of the HTML page and the JSON file; raise OSError if not writable."""
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
            f"a writable folder or a path ending in .html"
        ) from error
    return paths
