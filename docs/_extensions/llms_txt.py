"""``llms.txt``: the pages of the site, each with its first sentence, as language models read it."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the file when the pages are written."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    index = app.env.get_doctree("index")
    lines = ["# ppl_vae", "", f"> {_first_sentence(index)}", ""]
    for tree in index.findall(addnodes.toctree):
        if tree.get("caption"):
            lines += ["", f"## {tree['caption']}", ""]
        for _, name in tree["entries"]:
            lines += _entries(app, name, 0)
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n")


def _entries(app: Sphinx, name: str, depth: int) -> list[str]:
    if name not in app.env.all_docs:
        return []
    doctree = app.env.get_doctree(name)
    title = app.env.titles[name].astext()
    text = _first_sentence(doctree)
    lines = [f"{'  ' * depth}- [{title}]({name}.html){f': {text}' if text else ''}"]
    for tree in doctree.findall(addnodes.toctree):
        for _, inner in tree["entries"]:
            lines += _entries(app, inner, depth + 1) if inner else []
    return lines


def _first_sentence(doctree: nodes.document) -> str:
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) > 20:
            end = text.find(". ")
            return text if end < 0 else text[: end + 1]
    return ""
