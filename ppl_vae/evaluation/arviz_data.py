"""Draws, data and log p(x) in ArviZ's form, for its summaries, plots and comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from pyro.poutine import Trace
from torch import Tensor

from ppl_vae.errors import describe, flag, reason
from ppl_vae.estimators.densities import model_terms
from ppl_vae.estimators.handlers import EnumerationMark
from ppl_vae.estimators.traces import is_enumerated, is_given_latent, sample_sites
from ppl_vae.evaluation.inputs import Array, Data, program_inputs
from ppl_vae.evaluation.likelihood import log_likelihood
from ppl_vae.evaluation.pareto import UNRELIABLE
from ppl_vae.evaluation.refined_draws import PosteriorDraws
from ppl_vae.evaluation.replication import SITE
from ppl_vae.evaluation.signature import MASK
from ppl_vae.evaluation.traced_batch import TracedBatch, row_limit, traced_batches
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide

DATA = "data"
"""The dimension of the data, as the plate is named."""


def to_arviz(
    pair: ModelAndGuide,
    draws: PosteriorDraws,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    predictive: bool = True,
    seed: int = 0,
) -> Any:
    r"""Return posterior draws as a ``DataTree``, as ArviZ 1 takes them.

    Groups, with the dimensions ``chain``, ``draw`` and ``data``:

    - ``posterior``: the latents by site;
    - ``sample_stats``: ``lp``, log p(x, z) in nats;
    - ``log_likelihood``: log p(x | z) of each datum at each draw;
    - ``posterior_predictive``: x drawn from p(x | z) at each draw;
    - ``observed_data``: x, NaN where missing;
    - ``constant_data``: the diagnosis of each datum's draws, ``refined``, ``ess`` and ``pareto_k``
      or ``r_hat``.

    The draws go one after another in each chain; independent ones are a single chain, in which
    R-hat and effective sample sizes say nothing: the diagnosis of weights does.

    ``arviz_stats.loo`` of the result estimates log p(x_b), as the mean of p(x_b | z)⁻¹ over the
    draws of z_b: the right number by a method that converges slowly, if at all, and is as biased as
    the draws are. Its k̂ says so. Use :func:`leave_one_out`.

    Needs the extra ``diagnostics``: ``pip install "ppl-vae[diagnostics]"``.

    Args:
        pair: any model/guide pair.
        draws: of its latents given x, from :func:`ppl_vae.evaluation.posterior_draws`.
        x, context, mask: the data of these draws, as in :func:`ppl_vae.evaluation.elbo_terms`.
        predictive: whether to draw ``posterior_predictive``, of as many numbers as draws times x.
        seed: of these draws; the global random state is unchanged.

    Raises:
        ImportError: if ArviZ is not installed.
        TypeError, ValueError: if the draws are not of these data.
        NotImplementedError: to draw x where the draws have no enumerated label, as of chains.
    """
    owner = "to_arviz"
    base = _imported(owner, "arviz_base")
    predictive = flag(owner, "predictive", predictive)
    if not isinstance(draws, PosteriorDraws):
        expected = "the result of evaluation.posterior_draws"
        raise TypeError(f"{owner}: draws must be {expected}, got {describe(draws)}")
    inputs = program_inputs(owner, pair, x, context, mask)
    if len(draws.ess) != len(inputs):
        raise ValueError(
            f"{owner}: draws must be of the {len(inputs)} data given, got those of {len(draws.ess)}"
        )
    found: list[dict[str, Tensor]] = []
    with torch.no_grad(), evaluating(pair.model, pair.guide), seeded(owner, seed):
        for batch in traced_batches(owner, pair, inputs, 1):
            found.append(_of_batch(owner, batch, draws.draws, predictive))
    whole = {name: torch.cat([part[name] for part in found], 1) for name in found[0]}
    chained = {name: t.unflatten(0, (draws.num_chains, -1)) for name, t in whole.items()}
    data = inputs.rows(slice(0, len(inputs)))
    seen = data.kwargs.get(MASK)
    observed = data.args[0] if seen is None else torch.where(seen, data.args[0], torch.nan)
    names = ("refined", "ess", "pareto_k", "r_hat")
    diagnosis = {name: t for name in names if (t := getattr(draws, name)) is not None}
    groups = {
        "posterior": {name: draws.chains(name) for name in draws.draws},
        "sample_stats": {"lp": chained["lp"]},
        "log_likelihood": {SITE: chained["log_likelihood"]},
        **({"posterior_predictive": {SITE: chained["predictive"]}} if predictive else {}),
        "observed_data": {SITE: observed},
        "constant_data": diagnosis,
    }
    event_dims = {name: z.dim() - 2 for name, z in draws.draws.items()} | {SITE: observed.dim() - 1}
    return base.from_dict(
        {
            group: {name: t.detach().cpu().numpy() for name, t in variables.items()}
            for group, variables in groups.items()
        },
        dims={
            **{name: [DATA] for name in ("lp", *diagnosis)},
            **{n: [DATA, *(f"{n}_dim_{i}" for i in range(k))] for n, k in event_dims.items()},
        },
        attrs={"posterior": {"refinement": str(draws.refinement)}},
    )


def leave_one_out(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_samples: int = 5000,
    seed: int = 0,
    progress: bool = False,
) -> Any:
    r"""Return log p(x_b | x_-b) of each datum as ArviZ's ``ELPDData``, for ``arviz_stats.compare``.

    Each latent belongs to one datum. Left out of the data, x_b tells nothing about its z_b, whose
    posterior is the prior, and

        p(x_b | x_-b) = ∫ p(x_b | z) p(z) dz = p(x_b)

    at the trained parameters, which are not refitted. So leave-one-out is log p(x) with the latent
    integrated out, the *marginal* likelihood that Merkle et al. recommend for models with latents,
    and is estimated by importance sampling from q(z | x): ``elpd_i`` and ``pareto_k`` are those
    of :func:`ppl_vae.evaluation.log_likelihood`. The conditional log p(x | z) in ``loo`` would ask
    how well data are predicted by latents that saw them.

    Give held-out data: those that the parameters were trained on are in these, and nothing here
    takes them out. ``p``, the effective number of parameters, is therefore NaN.

    Needs the extra ``diagnostics``: ``pip install "ppl-vae[diagnostics]"``.

    Source: Merkle et al. 2019, "Bayesian comparison of latent variable models: conditional versus
    marginal likelihoods" (arXiv 1802.04452).

    Args:
        pair, x, context, mask, num_samples, seed, progress: as in
            :func:`ppl_vae.evaluation.log_likelihood`.

    Raises:
        ImportError: if ArviZ is not installed.

    Warns:
        UserWarning: as :func:`ppl_vae.evaluation.log_likelihood`.
    """
    owner = "leave_one_out"
    stats = _imported(owner, "arviz_stats")
    array = _imported(owner, "xarray").DataArray
    found = log_likelihood(
        pair, x, *context, mask=mask, num_samples=num_samples, seed=seed, progress=progress
    )
    elpd = found.log_px.double().cpu()
    return stats.ELPDData(
        kind="loo",
        elpd=elpd.sum().item(),
        se=(len(elpd) * elpd.var(correction=0)).sqrt().item(),
        p=float("nan"),
        n_samples=int(num_samples),
        n_data_points=len(elpd),
        scale="log",
        warning=found.unreliable > 0,
        good_k=UNRELIABLE,
        elpd_i=array(elpd.numpy(), dims=[DATA]),
        pareto_k=array(found.pareto_k.double().cpu().numpy(), dims=[DATA]),
    )


def _of_batch(
    owner: str, batch: TracedBatch, draws: Mapping[str, Tensor], predictive: bool
) -> dict[str, Tensor]:
    """Return densities and new data of some of the data at all draws, ``(draws, data, ...)``."""
    rows = slice(batch.start, batch.start + len(batch))
    own = {name: z[:, rows] for name, z in draws.items()}
    number = len(next(iter(own.values())))
    at_once = max(1, row_limit(batch.args[0]) // (len(batch) * batch.combinations))
    parts = [
        _at(owner, batch, {name: z[start : start + at_once] for name, z in own.items()}, predictive)
        for start in range(0, number, at_once)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _at(
    owner: str, batch: TracedBatch, draws: Mapping[str, Tensor], predictive: bool
) -> dict[str, Tensor]:
    number = len(next(iter(draws.values())))
    sites = batch.model_trace.nodes  # where labels of other data may be given
    draws = {name: z for name, z in draws.items() if not sites[name]["is_observed"]}
    trace = Trace()
    for name, z in draws.items():
        event_dim = batch.guide_trace.nodes[name]["fn"].event_dim
        value = z.movedim(1, batch.plate.dim - event_dim)
        trace.add_node(name, name=name, type="sample", value=value, is_observed=False, infer={})
    run = batch.run(EnumerationMark(None, draws)(batch.model), number, trace)
    sites = list(sample_sites(run))
    observed = [s["name"] for s in sites if s["is_observed"] and not is_given_latent(s)]
    lp, _ = model_terms(run, batch.plate, draws)
    without, _ = model_terms(run, batch.plate, draws, skip=observed)
    lp, without = (batch.plate.per_particle(t, number) for t in (lp, without))
    found = {"lp": lp, "log_likelihood": lp - without}
    if predictive:
        left_out = [s["name"] for s in sites if is_enumerated(s)]
        if left_out:
            raise NotImplementedError(
                f"{owner}: the draws must have {left_out[0]!r} for x to be drawn, got "
                f"{', '.join(draws)}; give predictive=False"
            )
        site = run.nodes.get(SITE)
        if site is None:
            raise ValueError(
                f"{owner}: the data's site must be named {SITE!r}; or predictive=False"
            )
        drawn = site["fn"].sample()
        found["predictive"] = drawn.movedim(batch.plate.dim - site["fn"].event_dim, 1)
    return found


def _imported(owner: str, library: str) -> Any:
    try:
        return import_module(library)
    except ImportError as error:
        fix = "pip install 'ppl-vae[diagnostics]', on Python 3.11 or newer"
        raise ImportError(f"{owner} needs {library}: {reason(error)}; {fix}") from error
