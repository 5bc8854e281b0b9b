"""Likelihoods of counts 0, 1, 2, ...: Poisson, negative binomial, zero-inflated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.distributions import counts
from ppl_vae.distributions.scale import positive_scale
from ppl_vae.errors import describe, number, positive_int, sizes
from ppl_vae.likelihoods.elementwise import (
    WithPositiveParameter,
    is_word,
    outputs_per_element,
    shape_of_outputs,
    split_outputs,
)

Dispersion: TypeAlias = int | float | Literal["learned", "per-element", "per-pixel"]
"""A fixed number, one learned for all elements, one learned for each, or one from the network."""

Gate: TypeAlias = Literal["learned", "per-element", "per-pixel"]
"""A probability of extra zeros: one learned for all elements or for each, or from the network."""

SizeFactor: TypeAlias = Literal["context", "latent"]
"""Where the logarithm of a factor of the mean comes from."""

WORDS = ("learned", "per-element", "per-pixel")

MIN_MEAN = 1e-8
"""Added to means that are shares of a size factor: a count under a mean of 0 has no log-mass."""

INITIAL_GATE = 0.1
"""The probability of an extra zero with which learned gates start."""


class _Counts(WithPositiveParameter):
    """Counts whose mean is softplus(net) + 1e-4, or a size factor times softmax(net).

    Args:
        net: the network, without the size factor among its inputs.
        elements: the shape of a datum, for what is learned per element; None if nothing is.
        size_factor: None, ``"context"`` or ``"latent"``.
        log_size: mean and standard deviation of the logarithm of a latent size factor.
        event_dim: number of dimensions of one datum.
        words: the values of the settings that may be ``"per-element"``, by name.
    """

    def __init__(
        self,
        net: nn.Module,
        elements: int | Sequence[int] | None,
        size_factor: str | None,
        log_size: Sequence[int | float] | None,
        event_dim: int,
        **words: object,
    ) -> None:
        super().__init__(net, event_dim=event_dim)
        owner = type(self).__name__
        if not (size_factor is None or is_word(size_factor, "context", "latent")):
            raise ValueError(
                f"{owner}: size_factor must be None, 'context' (the last number of the last "
                f"context is its logarithm) or 'latent', got {describe(size_factor)}"
            )
        self.size_factor = size_factor
        self.log_size = _checked_log_size(owner, size_factor, log_size)
        if words:
            self.elements = elements
            self._shape_of_elements = self._checked_elements(elements, words)

    def _checked_elements(
        self, elements: int | Sequence[int] | None, words: dict[str, object]
    ) -> tuple[int, ...]:
        """Return the shape of what is learned per element, () if nothing is."""
        owner = type(self).__name__
        name = next((name for name, value in words.items() if is_word(value, "per-element")), None)
        if name is None and elements is not None:
            raise ValueError(
                f"{owner}: elements must be left out unless {' or '.join(words)} is 'per-element', "
                f"got {describe(elements)}"
            )
        if name is None:
            return ()
        if elements is None:
            raise ValueError(
                f"{owner}: {name}='per-element' needs elements, the number of elements of a datum, "
                f"got None; give elements=20670 for 20,670 genes, a shape for images"
            )
        if isinstance(elements, Sequence) and not isinstance(elements, str):
            shape = sizes(owner, "elements", elements)
        else:
            shape = (positive_int(owner, "elements", elements),)
        if len(shape) != self.event_dim:
            raise ValueError(
                f"{owner}: elements must have event_dim={self.event_dim} sizes, got {shape}"
            )
        return shape

    @staticmethod
    def net_inputs(features: int, *, size_factor: str | None = None) -> int:
        """Return how many of the features of z and of the context the network sees."""
        return features if size_factor is None else features - 1

    def mean_and_outputs(
        self, context: tuple[Tensor, ...], *names: str
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return the mean, and the network's output for each named setting, None if it has none."""
        owner, log_size = type(self).__name__, None
        if self.size_factor == "context":
            context, log_size = _without_last(owner, context)
        elif self.log_size is not None:
            (z, *given_too), (loc, scale) = context, self.log_size
            context, log_size = (z[..., 1:], *given_too), loc + scale * z[..., :1]
        outputs = self.outputs(*context)
        given: dict[str, Tensor] = {}
        if from_net := [name for name in names if getattr(self, name) == "per-pixel"]:
            meaning = f"mean and unconstrained {' and '.join(from_net)}"
            meaning = f"{meaning} (with {from_net[0]}='per-pixel')"
            count = 1 + len(from_net)
            all_of_them = split_outputs(owner, outputs, self.event_dim, count, meaning)
            outputs, *rest = all_of_them.unbind(-1)
            given = dict(zip(from_net, rest, strict=True))
        shape = self._shape_of_elements if names else ()
        if shape and outputs.shape[-self.event_dim :] != shape:
            raise ValueError(
                f"{owner}: net must return elements={shape} for a datum, got an output of shape "
                f"{tuple(outputs.shape)} for the mean"
            )
        return self._mean(outputs, log_size), [given.get(name) for name in names]

    def _mean(self, unconstrained: Tensor, log_size: Tensor | None) -> Tensor:
        if log_size is None:
            return positive_scale(unconstrained)
        share = unconstrained.flatten(-self.event_dim).softmax(-1).reshape(unconstrained.shape)
        size = log_size.exp().reshape(*log_size.shape, *(self.event_dim - 1) * (1,))
        return size * share + MIN_MEAN


