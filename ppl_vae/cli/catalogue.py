"""What there is to choose from: names, first sentences and signatures, read from the source.

Nothing is imported: ``ppl-vae list`` and ``ppl-vae show`` answer at once.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ppl_vae.cli.class_names import PYRO_ESTIMATORS, shipped, shipped_pairs

KINDS = {
    "priors": "p(z), the distribution of the latents",
    "posteriors": "q(z|x), the family of the guide",
    "likelihoods": "p(x|z), the distribution of the data",
    "networks": "what computes parameters from x or z",
    "estimators": "the bound that is trained, and schedules of its weights",
    "pairs": "models with their guides",
    "configs": "configurations that come with the package, for ppl-vae fit",
    "zoo": "trained pairs that come with the package",
}
"""What can be listed, and what each kind is."""
_PACKAGES = {"networks": "nets", "pairs": "models"}
_ROLE = re.compile(r":\w+:`~?([^`]*)`|``([^`]*)``|`([^`]*)`")
_SENTENCE = re.compile(r"(?<!\bal)(?<!\.)\.\s+(?=[A-Z(])")
"""The end of a sentence, which "et al. 2017" and "z1 ... zL" are not."""
_LONGEST = 120


@dataclass(frozen=True)
class Entry:
    """A class, a function or a configuration that can be chosen.

    Args:
        name: as it is typed.
        signature: as it is called; of a configuration the command.
        doc: the docstring; of a configuration the file.
    """

    name: str
    signature: str
    doc: str

    @property
    def sentence(self) -> str:
        """The first sentence of the docstring, without markup."""
        first = self.doc.strip().partition("\n\n")[0].replace("\n- ", " ")  # a list of Pyro's
        sentence = _SENTENCE.split(plain(" ".join(first.split())))[0]
        return textwrap.shorten(sentence.rstrip(".:"), _LONGEST, placeholder=" …")


def kind_of(typed: str) -> str | None:
    """Return the kind that a word means, in the singular or the plural; None for none."""
    word = typed.lower().replace("_", "-")
    return next((kind for kind in KINDS if word in (kind, singular(kind))), None)


def singular(kind: str) -> str:
    """Return the name of one of a kind."""
    return kind.removesuffix("s")


@cache
def entries(kind: str) -> Mapping[str, Entry]:
    """Return all of a kind, by name."""
    if kind == "configs":
        return {name: _configuration(name, path) for name, path in shipped().items()}
    if kind == "zoo":
        cards = sorted(shipped_pairs().glob("*/card.json"))
        return {path.parent.name: _trained(json.loads(path.read_text("utf-8"))) for path in cards}
    package = f"ppl_vae.{_PACKAGES.get(kind, kind)}"
    found = {name: _documented(package, name) for name in _public(package)}
    if kind == "estimators":
        found |= {name: _documented("pyro.infer", name) for name in PYRO_ESTIMATORS}
    return dict(sorted(found.items()))


def _configuration(name: str, path: Path) -> Entry:
    text = path.read_text(encoding="utf-8")
    comment = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return Entry(name, f"ppl-vae fit {name}", "\n".join([*comment, "", text]))


def _trained(card: Mapping[str, Any]) -> Entry:
    """Return a trained pair: how it is loaded, and its card."""
    name = card["name"]
    numbers = [f"{n}: {value} ± {error}" for n, (value, error) in card["numbers"].items()]
    about = [f"data: {card['data']}", f"command: {card['command']}", *numbers, card["numbers_are"]]
    doc = "\n\n".join([card["description"], *about])
    return Entry(name, f'ppl_vae.zoo.load("{name}")', doc)


def _public(package: str) -> list[str]:
    for node in _tree(package).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    raise LookupError(f"{package} has no __all__")


def _documented(module: str, name: str) -> Entry:
    """Return a class or a function that a module defines or imports."""
    module, node = _definition(module, name)
    arguments = _arguments(module, node)
    returns = node.returns if isinstance(node, ast.FunctionDef) else None
    result = "" if returns is None else f" -> {ast.unparse(returns)}"
    one_line = f"{name}({', '.join(arguments)}){result}"
    several = ",\n    ".join(arguments)
    signature = one_line if len(one_line) <= 88 else f"{name}(\n    {several},\n){result}"
    doc = ast.get_docstring(node) or ""
    return Entry(name, signature, doc)


def _definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef]:
    """Return where a name is defined: the module, and its class or function."""
    imported = None
    for node in _tree(module).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    imported = (node.module or "", alias.name)
    if imported is None:
        raise LookupError(f"{module} has no {name}")
    return _definition(*imported)


def _arguments(module: str, node: ast.ClassDef | ast.FunctionDef) -> list[str]:
    """Return the arguments of a call, each as it is written."""
    init = node if isinstance(node, ast.FunctionDef) else _constructor(module, node)
    if init is None:
        return []
    given = init.args
    positional = [*given.posonlyargs, *given.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(given.defaults))
    defaults += given.defaults
    found = [_argument(a, d) for a, d in zip(positional, defaults, strict=True)]
    found = found[0 if init is node else 1 :]  # without self
    if given.vararg:
        found.append(f"*{_argument(given.vararg, None)}")
    elif given.kwonlyargs:
        found.append("*")
    found += [_argument(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    if given.kwarg:
        found.append(f"**{_argument(given.kwarg, None)}")
    return found


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    hint = "" if argument.annotation is None else f": {ast.unparse(argument.annotation)}"
    if default is None:
        return f"{argument.arg}{hint}"
    return f"{argument.arg}{hint}{' = ' if hint else '='}{ast.unparse(default)}"


def _constructor(module: str, node: ast.ClassDef) -> ast.FunctionDef | None:
    """Return the constructor of a class: its own, or the first that it inherits; None for none."""
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return part
    for base in node.bases:
        name = base.value if isinstance(base, ast.Subscript) else base
        if not isinstance(name, ast.Name):
            continue  # nn.Module
        try:
            where, parent = _definition(module, name.id)
        except LookupError:
            continue
        if isinstance(parent, ast.ClassDef) and (found := _constructor(where, parent)) is not None:
            return found
    return None


@cache
def _tree(module: str) -> ast.Module:
    """Return the source of a module of ours, or of Pyro; LookupError for one of another package."""
    root, *parts = module.split(".")
    spec = find_spec(root) if root in ("ppl_vae", "pyro") else None  # of a package: not imported
    if spec is None or spec.origin is None:
        raise LookupError(f"{module} is not read")
    path = Path(spec.origin).parent.joinpath(*parts)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def plain(doc: str) -> str:
    """Return a docstring without the markup of names."""
    text = textwrap.dedent(inspect.cleandoc(doc)).replace(r"\|", "|")
    return _ROLE.sub(lambda m: m[1] or m[2] or m[3], text)
