"""Which arguments model and guide take, and those that a batch has for them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import Parameter

import torch
from torch import Tensor, nn

from ppl_vae.data import Batch, MaskedBatch, Part
from ppl_vae.data.minibatch import Given
from ppl_vae.errors import describe
from ppl_vae.models.observation import Observation

MASK = "mask"
"""The name by which programs are told what is observed."""

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class Signature:
    """The arguments of a pair's programs: what a batch has is given to both of them.

    Nothing of a batch is left out, except the labels of a data set, which says that they are
    labels, where the programs take no second argument.

    Args:
        owner: the function that asks, for messages.
        model: the generative program.
        guide: the variational program.
        by_name: what is given to the owner to have something by name, for messages.
    """

    def __init__(
        self,
        owner: str,
        model: nn.Module,
        guide: nn.Module,
        *,
        by_name: str = "it by name, mask=mask",
    ) -> None:
        self._owner = owner
        self._by_name = by_name
        self._programs = [_Program("model", model), _Program("guide", guide)]
        # AutoGuides take whatever the model takes.
        observation = getattr(model, "observation", None)
        self._observation = observation if isinstance(observation, Observation) else None
        self._least = min(self._programs, key=lambda program: program.most)
        self._positions = self._least.positions

    def check(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> None:
        """Raise ValueError if a program does not take something, or needs something else."""
        most = self._least.most
        if len(args) > most:
            others = ", ".join(map(describe, args[most:]))
            raise ValueError(
                f"{self._owner}: a batch has {len(args)} tensors, and the {self._least.name} takes "
                f"{most} by position ({', '.join(self._positions) or 'none'}): nothing would use "
                f"{others}. Leave it out, or give {self._by_name}"
            )
        for program in self._programs:
            program.check(self._owner, len(args), kwargs)

    def part(self, name: str, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Part:
        """Return what the programs are called with, or raise ValueError as :meth:`check` does."""
        self.check(args, kwargs)
        return Part(name, tuple(args), kwargs=dict(kwargs))

    def of(self, batch: Given, *, labels: bool = True) -> tuple[Part, ...]:
        """Return the parts of a batch of whatever kind.

        Args:
            batch: of a data set, or tensors by position, by name or as parts.
            labels: whether to give those of a data set to programs that take them.
        """
        if isinstance(batch, dict):
            return (self.named("data", batch),)
        if isinstance(batch, (Batch, MaskedBatch)):
            return (self.drawn("data", batch, labels=labels),)
        parts = [t for t in batch if isinstance(t, Part)]
        if not parts:
            return (self.part("data", [t for t in batch if isinstance(t, Tensor)], {}),)
        return tuple(replace(self.part(p.name, p.args, p.kwargs), weight=p.weight) for p in parts)

    def named(self, name: str, batch: Mapping[str, Tensor]) -> Part:
        """Return the same for a batch whose tensors have the names of the programs' arguments.

        Those that come first, x and any labels, are given by position, and the others by name.
        """
        kwargs = dict(batch)
        args: list[Tensor] = []
        for position in self._positions:
            if position == MASK or position not in kwargs:
                break
            args.append(kwargs.pop(position))
        return self.part(name, args, kwargs)

    def drawn(self, name: str, batch: Batch | MaskedBatch, *, labels: bool = True) -> Part:
        """Return the same for a batch of a data set.

        x comes first, in the shape that the model declares and 0 where it is missing, the labels
        second if the programs take as many, and the mask by its name.

        Args:
            name: of the part.
            batch: of the data set.
            labels: whether to give them to programs that take them.
        """
        x, mask = batch.x, batch.mask if isinstance(batch, MaskedBatch) else None
        if self._observation is not None:
            x = self._observation.arranged(x)
            mask = None if mask is None else mask.reshape(x.shape)
        args, kwargs = [x], {}
        if labels and batch.y is not None:
            further = [place for place in self._positions[1:] if place != MASK]
            if further and further[0] != self._positions[1]:
                kwargs[further[0]] = batch.y
            elif further or self._least.most > len(self._positions):
                args.append(batch.y)
        if mask is not None:
            args[0] = zero_where_missing(x, mask)
            kwargs[MASK] = mask
        return self.part(name, args, kwargs)


class _Program:
    def __init__(self, name: str, module: nn.Module) -> None:
        parameters = inspect.signature(module.forward).parameters.values()
        kinds = {parameter.kind for parameter in parameters}
        self.name = name
        self.positions = tuple(p.name for p in parameters if p.kind in _POSITIONAL)
        self.most = sys.maxsize if Parameter.VAR_POSITIONAL in kinds else len(self.positions)
        self._names = {p.name for p in parameters if p.kind in _NAMED}
        self._any_name = Parameter.VAR_KEYWORD in kinds
        self._needed = {
            p.name
            for p in parameters
            if p.default is p.empty and p.kind in (*_POSITIONAL, Parameter.KEYWORD_ONLY)
        }

    def check(self, owner: str, number: int, kwargs: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless it can be called with so many arguments and these names."""
        by_position = self.positions[:number]
        for name in kwargs:
            if name in by_position or not (name in self._names or self._any_name):
                takes = ", ".join(sorted(self._names)) or "none"
                raise ValueError(
                    f"{owner}: the data have {name!r}, which the {self.name} does not take (by "
                    f"name: {takes}); {_fix(name)}"
                )
        for name in sorted(self._needed.difference(by_position, kwargs)):
            came = ", ".join(map(repr, kwargs)) or "none"
            raise ValueError(
                f"{owner}: the {self.name} needs {name!r}, and the data have {number} tensors by "
                f"position and by name {came}; give it, by this name or in its place"
            )


def zero_where_missing(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with 0 in the place of what is missing: NaN would reach a program's gradients."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def _fix(name: str) -> str:
    if name == MASK:
        return "a program learns from mask= what is observed: give it that argument, or whole data"
    return "leave it out, or call it as the programs do"
