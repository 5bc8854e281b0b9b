"""Pictures of distributions and programs: what a pair is, apart from its data."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Normal

from ppl_vae import plots
from ppl_vae.evaluation.dependencies import relations
from ppl_vae.evaluation.latents import marginals
from ppl_vae.report.pictures.parts import Drawn, new_figure
from ppl_vae.report.program_runs import Runs


def kl_per_dimension(of: Drawn, site: str) -> Figure:
    """Draw the KL per dimension of a latent."""
    units = of.measured.units[site]
    if units.kl_missing is not None:
        raise NotImplementedError(units.kl_missing)
    figure, ax = new_figure(6, 3.2)
    plots.kl_per_dimension(units.kl.cpu(), units.active.cpu(), ax=ax)
    return figure


def intervals(of: Drawn, site: str) -> Figure:
    """Draw the posterior intervals of three data."""
    latent, units = of.runs.first[site], of.measured.units[site]
    q, p = marginals(latent.q), marginals(latent.p)
    if not isinstance(q, Normal):
        raise NotImplementedError("the posterior has no normal marginals")
    order = units.order()[:20]
    some = min(3, len(q.loc))
    loc, scale = (t[:some, order.to(t.device)].cpu() for t in (q.loc, q.scale))
    prior = None
    if isinstance(p, Normal) and of.runs.prior_is_shared(site):
        at = order.to(p.loc.device)
        prior = p.loc[0, at].cpu(), p.scale[0, at].cpu()
    figure, ax = new_figure(7, 3.4)
    names = [f"$z_{{{int(d) + 1}}}$" for d in order]
    plots.intervals(
        loc,
        scale,
        prior=prior,
        names=names,
        data_names=[f"datum {i + 1}" for i in range(some)],
        ax=ax,
    )
    return figure


def latents(of: Drawn, site: str) -> Figure:
    """Scatter one draw of z for each datum, by label."""
    z = of.runs.draws[site]
    labels = of.subject.labels
    figure, ax = new_figure(6, 4.6)
    density = draws = None
    if z.shape[1] == 2 and of.runs.prior_is_shared(site):
        density = _density(of.runs, site, z)
    else:
        draws = of.runs.generate(min(len(z), 1000))[1][site].cpu()
    plots.latents(
        z.cpu(),
        None if labels is None else labels.numpy(),
        classes=of.subject.data.classes,
        prior_draws=draws,
        prior_density=density,
        ax=ax,
    )
    return figure


def reliability(of: Drawn) -> Figure:
    """Draw the accuracy of q(y | x) against its confidence."""
    found = of.measured.calibration
    if found is None:
        raise NotImplementedError("there is no q(y|x), or there are no labels to compare with")
    figure, ax = new_figure(4.4, 4.4)
    plots.reliability(found.confidence, found.accuracy, found.count, ax=ax)
    return figure


def graphs(of: Drawn) -> Figure:
    """Draw the graphs of model and guide."""
    subject = of.subject
    args = tuple(t[:3] for t in (subject.x, *subject.context))
    kwargs = {name: t[:3] for name, t in subject.kwargs.items()}
    figure = Figure(figsize=(7.5, 4), layout="constrained")
    for ax, title, program in zip(
        figure.subplots(1, 2),
        ("model", "guide"),
        (subject.pair.model, subject.pair.guide),
        strict=True,
    ):
        plots.graph(relations(program, *args, **kwargs), ax=ax).set_title(title, loc="left")
        ax.set_anchor("NW")  # the two are of different heights, and their tops go together
    return figure


def _density(runs: Runs, site: str, z: Tensor) -> tuple[ArrayLike, ArrayLike, ArrayLike]:
    p = runs.first[site].p
    wide = torch.cat([z, runs.generate(1000)[1][site]])
    low, high = wide.quantile(0.005, 0), wide.quantile(0.995, 0)
    low, high = torch.minimum(low, z.min(0).values), torch.maximum(high, z.max(0).values)
    x, y = (torch.linspace(float(a), float(b), 120).to(z) for a, b in zip(low, high, strict=True))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
    width = len(runs.first[site].z)
    values = torch.cat(
        [
            p.log_prob(part[:, None].expand(-1, width, -1))[:, 0]
            for part in grid.flatten(0, 1).split(200)
        ]
    )
    # Only the regions of highest density are drawn: what is a factor does not matter.
    values = (values - values.max()).exp().reshape(grid.shape[:2])
    return x.cpu().numpy(), y.cpu().numpy(), values.cpu().numpy()
