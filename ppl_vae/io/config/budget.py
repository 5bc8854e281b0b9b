"""A limit on the memory that building a configuration may take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ppl_vae.io.errors import ConfigError
from ppl_vae.io.format import OPERATION_BYTES

_LARGEST_NUMBER = 16.0
"""Bytes of a complex number in double precision."""


class Budget(TorchDispatchMode):
    """Limit the bytes of new tensors within ``with``, before they are allocated.

    Operations whose result could be large are run on meta tensors first: a few characters, such as
    ``latent_dim: 1000000000``, must not fill the memory. Each operation is charged
    ``OPERATION_BYTES`` besides, as it takes time. Raises ConfigError at more than ``most`` bytes.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._made = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: otherwise torch imports its compiler, which takes seconds."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if any(r.alias_info is not None for r in func._schema.returns):  # in place, or a view
            return func(*args, **kwargs)
        self._add(OPERATION_BYTES)
        if self._made + _upper_bound(func, (args, kwargs)) > self.most:
            self._try_on_meta(func, args, kwargs)
        made = func(*args, **kwargs)
        self._add(_size(made))
        return made

    def _try_on_meta(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        on_meta = {**tree_map(_to_meta, kwargs)}
        if any(a.name == "device" for a in func._schema.arguments):
            on_meta["device"] = torch.device("meta")
        try:
            made = func(*tree_map(_to_meta, args), **on_meta)
        except (NotImplementedError, RuntimeError, TypeError):
            return  # it depends on values, and makes no more than there are
        self._refuse_beyond(self._made + _size(made))

    def _add(self, size: int) -> None:
        self._made += size
        self._refuse_beyond(self._made)

    def _refuse_beyond(self, size: int) -> None:
        if size > self.most:
            raise ConfigError(
                f"model: its parts take more than {self.most} bytes of memory, the limit for a "
                f"configuration from a file; raise max_bytes= if that is intended"
            )


def _upper_bound(func: Any, given: Any) -> float:
    """Return a loose upper bound on the bytes of an operation's result.

    Where it is low enough, meta tensors are not needed: torch's kernels for them import its
    compiler, which takes longer than building the whole pair.
    """
    leaves = tree_leaves(given)
    shapes = [leaf.shape for leaf in leaves if isinstance(leaf, Tensor)]
    if torch.Tag.pointwise in func.tags:
        return _LARGEST_NUMBER * math.prod(
            map(max, zip_longest(*map(reversed, shapes), fillvalue=1))
        )
    if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
        return _LARGEST_NUMBER * shapes[-2][0] * shapes[-1][1]
    # No result is larger than the square of the inputs' size times every number among the
    # arguments: n gives n² in eye(n), an outer product and a diagonal matrix.
    found = 1.0 + sum(math.prod(shape) for shape in shapes)
    for leaf in leaves:
        if isinstance(leaf, int) or (isinstance(leaf, float) and not shapes):
            found *= 1.0 + abs(leaf) + (1 / abs(leaf) if leaf else 0.0)
    return _LARGEST_NUMBER * found**2


def _size(made: Any) -> int:
    tensors = [t for t in tree_leaves(made) if isinstance(t, Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def _to_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value
