"""A pair with the arguments that it is evaluated on."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ppl_vae.errors import describe
from ppl_vae.evaluation.inputs import parameter_of
from ppl_vae.models import VAE, ConditionalVAE, HierarchicalVAE, SemiSupervisedVAE
from ppl_vae.pixels import Range, as_pixels, pixel_range
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.report.evaluation_data import EvaluationData

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class PairData:
    """A pair and the arguments of its programs.

    Args:
        x: the data as the likelihood takes them, shape ``(N, *event)``.
        context: further arguments of the programs.
        grey: the data before binarisation, of x's shape.
        data: their source.
        preparation: how x was made from it, in words.
        mask: True where x is observed, of x's shape; None if all of it is.
    """

    name: str
    pair: ModelAndGuide
    x: Tensor
    context: tuple[Tensor, ...]
    grey: Tensor
    data: EvaluationData
    preparation: str
    mask: Tensor | None = None

    @property
    def args(self) -> tuple[Tensor, ...]:
        """Positional arguments of the programs."""
        return self.x, *self.context

    @property
    def kwargs(self) -> dict[str, Tensor]:
        """Keyword arguments of the programs."""
        return {} if self.mask is None else {"mask": self.mask}

    @property
    def labels(self) -> Tensor | None:
        """A label for each datum, on the CPU."""
        return self.data.labels

    @property
    def dimensions(self) -> int | None:
        """Number of observed elements of a datum; None if it varies."""
        if self.mask is None:
            return math.prod(self.x.shape[1:])
        observed = self.mask.flatten(1).sum(1).unique()
        return int(observed) if len(observed) == 1 else None

    @property
    def num_classes(self) -> int | None:
        """Number of classes of the programs' labels; None if they have none."""
        if isinstance(self.pair, (ConditionalVAE, SemiSupervisedVAE)):
            return self.pair.num_classes
        return None

    @property
    def aspect_ratio(self) -> float:
        """Width / height of an image; 1 if the data are not images."""
        shape = self.data.image_shape
        return 1.0 if shape is None else shape[-1] / shape[-2]

    def images(self, x: Tensor, leading: int = 1) -> Any:
        """Return x as pixels on the CPU, 0 black and 1 white, after ``leading`` dimensions."""
        shape = self.data.image_shape
        if shape is None:
            raise NotImplementedError(
                f"the data, of shape {self.data.event_shape}, are not images; give image_shape= "
                f"if they are"
            )
        x = as_pixels(x.detach().cpu(), self.black_and_white)
        return x.reshape(*x.shape[:leading], *shape).numpy()

    @cached_property
    def black_and_white(self) -> Range:
        """The values that are black and white in pictures."""
        return pixel_range(self.grey)

    def evaluate(self, metric: Callable[..., T], first: int | None = None, **settings: Any) -> T:
        """Return a metric of the pair on its data, or on the first of them."""
        mask = None if self.mask is None else self.mask[:first]
        return metric(self.pair, *(t[:first] for t in self.args), mask=mask, **settings)

    def training_data(self, train: EvaluationData) -> PairData:
        """Return the same pair with training data, whose context is in the data set."""
        labels_only = isinstance(self.pair, ConditionalVAE) and self.pair.num_classes is not None
        if self.context and not labels_only and train.context is None:
            raise ValueError(
                f"{self.data.owner}: pair {self.name!r} has a context, which the training data "
                f"lack; leave train out"
            )
        return pair_data(self.name, self.pair, train)


def pair_data(
    name: str, pair: ModelAndGuide, data: EvaluationData, context: Sequence[Tensor] = ()
) -> PairData:
    """Return a pair with its arguments, checked."""
    like = parameter_of(pair)
    observation = getattr(pair, "observation", None)
    preparation = "as they are"
    if data.dequantised_levels is not None:
        preparation = f"dequantised from {data.dequantised_levels} levels"
        if observation is not None and observation.is_discrete:
            preparation = f"{data.dequantised_levels} levels, without dequantisation noise"
            data = data.quantised()
    x, grey, mask = data.values(pair)
    if observation is not None and observation.is_boolean:
        preparation = "0 and 1 as given"
    if x is not grey:
        preparation = f"binarised once, each pixel a Bernoulli draw, with seed {data.seed}"
    if observation is not None:
        x, grey = (observation.arranged(t) for t in (x, grey))
        mask = None if mask is None else mask.reshape(x.shape)
    x, grey = (t.to(device=like.device, dtype=like.dtype) for t in (x, grey))
    if mask is not None:
        mask = mask.to(like.device)
        preparation += f"; {100 * (1 - mask.double().mean().item()):.3g} % are missing"
    if observation is not None:
        observation.check_shape(x)
        observation.check_values(observation.filled(x, mask))
    elif mask is not None:
        x = torch.where(mask, x, 0.0)  # as in training; this package's pairs fill it themselves
    arguments = _context(name, pair, data, tuple(context), like)
    return PairData(name, pair, x, arguments, grey, data, preparation, mask)


def _takes_context(pair: ModelAndGuide) -> bool:
    """Return whether the second argument is a vector, ``c``, as a data set has it."""
    if isinstance(pair, ConditionalVAE):
        return pair.num_classes is None
    names = [*inspect.signature(getattr(pair.model, "forward", pair.model)).parameters]
    return names[1:2] == ["c"]


def _context(
    name: str, pair: ModelAndGuide, data: EvaluationData, given: tuple[Tensor, ...], like: Tensor
) -> tuple[Tensor, ...]:
    """Return the further arguments: those given, or a conditional pair's of the data set."""
    owner = data.owner
    for c in given:
        if not c.dim() or len(c) != len(data.source):
            raise ValueError(
                f"{owner}: context must have {len(data.source)} entries, one for each datum, got "
                f"{describe(c)}"
            )
    if isinstance(pair, (VAE, SemiSupervisedVAE, HierarchicalVAE)):
        return ()
    own = data.context if _takes_context(pair) else None
    if own is not None:
        if given:
            raise ValueError(
                f"{owner}: {data.source!r} has a context, got {describe(given[0])} as well; leave "
                f"context out, or give data without one"
            )
        return (own.to(like),)
    if isinstance(pair, ConditionalVAE) and not given:
        if pair.num_classes is None or data.labels is None or not data.num_labelled:
            fix = "labels=" if pair.num_classes is not None else "context=[c]"
            if data.owner != "report":  # which alone has these arguments
                fix = f"data.Dataset(x, {'y' if pair.num_classes is not None else 'context=c'})"
            raise ValueError(f"{owner}: pair {name!r} needs a condition, got none; give {fix}")
        if missing := len(data) - data.num_labelled:
            raise ValueError(
                f"{owner}: pair {name!r} is conditional on labels, and {missing} of {len(data)} "
                f"data have none; leave these out: data.subset(data.labelled)"
            )
        return (data.labels.to(like.device),)
    chosen = (c[data.index.to(c.device)].to(like.device) for c in given)
    return tuple(c.to(like.dtype) if c.is_floating_point() else c for c in chosen)
