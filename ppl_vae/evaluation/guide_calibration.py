"""Simulation-based calibration: is q(z | x) the posterior, on data of the model itself?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.deprecation import former_call
from ppl_vae.errors import describe, integer, number
from ppl_vae.evaluation.calibration_result import (
    Calibration,
    Kind,
    RankedQuantity,
    counts_below,
)
from ppl_vae.evaluation.classification import binned, reliability
from ppl_vae.evaluation.guide_ranks import GuideRanks, Statistic
from ppl_vae.evaluation.inputs import parameter_of, progress_bar
from ppl_vae.evaluation.rank_fit import fit_ranks
from ppl_vae.evaluation.simulated import Simulations
from ppl_vae.evaluation.traced_batch import row_limit, traced
from ppl_vae.evaluation.uniform_bands import uniform_bands
from ppl_vae.labels import INTEGER_DTYPES
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide, check_pair

_OWNER = "calibration"
_BINS = 15


def _is_of_labelled_data(pair: Any, *args: Any, **kwargs: Any) -> bool:
    """Return whether arguments are those of :func:`reliability`, which had this name."""
    if not hasattr(pair, "classify") or not (args or "x" in kwargs):
        return False
    first = args[0] if args else None
    return not (isinstance(first, Tensor) and first.dtype in INTEGER_DTYPES and first.dim() == 1)


@former_call(_is_of_labelled_data, reliability)
def calibration(
    pair: ModelAndGuide,
    *context: Tensor,
    num_simulations: int | None = None,
    num_draws: int = 99,
    statistics: Mapping[str, Statistic] | None = None,
    mask: Tensor | None = None,
    like: Tensor | None = None,
    level: int | float = 0.95,
    seed: int = 0,
    progress: bool = False,
) -> Calibration:
    r"""Test whether draws of the guide are draws of the posterior, on data of the model itself.

    For each of N simulations z ~ p(z), x ~ p(x | z), the rank of a quantity f among L draws is

        r = #{l : f(z_l, x) < f(z, x)},    z_l ~ q(z | x),

    uniform on 0, ..., L if q(z | x) = p(z | x), ties being broken at random. The guide is run, not
    fitted. Ranked are

    - each entry of each latent (``z_1``, ``z_2``, ...);
    - ``log p(x, z)``, the model's log-density, which also sees a guide that ignores x; drawn labels
      are part of it;
    - ``TARP``, the distance of all latents to a random point, a draw of the prior, in standard
      deviations of the prior: its ECDF is the expected coverage of the guide's regions;
    - for a label that the guide infers, log q(y | x): too low for the true label where q(y | x) is
      overconfident. Its reliability diagram is in the result;
    - ``statistics``.

    The ECDF of each quantity's ranks is compared with a simultaneous band. There are M of them, and
    each has a band of level 1 - (1 - ``level``) / M (Bonferroni), so that a guide of exact draws
    leaves any of them with probability at most 1 - ``level``.

    Quantities that leave their bands are put in words, with a size from the normal that fits the
    ranks: the width of q relative to what is needed to cover the truth, or its shift in standard
    deviations of q. Errors of location that vary with x count as lack of width.

    This is about data that the model generates; a poor model may have an exact guide.

    Memory is that of 1,000 rows in the networks (20,000 on an accelerator), or L + 1 if that is
    more, rows being simulations × draws, whatever N.

    Source: Talts et al. 2018 (arXiv 1804.06788), theorem 1; functions of z and x, Modrák et al.
    2023 (arXiv 2211.02383); bands, Säilynoja et al. 2022 (arXiv 2103.10522); TARP, Lemos et al.
    2023 (arXiv 2302.03026).

    Args:
        pair: any model/guide pair with the data at the site ``x``.
        context: further arguments of the programs, such as c or labels, of N entries each; labels
            that are all -1 are inferred, as without the argument.
        num_simulations: N; 1,000 if neither context nor ``like`` determines it.
        num_draws: L, at least 2.
        statistics: name -> f(z, x), which returns a number per datum, shape ``(batch,)``. z is the
            latent, shape ``(batch, latent_dim)``, or, if there are several, site -> values.
        mask: boolean, of the shape of one datum or ``(N, *event)``, True where x is observed: the
            guide, log p(x, z) and statistics then see only these entries, and 0 elsewhere.
        like: a tensor of the data's shape, ``(N, *event)``, of any values: for your own programs
            that are called as ``model(x)`` and not as ``model(size=n)``.
        level: of all bands together.
        seed: of the draws; the global random state is unchanged.
        progress: show a progress bar, of simulations.

    Raises:
        TypeError: if the model takes no ``size`` and ``like`` is not given.
        ValueError: if numbers of data disagree, or a quantity is NaN.
        NotImplementedError: if the model draws what is neither data nor in the guide, such as a
            mask.

    Example:
        >>> from ppl_vae.testing import LinearGaussian
        >>> pair = LinearGaussian(data_dim=3, latent_dim=2, full_rank=True)
        >>> pair.set_exact_guide()
        >>> calibration(pair, like=torch.zeros(100, 3).double(), num_draws=19).calibrated
        True
    """
    check_pair(_OWNER, pair)
    simulations = Simulations.of(_OWNER, pair, context, num_simulations, mask, like)
    total = simulations.number
    num_draws = integer(_OWNER, "num_draws", num_draws, 2)
    level = number(_OWNER, "level", level, above=0, below=1, fix="divide percent by 100")
    statistics = _checked(statistics)
    kinds: dict[str, Kind] = {}
    ranks: dict[str, Tensor] = {}
    confident: dict[str, Tensor] = {}
    bar = progress_bar(_OWNER, "SBC", total, progress)
    with bar, torch.no_grad(), evaluating(pair.model, pair.guide), seeded(_OWNER, seed):
        limit = row_limit(parameter_of(pair))
        unit: Tensor | None = None
        for rows in simulations.blocks(max(1, limit // (num_draws + 1))):
            found, x = _drawn(pair, simulations, rows, num_draws)
            reference = None
            if len(found.labels) < len(found.sites):
                if unit is None:
                    some = slice(0, min(total, limit))
                    unit = _scale(_prior_vectors(pair, simulations, some, found))
                reference = _prior_vectors(pair, simulations, rows, found), unit
            quantities = found.quantities(statistics, x, reference)
            for name, (kind, values) in quantities.items():
                kinds[name] = kind
                of_name = ranks.setdefault(name, _zeros(torch.int64, total))
                of_name[rows] = found.ranks(name, values).cpu()
            for name, pairs in found.reliable().items():
                of_site = confident.setdefault(name, _zeros(torch.float64, 2, total))
                of_site[:, rows] = torch.stack(pairs)
            bar.update(len(x))
    lower, upper, tested = _tested(kinds, ranks, num_draws, level)
    reliable = {name: binned(both[0], both[1], _BINS) for name, both in confident.items()}
    return Calibration(tested, num_draws, level, lower, upper, reliable)


def _checked(statistics: Mapping[str, Statistic] | None) -> Mapping[str, Statistic]:
    """Return the statistics, or raise TypeError."""
    found = {} if statistics is None else statistics
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and callable(f) for name, f in found.items()
    ):
        raise TypeError(
            f"{_OWNER}: statistics must map names to functions f(z, x), got {describe(statistics)}"
        )
    return found


def _drawn(
    pair: ModelAndGuide, simulations: Simulations, rows: slice, num_draws: int
) -> tuple[GuideRanks, Tensor]:
    """Simulate some data, draw from the guide, and return both with what the guide saw."""
    x, sites = simulations.simulate(pair, rows)
    x, named = simulations.seen(x, rows)
    args = (x, *(t[rows] for t in simulations.context))
    batch = traced(_OWNER, pair, args, named, rows.start)
    return GuideRanks(_OWNER, batch, sites, num_draws), x


def _prior_vectors(
    pair: ModelAndGuide, simulations: Simulations, rows: slice, like: GuideRanks
) -> Float[Tensor, "batch entries"]:
    """Return draws of the prior as vectors, independent of the simulations."""
    _, sites = simulations.simulate(pair, rows)
    flat = []
    for name in like.sites:
        if like.kind(name) != "label":
            value = sites[name]["value"]
            dim = like.batch.plate.dim - like.sites[name]["fn"].event_dim
            flat.append(value.movedim(dim, 0).flatten(1) if value.dim() > 1 else value[:, None])
    return torch.cat(flat, -1)


def _scale(vectors: Float[Tensor, "batch entries"]) -> Float[Tensor, " entries"]:
    """Return the standard deviation of each entry, 1 where it does not vary."""
    scale = vectors.std(0, correction=0)
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _tested(
    kinds: Mapping[str, Kind], ranks: Mapping[str, Tensor], num_draws: int, level: float
) -> tuple[Tensor, Tensor, tuple[RankedQuantity, ...]]:
    """Return the band of the ECDFs, and the quantities tested against it."""
    number = len(next(iter(ranks.values())))
    bands = uniform_bands(number, num_draws)
    threshold = bands.threshold((1 - level) / len(ranks))
    lower, upper = (torch.from_numpy(limit) for limit in bands.limits(threshold))
    tested = []
    for name, of_name in ranks.items():
        (counts,) = counts_below(of_name[None], num_draws)
        inside = bool(((counts >= lower) & (counts <= upper)).all())
        fit = None if inside else fit_ranks(of_name, num_draws)
        p_value = bands.p_value(counts.numpy())
        tested.append(RankedQuantity(name, kinds[name], of_name, inside, p_value, fit))
    return lower / number, upper / number, tuple(tested)


def _zeros(dtype: torch.dtype, *shape: int) -> Tensor:
    """Return room for what blocks of simulations yield: lists of it would fragment the memory."""
    return torch.zeros(shape, dtype=dtype, device="cpu")
