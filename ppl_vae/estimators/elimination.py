"""Summing out what a model enumerates, in plates and along Markov chains too."""

from __future__ import annotations

from collections import OrderedDict

from opt_einsum import get_symbol
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from torch import Tensor

from ppl_vae.estimators.batch_plate import BatchPlate
from ppl_vae.estimators.handlers import PARTICLES
from ppl_vae.estimators.log_einsum import StableLogRing
from ppl_vae.estimators.power_means import log_sum
from ppl_vae.estimators.traces import is_enumerated, total

Factor = tuple[dict, Tensor]
"""A site, and its weighted log-density of the site's batch shape."""


def log_sum_out(factors: list[Factor], summed: list[dict], plate: BatchPlate) -> Tensor:
    """Return log Σ Π_i exp(factor_i) over the values of some sites, per particle and datum.

    Sites in inner plates are summed in each slice, and steps of a ``pyro.markov`` chain one after
    the other: tensor variable elimination, Obermeyer et al. 2019 (arXiv 1902.03210), by Pyro.

    Args:
        factors: the model's sites.
        summed: those that only the model enumerates.
        plate: the batch plate.

    Raises:
        ValueError: if a site outside of a chain depends on its values.
        NotImplementedError: if values of two plates that cross depend on each other.
    """
    dims = [site["infer"]["_enumerate_dim"] for site in summed]
    within = any(frame.vectorized for site in summed for frame in plate.inner_plates(site))
    if not within and len(set(dims)) == len(dims):
        log_p = total(plate.summed_inside(term, site) for site, term in factors)
        for dim in dims:
            log_p = log_sum(log_p, dim)
        return log_p
    return _eliminated(factors, summed, plate)


def _eliminated(factors: list[Factor], summed: list[dict], plate: BatchPlate) -> Tensor:
    """Return the same by elimination; every dimension gets a symbol of its own."""
    first = max(site["infer"]["_enumerate_dim"] for site in summed)
    outside_chains: dict[int, int] = {}
    for site, _ in factors:
        if is_enumerated(site) and "_markov_scope" not in site["infer"]:
            outside_chains |= site["infer"].get("_dim_to_id", {})
    symbols: dict[tuple[str, object], str] = {}
    sizes: dict[str, int] = {}
    dims: dict[str, int] = {}
    tree: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    sums: set[str] = set()
    for site, term in factors:
        plates = {f.dim: f.name for f in site["cond_indep_stack"] if f.vectorized}
        values = {**outside_chains, **site["infer"].get("_dim_to_id", {})}
        names: dict[int, str] = {}
        for dim in {*plates, *(d for d in range(-term.dim(), 0) if term.shape[d] > 1)}:
            key: tuple[str, object] = ("guide's values", dim)
            if dim in plates:
                key = "plate", plates[dim]
            elif dim <= first:  # of the model, where steps of a chain share dimensions
                if dim not in values:
                    raise ValueError(
                        f"site {site['name']!r} depends on values that are enumerated in "
                        f"pyro.markov, out of its reach; move it into the step that draws them, or "
                        f"give a longer history="
                    )
                key = "values", values[dim]
            names[dim] = symbols.setdefault(key, get_symbol(len(symbols)))
            dims[names[dim]] = dim
        factor = packed.pack(term, names)
        sizes.update(zip(factor._pyro_dims, factor.shape, strict=True))
        tree.setdefault(frozenset(names[dim] for dim in plates), []).append(factor)
        if any(site is one for one in summed):
            sums |= {names.get(site["infer"]["_enumerate_dim"], "")}
    kept = (symbols.get(("plate", name)) for name in (PARTICLES, plate.name))
    target = frozenset(symbol for symbol in kept if symbol in sizes)
    ring = StableLogRing(dim_to_size=sizes)
    found = contract_to_tensor(tree, sums & sizes.keys(), target, ring=ring)
    log_p = packed.unpack(found, dims)
    return log_p.reshape((1,) * (-plate.particle_dim - log_p.dim()) + log_p.shape)
