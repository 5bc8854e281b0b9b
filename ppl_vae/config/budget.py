"""How much memory the parts of a configuration may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from ppl_vae.config.errors import ConfigError

LARGEST = 2**30
"""Bytes of the tensors that are made as a pair of a file is built, at most."""


_EACH = 2**17
"""Bytes that an operation counts for besides: thousands of tiny layers take long, too."""


class Budget(TorchDispatchMode):
    """Within ``with``, count the bytes of new tensors, and refuse before there are too many.

    Every operation is tried on tensors without numbers first: a few words, such as
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

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not any(r.alias_info is not None for r in func._schema.returns):  # it makes new ones
            self._add(_EACH)
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        on_meta = {**tree_map(_without_numbers, kwargs)}
        if any(a.name == "device" for a in func._schema.arguments):
            on_meta["device"] = torch.device("meta")
        try:
            made = func(*tree_map(_without_numbers, args), **on_meta)
        except (NotImplementedError, RuntimeError, TypeError):
            return  # it looks at numbers, which are no more than there are already
        tensors = [t for t in tree_leaves(made) if isinstance(t, Tensor)]
        self._add(sum(t.numel() * t.element_size() for t in tensors))

    def _add(self, size: int) -> None:
        self._made += size
        if self._made > self.most:
            raise ConfigError(
                f"model: its parts take more than {self.most} bytes of memory, the most for a "
                f"configuration from a file; give a greater max_bytes= if that is right"
            )


def _without_numbers(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) and not value.is_meta else value
