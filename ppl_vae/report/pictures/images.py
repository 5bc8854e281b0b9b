"""Pictures of data: what the model draws, and how it follows when latents move."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.distributions import Normal

from ppl_vae import plots
from ppl_vae.evaluation.latents import factorises, marginals
from ppl_vae.plots.text import literal
from ppl_vae.report.pictures.parts import Drawn, new_figure

COLUMNS = 10
ROWS = 10
STEPS = 9
GRID = 15


def samples(of: Drawn) -> Figure:
    """Draw from the model."""
    x = of.images(of.runs.generate(6 * COLUMNS)[0])
    figure, ax = new_figure(5, 3 / of.image_width())
    plots.images(x, columns=COLUMNS, ax=ax)
    return figure


def reconstructions(of: Drawn) -> Figure:
    """Draw data over their reconstructions."""
    n = min(3 * COLUMNS, len(of.subject.x))
    columns = min(n, COLUMNS)
    x = of.images(of.subject.x[:n])
    chosen = torch.arange(n)
    again = of.images(of.runs.decode({s: z[:n] for s, z in of.runs.draws.items()}, chosen))
    figure, ax = new_figure(5, 5 * 2 * (n // columns) / columns / of.image_width())
    plots.reconstructions(x, again, columns=columns, ax=ax)
    return figure


def manifold(of: Drawn) -> Figure:
    """Decode a grid of quantiles of a two-dimensional prior."""
    site = _only(of)
    latent = of.runs.first[site]
    p = marginals(latent.p)
    if latent.z.shape[1] != 2:
        raise NotImplementedError(f"z has {latent.z.shape[1]} dimensions, and a plane has two")
    if not (isinstance(p, Normal) and factorises(latent.p) and of.runs.prior_is_shared(site)):
        raise NotImplementedError("the prior is no product of normals, whose quantiles are known")
    grid = torch.as_tensor(plots.quantile_grid(GRID)).to(latent.z)
    z = p.loc[0] + p.scale[0] * grid
    x = of.runs.decode({site: z.flatten(0, 1)}, torch.zeros(GRID**2, dtype=torch.long))
    shown = of.images(x.unflatten(0, (GRID, GRID)), leading=2)
    figure, ax = new_figure(5, 5 / of.image_width())
    plots.manifold(shown, z.cpu(), ax=ax)
    return figure


def traversals(of: Drawn, site: str) -> Figure:
    """Move along each dimension of a latent; those above it stay, and those below it follow."""
    units, z = of.measured.units[site], of.runs.draws[site]
    order = units.order()[:ROWS].to(z.device)
    above = of.runs.sites[of.runs.sites.index(site) :]
    start = {s: of.runs.means[s][:1] for s in above}
    steps = torch.linspace(-2.5, 2.5, STEPS).to(z)
    moved = start[site].repeat(len(order), STEPS, 1)
    centre, scale = z.mean(0), z.std(0)
    for row, d in enumerate(order):
        moved[row, :, d] = centre[d] + steps * scale[d]
    count = len(order) * STEPS
    values = {s: v.expand(count, -1) for s, v in start.items()}
    values[site] = moved.flatten(0, 1)
    x = of.runs.decode(values, torch.zeros(count, dtype=torch.long))
    shown = of.images(x.unflatten(0, (len(order), STEPS)), leading=2)
    known = units.kl_missing is None
    names = [f"$z_{{{int(d) + 1}}}$" for d in order]
    kl = units.kl[order.to(units.kl.device)].cpu() if known else None
    figure, ax = new_figure(5.4, 0.45 * len(order) / of.image_width() + 0.2)
    plots.traversals(shown, kl, names=names, ax=ax)
    return figure


def interpolation(of: Drawn) -> Figure:
    """Go from one datum to another in a straight line."""
    count = min(5, len(of.subject.x) // 2)
    left = torch.arange(count)
    right = torch.arange(count, 2 * count)
    if of.subject.labels is not None and (of.subject.context or of.runs.labels):
        # Where the programs see a label, the way is between two data of the same one.
        left, right = _alike(of.subject.labels, count)
        count = len(left)
    t = torch.linspace(0, 1, STEPS).to(of.subject.x).reshape(-1, 1)
    values = {
        s: torch.cat([(1 - t) * z[a] + t * z[b] for a, b in zip(left, right, strict=True)])
        for s, z in of.runs.means.items()
    }
    x = of.runs.decode(values, left.repeat_interleave(STEPS)).unflatten(0, (count, STEPS))
    shown = of.images(x, leading=2)
    at = of.subject.x.device
    ends = tuple(of.images(of.subject.x[i.to(at)]) for i in (left, right))
    figure, ax = new_figure(5.4, 0.5 * count / of.image_width() + 0.2)
    plots.interpolation(shown, (ends[0], ends[1]), ax=ax)
    return figure


def rows(of: Drawn) -> Figure:
    """Draw a row from each component of a mixture prior, or of each class."""
    runs, classes = of.runs, of.subject.classes
    if classes is not None:
        some = range(min(classes, 2 * ROWS))
        x = torch.stack([runs.generate(STEPS, label)[0] for label in some])
        names = [f"y = {literal(of.subject.data.called(label))}" for label in some]
    elif runs.mixture is not None and len(runs.sites) == 1:
        z = runs.components(runs.mixture, STEPS)
        shares = of.measured.shares
        order = torch.arange(z.shape[1]) if shares is None else shares.mean(0).argsort()
        order = order if shares is None else order.flip(0)
        order = order[:ROWS]
        chosen = z[:, order.to(z.device)].transpose(0, 1)
        index = torch.zeros(len(order) * STEPS, dtype=torch.long)
        x = runs.decode({runs.mixture: chosen.flatten(0, 1)}, index)
        x = x.unflatten(0, (len(order), STEPS))
        names = [f"k = {int(k)}" for k in order]
        if shares is not None:
            names = [
                f"{n}: {100 * shares.mean(0)[k]:.1f} %" for n, k in zip(names, order, strict=True)
            ]
    else:
        raise NotImplementedError("the prior is no mixture of one latent, and there are no classes")
    shown = of.images(x, leading=2)
    figure, ax = new_figure(5.4, 0.5 * len(shown) / of.image_width() + 0.2)
    plots.rows(shown, names, ax=ax)
    return figure


def _alike(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    left, right = [], []
    for label in labels[labels >= 0].unique():
        same = (labels == label).nonzero().squeeze(-1)
        if len(same) > 1:
            left.append(same[0])
            right.append(same[1])
    if not left:
        raise NotImplementedError("no two data have the same label")
    return torch.stack(left[:count]), torch.stack(right[:count])


def _only(of: Drawn) -> str:
    if len(of.runs.sites) > 1:
        raise NotImplementedError("there are several latents, and no plane is that of all")
    return of.runs.sites[0]
