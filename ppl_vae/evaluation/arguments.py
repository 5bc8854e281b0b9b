"""Whatever data come as: what a pair's programs are called with, some of the data at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Batches, Dataset, Part, SemiSupervised
from ppl_vae.data.minibatch import given
from ppl_vae.data.value_transform import prepare
from ppl_vae.errors import describe
from ppl_vae.evaluation.checks import check_beside, check_data
from ppl_vae.evaluation.signature import MASK, Signature
from ppl_vae.models import SemiSupervisedVAE
from ppl_vae.tensors import as_tensor

Array = Tensor | np.ndarray
Data = Array | Dataset | Iterable[Any]
"""What functions of evaluation take for x: see :func:`arguments`."""


@runtime_checkable
class Arguments(Protocol):
    """What programs are called with, for all data."""

    def __len__(self) -> int:
        """Return the number of data."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    def rows(self, some: slice) -> Part:
        """Return what the programs are called with for some of the data."""


def arguments(
    owner: str, pair: Any, x: Data, context: tuple[Array, ...] = (), mask: Array | None = None
) -> Arguments:
    """Return what the programs of a pair are called with, whatever the data come as.

    - A tensor is given as it is, and so are context and mask.
    - An array of numpy's is a tensor, brought to the device and, if floating, to the dtype of the
      pair, as is all that follows.
    - A data set is drawn as :func:`ppl_vae.data.value_transform.prepare` says, grey values under a
      likelihood of 0 and 1 once, with seed 0; some at a time, never as a whole. Its mask is given
      by name, and its labels where the programs take a second argument, but not to a
      ``SemiSupervisedVAE``, which is to find them for itself.
    - Batches, an iterable of what ``fit`` takes for batches, are gone through once, and held.

    Args:
        owner: the function that asks, for messages.
        pair: has ``model`` and ``guide``.
        x: the data.
        context: further arguments of the programs, with an entry for each datum.
        mask: True where x is observed.

    Raises:
        TypeError: if the data are of another kind, or bring something that is given as well.
        ValueError: if there are none, or they do not suit the programs.
    """
    signature = Signature(owner, pair.model, pair.guide)
    if isinstance(x, Dataset):
        return Drawn(owner, pair, x, signature, context=_tensors(context), mask=mask)
    if not isinstance(x, Array):
        check_batches(owner, "x", x)
        if context or mask is not None:
            raise TypeError(
                f"{owner}: batches bring all there is of a datum, got "
                f"{describe(context[0]) if context else 'mask='} beside them; give batches by "
                f"name, {{'x': x, 'mask': mask}}, or tensors of all data"
            )
        return _held(owner, pair, x, signature)
    args = (_tensor("x", x), *_tensors(context))
    named = {} if mask is None else {MASK: _tensor(MASK, mask)}
    check_data(owner, args[0], args[1:], named.get(MASK))
    part = signature.part("data", args, named)
    return part if isinstance(x, Tensor) else placed(part, parameter_of(pair))


