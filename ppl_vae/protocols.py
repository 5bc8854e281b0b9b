"""Protocols of pairs: what the library needs of a model and a guide, whoever wrote them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from ppl_vae.errors import describe


@runtime_checkable
class ModelAndGuide(Protocol):
    """A pair: a model and a guide that are modules, this package's or your own."""

    @property
    def model(self) -> nn.Module:
        """The generative program."""

    @property
    def guide(self) -> nn.Module:
        """The variational program."""


def check_pair(owner: str, pair: object) -> None:
    """Raise TypeError unless an object has a model and a guide that are modules."""
    programs = (getattr(pair, "model", None), getattr(pair, "guide", None))
    if not all(isinstance(program, nn.Module) for program in programs):
        what = type(pair).__name__ if isinstance(pair, nn.Module) else describe(pair)
        raise TypeError(
            f"{owner}: pair must have a model and a guide that are modules, got {what}; make a "
            f"program that is a function the forward method of a module"
        )
