"""What evaluates by gradients, wherever it is called."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch

from ppl_vae.protocols import ModelAndGuide


@contextmanager
def gradients_possible(owner: str, pair: ModelAndGuide) -> Iterator[None]:
    """Leave ``torch.inference_mode``, in which nothing has a gradient, for ``torch.no_grad``.

    Raises ValueError if the pair itself was made in it.
    """
    for program in (pair.model, pair.guide):
        for name, tensor in chain(program.named_parameters(), program.named_buffers()):
            if tensor.is_inference():
                raise ValueError(
                    f"{owner}: parameters must have gradients, got {name!r} made under "
                    f"torch.inference_mode; make, or load, the pair outside of it"
                )
    with torch.inference_mode(False), torch.no_grad():
        yield
