"""How much memory the parts of a configuration may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ppl_vae.io.config.errors import ConfigError

LARGEST = 2**30
"""Bytes of the tensors that are made as a pair of a file is built, at most."""

_EACH = 2**17
"""Bytes that an operation counts for besides: thousands of tiny layers take long, too."""
_LARGEST_NUMBER = 16.0
"""Bytes of a complex number in double precision."""


class Budget(TorchDispatchMode):
    """Within ``with``, count the bytes of new tensors, and refuse before there are too many.

    What could be large is tried on tensors without numbers first: a few words, such as
    ``latent_dim: 1000000000``, must not fill the memory before they are seen to.

    Each operation counts for 128 KiB more, as it takes time.

    Args:
        most: bytes.

    Raises:
        ConfigError: if they would be more.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._made = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say no: else torch imports its compiler at the first operation, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(r.alias_info is not None for r in func._schema.returns):  # it makes nothing new
            return func(*args, **kwargs)
        self._add(_EACH)
        if self._made + _at_most(func, (args, kwargs)) > self.most:
            self._try(func, args, kwargs)
        made = func(*args, **kwargs)
        self._add(_size(made))
        return made

    def _try(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        """Do it without numbers."""
        on_meta = {**tree_map(_without_numbers, kwargs)}
        if any(a.name == "device" for a in func._schema.arguments):
            on_meta["device"] = torch.device("meta")
        try:
            made = func(*tree_map(_without_numbers, args), **on_meta)
        except (NotImplementedError, RuntimeError, TypeError):
            return  # it looks at numbers, which are no more than there are already
        self._refuse_beyond(self._made + _size(made))

    def _add(self, size: int) -> None:
        self._made += size
        self._refuse_beyond(self._made)

    def _refuse_beyond(self, size: int) -> None:
        if size > self.most:
            raise ConfigError(
                f"model: its parts take more than {self.most} bytes of memory, the most for a "
                f"configuration from a file; give a greater max_bytes= if that is right"
            )


def _at_most(func: Any, given: Any) -> float:
    """Return a bound, often far too high, on the bytes that an operation makes.

    Where it is low enough nothing need be tried: torch's kernels without numbers import its
    compiler, which takes longer than all that is built.
    """
    leaves = tree_leaves(given)
    shapes = [leaf.shape for leaf in leaves if isinstance(leaf, Tensor)]
    if torch.Tag.pointwise in func.tags:
        return _LARGEST_NUMBER * math.prod(
            map(max, zip_longest(*map(reversed, shapes), fillvalue=1))
        )
    if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
        return _LARGEST_NUMBER * shapes[-2][0] * shapes[-1][1]
    # No operation makes more than the square of what it is given, once for each number of an
    # argument; n makes n² in eye(n), in a product of a column and a row, and in a diagonal matrix.
    found = 1.0 + sum(math.prod(shape) for shape in shapes)
    for leaf in leaves:
        if isinstance(leaf, int) or (isinstance(leaf, float) and not shapes):
            found *= 1.0 + abs(leaf) + (1 / abs(leaf) if leaf else 0.0)
    return _LARGEST_NUMBER * found**2


def _size(made: Any) -> int:
    tensors = [t for t in tree_leaves(made) if isinstance(t, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def _without_numbers(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value
