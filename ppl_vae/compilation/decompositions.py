"""Operations of a graph, in the forms that compile to less.

Inductor calls a vector library for log1p, expm1 and tanh, and computes softplus, log-sigmoid, ELU
and the density of a Bernoulli from them. On processors, graphs have
:mod:`ppl_vae.distributions.elementary` in their place, each as one operation. Where a Bernoulli's
density and its gradient meet in a loop, both take one exponential.

Uniform numbers and draws of a Bernoulli are torch's, by :mod:`ppl_vae.uniform_draws`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ppl_vae import uniform_draws
from ppl_vae.compilation.lowerings import operation
from ppl_vae.distributions import elementary

aten = torch.ops.aten

_ROUNDED = (torch.float32, torch.bfloat16, torch.float16)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Return the table that ``make_fx`` takes: by operation, its function."""
    return {
        aten.softplus.default: _softplus,
        aten.softplus_backward.default: _softplus_backward,
        aten.log_sigmoid_forward.default: _log_sigmoid_forward,
        aten.sigmoid.default: _sigmoid,
        aten.tanh.default: _tanh,
        aten.elu.default: _elu,
        aten.binary_cross_entropy_with_logits.default: _binary_cross_entropy_with_logits,
        aten.bernoulli.default: _bernoulli,
        aten.rand.default: _rand,
        aten.rand_like.default: _rand_like,
    }


def _applies(x: Tensor) -> bool:
    """Return whether a tensor is on a processor, of float32 or of fewer digits."""
    return x.device.type == "cpu" and x.dtype in _ROUNDED


def _of_float32(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    return operation(function)(*(t.float() for t in tensors)).to(tensors[0].dtype)


def _softplus(x: Tensor, beta: int | float = 1, threshold: int | float = 20) -> Any:
    # Above 17 float32's softplus is its argument; a lower threshold asks for another function.
    if not _applies(x) or not beta > 0 or threshold < 17:
        return NotImplemented
    if beta == 1:
        return _of_float32(elementary.softplus, x)
    return (_of_float32(elementary.softplus, beta * x.float()) / beta).to(x.dtype)


def _softplus_backward(
    gradient: Tensor, x: Tensor, beta: int | float, threshold: int | float
) -> Any:
    if not _applies(x) or not beta > 0 or threshold < 17:
        return NotImplemented
    return gradient * _of_float32(elementary.sigmoid, x if beta == 1 else beta * x)


def _log_sigmoid_forward(x: Tensor) -> Any:
    if not _applies(x):
        return NotImplemented
    # What torch keeps for the gradient.
    return _of_float32(elementary.log_sigmoid, x), torch.exp(-x.abs())


def _sigmoid(x: Tensor) -> Any:
    return _of_float32(elementary.sigmoid, x) if _applies(x) else NotImplemented


def _tanh(x: Tensor) -> Any:
    return _of_float32(elementary.tanh, x) if _applies(x) else NotImplemented


def _elu(
    x: Tensor, alpha: int | float = 1, scale: int | float = 1, input_scale: int | float = 1
) -> Any:
    if not _applies(x) or (scale, input_scale) != (1, 1):  # SELU and CELU
        return NotImplemented
    value = _of_float32(elementary.elu, x)
    return value if alpha == 1 else torch.where(x > 0, x, alpha * value)


def _binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: int = 1,
) -> Any:
    weighted = weight is not None or pos_weight is not None
    if not _applies(x) or weighted or reduction != 0 or x.dtype != target.dtype:
        return NotImplemented
    return -_of_float32(elementary.bernoulli_log_prob, x, target)


def _bernoulli(p: Tensor, generator: torch.Generator | None = None) -> Any:
    if generator is not None or p.device.type != "cpu":
        return NotImplemented
    if p.dtype is torch.float64:  # Inductor would compare with numbers of float32
        return (torch.rand(p.shape, dtype=p.dtype) < p).to(p.dtype)
    if p.dtype is not torch.float32:
        return NotImplemented
    return (uniform_draws.operation()(list(p.shape)) < p).to(p.dtype)


def _rand(
    size: list[int],
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Any:
    default = torch.get_default_dtype() if dtype is None else dtype
    if layout or pin_memory or not _draws_as_uniform(default, device):
        return NotImplemented
    return uniform_draws.operation()(size)


def _rand_like(x: Tensor, **options: Any) -> Any:
    # Where memory is in another order, so are the draws.
    if any(options.values()) or not x.is_contiguous() or not _draws_as_uniform(x.dtype, x.device):
        return NotImplemented
    return uniform_draws.operation()(list(x.shape))


def _draws_as_uniform(dtype: torch.dtype, device: torch.device | None) -> bool:
    """Return whether torch draws such numbers from float32's uniform ones."""
    return (device is None or device.type == "cpu") and dtype is torch.float32
