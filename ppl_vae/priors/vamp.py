"""The VampPrior: the posterior averaged over learned pseudo-inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.distributions.mixture import Mixture
from ppl_vae.errors import describe, flag, positive_int, seed_of, sizes
from ppl_vae.tensors import as_tensor

NOISE = 0.01
"""Standard deviation of the noise that tells apart pseudo-inputs of one initial value.

A fraction of the interval, if there are bounds.
"""

Interval: TypeAlias = tuple[int | float, int | float]
_REALS: Interval = (-math.inf, math.inf)
_EMPTY: Interval = (math.inf, -math.inf)  # as the minimum and maximum of no data


class VampPrior(ConditionalDistribution):
    r"""p(z) = Σ_k w_k q(z | u_k), the posterior q averaged over K pseudo-inputs u_k.

    The posterior is the pair's own and shares its tensors with the guide. Given a context y (a
    one-hot label) the prior is p(z | y) = Σ_k w_k q(z | u_k, y).

    Pseudo-inputs must look like data to the posterior: otherwise the likelihood was not trained on
    z drawn from the prior, and samples are noise, which no bound on log p(x) reveals. Give data,
    ``VampPrior(posterior, x[:500])``; or the number K, and call ``initialise_from`` of the prior
    or the pair later, as `ppl_vae.from_config` and the command line do. Pseudo-inputs then start
    at data and stay in their range.

    Source: Tomczak & Welling 2018 (arXiv 1705.07120), who bound pseudo-inputs by a Hardtanh and
    initialise them at data or near 0.

    Args:
        posterior: q(z | x, ...), the pair's own; any module that returns a distribution of batch
            shape ``(...)`` for context ``(..., features)``.
        pseudo_inputs: initial values, K data of shape ``(K, *event)``; or the number K, for values
            near 0 (or the middle of bounds that exclude 0), with noise of 1 %, until
            ``initialise_from`` is called.
        event_shape: shape of one datum; required if ``pseudo_inputs`` is a number.
        learn: learn the pseudo-inputs; otherwise they stay as given.
        learn_weights: learn the weights w; uniform if not.
        bounds: an interval ``(low, high)`` that pseudo-inputs cannot leave; None for none.
            ``"data"`` is the range of the data, (0, 1) if that contains it, and none until data
            are known. Beyond an end u is reflected: u = v inside, 2 low - v just below, 2 high - v
            just above. The slope is ±1 everywhere, so that no pseudo-input is stuck at an end.

    Parameters: ``unfolded_inputs``, shape ``(K, *event)``, the v above, equal to u inside the
    bounds; ``logits`` of the weights, shape ``(K,)``, initially 0. Each is a buffer if not learned.
    ``inputs()`` returns u. The attribute ``pseudo_inputs`` is the number K, so that the arguments
    read back make a prior of the same structure; the values are in the ``state_dict``, and so are
    the bounds, which replace this prior's when it is loaded.

    A draw runs the posterior's network on one pseudo-input, a density on all K once.

    Raises:
        TypeError: if the posterior is not a module, or the pseudo-inputs are neither a number nor a
            floating-point tensor.
        ValueError: if a shape is missing or disagrees, or if pseudo-inputs are not finite or lie
            outside the bounds.

    Example:
        >>> from ppl_vae import nets, posteriors
        >>> q = posteriors.DiagonalNormal(nets.MLP(784, 2 * 10))
        >>> p = VampPrior(q, 500, event_shape=(784,), bounds=(0, 1))
        >>> p().log_prob(torch.zeros(3, 10)).shape
        torch.Size([3])
    """

    unfolded_inputs: Tensor
    logits: Tensor
    extra_state_may_be_missing: ClassVar[bool] = True
    """Files of earlier versions have no bounds."""
    not_settings: ClassVar[tuple[str, ...]] = ("_of_data",)
    _of_data: bool = False
    """Whether the bounds are a range of data, or are to be."""

    def __init__(
        self,
        posterior: nn.Module,
        pseudo_inputs: int | Float[Tensor, "components *event"] | np.ndarray,
        *,
        event_shape: Sequence[int] | None = None,
        learn: bool = True,
        learn_weights: bool = False,
        bounds: Interval | Literal["data"] | None = "data",
    ) -> None:
        super().__init__()
        if not isinstance(posterior, nn.Module):
            expected = "a module that returns q(z | x), the pair's own"
            raise TypeError(f"VampPrior: posterior must be {expected}, got {describe(posterior)}")
        self.posterior = posterior
        self.bounds = _checked_bounds(bounds)
        self._of_data = self.bounds == "data"
        if isinstance(pseudo_inputs, (Tensor, np.ndarray)):
            what = "VampPrior: pseudo_inputs"
            inputs = _checked_inputs(what, pseudo_inputs, event_shape, self._interval)
            self._bound_by(_range(inputs))
        else:
            inputs = _random_inputs(pseudo_inputs, event_shape, self._interval)
        self.event_shape = tuple(inputs.shape[1:])
        self.learn = flag("VampPrior", "learn", learn)
        self.learn_weights = flag("VampPrior", "learn_weights", learn_weights)
        logits = inputs.new_zeros(len(inputs))
        if self.learn:
            self.unfolded_inputs = nn.Parameter(inputs)
        else:
            self.register_buffer("unfolded_inputs", inputs)
        if self.learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    @property
    def pseudo_inputs(self) -> int:
        """The number K of pseudo-inputs; :meth:`inputs` returns their values."""
        return self.unfolded_inputs.shape[0]

    def inputs(self) -> Float[Tensor, "components *event"]:
        """Return the pseudo-inputs u, shape ``(K, *event)``."""
        if self._interval is None or not self.learn:
            return self.unfolded_inputs
        return _reflected(self.unfolded_inputs, self._interval)

    @torch.no_grad()
    def initialise_from(
        self,
        x: Float[Tensor, "n *event"] | np.ndarray,
        *,
        values: Interval | None = None,
        seed: int = 0,
    ) -> None:
        """Set the pseudo-inputs to data drawn at random, and bounds of ``"data"`` to their range.

        Bounds that an earlier call, or the constructor, has set to a range of data are set anew;
        those of a ``state_dict`` stay.

        If there are fewer data than pseudo-inputs, data are repeated with noise of 1 % of the
        range. Torch's random state is unchanged.

        Args:
            x: data as the posterior sees them, shape ``(N, *event)``.
            values: the minimum and maximum of all data, if x is a part of them.
            seed: of the choice and the noise.

        Raises:
            TypeError: if x is not floating-point.
            ValueError: if x has another shape, is not finite or lies outside the bounds or the
                values; nothing has changed then.
        """
        owner = "VampPrior.initialise_from"
        if not isinstance(x, (Tensor, np.ndarray)) or x.shape[1:] != self.event_shape:
            shape = f"(N, {', '.join(map(str, self.event_shape))})"
            raise ValueError(f"{owner}: x must have shape {shape}, got {describe(x)}")
        seed = seed_of(owner, seed)
        interval = None if self._of_data else self._interval
        x = _checked_inputs(f"{owner}: x", x, None, interval).to(self.unfolded_inputs)
        low, high = _range(x) if values is None else _checked_values(owner, values, x)
        generator = torch.Generator().manual_seed(seed)
        n, k = len(x), self.pseudo_inputs
        options: Any = {"generator": generator, "device": "cpu"}  # whatever torch's default
        passes = [torch.randperm(n, **options) for _ in range(-(-k // n))]
        inputs = x[torch.cat(passes)[:k].to(x.device)]
        self._bound_by((low, high))
        if k > n:
            noise = torch.randn(k - n, *self.event_shape, **options)
            width = high - low or 1.0
            inputs[n:] += (NOISE * width) * noise.to(inputs)
            if self._interval is not None:
                inputs = _reflected(inputs, self._interval)
        self.unfolded_inputs.copy_(inputs)

    def get_extra_state(self) -> Float[Tensor, "2"]:
        """Return the bounds for the ``state_dict``: the reals for None, nothing for "data"."""
        others = _REALS if self.bounds is None else _EMPTY
        return torch.tensor(self._interval or others, dtype=torch.float64, device="cpu")

    def set_extra_state(self, state: Float[Tensor, "2"]) -> None:
        """Set the bounds to those of a ``state_dict``."""
        low, high = state.tolist()
        others: dict[Interval, Literal["data"] | None] = {_REALS: None, _EMPTY: "data"}
        bounds = others.get((low, high), (low, high))
        if bounds != self.bounds:
            vars(self)["bounds"] = _checked_bounds(bounds)
            self._of_data = bounds == "data"

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict.setdefault(f"{prefix}_extra_state", self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @property
    def _interval(self) -> Interval | None:
        return None if isinstance(self.bounds, str) else self.bounds

    def _bound_by(self, values: Interval) -> None:
        """Set bounds of ``"data"`` to the range of the data."""
        low, high = values
        if not self._of_data:
            return
        bounds: Interval | Literal["data"] = "data"  # of one value alone
        if low >= 0 and high <= 1:
            bounds = (0, 1)
        elif low < high:
            bounds = (float(low), float(high))
        vars(self)["bounds"] = bounds

    def forward(self, *context: Tensor) -> Mixture:
        """Return p(z | context), batch shape the leading dimensions of the contexts.

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
        """Return a prior on another posterior that shares this one's pseudo-inputs and weights.

        Args:
            posterior: as for the constructor; takes data of the same shape.
        """
        new = VampPrior(
            posterior,
            torch.zeros_like(self.unfolded_inputs),  # replaced below
            learn=self.learn,
            learn_weights=self.learn_weights,
            bounds=None,
        )
        vars(new)["bounds"] = self.bounds
        new._of_data = self._of_data
        new.unfolded_inputs, new.logits = self.unfolded_inputs, self.logits
        new.training = self.training
        return new


