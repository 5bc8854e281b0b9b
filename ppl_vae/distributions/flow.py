r"""Normalising flows: zuko's as Pyro distributions, and their construction by name.

A flow has the density of the change of variables, log p(z) = log N(f(z); 0, I) + log |det ∂f/∂z|;
it is sampled by z = f⁻¹(u), u ~ N(0, I).
"""

from __future__ import annotations

import math
import warnings
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
    """Keep the validation of all distributions, which importing zuko switches off."""
    validate = Distribution._validate_args
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validate)


# Import zuko from here only.
with _validation_kept():
    import zuko

Constructor = Callable[..., Any]
"""``(features, context, *, transforms, hidden_features) -> zuko.lazy.Flow``, as in zuko."""

INITIAL_SCALE = 1e-2
"""Factor of the last layer's weights by which the named flows start near the identity."""

ACTIVATION = nn.Tanh
"""Activation of the transformations' networks: smooth, so that z ↦ log p(z) is, and bounded.

Far from the data an affine transformation then has a constant scale, and the tails are those of a
normal. With zuko's default, ReLU, the log-density has a kink at every unit.
"""

MAX_LOG_SCALE = 3.0
"""Bound of an affine transformation's log-scale.

Scales of successive transformations multiply: with zuko's bound, 6.9, three transformations stretch
by up to 10⁹, beyond the precision of float32.
"""


class FlowDistribution(ZukoToPyro):
    """A zuko distribution over real vectors as a Pyro distribution.

    Adds ``sample``, ``rsample`` and ``support`` to Pyro's bridge and corrects its cache, by which a
    value drawn by ``pyro.sample`` is scored with the density computed while drawing it, sparing a
    flow's slow direction. Here only the last draw is cached, so that graphs are freed; and the
    density is recomputed where the cached one lacks the graph, for a value drawn without gradients
    or detached since. Values of ``rsample`` are not cached, so that gradients in them are right.

    Args:
        dist: the distribution, of event shape ``(features,)``.

    Raises:
        NotImplementedError: from ``mean`` and ``variance``, which have no closed form.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real_vector

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "cache": {}}  # graphs cannot be pickled or copied

    def __call__(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw a value as ``rsample`` does, and cache its density."""
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
        """Return the log-density in nats; leading dimensions are broadcast with the batch."""
        cached = self.cache.get(value)
        if cached is not None and not torch.is_grad_enabled():
            return cached.detach()
        if cached is not None and value.grad_fn is not None:
            return cached
        # Couplings write into a tensor of the value's shape, which must be the full batch.
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
    "the {} of a normalising flow has no closed form; estimate it by dist.sample((1000,)).{}(0)"
)


def transformed_normal(transform: Any, loc: Tensor, scale: Tensor) -> FlowDistribution:
    """Return the distribution of z for which ``transform(z)`` is N(loc, diag scale²).

    Args:
        transform: a zuko transform, with ``call_and_ladj``.
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
    Dinh et al. 2017 (arXiv 1605.08803), where the half that is passed on is shifted and scaled
    by constants. |a| < 3.

    Args:
        features: number of dimensions.
        context: number of features of the context.
        transforms: number of transformations; every other reverses the dimensions.
        hidden_features: widths of the hidden layers of each transformation's network.
        passes: network evaluations to invert a transformation; ``features`` if not given.
    """
    univariate = partial(zuko.transforms.MonotonicAffineTransform, slope=math.exp(-MAX_LOG_SCALE))
    return _masked(
        features, context, transforms, hidden_features, passes, univariate, shapes=[(), ()]
    )


def inverse_affine(
    features: int, context: int = 0, *, transforms: int, hidden_features: Sequence[int]
) -> nn.Module:
    """Build the inverse of :func:`affine`: one pass to sample, ``features`` passes to score.

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
        features: as for :func:`affine`, and so are ``context``, ``transforms`` and
            ``hidden_features``.
        bound: half the width of the box, in units of z.
        bins: number of pieces of each spline.
        passes: network evaluations to invert a transformation: 2 for couplings, None for
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
    """Build masked transformations of one kind, ``univariate``, with parameters of these shapes.

    Couplings are masked, too: zuko's own index their halves at each call, which synchronises the
    device.
    """
    groups = features if passes is None else passes
    needed = groups if context else groups - 1  # units of distinct predecessors
    if min(hidden_features, default=needed) < needed:
        warnings.warn(
            f"hidden={(*hidden_features,)} of a flow has a layer of fewer than {needed} units, so "
            f"that some of its {features} dimensions do not see all before them; widen it",
            stacklevel=2,
        )
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

    They are the identity if all outputs of their network are 0. Its last layer is scaled by
    ``INITIAL_SCALE``, not 0, so that every parameter has a gradient at the first step.
    """
    with torch.no_grad():
        for module in flow.modules():
            # In one dimension without context the outputs are parameters, without a network.
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
"""Constructors by name."""


def build(
    owner: str,
    kind: str | Constructor,
    features: int,
    context: int,
    transforms: int,
    hidden: Sequence[int],
) -> nn.Module:
    """Build the flow of a prior or posterior; the arguments are those of :data:`Constructor`.

    ``kind`` is a name in :data:`KINDS`, or a constructor.
    """
    constructor = KINDS.get(kind) if isinstance(kind, str) else kind
    if not callable(constructor):
        raise (ValueError if isinstance(kind, str) else TypeError)(
            f"{owner}: kind must be one of {', '.join(map(repr, KINDS))}, or a zuko constructor "
            f"such as zuko.flows.NAF, got {describe(kind)}"
        )
    try:
        flow = constructor(features, context, transforms=transforms, hidden_features=list(hidden))
    except TypeError as error:
        raise TypeError(
            f"{owner}: kind {kind!r} must take (features, context, *, transforms, "
            f"hidden_features), as zuko.flows.NAF does: {error}; bind other arguments with "
            f"functools.partial"
        ) from error
    if not isinstance(flow, zuko.lazy.Flow):
        got = type(flow).__name__
        raise TypeError(f"{owner}: kind {kind!r} must return a zuko.lazy.Flow, got {got}")
    base = flow.base(torch.zeros(context))
    if isinstance(base, zuko.distributions.BoxUniform):
        raise ValueError(
            f"{owner}: kind {kind!r} must be a density over all reals, got one from a "
            f"{type(base).__name__}, which is 0 outside of a box; use another, such as 'spline'"
        )
    return flow
