"""The base class of models and guides of oracles: the plate and its options."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import pyro
import torch
from jaxtyping import Bool, Float
from pyro import poutine
from torch import Tensor, nn

from ppl_vae.errors import describe, number, positive_int
from ppl_vae.registration import register


@dataclass(frozen=True)
class PlateOptions:
    """How a batch enters a Pyro program; see `Oracle`."""

    size: int | None = None
    beta: float | None = None
    mask: Bool[Tensor, " batch"] | None = None

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", positive_int("", "size", self.size))
        if self.beta is not None:
            fix = "poutine.scale takes positive weights only"
            object.__setattr__(self, "beta", number("", "beta", self.beta, above=0, fix=fix))
        mask: object = self.mask
        if mask is not None and not (isinstance(mask, Tensor) and mask.dtype == torch.bool):
            raise TypeError(f"mask must be a boolean tensor, got {describe(mask)}")

    @property
    def kl_weight(self) -> float:
        """Beta, by default 1."""
        return 1.0 if self.beta is None else self.beta


class Program(nn.Module):
    """A model or a guide over one batch."""

    def __init__(self, options: PlateOptions):
        super().__init__()
        self.options = options

    @contextmanager
    def data_plate(self, x: Float[Tensor, "batch dim"]) -> Iterator[None]:
        """Register the parameters and open the plate ``data``, with its mask."""
        batch, size, mask = len(x), self.options.size, self.options.mask
        if size is not None and batch > size:
            raise ValueError(f"size must be at least the batch of {batch}, got {size}")
        if mask is not None and len(mask) != batch:
            raise ValueError(f"mask must have an entry for each of {batch} data, got {len(mask)}")
        register(self)
        with ExitStack() as stack:
            full_size = batch if size is None else size
            stack.enter_context(pyro.plate("data", full_size, subsample_size=batch, dim=-1))
            if mask is not None:
                stack.enter_context(poutine.mask(mask=mask.to(x.device)))
            yield

    def latents(self) -> AbstractContextManager[object]:
        """Return the context of latent sites, which scales them by beta."""
        beta = self.options.beta
        return nullcontext() if beta is None else poutine.scale(scale=beta)
