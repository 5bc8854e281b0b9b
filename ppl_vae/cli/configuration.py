"""A training as plain data: read from a file and flags, resolved, and written."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

from ppl_vae.cli.class_names import LOGGERS, shipped
from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.flags import PLACES, SHORT, Flag, apply
from ppl_vae.cli.output import say
from ppl_vae.cli.registry import KINDS, Named
from ppl_vae.cli.schedules import in_steps, schedule_in_steps
from ppl_vae.data import Dataset
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.files import dumped, read_file
from ppl_vae.io.config.resolver import resolve
from ppl_vae.io.config.signature import Argument, convert, plain, refuse_unknown
from ppl_vae.io.errors import brief, suggestion
from ppl_vae.io.format import FORMAT, check_format
from ppl_vae.spec import ARGUMENTS, ENTRIES, SECTIONS, DataSpec, DeviceSpec, FitSpec, entries
from ppl_vae.version import __version__

FILE = "config.yaml"
TABLE_SETTINGS = "settings.yaml"
"""Of a training on a table, whose folder holds the pair itself."""
_SHIPPED = "vae"
"""The configuration that is used if none is given."""
_HEADER = ("format", "ppl_vae")
_DEFAULTS: dict[str, Any] = {
    **{place: ARGUMENTS[place].default if place in ARGUMENTS else {} for place in PLACES},
    "init": None,
    "logger": None,
}
_MAY_CHANGE = (*(path for path, entry in ENTRIES.items() if entry.may_change), "logger")
"""Entries that may differ when a run is resumed."""


@dataclass(frozen=True)
class Configuration:
    """Everything that determines a training.

    Args:
        model: as :func:`ppl_vae.from_config` takes it.
        data, fit, devices: see :mod:`ppl_vae.spec`.
        estimator, optimizer, lr_schedule: classes with arguments; None for a constant rate.
        init: the run, or the saved pair, whose weights are the first; None for new ones.
        logger: a name of ``LOGGERS``, or None.
    """

    model: dict[str, Any]
    data: DataSpec
    estimator: Named
    optimizer: Named
    lr_schedule: Named | None
    fit: FitSpec
    devices: DeviceSpec
    init: str | None
    logger: str | None

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Configuration:
        """Return the configuration that a mapping describes; the model is not checked yet."""
        refuse_unknown("a configuration", [k for k in tree if k not in _HEADER], _DEFAULTS, "")
        full = _complete(tree)
        init, logger = full["init"], None if full["logger"] == "none" else full["logger"]
        if init is not None and not isinstance(init, str):
            raise ConfigError(f"init must be the folder of a run, or null, got {brief(init)}")
        if logger is not None and logger not in LOGGERS:
            raise ConfigError(f"logger must be null or {' or '.join(LOGGERS)}, got {brief(logger)}")
        if not isinstance(full["model"], Mapping):
            raise ConfigError(f"model must be a mapping with a class, got {brief(full['model'])}")
        data, fit = section("data", full["data"]), section("fit", full["fit"])
        for path, seed in (("data.seed", data.seed), ("fit.seed", fit.seed)):
            if not 0 <= seed < 2**32:
                raise ConfigError(f"{path} must be from 0 to 2**32 - 1, got {brief(seed)}")
        if not 0 <= data.validation < 1:
            raise ConfigError(
                f"data.validation must be a fraction of the training data, such as 0.1, or 0 for "
                f"none, got {brief(data.validation)}"
            )
        classes: dict[str, Any] = {
            key: None if full[key] is None else Named.of(key, full[key]) for key in KINDS
        }
        return cls(
            model=dict(full["model"]),
            data=data,
            **classes,
            fit=fit,
            devices=section("devices", full["devices"]),
            init=init,
            logger=logger,
        )

    def resolved(self, data: Dataset) -> Configuration:
        """Return the same with all arguments of the model, and sizes and classes of the data."""
        classes = None if data.classes is None else list(data.classes)
        data_spec = replace(self.data, classes=classes)
        return replace(self, model=resolve(self.model, data=data), data=data_spec)

    def steps(self, number: int) -> int:
        """Return the number of steps, given the number of data."""
        steps, epochs = self.fit.steps, self.fit.epochs
        if (steps is None) == (epochs is None):
            raise UsageError("give either --steps or --epochs: how long to train")
        if steps is not None:
            return steps
        return (epochs or 0) * ceil(number / max(1, self.fit.batch_size or 1))

    def in_steps(self, total: int) -> Configuration:
        """Return the same with every length in steps, given their total."""
        lengths = {
            entry.name: min(getattr(FitSpec, entry.name), max(1, ceil(total / 10)))
            if (given := getattr(self.fit, entry.name)) is None
            else in_steps(given, total, entry.path)
            for entry in entries("fit")
            if entry.length
        }
        particles = self.fit.num_particles
        fit = replace(
            self.fit,
            beta=schedule_in_steps(self.fit.beta, total, "fit.beta"),
            temperature=schedule_in_steps(self.fit.temperature, total, "fit.temperature"),
            num_particles=in_steps(particles, total, "fit.num_particles", "milestones"),
            **lengths,
        )
        return replace(
            self, fit=fit, lr_schedule=self.lr_schedule and self.lr_schedule.in_steps(total)
        )

    def mapping(self) -> dict[str, Any]:
        """Return it as plain data."""
        found: dict[str, Any] = {"format": FORMAT, "ppl_vae": __version__}
        for key in _DEFAULTS:
            value = getattr(self, key)
            if key in SECTIONS:
                value = {e.name: plain(getattr(value, e.name)) for e in entries(key)}
            found[key] = value.mapping() if isinstance(value, Named) else value
        return found

    def text(self) -> str:
        """Return it as YAML."""
        return dumped(self.mapping())

    def check_resumes(self, before: Configuration, folder: Path) -> None:
        """Raise an error if an entry differs that determines the result of a run to resume."""
        was, now = _leaves(before.mapping()), _leaves(self.mapping())
        for path in dict.fromkeys([*now, *was]):
            if path in _HEADER or any(f"{path}.".startswith(f"{m}.") for m in _MAY_CHANGE):
                continue
            if was.get(path) != now.get(path):
                entry = path if "." in path else f"--{path}"
                raise UsageError(
                    f"{folder} was trained with {entry} = {brief(was.get(path))}, and now it is "
                    f"{brief(now.get(path))}; to resume it, ppl-vae fit {folder} --resume; to "
                    f"train anew, give another --out"
                )


def written(
    given: str | None, flags: Sequence[Flag], before: Configuration | None = None
) -> dict[str, Any]:
    """Return the mapping in a file, with the entries that were typed.

    Args:
        given: the name of a shipped configuration, a path, or the folder of a run; the shipped
            ``vae`` if None.
        flags: what was typed.
        before: of the training that is resumed: entries that may change are kept from there,
            unless typed.
    """
    tree = _read(_SHIPPED if given is None else given)
    tree |= _complete(tree)
    if before is not None:
        _keep(tree, before.mapping())
    apply(tree, flags)
    typed = {flag.path[1] for flag in flags if flag.path in (["fit", "steps"], ["fit", "epochs"])}
    if len(typed) == 1 and isinstance(tree["fit"], dict):
        # The one that is typed replaces the other one in the file.
        tree["fit"].pop("epochs" if typed == {"steps"} else "steps", None)
    return tree


def _complete(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return all sections of a configuration, the default where one is missing or null."""
    given = {key: value for key, value in tree.items() if value is not None}
    full = {key: given.get(key, deepcopy(default)) for key, default in _DEFAULTS.items()}
    for key in SECTIONS:
        if key in SHORT and not isinstance(full[key], Mapping):  # data: mnist
            full[key] = {SHORT[key].partition(".")[2]: full[key]}
    return full