def _checked_bounds(bounds: object) -> Interval | Literal["data"] | None:
    if bounds is None or (isinstance(bounds, str) and bounds == "data"):
        return bounds  # type: ignore[return-value]
    if not (
        isinstance(bounds, (tuple, list))
        and len(bounds) == 2
        and all(isinstance(b, Real) and not isinstance(b, bool) for b in bounds)
        and -float("inf") < bounds[0] < bounds[1] < float("inf")
    ):
        raise ValueError(
            f"VampPrior: bounds must be two finite numbers (low, high) with low < high, 'data' "
            f"(their range), or None, got {describe(bounds)}"
        )
    low, high = (int(b) if isinstance(b, Integral) else float(b) for b in bounds)
    return low, high


def _checked_values(owner: str, values: Any, x: Tensor) -> Interval:
    """Return the ends of all data, of which x is a part, or raise an error."""
    least, most = _range(x)
    rounding = 8 * torch.finfo(x.dtype).eps * max(abs(least), abs(most))
    if (
        isinstance(values, (tuple, list))
        and len(values) == 2
        and all(isinstance(v, Real) and math.isfinite(v) for v in values)
        and values[0] <= least + rounding
        and most - rounding <= values[1]
    ):
        return values[0], values[1]
    raise ValueError(
        f"{owner}: values must be the least and the greatest value of all data, (low, high) around "
        f"those of x, {least:g} to {most:g}, got {describe(values)}; or leave them out"
    )


