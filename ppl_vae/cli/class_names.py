"""Names of classes and configurations, found without importing torch."""

from __future__ import annotations

import ast
import re
from functools import cache
from importlib.resources import files as resources
from pathlib import Path
from typing import Any, NamedTuple

LOGGERS = ("csv", "tensorboard")
PYRO_ESTIMATORS = ("Trace_ELBO", "TraceEnum_ELBO", "TraceMeanField_ELBO")
"""Pyro's estimators that a configuration may name."""

_IN_PYTHON_ALONE = ("make_pair", "progress")
"""Arguments of `ppl_vae.tables.TableVAE` without a flag of their name."""
_PACKAGES = {
    "prior": "priors",
    "posterior": "posteriors",
    "likelihood": "likelihoods",
    "estimator": "estimators",
}


@cache
def shipped() -> dict[str, Path]:
    """Return the shipped configurations by name."""
    return {path.stem: path for path in sorted((_package() / "configs").glob("*.yaml"))}


def shipped_pairs() -> Path:
    """Return the folder of the trained pairs."""
    return _package() / "zoo" / "pairs"


def classes(part: str) -> list[str]:
    """Return the classes of the package that a flag such as ``--prior`` may name."""
    names: list[str] = _constant(f"{_PACKAGES[part]}/__init__.py", "__all__")
    if part == "estimator":
        return sorted([*(name for name in names if name.endswith("ELBO")), *PYRO_ESTIMATORS])
    return sorted(names)


def report_sections() -> tuple[str, ...]:
    """Return the sections that ``--sections`` may name, as declared in `ppl_vae.report`."""
    names: tuple[str, ...] = _constant("report/options.py", "SECTIONS")
    return names


def planes() -> tuple[str, ...]:
    """Return what ``--plane`` may name, as declared in `ppl_vae.explorer`."""
    names: tuple[str, ...] = _constant("explorer/plane.py", "PLANES")
    return names


def _constant(file: str, name: str) -> Any:
    """Return a constant of a module of the package."""
    tree = ast.parse((_package() / file).read_text(encoding="utf-8"))
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return ast.literal_eval(values[name])


class TableSetting(NamedTuple):
    """An argument of `ppl_vae.tables.TableVAE`: its type as written, its default and its help."""

    hint: str
    default: Any
    help: str


_DEVICE = TableSetting("str", "auto", "what to train on: cpu, cuda, cuda:1, mps, or auto")
"""As the other commands have it; their ``auto`` is an accelerator where there is one."""


@cache
def table_settings() -> dict[str, TableSetting]:
    """Return the arguments of `ppl_vae.tables.TableVAE` that can be typed, as declared there."""
    tree = ast.parse((_package() / "tables" / "vae.py").read_text(encoding="utf-8"))
    (cls,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "TableVAE")
    (init,) = (n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    words = (ast.get_docstring(cls) or "").partition("\nArgs:\n")[2].partition("\n\n")[0]
    helps = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", words, re.M))
    found = {}
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        if argument.arg in _IN_PYTHON_ALONE:
            continue
        assert argument.annotation is not None
        assert default is not None
        if argument.arg == "device":
            found[argument.arg] = _DEVICE
            continue
        help = re.sub(r":\w+:`|`", "", " ".join(helps[argument.arg].split()))
        found[argument.arg] = TableSetting(ast.unparse(argument.annotation), _value(default), help)
    return found


def _value(node: ast.expr) -> Any:
    """Return a default: of a class its name."""
    return node.attr if isinstance(node, ast.Attribute) else ast.literal_eval(node)


def _package() -> Path:
    return Path(str(resources("ppl_vae")))
