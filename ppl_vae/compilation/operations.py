"""What operations of a traced graph do, and what they return."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def draws(node: fx.Node) -> bool:
    """Tell whether an operation takes random numbers."""
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def written(node: fx.Node) -> set[fx.Node]:
    """Return the inputs that an operation changes in their place."""
    schema = getattr(node.target, "_schema", None)
    found: list[Any] = []
    for i, argument in enumerate(schema.arguments if schema is not None else ()):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[i] if i < len(node.args) else node.kwargs[argument.name]
            found += value if isinstance(value, (list, tuple)) else [value]
    return set(found)


def is_view(node: fx.Node) -> bool:
    """Tell whether a result is in the memory of an input."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(value.alias_info for value in schema.returns)


def value_of(node: fx.Node) -> Tensor | None:
    """Return what has the shape and the dtype of a result; None where it is no tensor."""
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None
