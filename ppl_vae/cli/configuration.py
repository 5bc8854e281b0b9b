"""The whole of a training as plain data: from what a user writes to what repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

from ppl_vae.cli import overrides
from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.named import Named
from ppl_vae.cli.overrides import Override
from ppl_vae.cli.settings import SHORT, DataSettings, DeviceSettings, FitSettings
from ppl_vae.config import ConfigError, resolve
from ppl_vae.config import files as config_files
from ppl_vae.config.errors import suggestion, told
from ppl_vae.config.files import dumped
from ppl_vae.data import Dataset
from ppl_vae.storage.atomic import replaced_file
from ppl_vae.storage.versions import FORMAT, check_format, package_version

FILE = "config.yaml"
LOGGERS = ("csv", "tensorboard")
_HEADER = ("format", "ppl_vae")
_KEYS = (*overrides.PLACES, "logger")
_DEFAULTS: dict[str, Any] = {
    "model": {},
    "data": {},
    "estimator": {"class": "ImportanceWeightedELBO", "num_particles": 1},
    "optimiser": {"class": "Adam", "lr": 1e-3, "fused": True},
    "lr_schedule": None,
    "fit": {},
    "devices": {},
    "logger": None,
}
# What may be another when a training goes on; for the rest, fit would make a mixture of two.
_MAY_CHANGE = (
    *("fit.steps", "fit.epochs", "fit.validate_every", "fit.checkpoint_every", "fit.keep"),
    *("fit.log_every", "data.root", "devices", "logger"),
)


@dataclass(frozen=True)
class Configuration:
    """All that decides a training.

    Args:
        model: as :func:`ppl_vae.from_config` takes it.
        data: what to train on.
        estimator: of the bound.
        optimiser: of the parameters.
        lr_schedule: of the rate; None for a constant one.
        fit: how to train.
        devices: where.
        logger: a name of ``LOGGERS``, or None.
    """

    model: dict[str, Any]
    data: DataSettings
    estimator: Named
    optimiser: Named
    lr_schedule: Named | None
    fit: FitSettings
    devices: DeviceSettings
    logger: str | None

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Configuration:
        """Return the configuration that a mapping describes; the model is not looked at yet.

        Raises:
            ConfigError: if an entry is unknown, missing or of another type.
        """
        for key in tree:
            if key not in (*_KEYS, *_HEADER):
                raise ConfigError(f"{key}: no such section; {suggestion(str(key), _KEYS)}")
        full = {key: tree.get(key, default) for key, default in _DEFAULTS.items()}
        full |= {k: default for k, default in _DEFAULTS.items() if full[k] is None}
        for key, entry in SHORT.items():
            if not isinstance(full[key], Mapping):
                full[key] = {entry: full[key]}
        logger = full["logger"]
        if logger is not None and logger not in LOGGERS:
            raise ConfigError(f"logger must be null or {' or '.join(LOGGERS)}, got {told(logger)}")
        if not isinstance(full["model"], Mapping):
            raise ConfigError(f"model must be a mapping with a class, got {told(full['model'])}")
        schedule = full["lr_schedule"]
        return cls(
            model=dict(full["model"]),
            data=DataSettings.of(full["data"], "data"),
            estimator=Named.of("estimator", full["estimator"]),
            optimiser=Named.of("optimiser", full["optimiser"]),
            lr_schedule=None if schedule is None else Named.of("lr_schedule", schedule),
            fit=FitSettings.of(full["fit"], "fit"),
            devices=DeviceSettings.of(full["devices"], "devices"),
            logger=logger,
        )

    def resolved(self, data: Dataset) -> Configuration:
        """Return the same with the model's every argument, its sizes taken from the data.

        The names of the data's classes are kept, too: their numbers depend on all of them.

        Raises:
            ConfigError: if the model is wrong.
        """
        classes = None if data.classes is None else list(data.classes)
        return replace(
            self,
            model=resolve(self.model, data=data),
            data=replace(self.data, classes=classes),
        )

    def mapping(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        return {
            "format": FORMAT,
            "ppl_vae": package_version(),
            "model": self.model,
            "data": self.data.mapping(),
            "estimator": self.estimator.mapping(),
            "optimiser": self.optimiser.mapping(),
            "lr_schedule": None if self.lr_schedule is None else self.lr_schedule.mapping(),
            "fit": self.fit.mapping(),
            "devices": self.devices.mapping(),
            "logger": self.logger,
        }

    def text(self) -> str:
        """Return all of it as YAML."""
        return dumped(self.mapping())

    def write(self, folder: Path) -> None:
        """Write all of it into a folder, at once."""
        with replaced_file(folder / FILE) as file:
            file.write_text(self.text(), encoding="utf-8")

    def check_goes_on(self, before: Configuration, folder: Path) -> None:
        """Raise an error unless this can go on from the training in a folder.

        Raises:
            UsageError: if an entry differs that decides the result.
        """
        was, now = _leaves(before.mapping()), _leaves(self.mapping())
        for path in dict.fromkeys([*now, *was]):
            if path in _HEADER or any(f"{path}.".startswith(f"{m}.") for m in _MAY_CHANGE):
                continue
            if was.get(path) != now.get(path):
                raise UsageError(
                    f"{folder} was trained with {path} = {told(was.get(path))}, and now it is "
                    f"{told(now.get(path))}; leave that out, or train anew with another --out"
                )


def written(given: str | None, flags: Sequence[Override], logger: str | None) -> dict[str, Any]:
    """Return what a user wrote: a file, and flags in the place of its entries.

    Args:
        given: the name of a shipped configuration, a path, or the folder of a run; the shipped
            ``vae`` if None.
        flags: paths and values.
        logger: in the place of the file's, if given.

    Raises:
        UsageError: if there is no such configuration.
        ConfigError: if it cannot be read.
    """
    tree = {k: v for k, v in _read("vae" if given is None else given).items() if v is not None}
    tree = {**deepcopy(_DEFAULTS), **tree}
    overrides.apply(tree, flags)
    typed = {path[1] for path, _ in flags if path in (["fit", "steps"], ["fit", "epochs"])}
    if len(typed) == 1 and isinstance(tree["fit"], dict):
        # One that is typed replaces the other, which the file may have.
        tree["fit"].pop("epochs" if typed == {"steps"} else "steps", None)
    if logger is not None:
        tree["logger"] = None if logger == "none" else logger
    return tree


def read(file: Path) -> dict[str, Any]:
    """Return the mapping in a file.

    Raises:
        ConfigError: if it holds none, or of a model alone that has no section of its own.
        NewerFormatError: if a newer version wrote it.
    """
    tree = config_files.read_file(file)
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} must hold a mapping with the sections {', '.join(_KEYS)}")
    if "class" in tree:
        raise ConfigError(f"{file} is of a model alone; write it below the key 'model'")
    if "format" in tree:
        check_format(file, tree["format"], tree.get("ppl_vae"))
    return tree


def shipped() -> dict[str, Path]:
    """Return the configurations that come with the package, by name."""
    folder = Path(str(resources("ppl_vae"))) / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def name_of(given: str | None, model: Mapping[str, Any]) -> str:
    """Return what a configuration is called, for a folder."""
    if given is None:
        return str(model.get("class", "VAE"))
    path = Path(given)
    return path.resolve().parent.name if path.name == FILE else path.stem


def _read(given: str) -> dict[str, Any]:
    known = shipped()
    path = Path(given).expanduser()
    if path.is_dir() and (path / FILE).is_file():
        return read(path / FILE)
    if path.is_file():
        return read(path)
    if given in known:
        return read(known[given])
    what = f"{path} is a folder without {FILE}" if path.is_dir() else f"there is no file {given!r}"
    raise UsageError(f"CONFIG: {what}, and it is no name; {suggestion(given, known)}")


def _leaves(node: Any, path: str = "") -> dict[str, Any]:
    """Return the entries of a mapping by their whole paths."""
    if not isinstance(node, Mapping) or not node:
        return {path: node}
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= _leaves(value, f"{path}.{key}" if path else str(key))
    return found