def _checked_log_size(
    owner: str, size_factor: str | None, log_size: Sequence[int | float] | None
) -> tuple[float, float] | None:
    """Return mean and standard deviation; raise an error unless a latent size factor has them."""
    if (size_factor == "latent") != (log_size is not None):
        raise ValueError(
            f"{owner}: log_size, the mean and standard deviation of log l, goes with "
            f"size_factor='latent', got {describe(log_size)} with size_factor={size_factor!r}"
        )
    if log_size is None:
        return None
    if isinstance(log_size, str) or not isinstance(log_size, Sequence) or len(log_size) != 2:
        raise TypeError(f"{owner}: log_size must be (mean, deviation), got {describe(log_size)}")
    loc = number(owner, "log_size", log_size[0])
    return float(loc), float(number(owner, "log_size", log_size[1], above=0))


def _without_last(owner: str, context: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return what the network sees of z and the contexts, and the last number of the last."""
    if len(context) < 2:
        raise TypeError(
            f"{owner}: size_factor='context' needs a context whose last number is the log size "
            f"factor, got z alone; use a ConditionalVAE with context_features"
        )
    *before, last = context
    rest = last[..., :-1]
    return (*before, *((rest,) if rest.shape[-1] else ())), last[..., -1:]


class Poisson(_Counts):
    """p(x | z) = Π_d μ_d^{x_d} e^{-μ_d} / x_d!, with μ = softplus(net(z)) + 1e-4, for counts.

    The link is softplus, not the exponential, so that the gradient of the mean is at most 1 and a
    single large output does not end a training run. Means in the hundreds then need outputs in the
    hundreds.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean.
        size_factor: ``"context"`` or ``"latent"`` for μ = l softmax(net(z, c)) + 1e-8, see
            `NegativeBinomial`, and so for ``log_size``.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        size_factor: SizeFactor | None = None,
        log_size: Sequence[int | float] | None = None,
        event_dim: int = 1,
    ) -> None:
        super().__init__(net, None, size_factor, log_size, event_dim)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        mean, _ = self.mean_and_outputs(context)
        return counts.Poisson(mean).to_event(self.event_dim)


class NegativeBinomial(_Counts):
    r"""p(x | z) = Π_d NB(x_d; μ_d, r), for overdispersed counts.

    NB(x; μ, r) = Γ(r + x) / (Γ(r) x!) [r / (r + μ)]^r [μ / (r + μ)]^x has mean μ and variance
    μ + μ² / r: a Poisson whose rate is drawn from a gamma distribution of shape r, and a Poisson as
    r → ∞. μ = softplus(net(z)) + 1e-4, as in `Poisson`. In Pyro's terms the total count is r and
    the logits are log μ - log r, but the mass is computed from μ itself.

    With a size factor l, such as the number of molecules counted in a cell, the network returns
    what share of them each element has: μ = l softmax(net(z, c)) + 1e-8. In a context, log l is
    the last number of the last one, and c the rest of it, such as covariates and a one-hot batch.
    l is then given, and a bound on log p(x | l, c). A latent one is log l = m + s z_1, with z_1 the
    first latent, and m and s the mean and standard deviation of log l in the data: under
    `ppl_vae.priors.StandardNormal`, log l ~ N(m, s²), independent of the others. The network sees
    the other latents and contexts.

    Source: Lopez et al. 2018, "Deep generative modeling for single-cell transcriptomics" (Nature
    Methods 15), for the size factor, the dispersions and zero inflation.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean.
            With ``dispersion="per-pixel"`` it returns twice the channels: the mean, then the
            unconstrained dispersion, split on the first event dimension (the last for flat data).
        dispersion: r (a small r is much dispersion): a number (fixed), ``"learned"`` (one for all
            elements, initially 1), ``"per-element"`` (one for each element, initially 1; "gene" in
            scvi-tools), or ``"per-pixel"``, softplus(.) + 1e-4 of the network's output (a function
            of z; "gene-cell").
        elements: the number of elements of a datum (the shape, unless data are flat), for what is
            per element.
        size_factor: None, ``"context"`` or ``"latent"``.
        log_size: (m, s), with ``size_factor="latent"``.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.

    Example:
        >>> from ppl_vae import nets
        >>> p_x = NegativeBinomial(  # 3 latents, a batch of two, log l
        ...     nets.MLP(3 + 2, 50), "per-element", elements=50, size_factor="context"
        ... )
        >>> c = torch.tensor([[1.0, 0.0, math.log(4000.0)]])
        >>> round(p_x(torch.zeros(1, 3), c).mean.sum().item())
        4000
    """

    def __init__(
        self,
        net: nn.Module,
        dispersion: Dispersion = "learned",
        *,
        elements: int | Sequence[int] | None = None,
        size_factor: SizeFactor | None = None,
        log_size: Sequence[int | float] | None = None,
        event_dim: int = 1,
    ) -> None:
        super().__init__(net, elements, size_factor, log_size, event_dim, dispersion=dispersion)
        self.declare_positive("dispersion", dispersion, WORDS, self._shape_of_elements)

    @staticmethod
    def net_shape(
        event_shape: Sequence[int], *, dispersion: Dispersion = "learned"
    ) -> tuple[int, ...]:
        """Return the shape of the network's output per datum: means, dispersions if per pixel."""
        return shape_of_outputs(event_shape, outputs_per_element(dispersion))

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        mean, (unconstrained,) = self.mean_and_outputs(context, "dispersion")
        r = self.positive("dispersion", unconstrained)
        return counts.NegativeBinomial(r, mean=mean).to_event(self.event_dim)


