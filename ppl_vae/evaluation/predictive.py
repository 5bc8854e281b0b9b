"""Predictive checks: real data beside data that the model generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from ppl_vae.errors import integer
from ppl_vae.evaluation.data_statistics import default_statistics, given_statistics
from ppl_vae.evaluation.inputs import Array, Data, program_inputs, progress_bar
from ppl_vae.evaluation.replication import SITE, Replicates, Replication
from ppl_vae.evaluation.results import Result
from ppl_vae.models.observation import Observation
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import restored, seeded
from ppl_vae.protocols import ModelAndGuide

_REFERENCE = 20
"""Data sets, besides those that are compared, from which E[x] is estimated."""


@dataclass(frozen=True, eq=False, repr=False)
class PredictiveChecks(Result):
    """T statistics of N real data, and of R replicated data sets of N data each.

    Args:
        names: of the statistics.
        observed: of the real data, shape ``(T,)``.
        replicated: of the replicated data, shape ``(R, T)``.
        replicates: ``"prior"`` or ``"posterior"``: where the latents of replicated data are from.
    """

    names: tuple[str, ...]
    observed: Float[Tensor, " statistics"]
    replicated: Float[Tensor, "replicates statistics"]
    replicates: Replicates

    @property
    def p_value(self) -> Float[Tensor, " statistics"]:
        """P(T(x_rep) ≥ T(x)): the rank of the data among them and the replicates.

        (#{T(x_rep) > T(x)} + ½ #{T(x_rep) = T(x)} + ½) / (R + 1): ties count half, and the data are
        one of R + 1, so that it is never 0 or 1.
        """
        above = (self.replicated > self.observed).sum(0)
        ties = (self.replicated == self.observed).sum(0)
        return (above.double() + 0.5 * ties + 0.5) / (len(self.replicated) + 1)

    @property
    def two_sided(self) -> Float[Tensor, " statistics"]:
        """2 min(p, 1 - p)."""
        return 2 * torch.minimum(self.p_value, 1 - self.p_value)

    @property
    def adjusted(self) -> Float[Tensor, " statistics"]:
        """Two-sided p-values, adjusted for the number of statistics.

        (#{r: max_t |z_t(x_rep,r)| ≥ |z_t(x)|} + 1) / (R + 1), with z in standard deviations of all
        R + 1 data sets: with probability 1 - a or more, all of them exceed a if the data are from
        the model, whatever the dependence of the statistics (R + 1 a multiple of 1 / a).

        Source: Westfall & Young 1993, "Resampling-based multiple testing" (single-step max T).
        """
        values = torch.cat([self.observed[None], self.replicated])
        z = ((values - values.mean(0)) / values.std(0)).abs().nan_to_num(0)
        return (z.amax(1, keepdim=True) >= z[0]).double().mean(0)

    @property
    def standard_error(self) -> Float[Tensor, " statistics"]:
        """The Monte Carlo error of ``p_value``, √(p (1 - p) / R)."""
        p = self.p_value
        return (p * (1 - p) / len(self.replicated)).sqrt()

    @property
    def z(self) -> Float[Tensor, " statistics"]:
        """The data's distance from the replicates' mean, in their standard deviations.

        NaN where all replicates agree with the data, and infinite where they all agree on another
        value.
        """
        return (self.observed - self.replicated.mean(0)) / self.replicated.std(0)

    def _rows(self) -> dict[str, object]:
        mean, sd = self.replicated.mean(0), self.replicated.std(0)
        columns = (self.names, self.observed, mean, sd, self.p_value, self.standard_error)
        return {
            name: f"{t:.4g}, replicated {m:.4g} ± {s:.2g}, p = {p:.3f} ± {error:.3f}"
            for name, t, m, s, p, error in zip(*columns, strict=True)
        }


def predictive_checks(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    statistics: Mapping[str, Callable[[Tensor], Any]] | None = None,
    num_draws: int = 200,
    replicates: Replicates = "prior",
    seed: int = 0,
    progress: bool = False,
) -> PredictiveChecks:
    r"""Compare statistics of real data with those of data sets of that size from the model.

        x_rep,r ~ p(x),   p = P(T(x_rep) ≥ T(x)),   r = 1, ..., R

    A p-value near 0 or 1 says that the model does not generate data like these in that respect. The
    standard error is that of R draws. Read ``z``, too: with many data, p-values tell differences
    that do not matter; with many statistics, a few are small by chance.

    - ``replicates="prior"``, the default: z ~ p(z), x_rep ~ p(x | z), new data with new latents.
      For held-out data this is the population predictive check, with the trained parameters in
      place of a posterior over them: p is uniform if the data are from the model. On data that
      the model was trained on it is too near to ½, as these are used twice.
    - ``replicates="posterior"``: z ~ q(z | x), x_rep ~ p(x | z), each datum anew at its own
      latents. These saw the datum, so p is **conservative**: it concentrates around ½ even for
      right models, and the more so, the more z tells about x. A small one is still evidence, a
      large one is none.

    Default statistics are by the likelihood's support, over all entries unless said otherwise. Of
    0 and 1 and of grey values: mean and variance of the totals of each image; of grey values the
    standard deviation and the share of 0 as well. Of counts: those of totals, the share of 0, the
    maximum, and the median over entries of variance / mean. Of real values: mean, standard
    deviation, skewness, quantiles, ends, and the variance of totals. Of all these: the distance of
    the entries' means from E[x] under the model, as a root mean square over entries. Of the columns
    of a table: mean, standard deviation and quantiles or share of 0, or the share of each level.

    Missing cells are left out of all statistics, and replicated data have the same cells missing;
    if the model has a ``missingness``, it draws them, and their number is a statistic.

    Source: Gelman et al. 1996, "Posterior predictive assessment of model fitness via realized
    discrepancies", Statistica Sinica 6; Moran et al. 2019, "Population predictive checks" (arXiv
    1908.00882); that p-values of data used twice are conservative, Bayarri & Berger 2000, "P values
    for composite null models", Journal of the American Statistical Association 95.

    Args:
        pair: any model/guide pair with the data at the site ``x``.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`; held-out ones.
            Replicated data have the same context; labels that are all -1 count as none.
        statistics: name -> function of a data set, a tensor ``(N, *event)`` with NaN in missing
            cells, that returns a number; None for those above.
        num_draws: R, the number of replicated data sets, at least 2.
        replicates: ``"prior"`` or ``"posterior"``.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar, of replicated data sets.

    Raises:
        TypeError: if ``statistics`` is not a dictionary of functions that return a number.
        ValueError: if a statistic is not finite; if there is no site ``x``, or x is incompatible
            with the pair.
        NotImplementedError: if some labels of a ``SemiSupervisedVAE`` are given, some are not, and
            latents are drawn from the prior.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> checks = predictive_checks(vae, torch.ones(50, 64), num_draws=99)
        >>> checks.names
        ('mean total', 'variance of totals', 'distance of means')
        >>> checks.p_value[0].item()
        0.005
    """
    owner = "predictive_checks"
    num_draws = integer(owner, "num_draws", num_draws, 2)
    if replicates not in get_args(Replicates):
        expected = get_args(Replicates)
        raise ValueError(f"{owner}: replicates must be one of {expected}, got {replicates!r}")
    own = None if statistics is None else given_statistics(owner, statistics)
    inputs = program_inputs(owner, pair, x, context, mask)
    bar = progress_bar(owner, "predictive checks", num_draws, progress, "data set")
    with bar, torch.no_grad(), evaluating(pair.model, pair.guide), seeded(owner, seed):
        data = inputs.rows(slice(0, len(inputs)))
        replication = Replication(owner, pair, data, replicates)
        with restored():  # draws are those of the replicates alone
            replication.check_observed()
        if own is None:
            reference = _expected(replication)
            observation = _observation(owner, pair, data.args, dict(data.kwargs))
            own = default_statistics(observation, reference, share_observed=replication.draws_mask)
        found = own(replication.observed)
        rows = []
        for x_rep in replication.data_sets(num_draws):
            rows.append(list(own(x_rep).values()))
            bar.update()
    observed = torch.tensor(list(found.values()), dtype=torch.float64)
    replicated = torch.tensor(rows, dtype=torch.float64)
    return PredictiveChecks(tuple(found), observed, replicated, replicates)


def _expected(replication: Replication) -> Tensor:
    """Return E[x] of each entry under the model, from data sets of their own."""
    total = number = torch.zeros(())
    for x in replication.data_sets(_REFERENCE):
        total = total + x.double().nansum(0)
        number = number + (~x.isnan()).sum(0)
    return total / number


def _observation(
    owner: str, pair: ModelAndGuide, args: tuple[Tensor, ...], kwargs: dict
) -> Observation:
    """Return the shape and support of a datum: the pair's, or those of the model's site."""
    known = getattr(pair.model, "observation", None)
    if isinstance(known, Observation):
        return known
    trace = poutine.trace(pair.model).get_trace(*args, **kwargs)
    p_x = trace.nodes[SITE]["fn"]
    if p_x.support is None:
        raise ValueError(
            f"{owner}: site {SITE!r} is a {type(p_x).__name__} without a support, which default "
            f"statistics follow from; give statistics={{'mean': torch.mean}}"
        )
    return Observation(args[0].shape[1:], p_x.support, type(p_x).__name__)