def _checked_inputs(
    what: str,
    inputs: Tensor | np.ndarray,
    event_shape: Sequence[int] | None,
    bounds: Interval | None,
) -> Tensor:
    """Return a copy of pseudo-inputs that were given by value, or raise an error about ``what``."""
    inputs = as_tensor(what, inputs)
    got = describe(inputs)
    if not inputs.is_floating_point():
        raise TypeError(
            f"{what} must be a floating-point tensor, got {got}; convert them with .float()"
        )
    if inputs.layout != torch.strided or inputs.device.type == "meta":
        raise TypeError(f"{what} must be a dense tensor with values, got {got}")
    if inputs.dim() < 2 or inputs.numel() == 0:
        expected = "a tensor of shape (K, *event), K of 1 or more"
        raise ValueError(f"{what} must be {expected}, got {got}")
    if event_shape is not None:
        event_shape = sizes("VampPrior", "event_shape", event_shape)
        if event_shape != tuple(inputs.shape[1:]):
            expected = f"(K, *event_shape) with event_shape={event_shape}"
            raise ValueError(f"{what} must have shape {expected}, got {got}; leave event_shape out")
    # Contiguous, as Pyro's parameter store requires.
    inputs = inputs.detach().clone(memory_format=torch.contiguous_format)
    if not inputs.isfinite().all():
        raise ValueError(f"{what} must be finite, got NaN or infinity")
    if bounds is not None and (inputs.min() < bounds[0] or inputs.max() > bounds[1]):
        got = f"values from {inputs.min()} to {inputs.max()}"
        raise ValueError(f"{what} must lie in bounds={bounds}, got {got}; change bounds")
    return inputs


def _random_inputs(
    number: object, event_shape: Sequence[int] | None, bounds: Interval | None
) -> Tensor:
    """Return ``number`` pseudo-inputs near 0, or the middle of bounds that exclude 0."""
    fix = "a single one is the posterior at one input"
    k = positive_int("VampPrior", "pseudo_inputs", number, fix)
    if event_shape is None:
        raise ValueError(
            f"VampPrior: pseudo_inputs={k} is a number, so event_shape is required, such as "
            f"event_shape=(784,); or give {k} data, a tensor of shape (K, *event)"
        )
    event_shape = sizes("VampPrior", "event_shape", event_shape)
    noise = NOISE * torch.randn(k, *event_shape)
    if bounds is None:
        return noise
    low, high = bounds
    centre = 0.0 if low <= 0 <= high else (low + high) / 2
    return _reflected(centre + (high - low) * noise, bounds)


def _range(x: Tensor) -> Interval:
    low, high = x.aminmax()
    return low.item(), high.item()


def _reflected(v: Tensor, bounds: Interval) -> Tensor:
    """Return v inside the bounds, and its reflection at the nearer end outside."""
    low, high = bounds
    width = high - low
    along = torch.remainder(v - low, 2 * width)
    # Not by an absolute value, whose gradient is 0 at the ends, where the pixels of images lie.
    folded = low + torch.where(along <= width, along, 2 * width - along)
    return torch.where((low <= v) & (v <= high), v, folded.clamp(low, high))
