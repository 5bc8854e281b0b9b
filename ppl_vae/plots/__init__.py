"""Pictures: arrays in, matplotlib Axes out. Saving and showing is the caller's.

No function here sees a pair. What is drawn is computed first, under ``torch.no_grad()``, and given
as NumPy arrays or as tensors on the CPU::

    z = torch.as_tensor(plots.quantile_grid(20), dtype=torch.float32)
    plots.manifold(vae.likelihood(z.flatten(0, 1)).mean.unflatten(0, (20, 20)))

Every function takes ``ax=``, where to draw, or draws in the current Axes of pyplot, and returns
them. Dimensions of z are counted from 1, as in z_1. Nothing is dropped without a word: values that
are not finite are an error except where a function says what it draws in their place.
"""

from ppl_vae.plots.latent_space import density, latents
from ppl_vae.plots.paths import interpolation, traversals
from ppl_vae.plots.pictures import images, reconstructions, rows
from ppl_vae.plots.programs import graph
from ppl_vae.plots.quantiles import manifold, quantile_grid
from ppl_vae.plots.scores import comparison, reliability
from ppl_vae.plots.training import curves, stack
from ppl_vae.plots.units import intervals, kl_per_dimension

__all__ = [
    "comparison",
    "curves",
    "density",
    "graph",
    "images",
    "interpolation",
    "intervals",
    "kl_per_dimension",
    "latents",
    "manifold",
    "quantile_grid",
    "reconstructions",
    "reliability",
    "rows",
    "stack",
    "traversals",
]
