r"""Normalising flows: zuko's, as Pyro distributions, and how a part of a pair builds one.

A flow has the density of the change of variables, log p(z) = log N(f(z); 0, I) + log |det ∂f/∂z|;
it is sampled by z = f⁻¹(u), u ~ N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NoReturn

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import constraints
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.errors import describe, number


@contextmanager
def _validation_kept() -> Iterator[None]:
    """Undo what importing zuko does to every distribution of torch and Pyro: validation off."""
    validate = Distribution._validate_args
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validate)


# The rest of the package takes zuko from here, so that nothing imports it without the guard.
with _validation_kept():
    import zuko

Constructor = Callable[..., Any]
"""``(features, context, *, transforms, hidden_features) -> zuko.lazy.Flow``, as zuko's own."""

INITIAL_SCALE = 1e-2
"""How far from the identity the named flows start, as a factor of the last layer's weights."""

ACTIVATION = nn.Tanh
"""Of the transformations' networks: smooth, as z ↦ log p(z) is to be, and bounded.

Far from the data an affine transformation then has a constant scale, and the tails are those of a
normal. With zuko's ReLU the log-density of a flow has a kink at every unit.
"""

MAX_LOG_SCALE = 3.0
"""The bound of an affine transformation's log-scale.

Scales multiply from one transformation to the next; with zuko's bound, 6.9, three transformations
stretch by up to a thousand million, and float32 is left with no digits.
"""


