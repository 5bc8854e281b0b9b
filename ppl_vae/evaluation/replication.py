"""Replicated data: as many as some real ones, drawn from the model of a pair."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.data import Part
from ppl_vae.errors import describe
from ppl_vae.estimators.handlers import EnumerationMark
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.estimators.training_terms import without_training_terms
from ppl_vae.evaluation.inputs import takes_labels
from ppl_vae.evaluation.signature import MASK
from ppl_vae.evaluation.simulated import without_unobserved
from ppl_vae.evaluation.traced_batch import row_limit
from ppl_vae.models.missingness import MISSING
from ppl_vae.protocols import ModelAndGuide

Replicates = Literal["prior", "posterior"]
"""Where the latents of replicated data come from."""

SITE = "x"
"""The site of the data."""


class Replication:
    """Data sets drawn from p(z) p(x | z), or from q(z | x) p(x | z), with the context of the data.

    Missing cells are NaN: those of the data, or, if the model draws its mask, those of the draw.
    """

    def __init__(self, owner: str, pair: ModelAndGuide, data: Part, kind: Replicates) -> None:
        self._owner = owner
        self._model, self._guide = without_training_terms(pair.model, pair.guide)
        self._module = pair.model
        self._draws_without_x = "size" in inspect.signature(pair.model.forward).parameters
        args = data.args[0], *without_unobserved(pair.model, data.args[1:])
        self._data = data = replace(data, args=args)
        self._kind = kind
        further = data.args[1] if len(data.args) > 1 else data.kwargs.get("y")
        unlabelled = not takes_labels(pair) and further is not None and bool((further < 0).any())
        if kind == "prior" and unlabelled:
            raise NotImplementedError(
                f"{owner}: new data from the prior need all labels y or none, got some of -1; "
                f"leave y out, or give replicates='posterior'"
            )

    @property
    def draws_mask(self) -> bool:
        """Whether the model draws which cells are missing."""
        return getattr(self._module, "missingness", None) is not None

    @property
    def observed(self) -> Float[Tensor, "data ..."]:
        """The data themselves, NaN where missing."""
        mask = self._data.kwargs.get(MASK)
        return _hidden(self._data.args[0], mask)

    def check_observed(self) -> None:
        """Raise an error unless the model takes the data, which new data are drawn without."""
        rows = torch.arange(len(self._data), device=self._data.device)
        for index in rows.split(row_limit(self._data.args[0])):
            data = self._data.replaced(t[index] for t in self._data.tensors)
            trace = poutine.trace(self._model).get_trace(*data.args, **data.kwargs)
            x, site = data.args[0], trace.nodes.get(SITE)
            if site is not None and site["is_observed"] and site["fn"].shape() != x.shape:
                raise ValueError(
                    f"{self._owner}: x must have the shape of site {SITE!r}, "
                    f"{tuple(site['fn'].shape())}, got {describe(x)}"
                )

    def data_sets(self, number: int) -> Iterator[Float[Tensor, "data ..."]]:
        """Draw data sets, some at a time."""
        size = len(self._data)
        at_once = max(1, row_limit(self._data.args[0]) // size)
        for start in range(0, number, at_once):
            count = min(at_once, number - start)
            index = torch.arange(size, device=self._data.device).repeat(count)
            parts = [self._drawn(some) for some in index.split(row_limit(self._data.args[0]))]
            yield from torch.cat(parts).split(size)

    def _drawn(self, index: Tensor) -> Float[Tensor, "rows ..."]:
        """Draw new data for some rows of the data."""
        data = self._data.replaced(t[index] for t in self._data.tensors)
        args, kwargs = data.args, dict(data.kwargs)
        latents: dict[str, Tensor] = {}
        if self._kind == "posterior":
            sampling = EnumerationMark(None)(self._guide)
            latents = _latents(poutine.trace(sampling).get_trace(*args, **kwargs))
        model = poutine.condition(EnumerationMark(None)(self._model), data=latents)
        mask = kwargs.get(MASK)
        if self._draws_without_x:
            kwargs.pop(MASK, None)
            run = poutine.trace(model)
            trace = run.get_trace(None, *args[1:], size=len(index), **kwargs)
        else:
            trace = poutine.trace(_Unobserved()(model)).get_trace(*args, **kwargs)
        if SITE not in trace.nodes:
            raise ValueError(
                f"{self._owner}: the data's site must be named {SITE!r}, got "
                f"{', '.join(site['name'] for site in sample_sites(trace))}"
            )
        if MASK in trace.nodes:  # the model draws what is missing
            mask = trace.nodes[MASK]["value"] > 0
        return _hidden(trace.nodes[SITE]["value"], mask)


class _Unobserved(Messenger):
    """Draw the site of the data, which is otherwise observed."""

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] == SITE and msg["is_observed"]:
            msg.update(is_observed=False, value=None, done=False)


def _latents(trace: Trace) -> dict[str, Tensor]:
    return {
        site["name"]: site["value"]
        for site in sample_sites(trace)
        if not site["is_observed"] and site["name"] != MISSING
    }


def _hidden(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else torch.where(mask, x, torch.nan)
