"""The pictures of a latent space: what each term of the bound does to it, and what lies in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ppl_vae import plots
from ppl_vae.models import VAE
from ppl_vae.reproduction.training import Data

DATA = 2000
"""Test data in the plane."""


def planes(pairs: Mapping[str, VAE], data: Data) -> Any:
    """Draw the codes of test data on two dimensions, a panel for each pair."""
    figure, axes = _figure(1, len(pairs), 4.2, 4.0)
    test = data.test[:DATA]
    x = test.binarised(seed=0).tensor()
    for (name, pair), ax in zip(pairs.items(), axes.flat, strict=True):
        with torch.no_grad():
            z = pair.posterior(x).sample()
        plots.latents(z, test.labels, ax=ax).set_title(name)
    for ax in axes.flat[:-1]:
        ax.get_legend().remove()  # one at the end
    return figure


def manifolds(pairs: Mapping[str, VAE]) -> Any:
    """Draw what is decoded over the plane, at quantiles of the prior, a panel for each pair."""
    figure, axes = _figure(1, len(pairs), 6.0, 6.0)
    z = torch.as_tensor(plots.quantile_grid(20), dtype=torch.float32)
    for (name, pair), ax in zip(pairs.items(), axes.flat, strict=True):
        plots.manifold(_decoded(pair, z), ax=ax).set_title(f"E[x | z], {name}")
    return figure


def posteriors(pair: VAE, data: Data, number: int = 6) -> Any:
    """Draw q(z_d | x) of a few test data in each dimension, beside the prior."""
    figure, axes = _figure(1, 1, 8.0, 4.0)
    test = data.test[:number]
    with torch.no_grad():
        q = pair.posterior(test.binarised(seed=0).tensor()).base_dist
    assert test.labels is not None
    names = [f"a {label}" for label in test.labels.tolist()]
    plots.intervals(q.mean, q.stddev, data_names=names, ax=axes.flat[0])
    return figure


def interpolations(pair: VAE, data: Data, number: int = 6, steps: int = 12) -> Any:
    """Draw lines between the codes of pairs of test data, and lines between the images."""
    figure, axes = _figure(1, 2, 7.0, 0.6 * number)
    test = data.test[: 2 * number]
    x, t = test.tensor(binarise="none").flatten(1), torch.linspace(0, 1, steps)[:, None]
    z, images = (torch.lerp(v[:number, None], v[number:, None], t) for v in (pair.encode(test), x))
    between = {"codes": _decoded(pair, z), "images": images}
    for (name, images), ax in zip(between.items(), axes.flat, strict=True):
        plots.interpolation(images, (x[:number], x[number:]), ax=ax).set_title(f"between {name}")
    return figure


def likelihoods(pairs: Mapping[str, VAE], data: Data, columns: int = 10) -> Any:
    """Draw test data with their reconstructions, and draws, a column for each pair."""
    figure, axes = _figure(2, len(pairs), 5.0, 2.4)
    test = data.test[: 2 * columns]
    x = test.tensor(binarise="none").flatten(1)
    for (name, pair), (top, bottom) in zip(pairs.items(), axes.T, strict=True):
        decoded = _decoded(pair, pair.encode(test))
        plots.reconstructions(x, decoded, columns=columns, ax=top)
        top.set_title(f"{name}: data, and E[x | z] at their codes")
        drawn = pair.generate(4 * columns, mean=True).clamp(0, 1)
        plots.images(drawn, columns=columns, ax=bottom).set_title("E[x | z] at draws of the prior")
    return figure


def _decoded(pair: VAE, z: Tensor) -> Tensor:
    """Return E[x | z] between 0 and 1, flat, for z of any batch shape."""
    return pair.decode(z.flatten(0, -2)).clamp(0, 1).reshape(*z.shape[:-1], -1)


def _figure(rows: int, columns: int, width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)
