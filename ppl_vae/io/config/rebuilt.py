"""A pair built anew from what is written of it, to see whether that says all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import torch
from torch import nn

from ppl_vae.equality import differences
from ppl_vae.io.config.build import build
from ppl_vae.io.config.errors import ConfigError
from ppl_vae.io.config.read import read
from ppl_vae.io.config.resolve import resolve
from ppl_vae.process_state import exclusively
from ppl_vae.random_state import restored


def rebuilt(
    pair: nn.Module, dtype: torch.dtype | None = None
) -> tuple[dict[str, object], nn.Module]:
    """Return the mapping of a pair, and the pair that it builds, of the same structure.

    Args:
        pair: the pair.
        dtype: of the constants; torch's default if not given.

    Raises:
        ConfigError: if something cannot be written, or what is written builds another pair.
    """
    mapping = read(pair)
    # Classes of packages that are in the pair were imported long ago.
    allow = {type(module).__module__.partition(".")[0] for module in pair.modules()}
    allow |= {
        value.__module__.partition(".")[0]
        for module in pair.modules()
        for value in vars(module).values()
        if isinstance(value, type)
    }
    with building(dtype or torch.get_default_dtype()):
        again = build(resolve(mapping, allow=allow), allow=allow)
    refuse(differences(pair, again))
    return mapping, again


def refuse(found: Iterator[str]) -> None:
    """Raise an error if there are differences.

    Raises:
        ConfigError: which names the first.
    """
    first = next(found, None)
    if first is None:
        return
    more = sum(1 for _ in islice(found, 99))
    raise ConfigError(
        f"{first}{f', and {more} more' if more else ''}, where 'there' is a pair of the same "
        f"constructors' arguments, which are all that is written. Put in a part or network of your "
        f"own whose constructor makes what is here, or write weights alone (io.save_weights)"
    )


@contextmanager
def building(dtype: torch.dtype) -> Iterator[None]:
    """Build in a dtype, on the CPU, with random numbers that are nobody's."""
    before = torch.get_default_dtype()
    with exclusively(), restored(), torch.device("cpu"):
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)
