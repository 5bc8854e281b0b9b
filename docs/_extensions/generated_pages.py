"""Pages of the reference that are written from the package: names, settings and commands."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from sphinx.application import Sphinx

FOLDER = Path(__file__).parents[1] / "reference"
# Their names are documented in ppl_vae itself.
AT_THE_TOP = ("models",)
KINDS = ("Classes", "Functions", "Errors")


def setup(app: Sphinx) -> dict[str, bool]:
    """Write the pages before Sphinx looks for pages."""
    app.connect("config-inited", _write_all)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write_all(app: Sphinx, config: Any) -> None:
    pages = {f"packages/{name}": text for name, text in _packages()}
    pages |= {"api/configuration": _configuration(), "api/command_line": _commands()}
    kept = {line.strip().lstrip("~") for text in pages.values() for line in _listed(text)}
    for path in [*FOLDER.glob("api/*.rst"), *FOLDER.glob("packages/*.rst")]:
        of_name = path.parent.name == "api" and path.stem.removesuffix("-function") in kept
        if not of_name and f"{path.parent.name}/{path.stem}" not in pages:
            path.unlink()  # of a name that is gone
    for name, text in pages.items():
        path = FOLDER / f"{name}.rst"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
    names = [line.strip().lstrip("~") for text in pages.values() for line in _listed(text)]
    config.autosummary_filename_map = {
        n: f"{n}-function" for n in names if n[:1].islower() and _also_a_class(n, names)
    }


def _listed(text: str) -> list[str]:
    return re.findall(r"^   (~ppl_vae\.[\w.]+)$", text, re.M)


def _also_a_class(name: str, names: list[str]) -> bool:
    """Tell whether two names differ only by case, as their files then do."""
    return name.rpartition(".")[2].islower() and any(
        n != name and n.lower() == name.lower() for n in names
    )


def public_packages() -> dict[str, tuple[ModuleType, list[str]]]:
    """Return the public packages by name, with their public names."""
    import ppl_vae

    found = {"ppl_vae": (ppl_vae, [n for n in ppl_vae.__all__ if not _is_package(n)])}
    for name in ppl_vae.__all__:
        if _is_package(name) and name not in AT_THE_TOP:
            module = import_module(f"ppl_vae.{name}")
            top = set(found["ppl_vae"][1])
            names = [n for n in getattr(module, "__all__", ()) if name != "io" or n not in top]
            found[f"ppl_vae.{name}"] = module, names
    return found


def _is_package(name: str) -> bool:
    import ppl_vae

    return isinstance(getattr(ppl_vae, name), ModuleType)


def _packages() -> Iterator[tuple[str, str]]:
    for name, (module, names) in public_packages().items():
        parts = [_title(name), f".. automodule:: {name}\n   :no-members:\n"]
        if name == "ppl_vae.distributions":
            names = []
            for path in sorted(Path(module.__path__[0]).glob("[!_]*.py")):
                inner = import_module(f"{name}.{path.stem}")
                names += [
                    f"{path.stem}.{n}"
                    for n, o in vars(inner).items()
                    if inspect.isclass(o) and o.__module__ == inner.__name__ and n[0] != "_"
                ]
        groups: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for n in names:
            if n.startswith("__"):
                continue
            if _kind(_resolve(module, n)) == "Constants":
                value = _resolve(module, n)
                shown = tuple(value) if isinstance(value, dict) else value
                parts.append(f".. py:data:: {n}\n   :value: {shown!r}\n")
            else:
                groups[_kind(_resolve(module, n))].append(f"{name}.{n}")
        for kind, members in groups.items():
            if members:
                rows = "\n".join(f"   ~{m}" for m in sorted(members, key=str.lower))
                listed = ".. autosummary::\n   :toctree: ../api\n   :nosignatures:\n"
                parts.append(f".. rubric:: {kind}\n\n{listed}\n{rows}\n")
        yield name, "\n".join(parts)


def _resolve(module: ModuleType, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _kind(thing: Any) -> str:
    if inspect.isclass(thing):
        return "Errors" if issubclass(thing, BaseException) else "Classes"
    return "Functions" if callable(thing) else "Constants"


def _title(text: str) -> str:
    return f"{text}\n{'=' * len(text)}\n"


def _configuration() -> str:
    from ppl_vae.cli import class_names
    from ppl_vae.spec import SECTIONS, entries

    parts = [
        _title("Settings of a configuration"),
        "A training from the command line is a YAML file (:doc:`/command_line`). Each entry is "
        "also a flag, ``--SECTION.NAME`` or the short flag given here, and flags win. ``ppl-vae "
        "fit CONFIG --print-config`` prints a whole configuration with every default. The entries "
        "of ``fit`` are arguments of :func:`ppl_vae.training.fit`.\n",
    ]
    for section, cls in SECTIONS.items():
        parts.append(f"Section ``{section}``\n{'-' * (len(section) + 12)}\n\n{cls.__doc__}\n")
        parts.append(".. list-table::\n   :header-rows: 1\n   :widths: 24 18 12 46\n")
        rows = [("entry", "type", "default", "meaning")]
        for entry in entries(section):
            short = f" (``--{entry.short.replace('_', '-')}``)" if entry.short else ""
            default = "" if entry.default is None else f"``{str(entry.default).lower()}``"
            rows.append((f"``{entry.name}``{short}", _hint(entry.hint), default, entry.help))
        for row in rows:
            cells = [f"     - {_escaped(cell)}" for cell in row]
            cells[0] = f"   * - {_escaped(row[0])}"
            parts.append("\n".join(cells))
        parts.append("")
    shipped = ", ".join(f"``{name}``" for name in class_names.shipped())
    parts.append("Parts by name\n-------------\n")
    parts.append(
        f"Shipped configurations: {shipped}. In the section ``model``, ``class`` is a pair, and "
        "each part is a name or a mapping of a ``class`` and its arguments; widths are worked out. "
        "So are the estimator, the optimizer and the schedule.\n"
    )
    for name in ("prior", "posterior", "likelihood", "estimator"):
        listed = ", ".join(f"``{n}``" for n in class_names.classes(name))
        parts.append(f"- **{name}**: {listed}")
    return "\n".join(parts) + "\n"


def _hint(hint: Any) -> str:
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words = []
    for member in members:
        if get_origin(member) is Literal:
            words += map(str, get_args(member))
        elif member is not type(None):
            words.append(inspect.formatannotation(member).replace("typing.", ""))
    return f"``{' | '.join(words)}``"


def _escaped(text: str) -> str:
    return text if "``" in text else re.sub(r"([*|`_\\])", r"\\\1", text)


def _commands() -> str:
    from ppl_vae.cli.commands import parsers
    from ppl_vae.cli.parser import COMMANDS

    os.environ["COLUMNS"] = "96"
    top, commands = parsers()
    parts = [
        _title("Commands"),
        "The pages of help, as ``ppl-vae --help`` and ``ppl-vae COMMAND --help`` print them. "
        "How they are used is in :doc:`/command_line`.\n",
        _page_of_help("ppl-vae", top),
    ]
    for name, parser in commands.items():
        parts += [_page_of_help(f"ppl-vae {name}", parser, COMMANDS[name])]
    return "\n".join(parts)


def _page_of_help(title: str, parser: Any, words: str = "") -> str:
    said = f"{words[:1].upper()}{words[1:]}.\n\n" if words else ""
    text = "\n".join(f"   {line}".rstrip() for line in parser.format_help().splitlines())
    return f"{title}\n{'-' * len(title)}\n\n{said}.. code-block:: text\n\n{text}\n"