def section(name: str, given: object) -> Any:
    """Return the section of a configuration that a mapping describes."""
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} must be a mapping, got {brief(given)}")
    known = {e.name: Argument(e.name, "value", e.hint, e.default) for e in entries(name)}
    refuse_unknown(name, given, known, name)
    converted = {k: convert(a, given.get(k, a.default), f"{name}.{k}") for k, a in known.items()}
    return SECTIONS[name](**converted)


def _keep(tree: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Set the entries that may change to their values before."""
    for path in _MAY_CHANGE:
        section, _, entry = path.partition(".")
        if not entry:
            tree[section] = before[section]
        else:
            tree[section][entry] = before[section][entry]


def read(file: Path) -> dict[str, Any]:
    """Return the mapping in a file."""
    tree = read_file(file)
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold a mapping with the sections {', '.join(_DEFAULTS)}")
    if "class" in tree:
        raise ConfigError(f"{file} is the configuration of a model; put it under the key 'model'")
    if "format" in tree:
        check_format(file, tree["format"], tree.get("ppl_vae"))
    return _with_current_names(file, tree)


def _with_current_names(file: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the section that was called ``optimiser`` as ``optimizer``."""
    if "optimiser" not in tree:
        return tree
    if "optimizer" in tree:
        raise ConfigError(f"{file}: optimiser is the old name of optimizer; leave optimizer alone")
    if "ppl_vae" not in tree:  # written by hand, not by an older version
        say(f"warning: {file}: the section optimiser is now spelled optimizer")
    return {"optimizer" if k == "optimiser" else k: section for k, section in tree.items()}


def name_of(given: str | None) -> str:
    """Return the name of a configuration, for its folder."""
    if given is None:
        return _SHIPPED
    path = Path(given)
    return path.resolve().parent.name if path.name == FILE else path.stem


def is_pair(tree: Mapping[str, Any]) -> bool:
    """Tell whether a configuration is that of a saved pair, with weights and without data."""
    return "weights" in tree and "data" not in tree


def _read(given: str) -> dict[str, Any]:
    known = shipped()
    path = Path(given).expanduser()
    if (path / TABLE_SETTINGS).is_file():
        command = f"ppl-vae fit table {shlex.quote(given)} --resume"
        raise UsageError(f"CONFIG: {path} is a run of a table; go on with it: {command}")
    file = path / FILE if path.is_dir() and (path / FILE).is_file() else path
    if file.is_file():
        tree = read(file)
        if is_pair(tree):
            raise UsageError(
                f"CONFIG: {file.parent} is a saved pair, not a run; to train from its weights: "
                f"ppl-vae fit CONFIG --init {shlex.quote(str(file.parent))}"
            )
        return tree
    if (name := given.replace("-", "_")) in known:
        return read(known[name])
    what = f"{path} is a folder without {FILE}" if path.is_dir() else f"there is no file {given!r}"
    if "/" in given and not path.is_dir():
        raise UsageError(f"CONFIG: {what}: there is no such run or configuration")
    raise UsageError(
        f"CONFIG: {what}, and no configuration of that name; {suggestion(given, known)}"
    )


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Return the entries of a nested mapping by their paths."""
    if not isinstance(node, Mapping) or not node:
        return {path: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _leaves(value, f"{path}.{key}" if path else str(key))
    return found