class FlowDistribution(ZukoToPyro):
    """A distribution of zuko over real vectors, as a Pyro distribution.

    Completes Pyro's bridge by ``sample``, ``rsample`` and ``support``, and keeps the bridge's
    shortcut right: a value drawn by ``pyro.sample`` is scored by the density that came with it,
    which spares a flow's slow direction. Two things differ. One draw is remembered, so that a
    distribution that is kept does not keep every graph. And the density is computed anew where the
    one remembered lacks the graph: for a value drawn without gradients, or detached since. Values
    of ``rsample`` are not remembered, and their density may be differentiated by the value.

    Args:
        dist: the distribution, of event shape ``(features,)``.

    Raises:
        NotImplementedError: by ``mean`` and ``variance``, which have no closed form.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "cache": {}}  # graphs cannot be pickled or copied

    def __call__(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a value, as ``rsample`` does, and remember its density."""
        self.cache.clear()
        return super().__call__(torch.Size(sample_shape))

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values, shape ``(*sample_shape, *batch, features)``, differentiable."""
        return self.dist.rsample(torch.Size(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw values, shape ``(*sample_shape, *batch, features)``, without gradients."""
        with torch.no_grad():
            return self.dist.sample(torch.Size(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density in nats, the value's leading shape broadcast with the batch."""
        known = self.cache.get(value)
        if known is not None and not torch.is_grad_enabled():
            return known.detach()
        if known is not None and value.grad_fn is not None:
            return known
        # A coupling writes into a tensor of the value's shape, which is to hold the batch's.
        leading = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.dist.log_prob(value.expand(*leading, value.shape[-1]))

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> FlowDistribution:
        """Return the distribution with its batch expanded to ``batch_shape``."""
        return type(self)(self.dist.expand(torch.Size(batch_shape)))

    @property
    def mean(self) -> NoReturn:
        """Raise an error: there is no closed form."""
        raise NotImplementedError(_NO_CLOSED_FORM.format("mean", "mean"))

    @property
    def variance(self) -> NoReturn:
        """Raise an error: there is no closed form."""
        raise NotImplementedError(_NO_CLOSED_FORM.format("variance", "var"))


_NO_CLOSED_FORM = (
    "the {} of a normalising flow has no closed form; estimate it by draws, as in "
    "dist.sample((1000,)).{}(0)"
)


def transformed_normal(transform: Any, loc: Tensor, scale: Tensor) -> FlowDistribution:
    """Return the distribution of z whose image ``transform(z)`` is N(loc, diag scale²).

    Args:
        transform: a transform of zuko, with ``call_and_ladj``.
        loc: shape ``(*batch, features)``.
        scale: standard deviations, of the same shape.
    """
    base = zuko.distributions.DiagNormal(loc, scale)
    return FlowDistribution(zuko.distributions.NormalizingFlow(transform, base))


def affine(
    features: int,
    context: int = 0,
    *,
    transforms: int,
    hidden_features: Sequence[int],
    passes: int | None = None,
) -> nn.Module:
    """Build affine transformations z_d ↦ exp(a_d) z_d + b_d, autoregressive or coupled.

    Source: Papamakarios et al. 2017 (arXiv 1705.07057); with ``passes=2``, couplings of halves,
    Dinh et al. 2017 (arXiv 1605.08803), where the half that is passed on is itself shifted and
    scaled, by constants. |a| < 3.

    Args:
        features: number of dimensions.
        context: number of features of the context.
        transforms: number of transformations; the order of dimensions is reversed in every other.
        hidden_features: widths of the hidden layers of each transformation's network.
        passes: evaluations of the network that invert a transformation; ``features`` if not given.
    """
    univariate = partial(zuko.transforms.MonotonicAffineTransform, slope=math.exp(-MAX_LOG_SCALE))
    return _masked(
        features, context, transforms, hidden_features, passes, univariate, shapes=[(), ()]
    )


def inverse_affine(
    features: int, context: int = 0, *, transforms: int, hidden_features: Sequence[int]
) -> nn.Module:
    """Build the inverse of :func:`affine`: sampling takes one pass, scoring ``features``.

    Source: Kingma et al. 2016 (arXiv 1606.04934).
    """
    flow = affine(features, context, transforms=transforms, hidden_features=hidden_features)
    flow.transform = zuko.lazy.LazyInverse(flow.transform)
    return flow


def spline(
    features: int,
    context: int = 0,
    *,
    transforms: int,
    hidden_features: Sequence[int],
    bound: int | float = 5.0,
    bins: int = 8,
    passes: int | None = 2,
) -> nn.Module:
    """Build monotonic rational-quadratic splines on [-bound, bound], the identity outside.

    Source: Durkan et al. 2019 (arXiv 1906.04032); couplings of halves by default.

    Args:
        features: number of dimensions.
        context: number of features of the context.
        transforms: number of transformations; the order of dimensions is reversed in every other.
        hidden_features: widths of the hidden layers of each transformation's network.
        bound: half the width of the box, in the units of z.
        bins: pieces of each spline.
        passes: evaluations of the network that invert a transformation: 2 for couplings, None for
            ``features`` (autoregressive).
    """
    bound = number("spline", "bound", bound, above=0)
    univariate = partial(zuko.transforms.MonotonicRQSTransform, bound=bound)
    shapes = [(bins,), (bins,), (bins - 1,)]
    return _masked(features, context, transforms, hidden_features, passes, univariate, shapes)


def _masked(
    features: int,
    context: int,
    transforms: int,
    hidden_features: Sequence[int],
    passes: int | None,
    univariate: Callable[..., Any],
    shapes: Sequence[tuple[int, ...]],
) -> nn.Module:
    """Build transformations of one kind, ``univariate``, whose parameters have these shapes.

    Couplings are masks, too: zuko's own look for their halves at each call, which makes the host
    wait for the device.
    """
    flow = zuko.flows.MAF(
        features,
        context,
        transforms=transforms,
        hidden_features=hidden_features,
        activation=ACTIVATION,
        passes=passes,
        univariate=univariate,
        shapes=shapes,
    )
    return near_identity(flow)


def near_identity(flow: nn.Module) -> nn.Module:
    """Bring affine and spline transformations near the identity, in place, and return the flow.

    Where all parameters of an affine transformation or a spline are 0 it is the identity; they are
    the outputs of the last layer of its network, which is scaled by ``INITIAL_SCALE``. Not by 0,
    so that every parameter gets a gradient at the first step.
    """
    with torch.no_grad():
        for module in flow.modules():
            # In one dimension without context there is no network, but its outputs.
            outputs = getattr(module, "phi", nn.ParameterList())
            network = getattr(module, "hyper", None)
            if network is not None:
                outputs = network[-1]
            for parameter in outputs.parameters():
                parameter.mul_(INITIAL_SCALE)
    return flow


KINDS: dict[str, Constructor] = {
    "realnvp": partial(affine, passes=2),
    "maf": affine,
    "iaf": inverse_affine,
    "spline": spline,
}
"""The flows that have a name."""


def build(
    owner: str,
    kind: str | Constructor,
    features: int,
    context: int,
    transforms: int,
    hidden: Sequence[int],
) -> nn.Module:
    """Build the flow of a prior or posterior.

    Args:
        owner: the class that asks, for messages.
        kind: a name in :data:`KINDS`, or a constructor that is called as zuko's are.
        features: number of latent dimensions.
        context: number of features of the context, 0 for none.
        transforms: number of transformations.
        hidden: widths of the hidden layers of each transformation's network.
    """
    constructor = KINDS.get(kind) if isinstance(kind, str) else kind
    if not callable(constructor):
        raise (ValueError if isinstance(kind, str) else TypeError)(
            f"{owner}: kind must be one of {', '.join(map(repr, KINDS))}, or a constructor of "
            f"zuko such as zuko.flows.NAF, got {describe(kind)}"
        )
    try:
        flow = constructor(features, context, transforms=transforms, hidden_features=list(hidden))
    except TypeError as error:
        raise TypeError(
            f"{owner}: kind {kind!r} must take (features, context, *, transforms, "
            f"hidden_features), as zuko's MAF and NAF do: {error}; fix other arguments with "
            f"functools.partial"
        ) from error
    if not isinstance(flow, zuko.lazy.Flow):
        raise TypeError(
            f"{owner}: kind {kind!r} must make a zuko.lazy.Flow, got one of type "
            f"{type(flow).__name__}"
        )
    return flow
