"""A summary in two lines: how data are interpreted, and under which likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.distributions import constraints

from ppl_vae.data import Batches, Dataset, SemiSupervised
from ppl_vae.data.value_transform import ValueTransform, prepare
from ppl_vae.errors import describe, quoted
from ppl_vae.models.observation import Observation
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.tensors import as_tensor
from ppl_vae.training.data_stream import check_drawn


def data_summary(pair: ModelAndGuide, data: Any, validation: Any = None) -> str:
    """Return how :func:`fit` interprets data, and under which likelihood.

    The first line has their number, shape, dtype, range and scale, missing entries and labels; the
    second the likelihood, and whether values are used as they are or binarised. Each earlier
    conversion, such as a dropped alpha channel, has a line of its own.

    Args:
        pair: what is trained.
        data: a :class:`ppl_vae.data.Dataset`, its batches, :class:`ppl_vae.data.SemiSupervised`, or
            a tensor or array ``(N, *event)``.
        validation: held-out data set, tensor or array, for its number.

    Raises:
        TypeError: if the data are of another kind.
        ValueError: if the pair cannot take them, as ``fit`` would.

    Example:
        >>> from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> print(data_summary(vae, data.load("digits")))  # doctest: +NORMALIZE_WHITESPACE
        data: 'digits', 1437 of shape (1, 8, 8), flattened; uint8 from 0 to 16, divided by 16;
              nothing missing; 10 classes
        likelihood: Bernoulli, of 0 and 1; grey values are drawn as 0 or 1 anew at each step
                    (ContinuousBernoulli takes them as they are)
    """
    shown = len(data.labels) if isinstance(data, SemiSupervised) else None
    given = None
    if isinstance(data, (Batches, SemiSupervised)):
        if isinstance(getattr(pair, "observation", None), Observation):
            check_drawn(pair, data)
        given, data = data.transform, data.dataset
    if isinstance(data, np.ndarray):
        data = as_tensor("data_summary: data", data)
    if isinstance(data, Tensor):
        data = Dataset(data, scale=1)
    if not isinstance(data, Dataset):
        expected = "a Dataset, its batches, SemiSupervised, or a tensor or array (N, *event)"
        raise TypeError(f"data_summary: data must be {expected}, got {describe(data)}")
    if given is None:
        if isinstance(getattr(pair, "observation", None), Observation):
            pair.check(data)  # type: ignore[attr-defined]
        prepared, transform = prepare(pair, data)
    else:
        prepared, transform = data, given  # as they are drawn
    number = f"{len(data)}"
    if validation is not None:
        number += f" to train and {len(validation)} to validate,"
    shape = (
        f"{data.event_shape}, flattened"
        if transform.flat and data.values.dim() > 2
        else data.event_shape
    )
    facts = [
        f"{quoted(data.name)}, {number} of shape {shape}",
        _values(prepared),
        _missing(data),
        _labels(data, shown),
    ]
    if data.context is not None:
        facts.append(f"context of {data.context.shape[1]} numbers")
    lines = [f"data: {'; '.join(facts)}", f"likelihood: {_likelihood(pair, data, transform)}"]
    return "\n".join([*lines, *(f"converted: {each}" for each in prepared.conversions)])


def _values(data: Dataset) -> str:
    low, high = (v.item() for v in data.observed().aminmax())
    scaled = "as they are" if data.scale == 1 else f"divided by {data.scale:g}"
    dtype = str(data.values.dtype).removeprefix("torch.")
    return f"{dtype} from {low:.6g} to {high:.6g}, {scaled}"


def _missing(data: Dataset) -> str:
    if data.mask is None or (share := 1 - data.mask.double().mean().item()) == 0:
        return "nothing missing"
    return f"{100 * share:.3g} % missing"


def _labels(data: Dataset, shown: int | None) -> str:
    if data.labels is None:
        return "no labels"
    seen = int((data.labels >= 0).sum()) if shown is None else shown
    some = "" if seen == len(data) else f", {seen} of {len(data)} labels seen"
    return f"{data.num_classes} classes{some}"


def _likelihood(pair: ModelAndGuide, data: Dataset, transform: ValueTransform) -> str:
    observation = getattr(pair, "observation", None)
    if not isinstance(observation, Observation):
        return "that of your own programs, which get values as they are"
    how = {
        "none": "values are taken as they are",
        "dynamic": "grey values are drawn as 0 or 1 anew at each step (ContinuousBernoulli takes "
        "them as they are)",
        "static": "grey values are drawn as 0 or 1 once",
        "threshold": "grey values above 1/2 are 1, others 0",
    }[transform.binarise]
    if transform.dequantise:
        how = f"noise u is added at each step, (k + u) / {data.levels}"
    return f"{observation.likelihood}, of {_support(observation)}; {how}"


def _support(observation: Observation) -> str:
    """Describe the support of a likelihood."""
    if observation.is_boolean:
        return "0 and 1"
    if observation.is_integer:
        return "whole numbers (counts)"
    element = observation.element
    known = {
        constraints.real: "real numbers (a density)",
        constraints.unit_interval: "real numbers in [0, 1] (a density)",
    }
    return known.get(element, str(element))
