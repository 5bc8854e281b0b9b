"""Estimators, optimisers and schedules by name: a fixed set of classes, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import infer
from pyro.infer import ELBO
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae import estimators
from ppl_vae.cli.class_names import PYRO_ESTIMATORS
from ppl_vae.cli.schedules import LENGTHS, check_names, in_steps
from ppl_vae.errors import quoted, reason
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.plain import plain
from ppl_vae.io.config.signature import arguments_of, convert
from ppl_vae.io.errors import brief, suggestion

# LBFGS wants a closure, SparseAdam sparse gradients.
_NOT_OPTIMIZERS = ("LBFGS", "SparseAdam")
# These take functions or other schedules, or a metric at each step.
_NOT_LENGTHS = (
    "LambdaLR",
    "MultiplicativeLR",
    "SequentialLR",
    "ChainedScheduler",
    "ReduceLROnPlateau",
)


def _classes(place: object, base: type, without: tuple[str, ...] = ()) -> dict[str, type]:
    named = {name: getattr(place, name) for name in place.__all__}  # type: ignore[attr-defined]
    return {
        name: cls
        for name, cls in named.items()
        if inspect.isclass(cls)
        and issubclass(cls, base)
        and cls is not base
        and name not in without
    }


KINDS: dict[str, dict[str, type]] = {
    "estimator": {
        **_classes(estimators, ELBO, ("KLWeighted",)),  # which is fit.beta
        **{name: getattr(infer, name) for name in PYRO_ESTIMATORS},
    },
    "optimizer": _classes(torch.optim, Optimizer, _NOT_OPTIMIZERS),
    "lr_schedule": _classes(lr_scheduler, LRScheduler, _NOT_LENGTHS),
}
"""Per section, the classes that it may name."""


def _check_length(value: object, length: int, path: str) -> None:
    if not isinstance(value, (list, tuple)) or len(value) != length:
        raise ConfigError(f"{path} must be a list of {length}, got {brief(value)}")


_GIVEN_LATER = {"params", "optimizer"}


@dataclass(frozen=True)
class Named:
    """A class by name, and its arguments, without those that only the training knows.

    Args:
        section: a key of ``KINDS``.
        name: of the class.
        arguments: plain data.
    """

    section: str
    name: str
    arguments: dict[str, Any]

    @classmethod
    def of(cls, section: str, given: object) -> Named:
        """Return what a configuration describes, with every default written out.

        Raises:
            ConfigError: if there is no such class in that place, or an argument is unknown,
                missing or of another type.
        """
        if isinstance(given, str):
            given = {"class": given}
        if not isinstance(given, Mapping):
            raise ConfigError(
                f"{section} must be the name of a class or a mapping, got {brief(given)}"
            )
        classes, name = KINDS[section], given.get("class")
        if name is None:
            raise ConfigError(f"{section}: class is missing; {suggestion('', classes)}")
        if not isinstance(name, str) or name not in classes:
            raise ConfigError(
                f"{section}: there is no class {brief(name)} here; {suggestion(str(name), classes)}"
            )
        known = {
            k: a for k, a in arguments_of(classes[name], section).items() if k not in _GIVEN_LATER
        }
        values: dict[str, Any] = {}
        check_names(
            name,
            [key for key in given if key != "class"],
            known,
            [key for key, argument in known.items() if argument.required],
            section,
        )
        for key, argument in known.items():
            path = f"{section}.{key}"
            value = given.get(key, argument.default)
            # A length may be a fraction. The hints of torch's betas have tensors in them: its
            # constructor checks those.
            # Defaults are converted too, 0 to 0.0: what is written is then what is read.
            if isinstance(usual := argument.default, (list, tuple)):
                _check_length(value, len(usual), path)
            values[key] = plain(
                value
                if argument.kind == "none" or (LENGTHS.get(name) == key and type(value) is float)
                else convert(argument, value, path),
                path,
            )
        return cls(section, name, values)

    def mapping(self) -> dict[str, object]:
        """Return it as plain data."""
        return {"class": self.name, **self.arguments}

    def in_steps(self, total: int) -> Named:
        """Return a schedule with its length in steps; raises as :func:`in_steps` does."""
        key = LENGTHS.get(self.name)
        if self.section != "lr_schedule" or key is None:
            return self
        length = in_steps(self.arguments[key], total, f"{self.section}.{key}")
        return replace(self, arguments={**self.arguments, key: length})

    def make(self, *first: object) -> Any:
        """Return an object of the class; ``first`` are the arguments that training knows.

        Raises:
            ConfigError: if the constructor refuses its arguments.
        """
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.arguments.items()}
        try:
            return KINDS[self.section][self.name](*first, **values)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            usual = arguments_of(KINDS[self.section][self.name], self.section)
            given = ", ".join(
                f"{self.section}.{key} = {quoted(value)}"
                for key, value in self.arguments.items()
                if usual[key].required or plain(usual[key].default) != value
            )
            raise ConfigError(
                f"{self.section}: {self.name} cannot be made with {given}: {reason(error)}"
            ) from error
