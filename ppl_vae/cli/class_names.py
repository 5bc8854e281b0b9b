"""Names of classes and configurations, found without importing torch."""

from __future__ import annotations

import ast
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

LOGGERS = ("csv", "tensorboard")
PYRO_ESTIMATORS = ("Trace_ELBO", "TraceEnum_ELBO", "TraceMeanField_ELBO")
"""Pyro's estimators that a configuration may name."""

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


def classes(part: str) -> list[str]:
    """Return the classes of the package that a flag such as ``--prior`` may name."""
    tree = ast.parse((_package() / _PACKAGES[part] / "__init__.py").read_text(encoding="utf-8"))
    values = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    names: list[str] = ast.literal_eval(values["__all__"])
    if part == "estimator":
        return sorted([*(name for name in names if name.endswith("ELBO")), *PYRO_ESTIMATORS])
    return sorted(names)


def _package() -> Path:
    return Path(str(resources("ppl_vae")))
