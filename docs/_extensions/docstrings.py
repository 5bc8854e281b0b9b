"""Equations of docstrings are shown as they are written, and short names are links."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

_MARKED = re.compile(r"\s*(\.\. |>>> |[=|+])")
_ITEM = re.compile(r"\s*([-*] |\d+\. |:[^:]+:)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register what is done to docstrings, after napoleon's own work on them."""
    app.connect("autodoc-process-docstring", _not_a_type, priority=100)
    app.connect("autodoc-process-docstring", _literal_equations, priority=900)
    app.connect("autodoc-process-docstring", _escaped, priority=901)
    app.connect("autodoc-skip-member", _skip_others)
    app.connect("missing-reference", _short_name, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


_COLON = "\ue000"  # stands for a colon that napoleon is not to see


def _not_a_type(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep napoleon from reading "E[x], exact: a sum" as a type and its description."""
    if what in ("attribute", "data", "property") and lines:
        lines[0] = lines[0].replace(":", _COLON)


def _skip_others(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what scikit-learn puts into its subclasses."""
    return True if re.fullmatch("set_\\w+_request|get_metadata_routing", name) else None


def _escaped(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what is mathematics and would be markup: |x|, x_-n, `Part`s."""
    block = -1
    lines[:] = [line.replace(_COLON, ":") for line in lines]
    for i, line in enumerate(lines):
        if block >= 0 and line.strip() and _indent(line) <= block:
            block = -1
        if block < 0 and not _MARKED.match(line):
            parts = re.split("(``.*?``)", line)
            parts[::2] = [_escaped_text(part) for part in parts[::2]]
            lines[i] = "".join(parts)
        if line.strip().startswith((".. code-block", ".. math", ".. table")):
            block = _indent(line)


def _escaped_text(text: str) -> str:
    text = re.sub(r"(?<![\\\w])\|(?=\S)|(?<=\S)\|(?!\w)", r"\\|", text)
    text = re.sub(r"(?<=\w)_(?![\w_])", r"\\_", text)
    return re.sub(r"(`[\w.]+`)(?=\w)", r"\1\\ ", text)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _literal_equations(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Make of each indented paragraph, which would be a quotation, a block of code."""
    done: list[str] = []
    paragraph: list[str] = []
    level = -1  # the indentation of the block that is open
    for i, line in enumerate(lines):
        if level >= 0:
            if not line.strip() or _indent(line) >= level:
                done.append(f"   {line}" if line.strip() else line)
                continue
            level, paragraph = -1, []
        follows = bool(i and paragraph and not lines[i - 1].strip() and line.strip())
        if follows and _quotes(paragraph, line):
            outer, level = _indent(paragraph[-1]), _indent(line)
            done += [" " * level + ".. code-block:: text", "", f"   {line}"]
            if level > outer:
                done[-3] = " " * outer + ".. code-block:: text"
            continue
        if line.strip():
            paragraph = [line] if i and not lines[i - 1].strip() else [*paragraph, line]
        done.append(line)
    lines[:] = done


def _quotes(paragraph: list[str], line: str) -> bool:
    first, last = paragraph[0], paragraph[-1]
    if _MARKED.match(first) or _MARKED.match(line) or last.rstrip().endswith("::"):
        return False
    if len(paragraph) == 1 and _ITEM.match(first):
        return False
    return _indent(line) > _indent(last)


def _short_name(app: Sphinx, env: Any, node: Any, contnode: Any) -> nodes.Node | None:
    """Resolve `evaluation.log_likelihood` and `impute`, as docstrings write them, and `Tensor`."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"].removesuffix("()")
    domain = env.get_domain("py")
    whole = f"ppl_vae.{target}"
    found = [whole] if whole in domain.objects else []
    if not found and re.fullmatch(r"[\w.]+", target):
        ending = f".{target}"
        found = [n for n, o in domain.objects.items() if n.endswith(ending) and not o.aliased]
    if len(found) == 1 and len(target) > 1:
        entry = domain.objects[found[0]]
        address = app.builder.get_relative_uri(node["refdoc"], entry.docname)
        where = f"{address}#{entry.node_id}"
        return nodes.reference("", "", contnode, internal=True, refuri=where)
    if address := _elsewhere(env).get(target.rpartition(".")[2]):
        return nodes.reference("", "", contnode, internal=False, refuri=address)
    return contnode if node.get("reftype") == "obj" else None


def _elsewhere(env: Any) -> dict[str, str]:
    """Return the addresses of names in the inventories, by their last part."""
    return {
        name.rpartition(".")[2]: item.uri
        for entries in env.intersphinx_inventory.values()
        for name, item in entries.items()
    }
