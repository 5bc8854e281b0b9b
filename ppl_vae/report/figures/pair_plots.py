"""Plots of one pair: its latents, its classifier and its programs."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Normal

from ppl_vae import plots
from ppl_vae.evaluation.dependencies import relations
from ppl_vae.evaluation.latents import marginals
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.figures.picture import new_axes
from ppl_vae.report.latents import Latents


def kl_per_dimension(pair: EvaluatedPair, site: str) -> Axes:
    """Draw the KL of each dimension of a latent."""
    units = pair.units[site]
    if units.kl_missing is not None:
        raise NotImplementedError(units.kl_missing)
    return plots.kl_per_dimension(units.kl.cpu(), units.active.cpu(), ax=new_axes(6, 3.2))


def intervals(pair: EvaluatedPair, site: str) -> Axes:
    """Draw posterior intervals of three data."""
    latent, units = pair.latents.first[site], pair.units[site]
    q, p = marginals(latent.q), marginals(latent.p)
    if not isinstance(q, Normal):
        raise NotImplementedError("the posterior's marginals are not normal")
    order = units.order()[:20]
    number = min(3, len(q.loc))
    loc, scale = (t[:number, order.to(t.device)].cpu() for t in (q.loc, q.scale))
    prior = None
    if isinstance(p, Normal) and pair.latents.prior_is_shared(site):
        at = order.to(p.loc.device)
        prior = p.loc[0, at].cpu(), p.scale[0, at].cpu()
    names = [f"$z_{{{int(d) + 1}}}$" for d in order]
    data_names = [f"datum {i + 1}" for i in range(number)]
    ax = new_axes(7, 3.4)
    return plots.intervals(loc, scale, prior=prior, names=names, data_names=data_names, ax=ax)


def latents(pair: EvaluatedPair, site: str) -> Axes:
    """Scatter one draw of z per datum, by label."""
    z = pair.latents.draws[site]
    labels = pair.inputs.labels
    density = draws = None
    if z.shape[1] == 2 and pair.latents.prior_is_shared(site):
        density = _density(pair.latents, site, z)
    else:
        draws = pair.latents.generate(min(len(z), 1000))[1][site].cpu()
    return plots.latents(
        z.cpu(),
        None if labels is None else labels.numpy(),
        classes=pair.inputs.data.classes,
        prior_draws=draws,
        prior_density=density,
        ax=new_axes(6, 4.6),
    )


def reliability(pair: EvaluatedPair) -> Axes:
    """Draw the accuracy of q(y | x) against its confidence."""
    found = pair.reliability
    if found is None:
        raise NotImplementedError("there is no q(y|x), or no labels to compare with")
    bins = found.confidence, found.accuracy, found.count
    return plots.reliability(*bins, ax=new_axes(4.4, 4.4))


def graphs(pair: EvaluatedPair) -> Axes:
    """Draw the graphs of model and guide."""
    args = tuple(t[:3] for t in pair.inputs.args)
    kwargs = {name: t[:3] for name, t in pair.inputs.kwargs.items()}
    both = Figure(figsize=(7.5, 4), layout="constrained").subplots(1, 2)
    for ax, title in zip(both, ("model", "guide"), strict=True):
        program = getattr(pair.inputs.pair, title)
        plots.graph(relations(program, *args, **kwargs), ax=ax).set_title(title, loc="left")
        ax.set_anchor("NW")  # to align the tops of graphs of different heights
    return both[0]


def _density(latents: Latents, site: str, z: Tensor) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    """Return the density of the prior, up to a factor, on a grid around z and the prior's draws."""
    p = latents.first[site].p
    points = torch.cat([z, latents.generate(1000)[1][site]])
    low, high = points.quantile(0.005, 0), points.quantile(0.995, 0)
    low, high = torch.minimum(low, z.min(0).values), torch.maximum(high, z.max(0).values)
    x, y = (torch.linspace(float(a), float(b), 120).to(z) for a, b in zip(low, high, strict=True))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    width = len(latents.first[site].z)
    blocks = (part[:, None].expand(-1, width, -1) for part in grid.flatten(0, 1).split(200))
    values = torch.cat([p.log_prob(block)[:, 0] for block in blocks])
    values = (values - values.max()).exp().reshape(grid.shape[:2])
    return x.cpu().numpy(), y.cpu().numpy(), values.cpu().numpy()
