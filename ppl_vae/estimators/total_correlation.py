"""The ELBO trained with weights on the terms of its KL: β-TCVAE."""

from __future__ import annotations

import math

import torch
from pyro.distributions import Delta
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent

from ppl_vae.errors import describe, number, positive_int, quoted
from ppl_vae.estimators.batch_plate import BatchPlate
from ppl_vae.estimators.densities import guide_terms, model_terms, same_weight, sampled_sites
from ppl_vae.estimators.log_weights import LogWeights
from ppl_vae.estimators.masks import is_masked
from ppl_vae.estimators.particle_check import check_particles
from ppl_vae.estimators.per_datum import Bound, PerDatumELBO
from ppl_vae.estimators.traces import Runner, is_enumerated, log_density, sample_sites

SAMPLINGS = ("stratified", "weighted")
_OWNER = "TotalCorrelationELBO"


class TotalCorrelationELBO(PerDatumELBO):
    r"""The ELBO, with the gradient of β-TCVAE: each term of the mean KL has a weight of its own.

    With the aggregate posterior q(z) = (1/N) Σ_n q(z | x_n) of the N data,

        E_x KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ Π_d q(z_d)) + Σ_d KL(q(z_d) ‖ p(z_d)),

    the mutual information, the total correlation and the dimension-wise KL. The gradient is that of

        E_q log p(x|z) - α I_q(x; z) - β KL(q(z) ‖ Π_d q(z_d)) - γ Σ_d KL(q(z_d) ‖ p(z_d)),

    and what is returned is minus the ELBO, in nats per batch, whatever the weights. With
    α = β = γ the estimates of q(z) cancel: the gradient is that of β-VAE, at 1 of the ELBO.

    q(z) and its marginals are estimated at each draw from the B posteriors of the batch,
    q̂(z) = Σ_b w_b q(z | x_b), by B² densities for each particle and dimension:

    - ``"stratified"``: w = 1/N for the datum that z was drawn for and (N-1) / (N (B-1)) for the
      others, so that q̂ is unbiased if the batch is a random subset of the data, and exact if it is
      all of them. The paper gives one of the others a weight of its own, 1/(B-1) to the others and
      (N-B+1) / (N (B-1)) to that one; the mean over the choice of that one has less variance.
    - ``"weighted"``: w = 1/(N B) for all, a constant factor that has no gradient. It counts the
      datum's own posterior N/B times too often: a bias towards larger total correlations and
      smaller mutual information in small batches.

    The logarithm of an unbiased estimate is too small on average, more so jointly than by
    dimension: ``"stratified"`` is biased towards smaller total correlations. Larger batches help.
    :func:`ppl_vae.evaluation.kl_decomposition` evaluates the three terms on all data.

    Source: Chen et al. 2018 (arXiv 1802.04942), equation 2 for the decomposition, section 3 for the
    objective, appendix C.1 for ``"weighted"`` and C.2 for ``"stratified"``.

    Args:
        num_data: N, the number of training data.
        alpha: α, on the mutual information.
        beta: β, on the total correlation.
        gamma: γ, on the dimension-wise KL.
        sampling: ``"stratified"`` or ``"weighted"``.
        num_particles: draws z ~ q(z|x) per datum, in one vectorised dimension.
        plate: name of the batch plate.
        max_plate_nesting: number of dimensions of the program's plates; found by running it once
            if not given.

    Raises:
        NotImplementedError: unless the programs have one latent, a product over its dimensions in
            guide and model, with one scale and no mask, reparameterised and not enumerated.
        ValueError: if the batch has more than ``num_data`` data, or one of several; if the prior
            differs between data; if a site lies outside the batch plate.

    Example:
        >>> import torch
        >>> from ppl_vae.testing import LinearGaussian
        >>> program, x = LinearGaussian(3, 2), torch.randn(50, 3, dtype=torch.float64)
        >>> elbo = TotalCorrelationELBO(num_data=50, beta=6.0)
        >>> elbo(program.model, program.guide)(x).backward()
    """

    def __init__(
        self,
        num_data: int,
        *,
        alpha: int | float = 1.0,
        beta: int | float = 6.0,
        gamma: int | float = 1.0,
        sampling: str = "stratified",
        num_particles: int = 1,
        plate: str = "data",
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles, plate=plate, max_plate_nesting=max_plate_nesting)
        self.num_data = positive_int(_OWNER, "num_data", num_data)
        self.alpha = number(_OWNER, "alpha", alpha, least=0)
        self.beta = number(_OWNER, "beta", beta, least=0)
        self.gamma = number(_OWNER, "gamma", gamma, least=0)
        if sampling not in SAMPLINGS:
            one_of = " or ".join(map(repr, SAMPLINGS))
            raise ValueError(f"{_OWNER}: sampling must be {one_of}, got {describe(sampling)}")
        self.sampling = sampling

    def _bounds(self, runner: Runner) -> list[Bound]:
        guide_trace = runner.run_guide(self.num_particles)
        model_trace = runner.run_model(guide_trace, self.num_particles)
        check_particles(runner, self.num_particles)
        plate = BatchPlate(self.plate, [guide_trace, model_trace], runner.particle_dim)
        q, p = _latent(guide_trace, model_trace, plate)
        log_p, _ = model_terms(model_trace, plate, guide_trace.nodes)
        log_q, outer, inner = guide_terms(guide_trace, plate)
        sampled = sampled_sites(guide_trace)
        weights = LogWeights(log_p, None, log_q, outer, inner, plate, sampled)
        elbo = weights.elbo()
        if not torch.is_grad_enabled():
            return [Bound(elbo, plate.scale)]
        if not q["fn"].has_rsample:
            raise _unsupported(q, "its gradient would miss a term, as it is not reparameterised")
        if self.alpha == self.beta == self.gamma == 1:
            return [Bound(elbo, plate.scale)]
        further = weights.mean_over_particles(plate.reduce(self._further_kl(q, p, plate), q))
        return [Bound(elbo, plate.scale, elbo.sum() - further.sum())]

    def _further_kl(self, q: dict, p: dict, plate: BatchPlate) -> Tensor:
        """Return the weighted KL less the KL, at each draw, ``(particles, *plates)``."""
        if is_validation_enabled():
            _check_same_prior(p, plate)
        fn = getattr(q["fn"], "of_one_particle", q["fn"])
        dim = plate.dim - 1  # of the batch, left of the event
        # Leftmost, the datum of the draw; in the place of the batch, that of the posterior.
        z = q["value"].movedim(dim, 0).unsqueeze(dim)
        by_dimension = fn.base_dist.log_prob(z)
        jointly = by_dimension.sum(-1)
        shape = [1] * jointly.dim()
        shape[0] = shape[plate.dim] = plate.size
        log_w = self._log_weights(plate.size, z).reshape(shape)
        jointly = (jointly + log_w).logsumexp(plate.dim).movedim(0, plate.dim)
        product = (by_dimension + log_w.unsqueeze(-1)).logsumexp(dim).sum(-1)
        product = product.movedim(0, plate.dim)
        return (
            (self.alpha - 1) * (log_density(q) - jointly)
            + (self.beta - 1) * (jointly - product)
            + (self.gamma - 1) * (product - log_density(p))
        )

    def _log_weights(self, batch: int, like: Tensor) -> Tensor:
        """Return log w of each posterior for each draw, ``(batch, batch)``."""
        total = self.num_data
        if batch > total:
            raise ValueError(
                f"{_OWNER}: num_data must be the number of training data, at least the {batch} of "
                f"a batch, got {total}"
            )
        if self.sampling == "weighted":
            return like.new_full((batch, batch), -math.log(total * batch))
        if batch == 1 < total:
            raise ValueError(
                f"{_OWNER}: a batch must hold at least 2 of the {total} data, got 1; leave out a "
                f"short last batch (drop_last=True)"
            )
        of_others = math.log((total - 1) / (total * (batch - 1))) if batch > 1 else 0.0
        own = torch.eye(batch, dtype=torch.bool, device=like.device)
        return like.new_full((batch, batch), of_others).masked_fill(own, -math.log(total))


