"""Activity and KL of each latent dimension, and posterior collapse."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from ppl_vae.errors import integer, number
from ppl_vae.evaluation.inputs import Array, Data, input_blocks, program_inputs, progress_bar
from ppl_vae.evaluation.latents import (
    BLOCK,
    Latent,
    check_finite,
    factorises,
    marginals,
    no_marginals,
    run_latent,
)
from ppl_vae.evaluation.results import Result
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide

NO_INFORMATION = 0.1
"""A posterior with a KL below so many nats per datum has collapsed, whatever its activity."""

KL_DRAWS = 20_000
"""Maximal number of draws over all data for the mean KL, each costly under a large mixture."""


@dataclass(frozen=True, repr=False)
class LatentUnits(Result):
    """The D dimensions of a latent.

    Args:
        site: the latent's name.
        activity: Var_x(E_q(z|x)[z_d]), shape ``(D,)``.
        threshold: a dimension is active if its activity is above it.
        kl: E_x KL(q(z_d|x) ‖ p(z_d)) in nats per datum, shape ``(D,)``; NaN if a one-dimensional
            marginal has no closed form, see ``kl_missing``.
        kl_standard_error: over data, of the same shape.
        sums_to_kl: whether ``kl`` sums to the KL of the ELBO (up to Monte Carlo error), as it does
            if posterior and prior factorise.
        kl_missing: why ``kl`` is NaN; None if it is not.
        collapse: a description of posterior collapse; None if there is no sign of it. Where the
            prior has a variance below 1, activities are compared with that share of the threshold.
    """

    site: str
    activity: Float[Tensor, " latent"]
    threshold: float
    kl: Float[Tensor, " latent"]
    kl_standard_error: Float[Tensor, " latent"]
    sums_to_kl: bool
    kl_missing: str | None
    collapse: str | None

    @property
    def active(self) -> Bool[Tensor, " latent"]:
        """Which dimensions are active."""
        return self.activity > self.threshold

    @property
    def num_active(self) -> int:
        """The number of active dimensions."""
        return int(self.active.sum())

    def order(self) -> Tensor:
        """Return the dimensions by descending KL, or activity if there is no KL."""
        return (self.activity if self.kl.isnan().any() else self.kl).argsort(descending=True)

    def _rows(self) -> dict[str, object]:
        order = self.order()[:10]
        kl, activity = (", ".join(f"{v:.3g}" for v in t[order]) for t in (self.kl, self.activity))
        total = f"{self.kl.sum():.3g} nats per datum"
        return {
            "active dimensions": f"{self.num_active} of {len(self.activity)} of {self.site!r}",
            "KL": self.kl_missing or (total if self.sums_to_kl else f"{total}, summed over d"),
            "largest, dimensions": ", ".join(map(str, order.tolist())),
            "largest, KL": self.kl_missing or f"{kl} nats per datum",
            "largest, activity": activity,
            "collapse": self.collapse or "none",
        }

    def __str__(self) -> str:
        of = f"{self.num_active} of {len(self.activity)} latent dimensions are active"
        return of if self.collapse is None else f"{of}\n{self.collapse}"


def latent_units(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    threshold: float = 0.01,
    num_samples: int = 100,
    site: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> LatentUnits:
    r"""Estimate the activity and the KL of each latent dimension, and warn of posterior collapse.

    Dimension d is active if Var_x(E_q(z|x)[z_d]) > ``threshold``. The customary 0.01 assumes
    latents of unit scale, and is meaningless for a learned prior of a much smaller scale.

    The KL of a dimension, E_x KL(q(z_d|x) ‖ p(z_d)), is exact if both are normal; otherwise a Monte
    Carlo estimate by one-dimensional marginals in closed form. In a hierarchy it is that of the
    layer, E_q [log q(z_d | ...) - log p(z_d | ...)], which may be negative if the order of the
    layers differs between model and guide.

    If the mean of q has no closed form, or depends on other latents, E_q(z|x)[z_d] is averaged over
    draws, and its variance estimated by the covariance of two independent averages, which is
    unbiased but may be slightly negative. Unobserved labels are set to their most probable value.
    Weights of sites, such as a β on the KL, have no effect. With missing entries x is what is
    observed of it.

    Source: Burda et al. 2016 (arXiv 1509.00519), section 5.2; for collapse Bowman et al. 2016
    (arXiv 1511.06349), section 3.1, and Kingma et al. 2016 (arXiv 1606.04934), appendix C.8, which
    has the free bits.

    Args:
        pair: any model/guide pair.
        x, context, mask: the data, at least 2, as in :func:`ppl_vae.evaluation.elbo_terms`.
        threshold: of the activity.
        num_samples: draws per datum, at least 2, if something has no closed form; for the KL at
            most 20,000 over all data.
        site: the latent's name, required if there are several, as ``"z1"`` in a hierarchy.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar.

    Warns:
        UserWarning: with the text of ``collapse``, if more than half of the dimensions are
            inactive or the KL is close to 0.

    Raises:
        ValueError: if x is incompatible with the pair, or has a single datum.
    """
    owner = "latent_units"
    num_samples = integer(owner, "num_samples", num_samples, 2)
    threshold = number(owner, "threshold", threshold, least=0)
    inputs = program_inputs(owner, pair, x, context, mask)
    count = len(inputs)
    if count < 2:
        raise ValueError(f"{owner}: x must hold 2 data or more, got {count}")
    means, kls, draws, variances = [], [], [], []
    kl_samples = max(1, KL_DRAWS // count)
    bar = progress_bar(owner, "latent units", count, progress)
    with bar, torch.no_grad(), evaluating(pair.model, pair.guide), seeded(owner, seed):
        for args, kwargs in input_blocks(inputs, BLOCK, bar):
            latent = run_latent(owner, pair, args, kwargs, site)
            mean, kl = _mean_and_kl(pair, args, kwargs, latent, num_samples, kl_samples)
            means.append(mean.double())
            kls.append(kl.double())
            draws.append(latent.z.double())
            variances.append(_variance(latent))
    one, other = torch.cat(means, 1)
    check_finite(owner, "the mean of q(z | x)", one)
    activity = ((one - one.mean(0)) * (other - other.mean(0))).sum(0) / (count - 1)
    scale = _mean_variance(variances, torch.cat(draws)).clamp(max=1)
    kl = torch.cat(kls)
    missing = no_marginals(latent.q, "posterior") or no_marginals(latent.p, "prior")
    if missing is None:
        check_finite(owner, "the KL of a latent dimension", kl)
    units = LatentUnits(
        site=latent.name,
        activity=activity,
        threshold=threshold,
        kl=kl.mean(0),
        kl_standard_error=kl.std(0) / math.sqrt(count),
        sums_to_kl=factorises(latent.q) and factorises(latent.p),
        kl_missing=missing,
        collapse=_collapse(latent.name, activity, threshold, scale, kl.mean(0)),
    )
    if units.collapse is not None:
        warnings.warn(units.collapse, stacklevel=2)
    return units


def _mean_and_kl(
    pair: ModelAndGuide,
    args: tuple[Tensor, ...],
    kwargs: dict[str, Tensor],
    latent: Latent,
    num_samples: int,
    kl_samples: int,
) -> tuple[Tensor, Tensor]:
    """Return two averages for E_q[z], ``(2, B, D)``, and the KL per dimension, ``(B, D)``."""
    mean, others = _mean(latent.q), latent.depends_on
    kl, is_exact = _kl(latent, latent.z)
    mean_draws = 0 if mean is not None and not others else num_samples
    kl_draws = 1 if is_exact and not others else min(num_samples, kl_samples)
    averages = latent.z.new_zeros(2, *latent.z.shape)
    for draw in range(max(mean_draws, kl_draws)):
        z = latent.z
        if draw > 0 and others:
            latent = run_latent("latent_units", pair, args, kwargs, latent.name)
            z = latent.z
        elif draw > 0:
            z = latent.q.sample()
        if draw < mean_draws:
            its_mean = _mean(latent.q)
            averages[draw % 2] += z if its_mean is None else its_mean
        if 0 < draw < kl_draws:
            kl = kl + _kl(latent, z)[0]
    if mean_draws == 0:
        assert mean is not None
        averages = torch.stack([mean, mean])
    else:
        counts = torch.tensor([(num_samples + 1) // 2, num_samples // 2]).to(latent.z)
        averages /= counts.reshape(2, 1, 1)
    return averages, kl / kl_draws


def _mean(q: Distribution) -> Tensor | None:
    try:
        return q.mean
    except NotImplementedError:
        return None


def _kl(latent: Latent, z: Tensor) -> tuple[Tensor, bool]:
    """Return the KL of each dimension, NaN if unavailable, and whether it is exact, not at z."""
    q, p = marginals(latent.q), marginals(latent.p)
    if q is None or p is None:
        return torch.full_like(z, math.nan), True
    if latent.p_is_given and isinstance(q, Normal) and isinstance(p, Normal):
        return kl_divergence(q, p), True
    return q.log_prob(z) - p.log_prob(z), False


def _variance(latent: Latent) -> Tensor | None:
    """Return the variance of each datum's prior, ``(B, D)``, None where it is unknown."""
    if latent.p_is_given and isinstance(marginals(latent.p), Normal):
        return latent.p.variance.double()
    return None


