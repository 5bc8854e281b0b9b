"""MathJax as one file of the site, from a package: no page loads anything from elsewhere."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from sphinx.application import Sphinx

FILE = "tex-svg-full.js"  # with its fonts and all of TeX's extensions


def setup(app: Sphinx) -> dict[str, bool]:
    """Name the file for ``sphinx.ext.mathjax``, and copy it when the pages are written."""
    app.connect("config-inited", _configure)
    app.connect("build-finished", _copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _configure(app: Sphinx, config: object) -> None:
    app.config.mathjax_path = FILE
    app.config.mathjax3_config = {
        "svg": {"fontCache": "global"},
        # Menus and speech would load further files.
        "options": {"enableMenu": False, "enableExplorer": False},
        "tex": {"macros": {"E": r"\mathbb{E}", "KL": r"\operatorname{KL}"}},
    }


def _copy(app: Sphinx, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        # django-static-mathjax: MathJax's distribution, and no line of Python that matters here.
        with as_file(files("mathjax") / "static" / "mathjax" / "es5" / FILE) as source:
            shutil.copy(source, Path(app.outdir, "_static", FILE))
