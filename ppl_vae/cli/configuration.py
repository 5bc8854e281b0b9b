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
from ppl_vae.cli.flags import PLACES, SCALAR, Flag, apply
from ppl_vae.cli.output import say
from ppl_vae.cli.registry import Named
from ppl_vae.cli.schedules import beta_in_steps, in_steps, particles_in_steps
from ppl_vae.data import Dataset
from ppl_vae.io.atomic import write_file
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config import files as config_files
from ppl_vae.io.config.files import dumped
from ppl_vae.io.config.plain import plain
from ppl_vae.io.config.resolver import resolve
from ppl_vae.io.config.signature import Argument, convert
from ppl_vae.io.errors import brief, suggestion
from ppl_vae.io.format import FORMAT, check_format
from ppl_vae.spec import (
    ARGUMENTS,
    ENTRIES,
    SECTIONS,
    DataSpec,
    DeviceSpec,
    FitSpec,
    Section,
    entries,
)
from ppl_vae.version import __version__

FILE = "config.yaml"
_SHIPPED = "vae"
"""The configuration that is used if none is given."""
_HEADER = ("format", "ppl_vae")
_KEYS = (*PLACES, "init", "logger")
_DEFAULTS: dict[str, Any] = {
    "model": {},
    "data": {},
    "estimator": ARGUMENTS["estimator"].default,
    "optimizer": ARGUMENTS["optimizer"].default,
    "lr_schedule": None,
    "fit": {},
    "devices": {},
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
        data: what to train on.
        estimator: of the bound.
        optimizer: of the parameters.
        lr_schedule: of the rate; None for a constant one.
        fit: how to train.
        devices: where.
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
        """Return the configuration that a mapping describes; the model is not checked yet.

        Raises:
            ConfigError: if an entry is unknown, missing or of another type.
        """
        for key in tree:
            if key not in (*_KEYS, *_HEADER):
                raise ConfigError(f"{key}: no such section; {suggestion(str(key), _KEYS)}")
        full = {key: tree.get(key, default) for key, default in _DEFAULTS.items()}
        full |= {k: default for k, default in _DEFAULTS.items() if full[k] is None}
        for key, entry in SCALAR.items():
            if not isinstance(full[key], Mapping):
                full[key] = {entry: full[key]}
        init, logger = full["init"], None if full["logger"] == "none" else full["logger"]
        if init is not None and not isinstance(init, str):
            raise ConfigError(f"init must be the folder of a run, or null, got {brief(init)}")
        if logger is not None and logger not in LOGGERS:
            raise ConfigError(f"logger must be null or {' or '.join(LOGGERS)}, got {brief(logger)}")
        if not isinstance(full["model"], Mapping):
            raise ConfigError(f"model must be a mapping with a class, got {brief(full['model'])}")
        schedule = full["lr_schedule"]
        data, fit = section("data", full["data"]), section("fit", full["fit"])
        for path, seed in (("data.seed", data.seed), ("fit.seed", fit.seed)):
            if not 0 <= seed < 2**32:
                raise ConfigError(f"{path} must be from 0 to 2**32 - 1, got {brief(seed)}")
        if not 0 <= data.validation < 1:
            raise ConfigError(
                f"data.validation must be a fraction of the training data, such as 0.1, or 0 for "
                f"none, got {brief(data.validation)}"
            )
        return cls(
            model=dict(full["model"]),
            data=data,
            estimator=Named.of("estimator", full["estimator"]),
            optimizer=Named.of("optimizer", full["optimizer"]),
            lr_schedule=None if schedule is None else Named.of("lr_schedule", schedule),
            fit=fit,
            devices=section("devices", full["devices"]),
            init=init,
            logger=logger,
        )

    def resolved(self, data: Dataset) -> Configuration:
        """Return the same with all arguments of the model, and sizes and classes of the data.

        Raises:
            ConfigError: if the model is wrong.
        """
        classes = None if data.classes is None else list(data.classes)
        return replace(
            self,
            model=resolve(self.model, data=data),
            data=replace(self.data, classes=classes),
        )

    def steps(self, number: int) -> int:
        """Return the number of steps, given the number of data.

        Raises:
            UsageError: unless either steps or epochs are given.
        """
        steps, epochs = self.fit.steps, self.fit.epochs
        if (steps is None) == (epochs is None):
            raise UsageError("give either --steps or --epochs: how long to train")
        if steps is not None:
            return steps
        return (epochs or 0) * ceil(number / max(1, self.fit.batch_size or 1))

    def in_steps(self, total: int) -> Configuration:
        """Return the same with every length in steps, given their total.

        Raises:
            ConfigError: if a length is invalid.
        """
        lengths = {
            entry.name: min(getattr(FitSpec, entry.name), max(1, ceil(total / 10)))
            if (given := getattr(self.fit, entry.name)) is None
            else in_steps(given, total, entry.path)
            for entry in entries("fit")
            if entry.length
        }
        fit = replace(
            self.fit,
            beta=beta_in_steps(self.fit.beta, total),
            num_particles=particles_in_steps(self.fit.num_particles, total),
            **lengths,
        )
        return replace(
            self,
            fit=fit,
            lr_schedule=self.lr_schedule and self.lr_schedule.in_steps(total),
        )

    def mapping(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "format": FORMAT,
            "ppl_vae": __version__,
            "model": self.model,
            "data": _mapping("data", self.data),
            "estimator": self.estimator.mapping(),
            "optimizer": self.optimizer.mapping(),
            "lr_schedule": None if self.lr_schedule is None else self.lr_schedule.mapping(),
            "fit": _mapping("fit", self.fit),
            "devices": _mapping("devices", self.devices),
            "init": self.init,
            "logger": self.logger,
        }

    def text(self) -> str:
        """Return it as YAML."""
        return dumped(self.mapping())

    def write(self, folder: Path) -> None:
        """Write it into a folder, atomically."""
        write_file(folder / FILE, self.text())

    def check_resumes(self, before: Configuration, folder: Path) -> None:
        """Raise an error unless this resumes the training in a folder.

        Raises:
            UsageError: if an entry differs that determines the result.
        """
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

    Raises:
        UsageError: if there is no such configuration.
        ConfigError: if it cannot be read.
    """
    tree = {k: v for k, v in _read(_SHIPPED if given is None else given).items() if v is not None}
    tree = {**deepcopy(_DEFAULTS), **tree}
    if before is not None:
        _keep(tree, before.mapping())
    apply(tree, flags)
    typed = {flag.path[1] for flag in flags if flag.path in (["fit", "steps"], ["fit", "epochs"])}
    if len(typed) == 1 and isinstance(tree["fit"], dict):
        # The one that is typed replaces the other one in the file.
        tree["fit"].pop("epochs" if typed == {"steps"} else "steps", None)
    return tree


def section(name: str, given: object) -> Any:
    """Return the section of a configuration that a mapping describes.

    Raises:
        ConfigError: if it is not a mapping, or an entry is unknown or of another type.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"{name} must be a mapping, got {brief(given)}")
    known = {entry.name: entry for entry in entries(name)}
    values = {key: entry.default for key, entry in known.items()}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{name}.{key}: no such entry; {suggestion(str(key), known)}")
        entry = known[key]
        values[key] = convert(Argument(key, "value", entry.hint, entry.default), value, entry.path)
    return SECTIONS[name](**values)


def _mapping(name: str, section: Section) -> dict[str, Any]:
    """Return the entries of a section as plain data."""
    return {entry.name: plain(getattr(section, entry.name)) for entry in entries(name)}


def _keep(tree: dict[str, Any], before: Mapping[str, Any]) -> None:
    """Set the entries that may change to their values before."""
    for path in _MAY_CHANGE:
        section, _, entry = path.partition(".")
        if not entry:
            tree[section] = before[section]
        else:
            if not isinstance(tree[section], dict):  # data: mnist
                tree[section] = {SCALAR.get(section, ""): tree[section]}
            tree[section][entry] = before[section][entry]


def read(file: Path) -> dict[str, Any]:
    """Return the mapping in a file.

    Raises:
        ConfigError: if there is none, or that of a model alone.
        NewerFormatError: if a newer version wrote it.
    """
    tree = config_files.read_file(file)
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold a mapping with the sections {', '.join(_KEYS)}")
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
