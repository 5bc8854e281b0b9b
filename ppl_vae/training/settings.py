"""The settings that resuming a training depends on, by the arguments of ``fit``."""

from __future__ import annotations

import platform
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ppl_vae.errors import reason
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.training.checksums import short_hash
from ppl_vae.training.fingerprint import CLASS_CODE, CODE, UNREAD, fingerprint

STATE = "the training changes it"
"""In place of a value that the training itself changes, on the objects that it was given."""

_VERSIONS = {"torch": "torch", "pyro": "pyro-ppl", "ppl_vae": "ppl-vae"}
_NONE = "nothing"
_MODE = "pair.training"  # of the pair itself; fit puts its programs in training mode
_SHOWN = 3


class Declaration:
    """The settings of a training, as strings to compare when it is resumed.

    They are the arguments of ``fit`` that decide the result, and :func:`optimizer_settings`.
    """

    def __init__(self, given: Mapping[str, object], optimizer: Mapping[str, str]) -> None:
        self._given = dict(given)
        self._words = {
            "versions.python": platform.python_version(),
            **{f"versions.{name}": _version(package) for name, package in _VERSIONS.items()},
            "torch's default dtype": str(torch.get_default_dtype()),
            **fingerprint(self._given),
            **optimizer,
        }
        self._words.pop(_MODE, None)

    def words(self) -> dict[str, str]:
        """Return the settings, for a checkpoint.

        Values that have changed since the beginning, such as a schedule's count of its calls, are
        not compared.
        """
        now = fingerprint(self._given, contents=False)
        words = dict(self._words)
        given = {n for n in words if any(_is_within(n, name) for name in self._given)}
        for name in {*given, *now}:
            if now.get(name) != words.get(name) and UNREAD not in now.get(name, ""):
                words[name] = STATE
        return words

    def check(self, saved: Mapping[str, str], folder: Path) -> None:
        """Compare with the declaration in a checkpoint.

        Other versions of Python, torch or a package give a warning: attributes that exist in one
        version alone are then not compared, nor the code of functions under another Python.
        Anything else that differs raises ValueError.
        """
        now, saved = self._words, {n: words for n, words in saved.items() if n != _MODE}
        versions = {n for n in {**saved, **now} if n.startswith("versions.")}
        changed = sorted(n for n in versions if saved.get(n) != now.get(n))
        states = [n for n, words in saved.items() if words == STATE]
        differing = {
            name: (saved.get(name, _NONE), now.get(name, _NONE))
            for name in {**now, **saved}
            if name not in versions
            and not (name not in saved and now[name] == "None")  # new since, and not used
            and saved.get(name) != now.get(name)
            and not any(_is_within(name, path) for path in states)
            and not (changed and (name not in saved or name not in now))
            and not ("versions.python" in changed and name.endswith((CODE, CLASS_CODE)))
        }
        refused = _outermost([n for n in differing if not n.endswith(CLASS_CODE)])
        if refused:
            shown = "; ".join(
                f"{reason(name)} was {reason(differing[name][0])} and is now "
                f"{reason(differing[name][1])}"
                for name in refused[:_SHOWN]
            )
            more = "; and more" if len(refused) > _SHOWN else ""
            raise ValueError(
                f"fit: cannot resume from {folder}: {shown}{more}\n"
                f"Use the same settings, or give another out"
            )
        told = [
            f"{reason(n.partition('.')[2])} was {reason(str(saved.get(n)))} and is {now.get(n)}"
            for n in changed
        ]
        told += [f"{reason(n)} has changed" for n in differing if n.endswith(CLASS_CODE)]
        if told:
            warnings.warn(
                f"fit: resuming from {folder} is not bit for bit: {'; '.join(told[:_SHOWN])}",
                stacklevel=3,
            )


def pair_settings(pair: ModelAndGuide) -> dict[str, object]:
    """Return a pair's parts by the names of its arguments."""
    try:
        parts = pair.parts()  # type: ignore[attr-defined]
    except Exception:  # another package's pair
        parts = {}
    named = {f"pair.{name}": part for name, part in parts.items()}
    if isinstance(pair, nn.Module):
        return {**named, "pair": pair}
    return {**named, "pair.model": pair.model, "pair.guide": pair.guide}


def optimizer_settings(optimizer: Optimizer, module: nn.Module) -> dict[str, str]:
    """Return the settings of an optimiser, before a schedule changes its rate."""
    names = {id(p): name for name, p in module.named_parameters()}
    several = len(optimizer.param_groups) > 1
    given: dict[str, object] = {}
    for i, group in enumerate(optimizer.param_groups):
        path = f"optimizer.param_groups[{i}]" if several else "optimizer"
        own = [names.get(id(p), "another") for p in group["params"]]
        given[f"{path}.params"] = f"{len(own)} parameters ({short_hash(repr(own).encode())})"
        given |= {f"{path}.{name}": value for name, value in group.items() if name != "params"}
    return {"optimizer": type(optimizer).__qualname__, **fingerprint(given)}


def with_current_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's state by its names of today; 0.1 spelled ``optimiser``."""

    def renamed(entries: Mapping[str, Any]) -> dict[str, Any]:
        return {re.sub(r"^optimiser\b", "optimizer", name): v for name, v in entries.items()}

    state = renamed(state)
    if isinstance(declaration := state.get("declaration"), dict):
        state["declaration"] = renamed(declaration)
    return state


def _outermost(names: Sequence[str]) -> list[str]:
    """Leave out the attributes of objects that are named themselves."""
    found: list[str] = []
    for name in names:
        if not any(_is_within(name, path) for path in found):
            found.append(name)
        if len(found) > _SHOWN:
            break
    return found


def _is_within(name: str, path: str) -> bool:
    return name.startswith(path) and name[len(path) :][:1] in ("", ".", "[", "(", " ")


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a source tree that was never installed
        return "unknown"
