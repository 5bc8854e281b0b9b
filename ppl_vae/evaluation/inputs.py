"""Data of any kind as the arguments of a pair's programs, some of the data at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ppl_vae.data import Batches, Dataset, Part, SemiSupervised
from ppl_vae.data.minibatch import given
from ppl_vae.data.value_transform import prepare
from ppl_vae.errors import describe, flag
from ppl_vae.evaluation.signature import MASK, Signature
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.protocols import check_pair
from ppl_vae.tensors import as_tensor

Array = Tensor | np.ndarray
Data = Array | Dataset | Iterable[Any]
"""The data that functions of evaluation accept as x: see :func:`program_inputs`."""

_KINDS = "a Dataset, its batches, a tensor (N, *event), or batches such as those of a DataLoader"


class DatasetInputs:
    """The arguments that a data set has for a pair, drawn on demand and binarised with ``seed``.

    Refuses a context beside the data set's labels or context.
    """

    def __init__(
        self,
        owner: str,
        pair: Any,
        data: Dataset,
        signature: Signature,
        *,
        seed: int = 0,
        context: tuple[Tensor, ...] = (),
    ) -> None:
        if context and (data.labels is not None or data.context is not None):
            brings = "labels" if data.labels is not None else "a context"
            raise TypeError(
                f"{owner}: {data!r} has {brings}, got {describe(context[0])} as well; give "
                f"tensors, or a Dataset without {brings}"
            )
        _check_lengths(owner, len(data), context)
        if hasattr(pair, "check"):
            pair.check(data)
        self._signature = signature
        prepared, transform = prepare(pair, data)
        self._data, self._transform = transform.fixed(prepared, seed)
        self._context = context
        self._like = parameter_of(pair)
        self._labels = takes_labels(pair)
        self.rows(slice(1))  # raises now, rather than later

    def __len__(self) -> int:
        return len(self._data)

    @property
    def device(self) -> torch.device:
        """The device of the arguments."""
        return self._like.device

    def rows(self, some: slice) -> Part:
        """Draw the arguments for some of the data."""
        batch = self._transform.batch(self._data, torch.arange(len(self))[some])
        (part,) = self._signature.of(batch, labels=self._labels)
        if self._context:
            args = (*part.args, *(t[some] for t in self._context))
            part = self._signature.part(part.name, args, part.kwargs)
        return placed(part, self._like)


ProgramInputs = Part | DatasetInputs
"""The arguments of a pair's programs for all data."""


def program_inputs(
    owner: str, pair: Any, x: Data, context: tuple[Array, ...] = (), mask: Array | None = None
) -> ProgramInputs:
    """Return the arguments of a pair's programs for data of any kind.

    - Tensors are passed as they are, with context and mask.
    - NumPy arrays become tensors, on the device and, if floating, in the dtype of the pair; the
      following likewise.
    - A data set is drawn some at a time (:func:`ppl_vae.data.value_transform.prepare`), grey
      values binarised once, with seed 0, if the likelihood is of 0 and 1. Its mask is passed by
      name, its context as c, its labels, without a context, to programs with a second argument,
      except to a ``SemiSupervisedVAE``, which infers them.
    - Batches, an iterable of anything that ``fit`` accepts as batches, are read once and held.

    Raises:
        TypeError: if pair or data are of another kind, or the data contain what is also passed.
        ValueError: if there are none, or they are incompatible with the programs.
    """
    check_pair(owner, pair)
    signature = Signature(owner, pair.model, pair.guide)
    if isinstance(x, Dataset):
        if mask is not None:
            raise TypeError(
                f"{owner}: mask= must not be given with {x!r}; give Dataset(x, labels, mask=mask)"
            )
        return DatasetInputs(owner, pair, x, signature, context=_tensors(context, pair))
    if not isinstance(x, Array):
        check_batches(owner, "x", x)
        if context or mask is not None:
            raise TypeError(
                f"{owner}: x is batches, got {describe(context[0]) if context else 'mask='} as "
                f"well; give batches by name, {{'x': x, 'mask': mask}}, or tensors of all data"
            )
        return _batch_inputs(owner, pair, x, signature)
    args = (_tensor("x", x, pair), *_tensors(context, pair))
    named = {} if mask is None else {MASK: _tensor(MASK, mask, pair)}
    check_data(owner, args[0], args[1:], named.get(MASK))
    part = signature.part("data", args, named)
    return part if isinstance(x, Tensor) else placed(part, parameter_of(pair))


def _batch_inputs(owner: str, pair: Any, batches: Iterable[Any], signature: Signature) -> Part:
    """Return the arguments of all batches, concatenated."""
    steps = TypeError(f"{owner}: x must be data, got training steps; give the Dataset")
    if isinstance(batches, SemiSupervised):
        raise steps
    parts: list[Part] = []
    for batch in batches:
        found = signature.of(given(owner, batch), labels=takes_labels(pair))
        if len(found) > 1 or found[0].weight != 1:
            raise steps
        first, *others = found[0].tensors
        check_data(owner, first, tuple(others), None)
        parts.append(placed(found[0], parameter_of(pair)))
    if not parts:
        raise ValueError(f"{owner}: x must yield a batch, got none; an iterator can be read once")
    kinds = {(len(part.args), *part.kwargs): part for part in parts}
    shapes = {tuple(t.shape[1:] for t in part.tensors): part for part in parts}
    for different in (kinds, shapes):
        if len(different) > 1:
            one, other = (", ".join(map(describe, part.tensors)) for part in different.values())
            raise ValueError(f"{owner}: all batches of x must be alike, got {one} and {other}")
    columns = zip(*(part.tensors for part in parts), strict=True)
    return parts[0].replaced(map(torch.cat, columns))


