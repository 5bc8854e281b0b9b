"""Elementary functions as single operations of a compiled graph.

Inductor writes an exponential to memory where several operations take it, and a sum over a datum's
dimensions reads it again in a loop of its own. What is computed within one operation stays in
registers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

aten = torch.ops.aten


@cache
def operation(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an elementwise function of float32 tensors as one operation, ``ppl_vae::<its name>``.

    Uncompiled, the operation calls the function. Derivatives are operations of their own.
    """
    from torch._inductor.lowering import make_pointwise, register_lowering  # slow to import

    parameters = list(inspect.signature(function).parameters)
    name = f"ppl_vae::{function.__name__}"
    torch.library.define(name, f"({', '.join(f'Tensor {p}' for p in parameters)}) -> Tensor")
    torch.library.impl(name, "CompositeExplicitAutograd", function)
    found: Callable[..., Tensor] = getattr(torch.ops.ppl_vae, function.__name__).default
    traced = make_fx(function)(*(torch.ones(2) for _ in parameters))
    lowering = make_pointwise(_Elementwise(traced).run)
    register_lowering(found, broadcast=True, type_promotion_kind=None)(lowering)
    return found


class _Elementwise(fx.Interpreter):
    """Runs a graph of aten operations on the elements of a loop that Inductor writes."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        return _operations()[target](*map(_element, args), **kwargs)


def _element(x: Any) -> Any:
    from torch._inductor.virtualized import ops  # slow to import

    return ops.constant(float(x), torch.float32) if isinstance(x, (int, float)) else x


@cache
def _operations() -> Mapping[Any, Callable[..., Any]]:
    from torch._inductor.virtualized import ops  # slow to import

    def clamp(x: Any, low: Any = None, high: Any = None) -> Any:
        x = x if low is None else ops.maximum(x, low)
        return x if high is None else ops.minimum(x, high)

    return {
        aten.abs.default: ops.abs,
        aten.add.Tensor: ops.add,
        aten.clamp.default: clamp,
        aten.copysign.Tensor: ops.copysign,
        aten.div.Tensor: ops.truediv,
        aten.exp.default: ops.exp,
        aten.ge.Scalar: ops.ge,
        aten.gt.Scalar: ops.gt,
        aten.lt.Scalar: ops.lt,
        aten.mul.Tensor: ops.mul,
        aten.neg.default: ops.neg,
        aten.reciprocal.default: lambda x: ops.truediv(_element(1.0), x),
        aten.rsub.Scalar: lambda x, y: ops.sub(y, x),
        aten.sub.Tensor: ops.sub,
        aten.where.self: ops.where,
    }