def _latent(guide: Trace, model: Trace, plate: BatchPlate) -> tuple[dict, dict]:
    """Return the latent's site in guide and model, or raise if its KL has no such terms."""
    for site in [*sample_sites(guide), *sample_sites(model)]:
        if is_enumerated(site):
            raise _unsupported(site, "it is enumerated")
    sites = [site for site in sample_sites(guide) if not site["is_observed"]]
    if len(sites) != 1 or sites[0]["name"] not in model.nodes:
        names = quoted([site["name"] for site in sites])
        raise NotImplementedError(
            f"{_OWNER}: guide and model must have one latent, got {names} in the guide; use "
            f"Trace_ELBO, or KLWeighted for a weight on the KL"
        )
    q = sites[0]
    p = model.nodes[q["name"]]
    for site, where in ((q, "guide"), (p, "model")):
        fn = site["fn"]
        if is_masked(fn) or not (site["mask"] is None or site["mask"] is True):
            raise _unsupported(site, f"it is masked in the {where}")
        base = fn.base_dist if isinstance(fn, Independent) else fn
        factorises = base is not fn and fn.reinterpreted_batch_ndims == 1 and not base.event_shape
        if not factorises or isinstance(base, Delta):
            kind = type(base).__name__
            raise _unsupported(site, f"a {kind} in the {where} is no product over dimensions")
        if any(frame.vectorized for frame in plate.inner_plates(site)):
            raise _unsupported(site, f"it is in an inner plate in the {where}")
    if not same_weight(q, p):
        raise _unsupported(q, "its scale differs between guide and model")
    return q, p


def _unsupported(site: dict, obstacle: str) -> NotImplementedError:
    return NotImplementedError(
        f"{_OWNER}: site {site['name']!r} has no total correlation to train on: {obstacle}; "
        f"use Trace_ELBO, or KLWeighted for a weight on the KL"
    )


def _check_same_prior(p: dict, plate: BatchPlate) -> None:
    """Raise ValueError if the prior differs between data, so that there is no one p(z)."""
    fn = getattr(p["fn"], "of_one_particle", p["fn"])
    with torch.no_grad():
        at_first = fn.base_dist.log_prob(p["value"].narrow(plate.dim - 1, 0, 1))
        of_first = at_first.narrow(plate.dim - 1, 0, 1).expand_as(at_first)
        if not torch.allclose(at_first, of_first, equal_nan=True):
            raise ValueError(
                f"{_OWNER}: the prior of {p['name']!r} must be the same for all data, but it "
                f"depends on a condition or a label; use KLWeighted for a weight on the KL"
            )
