"""Methods of a pair that take a whole data set in the place of x."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from ppl_vae.errors import describe
from ppl_vae.models.shapes import zeros_for

A = ParamSpec("A")
M = TypeVar("M", bound=nn.Module)
R = TypeVar("R")


@runtime_checkable
class HasParts(Protocol):
    """Data that come a part at a time, such as :class:`ppl_vae.data.Dataset`."""

    def in_parts(self) -> Iterator[Tensor]:
        """Yield tensors ``(batch, *event)``."""

    def drawn_for(self, pair: object) -> Iterator[Any]:
        """Yield batches as a pair sees them: ``x``, ``y`` and, if any is missing, ``mask``."""


def of_data_sets(
    method: Callable[Concatenate[M, Tensor, A], R],
) -> Callable[Concatenate[M, Tensor | HasParts, A], R]:
    """Let a method that takes x take a data set as well, some of it at a time.

    Its values are drawn as :meth:`ppl_vae.data.Dataset.drawn_for` says, its mask is the method's,
    and its labels are the second argument where that is needed. Results are concatenated.
    """
    others = list(inspect.signature(method).parameters.values())[2:]
    label = next((p.name for p in others if p.kind is p.POSITIONAL_OR_KEYWORD), "")
    needs_label = any(p.name == label and p.default is p.empty for p in others)

    @wraps(method)
    def run(self: M, x: Tensor | HasParts, *args: A.args, **kwargs: A.kwargs) -> R:
        if isinstance(x, Tensor) or not isinstance(x, HasParts):
            return method(self, x, *args, **kwargs)
        beside: dict[str, Any] = dict(zip((p.name for p in others), args, strict=False)) | kwargs
        beside = {name: value for name, value in beside.items() if value is not None}
        _check_beside(method.__name__, x, beside)
        results: list[Any] = []
        start = 0
        for values, y, mask in drawn(self, x):
            some = {n: t[start : start + len(values)] for n, t in beside.items()}
            if needs_label and label not in beside:
                some[label] = y
            if mask is not None:
                some["mask"] = mask
            results.append(method(self, values, **some))  # type: ignore[call-arg]
            start += len(values)
        if isinstance(results[0], tuple):
            return tuple(map(torch.cat, zip(*results, strict=True)))  # type: ignore[return-value]
        return torch.cat(results)  # type: ignore[return-value]

    return run


def drawn(pair: nn.Module, data: HasParts) -> Iterator[tuple[Tensor, Tensor | None, Tensor | None]]:
    """Yield x, labels and mask of some of the data at a time, on a pair's device, in its dtype."""
    like = zeros_for(pair, 0)
    for batch in data.drawn_for(pair):
        y, mask = batch.y, getattr(batch, "mask", None)
        yield (
            batch.x.to(like),
            None if y is None else y.to(like.device),
            None if mask is None else mask.to(like.device),
        )


def _check_beside(name: str, data: Any, beside: dict[str, Any]) -> None:
    for argument, value in beside.items():
        if argument == "mask":
            raise TypeError(
                f"{name}: mask= was given beside {data!r}, which says itself what is observed; "
                f"give Dataset(values, labels, mask=mask)"
            )
        if data.labels is not None:
            raise TypeError(
                f"{name}: {argument} was given beside {data!r}, which has labels; give tensors, "
                f"dataset.tensor() and yours, or a Dataset without labels"
            )
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != len(data):
            raise ValueError(
                f"{name}: {argument} must be a tensor with an entry for each of {len(data)} data, "
                f"got {describe(value)}"
            )