def _mean_variance(variances: list[Tensor | None], z: Tensor) -> Tensor:
    """Return the prior's variance, a mean over all data, or that of draws where it is unknown.

    Of codes of many categories, or a small codebook, even all of it is below 0.01.
    """
    known = [variance for variance in variances if variance is not None]
    if len(known) == len(variances):
        return torch.cat(known).mean(0)
    varies = z.var(0) > 1e-9 * z.square().mean(0)  # not by rounding alone
    return torch.where(varies, z.var(0), 1.0)


def _collapse(
    site: str, activity: Tensor, threshold: float, scale: Tensor, kl: Tensor
) -> str | None:
    """Return a description of posterior collapse, if there is any."""
    active = activity > threshold * scale
    total, number, inactive = kl.sum().item(), len(active), int((~active).sum())
    remedies = "try a KL warm-up, free bits, or a weaker likelihood network"
    nats = "" if math.isnan(total) else f", KL {total:.3g} nats per datum"
    most = f"{threshold:g}" + (" of the variance of z" if (scale < 1).any() else "")
    if inactive == number or total < NO_INFORMATION:
        return (
            f"The posterior has collapsed: {inactive} of {number} dimensions of "
            f"{site!r} are inactive (activity at most {most}{nats}), so that z says next to "
            f"nothing about x; {remedies}"
        )
    if 2 * inactive > number:
        return (
            f"{inactive} of {number} dimensions of {site!r} are inactive (activity at most "
            f"{most}{nats}): the model uses only {number - inactive}. If it should use "
            f"more, {remedies}; if not, a latent_dim of about {number - inactive} suffices"
        )
    return None
