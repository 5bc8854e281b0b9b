"""Plots: arrays in, matplotlib Axes out. Saving and showing is left to the caller.

No function here takes a pair. Compute what is to be drawn first, under ``torch.no_grad()``, and
pass NumPy arrays or tensors on the CPU::

    z = torch.as_tensor(plots.quantile_grid(20), dtype=torch.float32)
    plots.manifold(vae.likelihood(z.flatten(0, 1)).mean.unflatten(0, (20, 20)))

Every function draws in ``ax``, or in the current Axes of pyplot if it is not given, and returns
the Axes. Dimensions of z are counted from 1, as in z_1. Values that are not finite are an error
unless a function says how it draws them.
"""

from ppl_vae.plots.calibration import expected_coverage, rank_ecdf
from ppl_vae.plots.graphs import graph
from ppl_vae.plots.images import images, reconstructions, rows
from ppl_vae.plots.latent_dimensions import intervals, kl_per_dimension
from ppl_vae.plots.latent_images import interpolation, manifold, quantile_grid, traversals
from ppl_vae.plots.latent_space import density, latents
from ppl_vae.plots.predictive import predictive_checks
from ppl_vae.plots.scores import comparison, coverage, reliability
from ppl_vae.plots.table_columns import associations, histograms, shares
from ppl_vae.plots.training_curves import curves, stack

__all__ = [
    "associations",
    "comparison",
    "coverage",
    "curves",
    "density",
    "expected_coverage",
    "graph",
    "histograms",
    "images",
    "interpolation",
    "intervals",
    "kl_per_dimension",
    "latents",
    "manifold",
    "predictive_checks",
    "quantile_grid",
    "rank_ecdf",
    "reconstructions",
    "reliability",
    "rows",
    "shares",
    "stack",
    "traversals",
]
