"""Whatever data come as: epochs of parts that can be resumed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from ppl_vae.data import Batches, Dataset, Part, Replayed, SemiSupervised
from ppl_vae.data.minibatch import Given, given, tensors_of
from ppl_vae.data.value_transform import Drawing
from ppl_vae.errors import describe, quoted
from ppl_vae.evaluation.inputs import DatasetInputs, check_batches, placed, takes_labels
from ppl_vae.evaluation.signature import MASK, Signature, zero_where_missing
from ppl_vae.labels import Labels
from ppl_vae.models.observation import Observation
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.tensors import as_tensor


@runtime_checkable
class Resumable(Protocol):
    """Epochs of batches that know where they stand."""

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]:
        """Return where they stand: tensors, numbers, strings, lists and dicts."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go there."""


class Source:
    """Training data, as the parts of each step, without end.

    Args:
        batches: epochs of what :func:`ppl_vae.data.minibatch.given` knows.
        signature: of the programs.
        like: a parameter of the pair, of whose device and dtype the data are to be.
        whole: whether all values and labels were looked at beforehand.
        labelled: whether, of labels that were, none is missing.
        from_start: whether they are a loader's, from its start.
    """

    def __init__(
        self,
        batches: Resumable,
        signature: Signature,
        like: Tensor,
        *,
        whole: bool,
        labelled: bool,
        from_start: bool,
    ) -> None:
        self.batches = batches
        self.whole = whole
        self.labelled = labelled
        self._from_start = from_start
        self.epoch = 0
        self._signature = signature
        self._like = like
        self._iterator: Iterator[Any] | None = None

    def first(self) -> tuple[Part, ...]:
        """Return the first step's parts, and stay where we are."""
        state = self.batches.state_dict()
        batch = next(iter(self.batches), None)
        self.batches.load_state_dict(state)
        if batch is None:
            raise ValueError("fit: data must give a batch in each epoch, got none")
        return self._parts(batch)

    def __next__(self) -> tuple[Part, ...]:
        if self._iterator is None:
            self._iterator = iter(self.batches)
        batch = next(self._iterator, None)
        if batch is None:
            self.epoch += 1
            self._iterator = iter(self.batches)
            batch = next(self._iterator, None)
            if batch is None:
                raise ValueError("fit: data must give a batch in each epoch, got none")
        return self._parts(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return where the data stand."""
        return {"epoch": self.epoch, "batches": self.batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], step: int) -> None:
        """Go there.

        Args:
            state: as :meth:`state_dict` returned it.
            step: how many steps had been taken.

        Raises:
            ValueError: if the batches refuse it, or it is further than so many steps lead: a loader
                that has no end would be read for ever.
        """
        self.batches.load_state_dict(state["batches"])
        if self._from_start and self.batches.position > step:  # type: ignore[attr-defined]
            raise ValueError(
                f"fit: after {step} steps the data cannot stand at batch "
                f"{quoted(state['batches']['position'])} of an epoch; the checkpoint is damaged"
            )
        self.epoch = state["epoch"]
        self._iterator = None

    def _parts(self, batch: Any) -> tuple[Part, ...]:
        parts = self._signature.of(given("fit", batch))
        if isinstance(self.batches, SemiSupervised):
            parts = tuple(map(_without_nan, parts))
        # Fabric would round the data to the precision of the networks.
        return tuple(placed(part, self._like) for part in parts)


def source_of(
    pair: ModelAndGuide, data: Any, batch_size: int | None, seed: int, like: Tensor
) -> Source:
    """Return the epochs of data.

    Raises:
        TypeError: if the data are of a kind that is not known.
        ValueError: if they do not suit the pair, or bring a batch size of their own.
    """
    if isinstance(data, np.ndarray):
        data = as_tensor("fit: data", data)
    whole = isinstance(data, (Tensor, Dataset))
    # Of these, all values are looked at now.
    known = hasattr(pair, "observation") and (whole or isinstance(data, (Batches, SemiSupervised)))
    given = isinstance(data, (Batches, SemiSupervised, Resumable))
    if not (whole or given):
        _refuse_no_batches(data)
    loader = isinstance(data, Iterable) and not whole
    if (given or loader) and batch_size is not None:
        raise ValueError(
            f"fit: batch_size={batch_size} was given, and {type(data).__name__} has one of its "
            f"own; leave batch_size out"
        )
    if whole:
        # A tensor for programs of a user's own is as they want it.
        as_it_is = isinstance(data, Tensor) and not hasattr(pair, "observation")
        if as_it_is and not data.is_floating_point():
            raise TypeError(
                f"fit: data for programs of your own must be floating, as all draws are, got "
                f"{describe(data)}; give data.float(), or a DataLoader that yields them as they are"
            )
        data = Dataset(data, name="data", scale=1) if isinstance(data, Tensor) else data
        _check(pair, data)
        _check_labels(pair, data.labels)
        drawing = Drawing.of(pair, data)
        batches: Any = drawing.data.to(like.device).batches(
            batch_size or 100,
            binarise=drawing.binarise,
            flat=drawing.flat and not as_it_is,
            seed=seed,
        )
    elif given:
        if known:
            _check_drawn(pair, data)
        batches = data
    else:
        batches = Replayed(data, seed=seed)
    replayed = not (whole or given)
    labels = getattr(batches, "labels", None) if known else None
    return Source(
        batches,
        _signature(pair),
        like,
        whole=known,
        labelled=known and (labels is None or bool((labels >= 0).all())),
        from_start=replayed,
    )


def _signature(pair: ModelAndGuide) -> Signature:
    return Signature(
        "fit",
        pair.model,
        pair.guide,
        by_name="batches by name, as {'x': x, 'mask': mask}; labels in a ppl_vae.data.Dataset are "
        "left out where none are taken",
    )


def _without_nan(part: Part) -> Part:
    """Return a part of a data set as programs see it."""
    if MASK not in part.kwargs:
        return part
    x = zero_where_missing(part.args[0], part.kwargs[MASK])
    return part.replaced(iter((x, *part.tensors[1:])))


def _refuse_no_batches(data: Any) -> None:
    """Raise TypeError for what can be iterated over, and yields no batches."""
    check_batches("fit", "data", data)


def fixed(pair: ModelAndGuide, data: Any, seed: int, like: Tensor) -> Part:
    """Return data to validate on, all of them, as the programs' arguments.

    Grey values are binarised once. Labels of a data set, which a semi-supervised pair is to find
    for itself, are not given to one.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if they do not suit the pair, or hold something that it does not take.
    """
    data = _as_tensors(data)
    if isinstance(data, Tensor) and hasattr(pair, "observation"):
        data = Dataset(data, name="validation", scale=1)
    if isinstance(data, Dataset):
        return placed(
            DatasetInputs("fit", pair, data, _signature(pair), seed=seed).rows(slice(None)), like
        )
    (part,) = _signature(pair).of(_validation(data), labels=takes_labels(pair))
    return placed(part, like)


def _as_tensors(data: Any) -> Any:
    """Return data to validate on with tensors in the place of arrays."""
    if isinstance(data, np.ndarray):
        return as_tensor("fit: validation", data)
    if type(data) in (tuple, list):
        return type(data)(map(_as_tensors, data))
    if type(data) is dict:
        return {name: _as_tensors(value) for name, value in data.items()}
    return data


def _validation(data: Any) -> Given:
    """Return the programs' arguments that are given to validate on, all data at once."""
    empty = isinstance(data, (tuple, list, Mapping)) and not data
    came = "none" if empty else f"a {type(data).__name__}"
    if isinstance(data, (Tensor, tuple, list, Mapping, Part)):
        with suppress(TypeError):
            batch = given("fit", data)
            tensors = list(tensors_of(batch))
            numbers = {t.shape[:1] for t in tensors}
            parts = [part for part in batch if isinstance(part, Part)]
            if len(numbers) == 1 and len(parts) < 2 and all(t.dim() and len(t) for t in tensors):
                return batch
            came = ", ".join(map(describe, tensors)) or came
    raise TypeError(
        f"fit: validation must be a Dataset, a tensor (N, *event), or the programs' arguments, a "
        f"tuple of tensors or a mapping of names to them, of as many entries each, at least one, "
        f"got {came}"
    )


def _check(pair: ModelAndGuide, data: Dataset) -> None:
    check = getattr(pair, "check", None)
    if check is not None:
        check(data)


def _check_drawn(pair: ModelAndGuide, data: Batches | SemiSupervised) -> None:
    """Raise an error unless all data, as they are drawn, suit the pair."""
    observation = getattr(pair, "observation", None)
    assert isinstance(observation, Observation)
    for x in data.in_parts():
        if isinstance(data, Batches):
            x = observation.arranged(x)
        missing = x.isnan()  # what is observed is finite
        observation.check(x, ~missing if missing.any() else None)
    _check_labels(pair, data.labels)


def check_classes(data: Any, validation: Any) -> None:
    """Raise ValueError where the data to validate on number the classes otherwise."""
    of, other = (getattr(given, "dataset", given) for given in (data, validation))
    if isinstance(of, Dataset) and isinstance(other, Dataset):
        other.check_classes("fit: validation", of)


def _check_labels(pair: ModelAndGuide, labels: Tensor | None) -> None:
    of = getattr(pair, "labels", None)
    if not isinstance(of, Labels) or labels is None:
        return
    if not takes_labels(pair):
        of.check(labels, len(labels))
        return
    if missing := int((labels < 0).sum()):
        raise ValueError(
            f"fit: a {type(pair).__name__} is given the label of each datum, and {missing} of "
            f"{len(labels)} have none; leave these out: data.subset(data.labelled)"
        )
    of.check_observed(labels, len(labels))