def input_blocks(
    inputs: ProgramInputs, size: int, bar: tqdm | None = None
) -> Iterator[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """Yield the programs' arguments, by position and by name, for ``size`` data at a time."""
    for start in range(0, len(inputs), size):
        part = inputs.rows(slice(start, start + size))
        yield part.args, dict(part.kwargs)
        if bar is not None:
            bar.update(len(part))


def progress_bar(owner: str, label: str, total: int, progress: bool, unit: str = "x") -> tqdm:
    """Return a progress bar, which shows nothing unless ``progress``."""
    hidden, scale = not flag(owner, "progress", progress), unit != "x"
    return tqdm(total=total, desc=label, disable=hidden, leave=False, unit=unit, unit_scale=scale)


def check_batches(owner: str, name: str, data: Any) -> None:
    """Raise TypeError unless an argument, not an array or a data set, is an iterable of batches."""
    if isinstance(data, tuple) and all(isinstance(t, Tensor) for t in data):
        raise TypeError(
            f"{owner}: {name} must not be a tuple of tensors, which could be batches or arguments; "
            f"give Dataset(x, labels, mask=mask), or a list of batches"
        )
    if isinstance(data, Mapping):
        raise TypeError(
            f"{owner}: {name} must not be a mapping, got one of {', '.join(map(repr, data))[:80]}; "
            f"give Dataset(x, labels, mask=mask), or a list of mappings as batches"
        )
    if hasattr(data, "to_numpy"):  # a frame, whose items are the names of its columns
        raise TypeError(
            f"{owner}: {name} must not be a {type(data).__name__}; give its numbers, .to_numpy(), "
            f"or train on a table of mixed columns by ppl_vae.tables.fit"
        )
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        fix = "; use ppl_vae.data.load" if isinstance(data, (str, bytes)) else ""
        raise TypeError(f"{owner}: {name} must be {_KINDS}, got {describe(data)[:80]}{fix}")


def check_data(owner: str, x: Tensor, context: tuple[Tensor, ...], mask: Tensor | None) -> None:
    """Raise an error unless x holds data, and context and mask have an entry for each datum."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner}: x must be {_KINDS}, got {describe(x)}")
    if x.layout != torch.strided:
        raise TypeError(f"{owner}: x must be a dense tensor, got {describe(x)}; give x.to_dense()")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError(f"{owner}: x must hold at least one datum, got shape {tuple(x.shape)}")
    _check_lengths(owner, len(x), context, mask)


def _check_lengths(
    owner: str, number: int, context: tuple[Tensor, ...], mask: Tensor | None = None
) -> None:
    """Raise ValueError unless context and mask have an entry for each datum."""
    for tensor in context if mask is None else (*context, mask):
        if not isinstance(tensor, Tensor) or tensor.dim() == 0 or len(tensor) != number:
            name = "mask" if tensor is mask else "a further argument"
            raise ValueError(
                f"{owner}: x has {number} data, but {name} is {describe(tensor)}; give a tensor "
                f"with an entry for each datum"
            )


def check_all_data(owner: str, found: int, passed: int) -> None:
    """Raise ValueError unless the programs use all data that they are given."""
    if found != passed:
        raise ValueError(
            f"{owner}: the batch plate must hold all {passed} data, got {found}; leave out "
            f"subsample_size"
        )


def dequantised_levels_of(x: Data) -> int | None:
    """Return the number of levels that data were dequantised from, if they declare it."""
    return x.dequantised_levels if isinstance(x, (Dataset, Batches)) else None


def placed(part: Part, like: Tensor) -> Part:
    """Return a part on the device of a tensor and, where floating, in its dtype."""
    return part.replaced(
        t.to(like.device, like.dtype if t.is_floating_point() else t.dtype, non_blocking=True)
        for t in part.tensors
    )


def parameter_of(pair: Any) -> Tensor:
    """Return a tensor of the device and dtype of a pair's programs."""
    parameters = (p for program in (pair.model, pair.guide) for p in program.parameters())
    return next((p for p in parameters if p.is_floating_point()), torch.empty(0))


def takes_labels(pair: Any) -> bool:
    """Return whether a data set's labels are passed to the programs rather than inferred."""
    return not isinstance(pair, SemiSupervisedVAE)


def _tensors(context: tuple[Array, ...], pair: Any) -> tuple[Tensor, ...]:
    return tuple(_tensor("a further argument", array, pair) for array in context)


def _tensor(name: str, array: Array, pair: Any) -> Tensor:
    """Return a tensor as it is, and an array on the device and in the dtype of a pair."""
    if not isinstance(array, np.ndarray):
        return array
    tensor, like = as_tensor(name, array), parameter_of(pair)
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
