"""Images of one pair: data, and what the model decodes."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.distributions import Normal

from ppl_vae import plots
from ppl_vae.evaluation.latents import factorises, marginals
from ppl_vae.plots.text import literal
from ppl_vae.report.evaluated_pair import EvaluatedPair
from ppl_vae.report.figures.picture import new_axes

COLUMNS = 10
ROWS = 10
STEPS = 9
GRID = 15


def samples(pair: EvaluatedPair) -> Axes:
    """Draw from the model."""
    x = pair.inputs.images(pair.latents.generate(6 * COLUMNS)[0])
    return plots.images(x, columns=COLUMNS, ax=new_axes(5, 3 / pair.inputs.aspect_ratio))


def reconstructions(pair: EvaluatedPair) -> Axes:
    """Draw data over their reconstructions."""
    n = min(3 * COLUMNS, len(pair.inputs.x))
    columns = min(n, COLUMNS)
    x = pair.inputs.images(pair.inputs.x[:n])
    draws = {site: z[:n] for site, z in pair.latents.draws.items()}
    again = pair.inputs.images(pair.latents.decode(draws, torch.arange(n)))
    ax = new_axes(5, 5 * 2 * (n // columns) / columns / pair.inputs.aspect_ratio)
    return plots.reconstructions(x, again, columns=columns, ax=ax)


def manifold(pair: EvaluatedPair) -> Axes:
    """Decode a grid of quantiles of a two-dimensional prior."""
    site = _only_site(pair)
    latent = pair.latents.first[site]
    p = marginals(latent.p)
    if latent.z.shape[1] != 2:
        raise NotImplementedError(f"z has {latent.z.shape[1]} dimensions instead of two")
    if not (isinstance(p, Normal) and factorises(latent.p) and pair.latents.prior_is_shared(site)):
        raise NotImplementedError("the prior is not a product of normals")
    grid = torch.as_tensor(plots.quantile_grid(GRID)).to(latent.z)
    z = p.loc[0] + p.scale[0] * grid
    x = pair.latents.decode({site: z.flatten(0, 1)}, torch.zeros(GRID**2, dtype=torch.long))
    shown = pair.inputs.images(x.unflatten(0, (GRID, GRID)), leading=2)
    return plots.manifold(shown, z.cpu(), ax=new_axes(5, 5 / pair.inputs.aspect_ratio))


def traversals(pair: EvaluatedPair, site: str) -> Axes:
    """Vary each dimension of a latent; those above it are fixed, and those below it follow."""
    units, z = pair.units[site], pair.latents.draws[site]
    order = units.order()[:ROWS].to(z.device)
    sites = pair.latents.sites
    fixed = {s: pair.latents.means[s][:1] for s in sites[sites.index(site) :]}
    steps = torch.linspace(-2.5, 2.5, STEPS).to(z)
    varied = fixed[site].repeat(len(order), STEPS, 1)
    centre, scale = z.mean(0), z.std(0)
    for row, d in enumerate(order):
        varied[row, :, d] = centre[d] + steps * scale[d]
    count = len(order) * STEPS
    values = {s: v.expand(count, -1) for s, v in fixed.items()}
    values[site] = varied.flatten(0, 1)
    x = pair.latents.decode(values, torch.zeros(count, dtype=torch.long))
    shown = pair.inputs.images(x.unflatten(0, (len(order), STEPS)), leading=2)
    names = [f"$z_{{{int(d) + 1}}}$" for d in order]
    kl = None if units.kl_missing else units.kl[order.to(units.kl.device)].cpu()
    ax = new_axes(5.4, 0.45 * len(order) / pair.inputs.aspect_ratio + 0.2)
    return plots.traversals(shown, kl, names=names, ax=ax)


def interpolation(pair: EvaluatedPair) -> Axes:
    """Interpolate linearly between the posterior means of two data."""
    count = min(5, len(pair.inputs.x) // 2)
    left = torch.arange(count)
    right = torch.arange(count, 2 * count)
    if pair.inputs.labels is not None and (pair.inputs.context or pair.latents.labels):
        # The programs take a label: interpolate between data with the same one.
        left, right = _same_label(pair.inputs.labels, count)
        count = len(left)
    t = torch.linspace(0, 1, STEPS).to(pair.inputs.x).reshape(-1, 1)
    values = {
        s: torch.cat([(1 - t) * z[a] + t * z[b] for a, b in zip(left, right, strict=True)])
        for s, z in pair.latents.means.items()
    }
    x = pair.latents.decode(values, left.repeat_interleave(STEPS)).unflatten(0, (count, STEPS))
    shown = pair.inputs.images(x, leading=2)
    at = pair.inputs.x.device
    first, last = (pair.inputs.images(pair.inputs.x[i.to(at)]) for i in (left, right))
    ax = new_axes(5.4, 0.5 * count / pair.inputs.aspect_ratio + 0.2)
    return plots.interpolation(shown, (first, last), ax=ax)


def rows(pair: EvaluatedPair) -> Axes:
    """Draw a row from each component of a mixture prior, or of each class."""
    latents, num_classes = pair.latents, pair.inputs.num_classes
    if num_classes is not None:
        labels = range(min(num_classes, 2 * ROWS))
        x = torch.stack([latents.generate(STEPS, label)[0] for label in labels])
        names = [f"y = {literal(pair.inputs.data.class_name(label))}" for label in labels]
    elif latents.mixture is not None and len(latents.sites) == 1:
        z = latents.components(latents.mixture, STEPS)
        order = torch.arange(z.shape[1])
        names = [f"k = {k}" for k in range(len(order))]
        if pair.responsibilities is not None:
            share = pair.responsibilities.mean(0)
            order = share.argsort(descending=True)
            names = [f"{name}: {100 * p:.1f} %" for name, p in zip(names, share, strict=True)]
        order = order[:ROWS]
        names = [names[k] for k in order]
        z = z[:, order.to(z.device)].transpose(0, 1)
        index = torch.zeros(len(order) * STEPS, dtype=torch.long)
        x = latents.decode({latents.mixture: z.flatten(0, 1)}, index)
        x = x.unflatten(0, (len(order), STEPS))
    else:
        raise NotImplementedError("the prior is not a mixture of one latent, nor are there classes")
    shown = pair.inputs.images(x, leading=2)
    ax = new_axes(5.4, 0.5 * len(shown) / pair.inputs.aspect_ratio + 0.2)
    return plots.rows(shown, names, ax=ax)


def _same_label(labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the indices of at most ``count`` pairs of data with the same label."""
    left, right = [], []
    for label in labels[labels >= 0].unique():
        same = (labels == label).nonzero().squeeze(-1)
        if len(same) > 1:
            left.append(same[0])
            right.append(same[1])
    if not left:
        raise NotImplementedError("no two data have the same label")
    return torch.stack(left[:count]), torch.stack(right[:count])


def _only_site(pair: EvaluatedPair) -> str:
    if len(pair.latents.sites) > 1:
        raise NotImplementedError("there are several latents")
    return pair.latents.sites[0]
