"""The importance-weighted bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from pyro.infer import ELBO
from torch import Tensor

from ppl_vae.errors import positive_int
from ppl_vae.estimators.traces import PlateNesting, TracePair, trace_pair
from ppl_vae.estimators.weights import LogWeights, log_weights


class ImportanceWeightedELBO(ELBO):
    r"""The importance-weighted bound of Burda et al., per datum and right under subsampling.

    For a batch plate of size B out of N and K particles, with per-datum log weights
    log w[k,b] = Σ_model log p - Σ_guide log q,

        L_K = (N/B) Σ_b log (1/K) Σ_k w[k,b]  ≤  log p(x),

    and what is returned is -L_K, in nats per batch. The plate's N/B is outside the log-mean-exp; β
    (``poutine.scale``), masks and inner plates are inside. Pyro's ``RenyiELBO(alpha=0)`` keeps N/B
    inside, so that its value under subsampling is no bound. K = 1 is ``Trace_ELBO``.

    A discrete y enumerated in the guide (``infer={"enumerate": "parallel"}``) is summed exactly,
    Σ_y q(y|x) [log (1/K) Σ_k w_y[k] - log q(y|x)]; enumerated only in the model it is summed out
    inside the weight.

    ``loss``, ``loss_and_grads`` and ``differentiable_loss`` agree, under ``SVI`` and as a module,
    ``ImportanceWeightedELBO(50)(model, guide)(x).backward()``.

    Source: Burda et al. 2016 (arXiv 1509.00519), equation 8.

    Args:
        num_particles: K, at least 1; one vectorised dimension, left of all plates.
        gradient: ``"iwae"``, the pathwise gradient of the bound itself.
        plate: name of the batch plate.
        max_plate_nesting: number of dimensions the program's plates take; found by running the
            program once if not given.

    Raises:
        ValueError: if a site lies outside the batch plate; the message names it.
        NotImplementedError: when differentiating, if a guide's site is neither reparameterised nor
            enumerated.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> elbo = ImportanceWeightedELBO(num_particles=50)(vae.model, vae.guide)
        >>> elbo(torch.ones(8, 64)).backward()
    """

    def __init__(
        self,
        num_particles: int,
        gradient: Literal["iwae"] = "iwae",
        *,
        plate: str = "data",
        max_plate_nesting: int | None = None,
    ) -> None:
        positive_int("ImportanceWeightedELBO", "num_particles", num_particles)
        if gradient != "iwae":
            raise ValueError(
                f"ImportanceWeightedELBO: gradient must be one of 'iwae', got {gradient!r}"
            )
        super().__init__(num_particles=num_particles)
        self.gradient = gradient
        self.plate = plate
        self._given_nesting = max_plate_nesting
        self._found_nesting = PlateNesting()

    def log_weights(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> LogWeights:
        """Run the pair on the arguments and return the weights of ``num_particles`` particles."""
        return log_weights(self._get_trace(model, guide, args, kwargs), self.plate)

    def per_datum(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Float[Tensor, " batch"]:
        """Return the bound for each datum, in nats, without N/B; differentiable."""
        return self.log_weights(model, guide, *args, **kwargs).bound()

    def differentiable_loss(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Float[Tensor, ""]:
        """Return -L_K in nats per batch, whose gradient trains model and guide."""
        traces = self._get_trace(model, guide, args, kwargs)
        _check_reparameterised(traces)
        weights = log_weights(traces, self.plate)
        return -weights.scale * weights.bound().sum()

    def loss_and_grads(
        self, model: Callable, guide: Callable, *args: Any, **kwargs: Any
    ) -> Float[Tensor, ""]:
        """Return -L_K in nats per batch, as a tensor, and accumulate gradients."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.detach()

    @torch.no_grad()
    def loss(self, model: Callable, guide: Callable, *args: Any, **kwargs: Any) -> float:
        """Return -L_K in nats per batch."""
        weights = self.log_weights(model, guide, *args, **kwargs)
        return (-weights.scale * weights.bound().sum()).item()

    def _get_trace(
        self, model: Callable, guide: Callable, args: tuple, kwargs: dict[str, Any]
    ) -> TracePair:
        nesting = self._given_nesting
        if nesting is None:
            nesting = self._found_nesting(model, guide, args, kwargs)
        return trace_pair(
            model,
            guide,
            args,
            kwargs,
            num_particles=self.num_particles,
            max_plate_nesting=nesting,
        )


def _check_reparameterised(traces: TracePair) -> None:
    for name, site in traces.guide.nodes.items():
        if site["type"] != "sample" or site["infer"].get("_enumerate_dim") is not None:
            continue
        if not site["fn"].has_rsample and torch.is_grad_enabled():
            raise NotImplementedError(
                f"site {name!r} of the guide, {type(site['fn']).__name__}, is neither "
                f"reparameterised nor enumerated, so the gradient would miss a term; mark it "
                f"infer={{'enumerate': 'parallel'}} if it is discrete"
            )
