"""Pages with cells, which take seconds each, are spread over the processes that read pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.parallel import make_chunks


def setup(app: Sphinx) -> dict[str, bool]:
    """Order the pages before they are read."""
    app.connect("env-before-read-docs", _spread)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _spread(app: Sphinx, env: Any, names: list[str]) -> None:
    """Give each chunk of pages, which one process reads, as many pages with cells."""
    run = [name for name in names if _has_cells(env.doc2path(name))]
    rest = [name for name in names if name not in run]
    if app.parallel < 2 or not run:
        return
    sizes = [len(chunk) for chunk in make_chunks(names, app.parallel)]
    chunks: list[list[str]] = [[] for _ in sizes]
    for i, name in enumerate(run):
        chunks[i % len(chunks)].append(name)
    for chunk, size in zip(chunks, sizes, strict=True):
        lacking = max(0, size - len(chunk))
        chunk += rest[:lacking]
        del rest[:lacking]
    names[:] = [name for chunk in chunks for name in chunk] + rest


def _has_cells(path: Path) -> bool:
    return path.suffix == ".md" and "file_format: mystnb" in path.read_text(encoding="utf-8")[:200]
