"""Decorators for methods of pairs: inference mode, NumPy arrays and whole data sets as input."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from itertools import chain, repeat
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.errors import describe
from ppl_vae.models.shapes import zeros_for
from ppl_vae.module_modes import inference
from ppl_vae.tensors import tensor_for

Data = Float[Tensor, "batch *event"]
Draws = Float[Tensor, "n *event"]
Latents = Float[Tensor, "batch latent"]
Probabilities = Float[Tensor, "batch classes"]

A = ParamSpec("A")
D = TypeVar("D")
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")


@runtime_checkable
class DatasetLike(Protocol):
    """Data that are read in parts, such as :class:`ppl_vae.data.Dataset`."""

    def in_parts(self) -> Iterator[Tensor]:
        """Yield tensors ``(batch, *event)``."""

    def drawn_for(self, pair: object) -> Iterator[Any]:
        """Yield batches as a pair sees them: ``x``, ``y`` and, if any is missing, ``mask``."""


def takes_arrays(
    method: Callable[Concatenate[M, D, A], R],
) -> Callable[Concatenate[M, D | np.ndarray, A], R]:
    """Convert NumPy arrays, alone or in a list, to tensors of the pair's device and dtype."""
    names = [
        "a further argument" if p.kind is p.VAR_POSITIONAL else p.name
        for p in inspect.signature(method).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
    ]

    @wraps(method)
    def run(self: M, /, *args: Any, **kwargs: Any) -> R:
        args = tuple(map(_converted, repeat(self), chain(names[1:], repeat(names[-1])), args))
        return method(self, *args, **{n: _converted(self, n, v) for n, v in kwargs.items()})

    return run


def _converted(module: nn.Module, name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return tensor_for(module, name, value)
    if isinstance(value, (list, tuple)) and any(isinstance(v, np.ndarray) for v in value):
        return [_converted(module, name, v) for v in value]
    return value


def inference_method(
    method: Callable[Concatenate[M, D, A], R],
) -> Callable[Concatenate[M, D | np.ndarray, A], R]:
    """Run a method in evaluation mode, without gradients; NumPy arrays pass for tensors."""
    return takes_arrays(inference(method))


def dataset_method(
    method: Callable[Concatenate[M, Tensor, A], R],
) -> Callable[Concatenate[M, Tensor | DatasetLike | np.ndarray, A], R]:
    """Make an `inference_method` whose x may also be a data set, read batch by batch.

    Values are drawn as by :meth:`ppl_vae.data.Dataset.drawn_for`. The data set brings the mask,
    and the labels where the second argument is required. Results are concatenated.
    """
    others = list(inspect.signature(method).parameters.values())[2:]
    label = next((p.name for p in others if p.kind is p.POSITIONAL_OR_KEYWORD), "")
    needs_label = any(p.name == label and p.default is p.empty for p in others)

    @wraps(method)
    def run(self: M, x: Tensor | DatasetLike, *args: A.args, **kwargs: A.kwargs) -> R:
        if isinstance(x, Tensor) or not isinstance(x, DatasetLike):
            return method(self, x, *args, **kwargs)
        extra: dict[str, Any] = dict(zip((p.name for p in others), args, strict=False)) | kwargs
        extra = {name: value for name, value in extra.items() if value is not None}
        _check_extra_arguments(method.__name__, x, extra)
        results: list[Any] = []
        start = 0
        for values, y, mask in batches_for(self, x):
            options = {n: t[start : start + len(values)] for n, t in extra.items()}
            if needs_label and label not in extra:
                options[label] = y
            if mask is not None:
                options["mask"] = mask
            results.append(method(self, values, **options))  # type: ignore[call-arg]
            start += len(values)
        if isinstance(results[0], tuple):
            return tuple(map(torch.cat, zip(*results, strict=True)))  # type: ignore[return-value]
        return torch.cat(results)  # type: ignore[return-value]

    return inference_method(run)


def batches_for(
    pair: nn.Module, data: DatasetLike
) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Yield batches (x, labels, mask) of a data set on a pair's device and in its dtype.

    A context, if there is one, comes in place of the labels.
    """
    like = zeros_for(pair, 0)
    for batch in data.drawn_for(pair):
        c, mask = getattr(batch, "c", None), getattr(batch, "mask", None)
        y = batch.y if c is None else c.to(like)
        y, mask = (None if t is None else t.to(like.device) for t in (y, mask))
        yield batch.x.to(like), y, mask


def _check_extra_arguments(name: str, data: Any, extra: dict[str, Any]) -> None:
    """Check the arguments given with a data set, which may bring its own mask and labels."""
    for argument, value in extra.items():
        if argument == "mask":
            fix = "which brings its own; use Dataset(values, labels, mask=mask)"
            raise TypeError(f"{name}: mask= cannot be given with {data!r}, {fix}")
        brings = "labels" if data.labels is not None else "a context"
        if data.labels is not None or getattr(data, "context", None) is not None:
            fix = f"which has {brings}; give dataset.tensor(), or a Dataset without {brings}"
            raise TypeError(f"{name}: {argument} cannot be given with {data!r}, {fix}")
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != len(data):
            expected = f"a tensor with an entry for each of {len(data)} data"
            raise ValueError(f"{name}: {argument} must be {expected}, got {describe(value)}")