class ZeroInflatedNegativeBinomial(_Counts):
    r"""p(x | z) = Π_d {π_d [x_d = 0] + (1 - π_d) NB(x_d; μ_d, r)}, for counts with extra zeros.

    μ and r are those of `NegativeBinomial`, with or without a size factor. The mean of x is
    (1 - π) μ. The gate π is the sigmoid of a logit.

    Source: Lopez et al. 2018, as in `NegativeBinomial`; "zinb" in scvi-tools.

    Args:
        net: any module ``(..., latent_dim) -> (..., *event)`` that returns the unconstrained mean,
            and in further channels the unconstrained dispersion and the gate's logit, in this
            order, where they are per pixel.
        dispersion: as in `NegativeBinomial`, and so are ``elements``, ``size_factor`` and
            ``log_size``.
        gate: π, the probability of an extra zero: ``"per-pixel"`` (a function of z, as in
            scvi-tools), ``"per-element"`` (one learned for each element), or ``"learned"`` (one for
            all); the learned ones are initially 0.1.
        event_dim: number of dimensions of one datum: 1 for flat data, 3 for images.
    """

    def __init__(
        self,
        net: nn.Module,
        dispersion: Dispersion = "learned",
        gate: Gate = "per-pixel",
        *,
        elements: int | Sequence[int] | None = None,
        size_factor: SizeFactor | None = None,
        log_size: Sequence[int | float] | None = None,
        event_dim: int = 1,
    ) -> None:
        of_elements = {"dispersion": dispersion, "gate": gate}
        super().__init__(net, elements, size_factor, log_size, event_dim, **of_elements)
        self.declare_positive("dispersion", dispersion, WORDS, self._shape_of_elements)
        if not isinstance(gate, str) or gate not in WORDS:
            raise ValueError(
                f"{type(self).__name__}: gate must be 'learned' (one for all pixels), "
                f"'per-element' (one for each pixel) or 'per-pixel' (from the network), got "
                f"{describe(gate)}"
            )
        self.gate = gate
        if gate != "per-pixel":
            shape = self._shape_of_elements if gate == "per-element" else ()
            logit = math.log(INITIAL_GATE / (1 - INITIAL_GATE))
            self.gate_logits = nn.Parameter(torch.full(shape, logit))

    @staticmethod
    def net_shape(
        event_shape: Sequence[int], *, dispersion: Dispersion = "learned", gate: Gate = "per-pixel"
    ) -> tuple[int, ...]:
        """Return the shape of the network's output per datum: means, and what is per pixel."""
        count = outputs_per_element(dispersion) + outputs_per_element(gate) - 1
        return shape_of_outputs(event_shape, count)

    def forward(self, *context: Tensor) -> Distribution:
        """Return p(x | context), batch shape ``(...)``, event shape that of the mean."""
        mean, (unconstrained, logits) = self.mean_and_outputs(context, "dispersion", "gate")
        r = self.positive("dispersion", unconstrained)
        p = counts.ZeroInflatedNegativeBinomial(
            r, mean=mean, gate_logits=self.gate_logits if logits is None else logits
        )
        return p.to_event(self.event_dim)
