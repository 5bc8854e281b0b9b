"""What the models and guides of all oracles share: the plate, its options, their registration."""

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import pyro
from jaxtyping import Bool, Float
from pyro import poutine
from torch import Tensor, nn


@dataclass(frozen=True)
class PlateOptions:
    """How a batch enters a Pyro program; see `Oracle` for the meaning of each."""

    size: int | None = None
    beta: float | None = None
    mask: Bool[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if self.beta is not None and not self.beta > 0:
            raise ValueError(f"beta is {self.beta}: poutine.scale takes positive weights only")

    @property
    def kl_weight(self) -> float:
        """Beta, 1 for None."""
        return 1.0 if self.beta is None else self.beta


class _UniqueName:
    """A name for `pyro.module` that no other instance has, deep copies and unpickled ones included.

    Two modules registered under one name share the first one's parameters, and the second never
    trains.
    """

    _numbers = itertools.count()

    def __init__(self, stem: str):
        self._stem = stem
        self._number = next(self._numbers)

    def __str__(self) -> str:
        return f"{self._stem}_{self._number}"

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self._stem,)


class Program(nn.Module):
    """A model or a guide over one batch."""

    def __init__(self, role: str, options: PlateOptions):
        super().__init__()
        self.options = options
        self._name = _UniqueName(f"oracle_{role}")

    @contextmanager
    def data_plate(self, x: Float[Tensor, "batch dim"]) -> Iterator[None]:
        """Register the parameters and open the plate ``data``, with its mask."""
        batch, size, mask = len(x), self.options.size, self.options.mask
        if size is not None and batch > size:
            raise ValueError(f"plate 'data' has size={size}, the batch {batch}: size is the larger")
        if mask is not None and len(mask) != batch:
            raise ValueError(f"mask has {len(mask)} entries, the batch {batch}: one for each datum")
        pyro.module(str(self._name), self)
        with ExitStack() as stack:
            full_size = batch if size is None else size
            stack.enter_context(pyro.plate("data", full_size, subsample_size=batch, dim=-1))
            if mask is not None:
                stack.enter_context(poutine.mask(mask=mask.to(x.device)))
            yield

    def latents(self) -> AbstractContextManager[object]:
        """The context of latent sites, which beta scales."""
        beta = self.options.beta
        return nullcontext() if beta is None else poutine.scale(scale=beta)
