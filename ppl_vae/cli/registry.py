"""Estimators, optimisers and schedules by name: a fixed set of classes, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from pyro import infer
from pyro.infer import ELBO
from torch.optim import Optimizer, lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae import estimators
from ppl_vae.cli.class_names import PYRO_ESTIMATORS
from ppl_vae.cli.schedules import LENGTHS, in_steps
from ppl_vae.errors import quoted, reason
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.names import public
from ppl_vae.io.config.signature import arguments_of, convert, plain, refuse_missing, refuse_unknown
from ppl_vae.io.errors import brief, suggestion

# LBFGS wants a closure, SparseAdam sparse gradients.
_NOT_OPTIMIZERS = ("LBFGS", "SparseAdam")
# These take functions or other schedules, or a metric at each step.
_NOT_SCHEDULES = (
    *("LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"),
)


def _classes(place: Any, base: type, *without: str) -> dict[str, type]:
    named = {name: getattr(place, name) for name in place.__all__ if name not in without}
    subclasses = (c for c in named.items() if inspect.isclass(c[1]) and issubclass(c[1], base))
    return {name: cls for name, cls in subclasses if cls is not base}


KINDS: dict[str, dict[str, type]] = {
    "estimator": {
        # The first is fit.beta, the second takes a function.
        **_classes(estimators, ELBO, "KLWeighted", "TemperatureScheduled"),
        **{name: getattr(infer, name) for name in PYRO_ESTIMATORS},
    },
    "optimizer": _classes(torch.optim, Optimizer, *_NOT_OPTIMIZERS),
    "lr_schedule": _classes(lr_scheduler, LRScheduler, *_NOT_SCHEDULES),
}
"""Per section, the classes that it may name."""


def _needs_no_context(cls: Any) -> bool:
    is_of_z = "latent_dim" in inspect.signature(cls).parameters
    return is_of_z and list(inspect.signature(cls.forward).parameters) == ["self"]


def _needs_a_net_alone(cls: Any) -> bool:
    is_of_z = "latent_dim" in inspect.signature(cls.net_features).parameters
    return is_of_z and "conditional" not in inspect.signature(cls).parameters


# Of a table; the other parts of its pair are not there to be named.
PRIORS = {name: cls for name, cls in public("priors").items() if _needs_no_context(cls)}
POSTERIORS = {name: cls for name, cls in public("posteriors").items() if _needs_a_net_alone(cls)}
_NAMED = {**KINDS, "prior": PRIORS, "posterior": POSTERIORS}
_GIVEN_LATER = {"params", "optimizer", "latent_dim", "net"}
"""Arguments that only the training knows."""


@dataclass(frozen=True)
class Named:
    """A class of ``_NAMED[section]`` by name, and its arguments, without ``_GIVEN_LATER``."""

    section: str
    name: str
    arguments: dict[str, Any]

    @classmethod
    def of(cls, section: str, given: object) -> Named:
        """Return what a configuration describes, with every default written out."""
        if isinstance(given, str):
            given = {"class": given}
        if not isinstance(given, Mapping):
            raise ConfigError(f"{section} must be a class or a mapping, got {brief(given)}")
        classes, name = _NAMED[section], given.get("class")
        if name is None:
            raise ConfigError(f"{section}: class is missing; {suggestion('', classes)}")
        if not isinstance(name, str) or name not in classes:
            raise ConfigError(
                f"{section}: there is no class {brief(name)} here; {suggestion(str(name), classes)}"
            )
        signature = arguments_of(classes[name], section)
        known = {key: a for key, a in signature.items() if key not in _GIVEN_LATER}
        values: dict[str, Any] = {}
        refuse_unknown(name, [key for key in given if key != "class"], known, section)
        required = [key for key, argument in known.items() if argument.required]
        refuse_missing(name, given, required, section)
        for key, argument in known.items():
            path = f"{section}.{key}"
            value = given.get(key, argument.default)
            usual = argument.default
            if isinstance(usual, (list, tuple)) and (
                not isinstance(value, (list, tuple)) or len(value) != len(usual)
            ):
                raise ConfigError(f"{path} must be a list of {len(usual)}, got {brief(value)}")
            # A length may be a fraction. The hints of torch's betas have tensors in them: its
            # constructor checks those.
            as_given = argument.kind == "none" or (LENGTHS.get(name), type(value)) == (key, float)
            # Defaults are converted too, 0 to 0.0: what is written is then what is read.
            values[key] = plain(value if as_given else convert(argument, value, path), path)
        return cls(section, name, values)

    def mapping(self) -> dict[str, object]:
        """Return it as plain data."""
        return {"class": self.name, **self.arguments}

    def in_steps(self, total: int) -> Named:
        """Return a schedule with its length in steps."""
        key = LENGTHS.get(self.name, "")
        return replace(self, arguments=in_steps(self.arguments, total, self.section, key))

    def partial(self) -> partial[Any]:
        """Return the class with its arguments, to be given those that are known later."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.arguments.items()}
        return partial(_NAMED[self.section][self.name], **values)

    def make(self, *first: object) -> Any:
        """Return an object of the class; ``first`` are the arguments that training knows."""
        cls = _NAMED[self.section][self.name]
        try:
            return self.partial()(*first)
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            usual = arguments_of(cls, self.section)
            given = ", ".join(
                f"{self.section}.{key} = {quoted(value)}"
                for key, value in self.arguments.items()
                if usual[key].required or plain(usual[key].default) != value
            )
            raise ConfigError(
                f"{self.section}: {self.name} cannot be made with {given}: {reason(error)}"
            ) from error
