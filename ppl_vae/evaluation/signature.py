"""The arguments that model and guide accept, and those that a batch provides."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import Parameter

import torch
from torch import Tensor, nn

from ppl_vae.data import Batch, ContextBatch, MaskedBatch, Part
from ppl_vae.data.minibatch import Given
from ppl_vae.errors import describe
from ppl_vae.models.observation import Observation

MASK = "mask"
"""The name of the argument that says what is observed."""

_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class Signature:
    """The arguments of a pair's programs; both are called with all that a batch contains.

    Only the labels of a data set are left out, if the programs have no second argument. Messages
    say ``by_name`` how the owner is given something by name.
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
        self._programs = [_ProgramSignature("model", model), _ProgramSignature("guide", guide)]
        # AutoGuides accept whatever the model accepts.
        observation = getattr(model, "observation", None)
        self._observation = observation if isinstance(observation, Observation) else None
        self._least = min(self._programs, key=lambda program: program.most)
        self._positions = self._least.positions

    def check(self, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> None:
        """Raise ValueError if a program does not accept an argument, or requires another."""
        most = self._least.most
        if len(args) > most:
            others = ", ".join(map(describe, args[most:]))
            raise ValueError(
                f"{self._owner}: a batch has {len(args)} tensors, but the {self._least.name} takes "
                f"{most} by position ({', '.join(self._positions) or 'none'}), leaving {others} "
                f"unused; leave it out, or give {self._by_name}"
            )
        for program in self._programs:
            program.check(self._owner, len(args), kwargs)

    def part(self, name: str, args: Sequence[Tensor], kwargs: Mapping[str, Tensor]) -> Part:
        """Return the arguments as a part, checked as by :meth:`check`."""
        self.check(args, kwargs)
        return Part(name, tuple(args), kwargs=dict(kwargs))

    def of(self, batch: Given, *, labels: bool = True) -> tuple[Part, ...]:
        """Return the parts of a batch of a data set, or of tensors by position, name or as parts.

        ``labels`` says whether to pass a data set's labels to programs that accept them.
        """
        if isinstance(batch, dict):
            return (self._named(batch),)
        if isinstance(batch, (Batch, MaskedBatch, ContextBatch)):
            return (self._drawn(batch, labels),)
        parts = [t for t in batch if isinstance(t, Part)]
        if not parts:
            return (self.part("data", [t for t in batch if isinstance(t, Tensor)], {}),)
        return tuple(replace(self.part(p.name, p.args, p.kwargs), weight=p.weight) for p in parts)

    def _takes(self, name: str) -> bool:
        return all(program.takes(name) for program in self._programs)

    def _named(self, batch: Mapping[str, Tensor]) -> Part:
        """Return the part of a batch whose tensors are named as the programs' arguments.

        The leading ones, x and any labels, are passed by position, and the others by name.
        """
        kwargs = dict(batch)
        args: list[Tensor] = []
        for position in self._positions:
            if position == MASK or position not in kwargs:
                break
            args.append(kwargs.pop(position))
        return self.part("data", args, kwargs)

    def _drawn(self, batch: Batch | MaskedBatch | ContextBatch, labels: bool) -> Part:
        """Return the part of a batch of a data set.

        x comes first, in the shape that the model declares and 0 where missing, labels second if
        the programs accept them, and the mask by name. A context is passed as ``c``, and labels
        beside it as ``y`` if the programs accept that name.
        """
        x, mask = batch.x, None if isinstance(batch, Batch) else batch.mask
        if isinstance(batch, ContextBatch) and mask is not None and not self._takes(MASK):
            mask = None if mask.all() else mask  # loaders cannot collate None
        if self._observation is not None:
            x = self._observation.arranged(x)
            mask = None if mask is None else mask.reshape(x.shape)
        args, kwargs = [x], {}
        if isinstance(batch, ContextBatch):
            if self._positions[1:2] == ("c",):
                args.append(batch.c)
            else:
                kwargs["c"] = batch.c
            if labels and batch.y is not None and "y" in self._positions:
                kwargs["y"] = batch.y
        elif labels and batch.y is not None:
            further = [name for name in self._positions[1:] if name != MASK]
            if further and further[0] != self._positions[1]:
                kwargs[further[0]] = batch.y
            elif further or self._least.most > len(self._positions):
                args.append(batch.y)
        if mask is not None:
            args[0] = zero_where_missing(x, mask)
            kwargs[MASK] = mask
        return self.part("data", args, kwargs)


class _ProgramSignature:
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

    def takes(self, name: str) -> bool:
        """Return whether there is an argument of a name."""
        return name in self._names or self._any_name

    def check(self, owner: str, number: int, kwargs: Mapping[str, Tensor]) -> None:
        """Raise ValueError unless it accepts ``number`` positional arguments and these names."""
        by_position = self.positions[:number]
        for name in kwargs:
            if name in by_position or not self.takes(name):
                takes = ", ".join(sorted(self._names)) or "none"
                raise ValueError(
                    f"{owner}: the data have {name!r}, which the {self.name} does not take (by "
                    f"name: {takes}); {_fix(name)}"
                )
        for name in sorted(self._needed.difference(by_position, kwargs)):
            came = ", ".join(map(repr, kwargs)) or "none"
            raise ValueError(
                f"{owner}: the {self.name} needs {name!r}, but the data have {number} tensors "
                f"by position and by name {came}; give it by name or by position"
            )


def zero_where_missing(x: Tensor, mask: Tensor) -> Tensor:
    """Return x with 0 where it is missing: NaN would reach the gradients."""
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))


def _fix(name: str) -> str:
    if name == MASK:
        return "add the argument mask= to the program, or give complete data"
    return "leave it out, or name it as the programs do"
