"""Adapts training data of any kind to a resumable stream of parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader

from ppl_vae.data import Batches, Dataset, Part, ResumableLoader, SemiSupervised
from ppl_vae.data.checks import seeded_generator
from ppl_vae.data.minibatch import Given, given, tensors_of
from ppl_vae.data.value_transform import prepare
from ppl_vae.errors import describe, quoted
from ppl_vae.evaluation.inputs import (
    DatasetInputs,
    ProgramInputs,
    check_batches,
    placed,
    takes_labels,
)
from ppl_vae.evaluation.signature import MASK, Signature, zero_where_missing
from ppl_vae.labels import Labels
from ppl_vae.models.observation import Observation
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.tensors import as_tensor


@runtime_checkable
class Resumable(Protocol):
    """Epochs of batches, with a position that can be saved."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position: tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the position."""


@dataclass(eq=False)
class DataStream:
    """An endless iterator over training data, which returns the parts of each step."""

    batches: Resumable  # epochs of what ppl_vae.data.minibatch.given takes
    signature: Signature
    like: Tensor  # whose device and dtype the data get
    checked: bool  # whether all values and labels were checked beforehand
    labelled: bool  # whether they were, and no label is missing
    replayed: bool  # whether a position is restored by reading batches from the start
    epoch: int = field(default=0, init=False)
    _iterator: Iterator[Any] | None = field(default=None, init=False)

    def first(self) -> tuple[Part, ...]:
        """Return the first step's parts, and keep the position."""
        state = self.batches.state_dict()
        batch = next(chain(self.batches, self.batches), None)  # this epoch may be at its end
        self.batches.load_state_dict(state)
        return self._parts(batch)

    def __next__(self) -> tuple[Part, ...]:
        if self._iterator is None:
            self._iterator = iter(self.batches)
        batch = next(self._iterator, None)
        if batch is None:
            self.epoch += 1
            self._iterator = iter(self.batches)
            batch = next(self._iterator, None)
        return self._parts(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return the position."""
        return {"epoch": self.epoch, "batches": self.batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Restore the position after a number of steps."""
        self.batches.load_state_dict(state["batches"])
        # An endless loader would be read for ever.
        if self.replayed and self.batches.position > step:  # type: ignore[attr-defined]
            raise ValueError(
                f"fit: the checkpoint is damaged: after {step} steps the data cannot be at batch "
                f"{quoted(state['batches']['position'])} of an epoch"
            )
        self.epoch = state["epoch"]
        self._iterator = None

    def _parts(self, batch: Any) -> tuple[Part, ...]:
        if batch is None:
            raise ValueError("fit: data must give a batch in each epoch, got none")
        parts = self.signature.of(given("fit", batch))
        if isinstance(self.batches, SemiSupervised):
            parts = tuple(map(_without_nan, parts))
        # Not by Fabric, which would round them to the precision of the networks.
        return tuple(placed(part, self.like) for part in parts)


def make_stream(
    pair: ModelAndGuide, data: Any, batch_size: int | None, seed: int, like: Tensor
) -> DataStream:
    """Return a stream of data; raise an error if they are incompatible with the pair."""
    if isinstance(data, np.ndarray):
        data = as_tensor("fit: data", data)
    in_memory = isinstance(data, (Tensor, Dataset))
    drawn = isinstance(data, (Batches, SemiSupervised))
    # A DataLoader with a state is wrapped, too: making its iterator draws random numbers.
    resumable = drawn or (isinstance(data, Resumable) and not isinstance(data, DataLoader))
    # All values are checked now, if the pair says what they must be.
    checked = hasattr(pair, "observation") and (in_memory or drawn)
    if not (in_memory or resumable):
        check_batches("fit", "data", data)
    if not in_memory and batch_size is not None:
        kind = type(data).__name__
        raise ValueError(
            f"fit: {kind} has its own batch size, got batch_size={batch_size}; leave batch_size out"
        )
    batches: Any
    if in_memory:
        # Programs of your own get a tensor as it is.
        as_it_is = isinstance(data, Tensor) and not hasattr(pair, "observation")
        if as_it_is and not data.is_floating_point():
            raise TypeError(
                f"fit: data for programs of your own must be floating, got {describe(data)}; give "
                f"data.float(), or a DataLoader, whose batches are not converted"
            )
        data = Dataset(data, name="data", scale=1) if isinstance(data, Tensor) else data
        if hasattr(pair, "check"):
            pair.check(data)
        _check_labels(pair, data.labels)
        prepared, transform = prepare(pair, data)
        near = prepared if prepared.is_memory_mapped else prepared.to(like.device)
        batches = Batches(
            dataset=near,
            transform=replace(transform, flat=transform.flat and not as_it_is),
            batch_size=batch_size or 100,
            shuffle=True,
            generator=seeded_generator(seed, near.values.device),
            drop_last=False,
        )
    elif resumable:
        if checked:
            check_drawn(pair, data)
        batches = data
    else:
        batches = ResumableLoader(data, seed=seed)
    labels = getattr(batches, "labels", None) if checked else None
    return DataStream(
        batches,
        _signature(pair),
        like,
        checked=checked and not _is_augmented(data),
        labelled=checked and (labels is None or bool((labels >= 0).all())),
        replayed=not (in_memory or resumable),
    )


def _is_augmented(data: Any) -> bool:
    """Return whether batches are transformed, to values that are not known beforehand."""
    sources = (data, getattr(data, "dataset", None), getattr(data, "unlabelled", None))
    return any(isinstance(s, Dataset) and s.augmentation is not None for s in sources)


def _signature(pair: ModelAndGuide) -> Signature:
    by_name = (
        "batches by name, as {'x': x, 'mask': mask}; labels in a ppl_vae.data.Dataset are left out "
        "where none are taken"
    )
    return Signature("fit", pair.model, pair.guide, by_name=by_name)


def _without_nan(part: Part) -> Part:
    if MASK not in part.kwargs:
        return part
    x = zero_where_missing(part.args[0], part.kwargs[MASK])
    return part.replaced(iter((x, *part.tensors[1:])))


def validation_data(pair: ModelAndGuide, data: Any, seed: int, like: Tensor) -> ProgramInputs:
    """Return all validation data as the programs' arguments.

    Those of a sparse matrix, or of a file, stay there, and are drawn some rows at a time; others
    are drawn now, to the device of ``like``. Grey values are binarised once. Labels of a data set
    are not given to a pair that infers them.
    """
    data = _as_tensors(data)
    if isinstance(data, Tensor) and hasattr(pair, "observation"):
        data = Dataset(data, name="validation", scale=1)
    if isinstance(data, Dataset):
        inputs = DatasetInputs("fit", pair, data, _signature(pair), seed=seed)
        stays = data.is_sparse or data.is_memory_mapped
        return inputs if stays else inputs.rows(slice(None))
    (part,) = _signature(pair).of(_validation(data), labels=takes_labels(pair))
    return placed(part, like)


def _as_tensors(data: Any) -> Any:
    if isinstance(data, np.ndarray):
        return as_tensor("fit: validation", data)
    if type(data) in (tuple, list):
        return type(data)(map(_as_tensors, data))
    if type(data) is dict:
        return {name: _as_tensors(value) for name, value in data.items()}
    return data


def _validation(data: Any) -> Given:
    empty = isinstance(data, (tuple, list, Mapping)) and not data
    got = "none" if empty else f"a {type(data).__name__}"
    if isinstance(data, (Tensor, tuple, list, Mapping, Part)):
        with suppress(TypeError):
            batch = given("fit", data)
            tensors = list(tensors_of(batch))
            alike = len({t.shape[:1] for t in tensors}) == 1
            parts = [part for part in batch if isinstance(part, Part)]
            if alike and len(parts) < 2 and all(t.dim() and len(t) for t in tensors):
                return batch
            got = ", ".join(map(describe, tensors)) or got
    raise TypeError(
        f"fit: validation must be a Dataset, a tensor (N, *event), or the programs' arguments, a "
        f"tuple or mapping of non-empty tensors of one length, got {got}"
    )


def check_drawn(pair: ModelAndGuide, data: Batches | SemiSupervised) -> None:
    """Raise an error if any data, as they are drawn, are incompatible with the pair."""
    observation: Observation = pair.observation  # type: ignore[attr-defined]
    parts = data.in_parts()
    if isinstance(data, Batches) and _is_sparse_and_inside(observation, data):
        parts = islice(parts, 1)  # for its shape: all zeros of a sparse matrix take long
    for x in parts:
        if isinstance(data, Batches):
            x = observation.arranged(x)
        missing = x.isnan()  # observed values are finite
        observation.check(x, ~missing if missing.any() else None)
    _check_labels(pair, data.labels)


def _is_sparse_and_inside(observation: Observation, data: Batches) -> bool:
    """Return whether batches of a sparse matrix have the values it holds, all in the support."""
    source, transform = data.dataset, data.transform
    unchanged = transform.binarise == "none" and not transform.dequantise
    if not (source.is_sparse and unchanged):
        return False
    return observation.accepts_anywhere(source.observed() / source.scale)


def check_classes(data: Any, validation: Any) -> None:
    """Raise ValueError if the validation data number their classes differently."""
    trained, validated = (getattr(given, "dataset", given) for given in (data, validation))
    if isinstance(trained, Dataset) and isinstance(validated, Dataset):
        validated.check_classes("fit: validation", trained)


def _check_labels(pair: ModelAndGuide, labels: Tensor | None) -> None:
    expected = getattr(pair, "labels", None)
    if not isinstance(expected, Labels) or labels is None:
        return
    if not takes_labels(pair):
        expected.check(labels, len(labels))
        return
    if missing := int((labels < 0).sum()):
        raise ValueError(
            f"fit: a {type(pair).__name__} needs the label of each datum, and {missing} of "
            f"{len(labels)} have none; give data.subset(data.labelled)"
        )
    expected.check_observed(labels, len(labels))
