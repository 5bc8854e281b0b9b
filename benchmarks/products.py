"""The matrix products of a step and nothing else: what no way of writing it can be rid of."""

from __future__ import annotations

from typing import Any

import hand
import torch
from rows import Column, Problem
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Product = tuple[Tensor, Tensor]


class Recorder(TorchDispatchMode):
    """Notes the operands of each matrix product, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Note the operands, and do what is to be done."""
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.products.append((args[-2], args[-1]))
        elif "mm" in function.name() or "linear" in function.name():
            raise NotImplementedError(f"no known matrix product: {function.name()}")
        return function(*args, **(kwargs or {}))


def of_step(problem: Problem) -> list[Product]:
    """Return the operands of the products of the hand-written step, of random numbers.

    Shapes and strides are those of the step, and what is one tensor there (a weight, forward and
    backward) is one here. Numbers are not, since those of a step late in training may be denormal.
    """
    step = hand.eager(problem)
    with Recorder() as recorder:
        step.run(problem.batches(1, torch.Generator().manual_seed(0)))
    storages: dict[int, Tensor] = {}

    def like(operand: Tensor) -> Tensor:
        storage = operand.untyped_storage()
        if storage.data_ptr() not in storages:
            numbers = storage.nbytes() // operand.itemsize
            storages[storage.data_ptr()] = torch.randn(numbers, dtype=operand.dtype)
        same = storages[storage.data_ptr()]
        return same.as_strided(operand.shape, operand.stride(), operand.storage_offset())

    return [(like(a), like(b)) for a, b in recorder.products]


def alone(problem: Problem) -> Column:
    """Return the column, which has no losses."""
    products = [(a, b, a @ b) for a, b in of_step(problem)]

    def run(indices: Tensor) -> list[float]:
        for _ in indices:
            for a, b, out in products:
                torch.mm(a, b, out=out)
        return []

    return Column(run)
