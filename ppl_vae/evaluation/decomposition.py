"""The decomposition of the KL in the ELBO."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.errors import positive_int
from ppl_vae.estimators.traces import is_point_mass
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.inputs import (
    Array,
    Data,
    ProgramInputs,
    input_blocks,
    program_inputs,
    progress_bar,
)
from ppl_vae.evaluation.latents import (
    BLOCK,
    check_finite,
    factorises,
    marginals,
    no_marginals,
    run_latent,
)
from ppl_vae.evaluation.results import Result
from ppl_vae.evaluation.traced_batch import row_limit
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide


@dataclass(frozen=True, repr=False)
class KLDecomposition(Result):
    r"""KL = mutual information + marginal KL, and that = total correlation + dimension-wise KL.

    In nats per datum. Standard errors are over the draws of z with the data fixed; stratification
    by datum makes them conservative. The sums hold exactly, since all terms share the draws.

    Args:
        site: the latent's name.
        kl: E_x KL(q(z|x) ‖ p(z)), by Monte Carlo as all the terms.
        mutual_information: I_q(x; z) = E_x KL(q(z|x) ‖ q(z)).
        marginal_kl: KL(q(z) ‖ p(z)), from the prior to the aggregate posterior.
        total_correlation: KL(q(z) ‖ Π_d q(z_d)); None if unavailable, see ``missing``.
        dimension_wise_kl: Σ_d KL(q(z_d) ‖ p(z_d)); None if unavailable.
        max_mutual_information: log N, the upper bound of I_q(x; z) for N data. If I_q is close to
            it the posteriors hardly overlap, and more data would give a larger I_q.
        missing: the reason for each term that is None.
    """

    site: str
    kl: Estimate
    mutual_information: Estimate
    marginal_kl: Estimate
    total_correlation: Estimate | None
    dimension_wise_kl: Estimate | None
    max_mutual_information: float
    missing: dict[str, str] = field(default_factory=dict)

    def _rows(self) -> dict[str, object]:
        def term(name: str) -> object:
            return getattr(self, name) or self.missing[name]

        most = self.max_mutual_information
        return {
            "KL(q(z|x) ‖ p(z))": f"{self.kl} nats per datum",
            "  mutual information": f"{self.mutual_information} of at most {most:.2f}",
            "  marginal KL": self.marginal_kl,
            "    total correlation": term("total_correlation"),
            "    dimension-wise KL": term("dimension_wise_kl"),
        }


@torch.no_grad()
def kl_decomposition(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_samples: int = 1,
    site: str | None = None,
    seed: int = 0,
    progress: bool = False,
) -> KLDecomposition:
    r"""Split the KL of the ELBO by the aggregate posterior q(z) = (1/N) Σ_n q(z | x_n).

    E_x KL(q(z|x) ‖ p(z)) = I_q(x; z) + KL(q(z) ‖ p(z)), and

    KL(q(z) ‖ p(z)) = KL(q(z) ‖ Π_d q(z_d)) + Σ_d KL(q(z_d) ‖ p(z_d)) if p(z) = Π_d p(z_d).

    q(z) and its marginals q(z_d) are summed over all N data at each draw, N² ``num_samples``
    densities in blocks of bounded memory: a mini-batch would bias the logarithm. 10,000 data in 50
    dimensions take about a minute on one core.

    Unobserved labels are set to their most probable value, and the KL is that of z alone. If the
    prior depends on a condition c or a label, q(z | c) is the aggregate over data with the same
    prior, and all terms are averages over c: I_q(x; z | c) and so on.

    Weights of sites, such as a β on the KL, have no effect. With missing entries x is what is
    observed of it, including which entries are.

    Source: Hoffman & Johnson 2016 ("ELBO surgery", section 2); Chen et al. 2018 (arXiv
    1802.04942), equation 2.

    Args:
        pair: any model/guide pair with one continuous latent per datum.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        num_samples: draws z ~ q(z | x) per datum.
        site: the latent's name, required if there are several. Its q may depend on the data alone
            and its p on no other latent, as for the top layer of a top-down ``HierarchicalVAE``.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar.

    Raises:
        ValueError: if x is incompatible with the pair, a log-density is NaN or infinite, or the
            prior differs for every datum.
        NotImplementedError: if q or p of the latent depends on another latent, or q is a point mass
            and p a density.
    """
    owner = "kl_decomposition"
    num_samples = positive_int(owner, "num_samples", num_samples)
    inputs = program_inputs(owner, pair, x, context, mask)
    bar = progress_bar(owner, "aggregate", len(inputs) * num_samples, progress)
    with bar, evaluating(pair.model, pair.guide), seeded(owner, seed):
        posteriors = _Posteriors.of(pair, inputs, num_samples, site)
        check_finite(owner, "log p(z)", posteriors.log_p)
        z, prior = posteriors.z, posteriors.log_p.double()
        group = _same_prior(posteriors.signature)
        # Allocated first, as small results between large temporary ones fragment the memory.
        own_term = z.new_empty(len(z), dtype=torch.float64)
        aggregate, by_dimension = own_term.clone(), own_term.new_empty(z.shape)
        # A density takes a row for each draw and datum.
        rows = max(1, row_limit(inputs) // min(BLOCK, len(inputs)))
        for start in range(0, len(z), rows):
            some = slice(start, start + rows)
            terms = posteriors.aggregate(z[some], posteriors.owner[some], group)
            own_term[some], aggregate[some], by_dimension[some] = terms
            bar.update(len(z[some]))
    size = torch.full((len(inputs),), len(inputs)) if group is None else group.bincount()[group]
    log_size = size.double().log()
    of_draw = log_size.to(z.device)[posteriors.owner]
    aggregate -= of_draw
    check_finite(owner, "log q(z | x)", own_term)
    check_finite(owner, "log q(z)", aggregate)
    total_correlation = dimension_wise = None
    missing = dict(posteriors.missing)
    if "total_correlation" not in missing:
        product = (by_dimension - of_draw.unsqueeze(-1)).sum(-1)
        total_correlation = Estimate.of(aggregate - product)
        if "dimension_wise_kl" not in missing:
            dimension_wise = Estimate.of(product - prior)
    return KLDecomposition(
        site=posteriors.name,
        kl=Estimate.of(own_term - prior),
        mutual_information=Estimate.of(own_term - aggregate),
        marginal_kl=Estimate.of(aggregate - prior),
        total_correlation=total_correlation,
        dimension_wise_kl=dimension_wise,
        max_mutual_information=log_size.mean().item(),
        missing=missing,
    )


@dataclass(frozen=True)
class _Posteriors:
    """The posteriors of all data and draws from them.

    Args:
        name: the latent's name.
        posteriors: q(z | x_n), one distribution per block of data.
        z: the draws, shape ``(N * num_samples, D)``.
        owner: the index of the datum of each draw.
        log_p: log p(z) of each draw, under its datum's prior.
        signature: each datum's log p at a few common points, shape ``(N, points)``.
        missing: the terms that are unavailable for this posterior or prior, and why.
    """

    name: str
    posteriors: list[Distribution]
    z: Tensor
    owner: Tensor
    log_p: Tensor
    signature: Tensor
    missing: dict[str, str]

    @classmethod
    def of(
        cls, pair: ModelAndGuide, inputs: ProgramInputs, num_samples: int, site: str | None
    ) -> _Posteriors:
        owner = "kl_decomposition"
        posteriors, draws, log_p, signature = [], [], [], []
        points: Tensor | None = None
        for args, kwargs in input_blocks(inputs, BLOCK):
            latent = run_latent(owner, pair, args, kwargs, site)
            latent.check_independent(owner)
            q, p = latent.q, latent.p
            if is_point_mass(q) and not getattr(p.support, "is_discrete", False):
                raise NotImplementedError(
                    f"{owner}: q({latent.name} | x) is a point mass, p({latent.name}) a density: "
                    f"the KL is infinite; give the pair a posterior that is a density"
                )
            z = q.sample(torch.Size([num_samples]))
            if points is None:
                points = z[0, :3].unsqueeze(1)
            posteriors.append(q)
            draws.append(z.transpose(0, 1).flatten(0, 1))
            # In chunks, since a mixture's density holds all components of a draw.
            chunks = z.split(max(1, BLOCK // len(args[0])))
            log_p.append(torch.cat([p.log_prob(part) for part in chunks]).T.flatten())
            signature.append(torch.stack([p.log_prob(point) for point in points], 1))
        missing = {}
        if why := no_marginals(q, "posterior"):
            missing = {"total_correlation": why, "dimension_wise_kl": why}
        elif not factorises(p):
            missing["dimension_wise_kl"] = (
                f"a {type(p).__name__} prior is not a product over dimensions"
            )
        number = torch.arange(len(inputs), device=draws[0].device).repeat_interleave(num_samples)
        # Another datum's draw may be outside a prior's support.
        at_points = torch.cat(signature).nan_to_num()
        z, of_z = torch.cat(draws), torch.cat(log_p)
        return cls(latent.name, posteriors, z, number, of_z, at_points, missing)

    def aggregate(
        self, z: Tensor, owner: Tensor, group: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return log q(z | own x), log Σ_n q(z | x_n) and log Σ_n q(z_d | x_n) of draws z.

        In float64; the sums are over the data of the draw's group.
        """
        own = z.new_empty(len(z), dtype=torch.float64)
        joint = own.new_full((len(z),), -math.inf)
        by_dimension = own.new_full(z.shape, -math.inf)
        start = 0
        for q in self.posteriors:
            (block,) = q.batch_shape
            of_each = marginals(q)
            each = None if of_each is None else of_each.log_prob(z.unsqueeze(1))
            if each is not None and factorises(q):
                log_q = each.sum(-1).double()
            else:
                log_q = q.log_prob(z.unsqueeze(1)).double()
            mine = (owner >= start) & (owner < start + block)
            own[mine] = log_q[mine, owner[mine] - start]
            if group is not None:
                other = group[owner].unsqueeze(1) != group[start : start + block]
                log_q = log_q.masked_fill(other, -math.inf)
                if each is not None:
                    each = each.masked_fill(other.unsqueeze(-1), -math.inf)
            joint = torch.logaddexp(joint, log_q.logsumexp(1))
            if each is not None:
                by_dimension = torch.logaddexp(by_dimension, each.logsumexp(1).double())
            start += block
        return own, joint, by_dimension


def _same_prior(signature: Tensor) -> Tensor | None:
    """Return the index of each datum's prior, None if all have the same."""
    tolerance = torch.finfo(signature.dtype).eps ** 0.5 * (1 + signature.abs())
    group = torch.full((len(signature),), -1, device=signature.device)
    number = 0
    while (left := (group < 0).nonzero()).numel():
        same = ((signature - signature[left[0]]).abs() <= tolerance).all(-1) & (group < 0)
        group[same] = number
        number += 1
        if number > (len(signature) + 1) // 2:
            raise ValueError(
                f"kl_decomposition: the prior's condition differs for most of the {len(signature)} "
                f"data; give data that share conditions"
            )
    return None if number == 1 else group
