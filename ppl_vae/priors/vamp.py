"""The VampPrior: the posterior, averaged over learned pseudo-inputs."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.distributions.mixture import Mixture
from ppl_vae.errors import describe, flag, positive_int, sizes

MARGIN = 0.01
"""Learned pseudo-inputs with bounds start this share of the interval away from its ends, at least.

The map onto the interval has no slope at the ends, where the pixels of binary images lie.
"""


class VampPrior(ConditionalDistribution):
    r"""p(z) = Σ_k w_k q(z | u_k), the posterior q averaged over K pseudo-inputs u_k.

    The posterior is the pair's own, and shares its tensors with the guide. Given a further context
    y (a one-hot label) it is p(z | y) = Σ_k w_k q(z | u_k, y).

    Source: Tomczak & Welling 2018 (arXiv 1705.07120), who bound pseudo-inputs by a Hardtanh.

    Args:
        posterior: q(z | x, ...), the pair's own; any module that returns a distribution of batch
            shape ``(...)`` for context ``(..., features)``.
        pseudo_inputs: the number K, whose values are then random, or their values at the start,
            shape ``(K, *event)``, for instance K data. Random values are uniform in the bounds, or
            of N(0, 1) without.
        event_shape: shape of one datum; needed where ``pseudo_inputs`` is a number.
        learn: learn the pseudo-inputs; they stay exactly as given if not.
        learn_weights: learn the weights w; uniform if not.
        bounds: an interval ``(low, high)`` that learned pseudo-inputs cannot leave, (0, 1) for
            images: u = low + (high - low) S(4 v / (high - low)) with the sigmoid S, so that in the
            middle a step of v is a step of u. They start at least 1 % of the interval from its
            ends, where the slope is zero.

    Parameters: ``raw_inputs``, shape ``(K, *event)``, the v above or u itself without bounds (a
    buffer u where not learned); ``logits`` of the weights, shape ``(K,)``, zeros at the start (a
    buffer where not learned). ``inputs()`` returns u. The attribute ``pseudo_inputs`` is the number
    K, so that the arguments read back make a prior of the same structure; the values are in the
    ``state_dict``.

    A draw runs the posterior's network on a pseudo-input per draw, a density on all K once.

    Raises:
        TypeError: if the posterior is no module, or the pseudo-inputs are neither a number nor
            floating.
        ValueError: if a shape is missing or disagrees, or if pseudo-inputs lie outside the bounds.

    Example:
        >>> from ppl_vae import nets, posteriors
        >>> q = posteriors.DiagonalNormal(nets.MLP(784, 2 * 10))
        >>> p = VampPrior(q, 500, event_shape=(784,), bounds=(0, 1))
        >>> p().log_prob(torch.zeros(3, 10)).shape
        torch.Size([3])
    """

    raw_inputs: Tensor
    logits: Tensor

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: int | Float[Tensor, "components *event"],
        *,
        event_shape: Sequence[int] | None = None,
        learn: bool = True,
        learn_weights: bool = False,
        bounds: tuple[int | float, int | float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(posterior, nn.Module):
            raise TypeError(
                f"VampPrior: posterior must be a module that returns q(z | x), the pair's own, "
                f"got {describe(posterior)}"
            )
        self.posterior = posterior
        self.bounds = _interval(bounds)
        if isinstance(pseudo_inputs, Tensor):
            inputs = _given(pseudo_inputs, event_shape, self.bounds)
        else:
            inputs = _random(pseudo_inputs, event_shape, self.bounds)
        self.event_shape = tuple(inputs.shape[1:])
        self.learn = flag("VampPrior", "learn", learn)
        self.learn_weights = flag("VampPrior", "learn_weights", learn_weights)
        logits = inputs.new_zeros(len(inputs))
        if self.learn:
            self.raw_inputs = nn.Parameter(self._onto_reals(inputs))
        else:
            self.register_buffer("raw_inputs", inputs)
        if self.learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    @property
    def pseudo_inputs(self) -> int:
        """The number K of pseudo-inputs; :meth:`inputs` returns their values."""
        return self.raw_inputs.shape[0]

    def inputs(self) -> Float[Tensor, "components *event"]:
        """Return the pseudo-inputs u, shape ``(K, *event)``."""
        if self.bounds is None or not self.learn:
            return self.raw_inputs
        low, high = self.bounds
        width = high - low
        return low + width * torch.sigmoid(self.raw_inputs * (4 / width))

    def _onto_reals(self, inputs: Tensor) -> Tensor:
        if self.bounds is None:
            return inputs.clone()
        low, high = self.bounds
        width = high - low
        return (width / 4) * torch.logit((inputs - low) / width, eps=MARGIN)

    def forward(self, *context: Tensor) -> Mixture:
        """Return p(z | context), batch shape that of the contexts without their features.

        Args:
            context: what the posterior takes besides x, each of shape ``(..., features)``.
        """
        inputs = self.inputs()
        batch = torch.broadcast_shapes(*(c.shape[:-1] for c in context))
        components = self.posterior(inputs, *(c.unsqueeze(-2) for c in context))
        return Mixture(
            self.logits,
            components,
            lambda k: self.posterior(inputs[k], *context),
            batch_shape=batch,
        )

    def responsibilities(
        self, z: Float[Tensor, "*batch latent"], *context: Tensor
    ) -> Float[Tensor, "*leading components"]:
        """Return p(k | z, context) = w_k q(z | u_k, context) / p(z | context), ``(..., K)``."""
        return self(*context).responsibilities(z)

    def with_posterior(self, posterior: nn.Module) -> VampPrior:
        """Return a prior of another posterior that shares pseudo-inputs and weights with this one.

        Args:
            posterior: as for the constructor; takes data of the same shape.
        """
        new = VampPrior(
            posterior,
            # These only have the right shape and lie in the bounds.
            torch.full_like(self.raw_inputs, 0.5 * sum(self.bounds or (0.0, 0.0))),
            learn=self.learn,
            learn_weights=self.learn_weights,
            bounds=self.bounds,
        )
        new.raw_inputs, new.logits = self.raw_inputs, self.logits
        new.training = self.training
        return new


def _interval(bounds: object) -> tuple[int | float, int | float] | None:
    if bounds is None:
        return None
    if not (
        isinstance(bounds, (tuple, list))
        and len(bounds) == 2
        and all(isinstance(b, Real) and not isinstance(b, bool) for b in bounds)
        and -float("inf") < bounds[0] < bounds[1] < float("inf")
    ):
        raise ValueError(
            f"VampPrior: bounds must be two finite numbers (low, high) with low < high, such as "
            f"(0, 1), or None, got {describe(bounds)}"
        )
    low, high = (int(b) if isinstance(b, Integral) else float(b) for b in bounds)
    return low, high


def _given(
    inputs: Tensor,
    event_shape: Sequence[int] | None,
    bounds: tuple[int | float, int | float] | None,
) -> Tensor:
    """Return pseudo-inputs that were given by value, checked."""
    if not inputs.is_floating_point():
        raise TypeError(
            f"VampPrior: pseudo_inputs must be floating, as the posterior's network takes them, "
            f"got {describe(inputs)}; convert them with .float()"
        )
    if inputs.layout != torch.strided or inputs.device.type == "meta":
        raise TypeError(
            f"VampPrior: pseudo_inputs must be a dense tensor with values, got {describe(inputs)}"
        )
    if inputs.dim() < 2 or inputs.numel() == 0:
        raise ValueError(
            f"VampPrior: pseudo_inputs must be a number K or a tensor of shape (K, *event), "
            f"got {describe(inputs)}"
        )
    if event_shape is not None and sizes("VampPrior", "event_shape", event_shape) != tuple(
        inputs.shape[1:]
    ):
        raise ValueError(
            f"VampPrior: pseudo_inputs must have shape (K, *event_shape), event_shape being "
            f"{tuple(event_shape)}, got {describe(inputs)}; leave event_shape out"
        )
    # A copy, in an order that Pyro's parameter store takes.
    inputs = inputs.detach().clone(memory_format=torch.contiguous_format)
    if not inputs.isfinite().all():
        raise ValueError("VampPrior: pseudo_inputs must be finite, got NaN or infinity among them")
    if bounds is not None and (inputs.min() < bounds[0] or inputs.max() > bounds[1]):
        raise ValueError(
            f"VampPrior: pseudo_inputs must lie in bounds={bounds}, got values from "
            f"{inputs.min()} to {inputs.max()}; change bounds, or scale the data"
        )
    return inputs


def _random(
    number: object,
    event_shape: Sequence[int] | None,
    bounds: tuple[int | float, int | float] | None,
) -> Tensor:
    """Return that many pseudo-inputs with random values."""
    k = positive_int("VampPrior", "pseudo_inputs", number, "one is the posterior at one input")
    if event_shape is None:
        raise ValueError(
            f"VampPrior: pseudo_inputs={k} is a number, so event_shape is needed, the shape of one "
            f"datum: give event_shape=(784,), or pseudo-inputs as a tensor of shape (K, *event), "
            f"such as {k} data"
        )
    event_shape = sizes("VampPrior", "event_shape", event_shape)
    if bounds is None:
        return torch.randn(k, *event_shape)
    return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(k, *event_shape)