class Drawn:
    """The arguments that a data set has for a pair, drawn when they are asked for.

    Args:
        owner: the function that asks, for messages.
        pair: has ``model`` and ``guide``.
        data: the data set.
        signature: of the programs.
        seed: of the binarisation.
        context: further arguments, where the data set has no labels.
        mask: must be None, as it is the data set's.
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
        mask: Array | None = None,
    ) -> None:
        if mask is not None:
            raise TypeError(
                f"{owner}: mask= was given beside {data!r}, which says itself what is observed; "
                f"give Dataset(values, labels, mask=mask)"
            )
        if context and data.labels is not None:
            raise TypeError(
                f"{owner}: {describe(context[0])} was given beside {data!r}, which has labels; "
                f"give tensors, dataset.tensor() and yours, or a Dataset without labels"
            )
        check_beside(owner, len(data), context)
        if hasattr(pair, "check"):
            pair.check(data)
        self._signature = signature
        prepared, transform = prepare(pair, data)
        self._data, self._transform = transform.fixed(prepared, seed)
        self._context = context
        self._like = parameter_of(pair)
        self._labels = labels_are_given(pair)
        self.rows(slice(1))  # an error comes now

    def __len__(self) -> int:
        return len(self._data)

    @property
    def device(self) -> torch.device:
        """Where they are given."""
        return self._like.device

    def rows(self, some: slice) -> Part:
        """Draw what the programs are called with for some of the data."""
        batch = self._transform.batch(self._data, torch.arange(len(self))[some])
        (part,) = self._signature.of(batch, labels=self._labels)
        if self._context:
            args = (*part.args, *(t[some] for t in self._context))
            part = self._signature.part(part.name, args, part.kwargs)
        return placed(part, self._like)


def _held(owner: str, pair: Any, batches: Iterable[Any], signature: Signature) -> Part:
    """Return the arguments that batches have, all of them."""
    steps = TypeError(
        f"{owner}: x must be data, got steps of training, whose parts have weights and may come "
        f"again; give the Dataset"
    )
    if isinstance(batches, SemiSupervised):
        raise steps
    parts: list[Part] = []
    for batch in batches:
        found = signature.of(given(owner, batch), labels=labels_are_given(pair))
        if len(found) > 1 or found[0].weight != 1:
            raise steps
        first, *others = found[0].tensors
        check_data(owner, first, tuple(others), None)
        parts.append(placed(found[0], parameter_of(pair)))
    if not parts:
        raise ValueError(f"{owner}: x must give a batch, got none; an iterator gives its own once")
    kinds = {(len(part.args), *part.kwargs): part for part in parts}
    shapes = {tuple(t.shape[1:] for t in part.tensors): part for part in parts}
    for different in (kinds, shapes):
        if len(different) > 1:
            one, other = (", ".join(map(describe, part.tensors)) for part in different.values())
            raise ValueError(f"{owner}: all batches of x must be alike, got {one} and {other}")
    columns = zip(*(part.tensors for part in parts), strict=True)
    return parts[0].replaced(map(torch.cat, columns))


def check_batches(owner: str, name: str, data: Any) -> None:
    """Raise TypeError for what yields no batches, though it may be iterated over.

    Args:
        owner: the function that is given it, for messages.
        name: of its argument.
        data: what was given, no array and no data set.
    """
    kinds = "a Dataset, its batches, a tensor (N, *event), or an iterable of batches"
    if isinstance(data, tuple) and all(isinstance(t, Tensor) for t in data):
        raise TypeError(
            f"{owner}: {name} must not be a tuple of tensors, which might be batches, or one "
            f"tensor for each argument; give Dataset(x, labels, mask=mask), "
            f"DataLoader(TensorDataset(*tensors), batch_size), or a list of batches"
        )
    if isinstance(data, Mapping):
        names = ", ".join(map(repr, data))
        raise TypeError(
            f"{owner}: {name} must not be a mapping, which might be one batch or all data, got one "
            f"of {names[:80]}; give Dataset(x, labels, mask=mask), or a list of such mappings"
        )
    if isinstance(data, (str, bytes)):
        raise TypeError(
            f"{owner}: {name} must be {kinds} such as a DataLoader, got {describe(data)[:80]}; a "
            f"data set is loaded by its name with ppl_vae.data.load"
        )
    if not isinstance(data, Iterable):
        raise TypeError(
            f"{owner}: {name} must be {kinds} such as a DataLoader, got {describe(data)}"
        )


def dequantised_levels_of(x: Data) -> int | None:
    """Return how many levels data were dequantised from; None where they do not say so."""
    return x.dequantised_levels if isinstance(x, (Dataset, Batches)) else None


def placed(part: Part, like: Tensor) -> Part:
    """Return a part on the device of a tensor, its floating tensors in the dtype of that one."""
    return part.replaced(
        t.to(like.device, like.dtype if t.is_floating_point() else t.dtype, non_blocking=True)
        for t in part.tensors
    )


def parameter_of(pair: Any) -> Tensor:
    """Return a tensor of the device and dtype of a pair's programs."""
    parameters = (p for program in (pair.model, pair.guide) for p in program.parameters())
    return next((p for p in parameters if p.is_floating_point()), torch.empty(0))


def labels_are_given(pair: Any) -> bool:
    """Whether the labels of a data set are for the programs, and not for them to find."""
    return not isinstance(pair, SemiSupervisedVAE)


def _tensors(context: tuple[Array, ...]) -> tuple[Tensor, ...]:
    return tuple(_tensor("a further argument", array) for array in context)


def _tensor(name: str, array: Array) -> Tensor:
    return as_tensor(name, array) if isinstance(array, np.ndarray) else array
