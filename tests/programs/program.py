"""What a program of the table is, and how one enters it."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyro
import torch
from torch import nn

ENUMERATED = {"enumerate": "parallel"}
PROGRAMS: dict[str, "Program"] = {}


@dataclass(frozen=True)
class Program:
    """A model and a guide that sees the same arguments, built anew for each test.

    Args:
        build: returns model, guide, and what holds their parameters if Pyro's store does not.
        args: arguments of both.
        plate: what ``ImportanceWeightedELBO`` is given.
        gradient: the same, for all particles.
        refused: what is refused with several particles, in the error's words.
        refused_whole: the same for ``plate=None``.
        unlike_pyro: why ``TraceEnum_ELBO`` cannot be compared with.
    """

    build: Any
    args: tuple = ()
    plate: str | tuple[str, ...] | None = "data"
    gradient: str = "iwae"
    refused: str = ""
    refused_whole: str = ""
    unlike_pyro: str = ""

    def refusal(self, plate):
        """Return what is refused with several particles and this plate."""
        return self.refused if plate == self.plate else self.refused_whole


class Built:
    """A program's model and guide, with their parameters."""

    def __init__(self, program):
        self.program = program
        self.model, self.guide, *self.holders = program.build()
        self.args = program.args

    def parameters(self):
        """Return the parameters by name; those in Pyro's store exist after the first run."""
        found = dict(pyro.get_param_store().named_parameters())
        for holder in (self.model, self.guide, *self.holders):
            if isinstance(holder, SimpleNamespace):
                found |= vars(holder)
            elif isinstance(holder, nn.Module):
                found |= dict(holder.named_parameters())
        return found


def program(*args, **traits):
    """Enter a function that builds a program into the table, by its name."""

    def enter(build):
        assert build.__name__ not in PROGRAMS, build.__name__
        PROGRAMS[build.__name__] = Program(build, args, **traits)
        return build

    return enter


def parameters(**shapes):
    """Return leaves by name, normally distributed."""
    draws = torch.Generator().manual_seed(7)
    leaves = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=draws, dtype=torch.float64)
        leaves[name] = value.requires_grad_()
    return SimpleNamespace(**leaves)


def tensor(*values):
    """Return data in float64."""
    return torch.tensor(values, dtype=torch.float64)


def nothing(*args):
    """Guide a model whose latents are all enumerated."""
