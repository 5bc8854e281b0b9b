"""log p(x) by importance sampling, with what says whether to believe it."""

from __future__ import annotations

import math
import warnings
from abc import ABC
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from tqdm import tqdm

from ppl_vae.ascii import for_stdout
from ppl_vae.errors import flag, positive_int
from ppl_vae.evaluation.arguments import Array, Data, arguments, dequantised_levels_of
from ppl_vae.evaluation.bits import Kind, bits_per_dim, no_bits
from ppl_vae.evaluation.compiled_weights import CompiledWeights
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.pareto import NOT_COMPUTED, UNRELIABLE
from ppl_vae.evaluation.programs import Batch, batches, row_limit
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.evaluation.streaming import WeightSums
from ppl_vae.evaluation.weights import summed_log_weights
from ppl_vae.module_modes import evaluating
from ppl_vae.protocols import ModelAndGuide, check_pair

AT_ONCE = 100
"""Particles of a datum at a time where there are data enough: x is encoded anew for so many."""


class Evidence(ABC):
    """Estimates of log p(x) per datum, in nats, in the units that papers report."""

    log_px: Float[Tensor, " data"]
    kind: Kind | None
    dequantised_levels: int | None

    @property
    def nll(self) -> Estimate:
        """-log p(x) in nats per datum, as a mean over data."""
        return Estimate.of(-self.log_px)

    def bits_per_dim(
        self, event_shape: Sequence[int], *, dequantised_levels: int | None = None
    ) -> Estimate:
        """Return -log p(x) in bits per dimension; see :func:`ppl_vae.evaluation.bits_per_dim`.

        Args:
            event_shape: shape of one datum.
            dequantised_levels: of tensors; a dequantised data set, or batches of one, say so.

        Raises:
            ValueError: if p(x) is a density of data that were not dequantised, as far as is known;
                if it is a mass, or the data say otherwise, and ``dequantised_levels`` is given.
        """
        known = self.dequantised_levels
        if known is not None and dequantised_levels not in (None, known):
            raise ValueError(
                f"bits_per_dim: dequantised_levels={dequantised_levels} was given, and the data "
                f"were dequantised from {known}; leave it out"
            )
        if self.kind != "mass":
            dequantised_levels = known or dequantised_levels
        missing = no_bits(self.kind, dequantised_levels)
        if missing is not None:
            fix = "; give dequantised_levels= where it was" if self.kind == "density" else ""
            raise ValueError(f"bits_per_dim: {missing}{fix}")
        if self.kind == "mass" and dequantised_levels is not None:
            raise ValueError(
                f"bits_per_dim: dequantised_levels={dequantised_levels} is of a density, and p(x) "
                f"is a mass; leave it out"
            )
        return bits_per_dim(self.nll, event_shape, dequantised_levels=dequantised_levels)


@dataclass(frozen=True, eq=False)
class LogLikelihood(Evidence):
    """Importance-sampling estimates of log p(x), each of shape ``(N,)``.

    Args:
        log_px: log p̂(x) in nats.
        standard_error: of ``log_px``, over draws from the guide; trust it where k̂ is at most 0.7.
        ess: effective sample size, 1 to S.
        pareto_k: the shape k̂ of the tail of the weights; NaN with fewer than 25 samples.
        kind: whether p(x) is a ``"mass"``, a ``"density"``, or ``"both"``, in different sites; None
            where it is not known.
        dequantised_levels: how many levels the data had before noise was added, where they say so.
    """

    log_px: Float[Tensor, " data"]
    standard_error: Float[Tensor, " data"]
    ess: Float[Tensor, " data"]
    pareto_k: Float[Tensor, " data"]
    kind: Kind | None = None
    dequantised_levels: int | None = None

    @property
    def unreliable(self) -> int:
        """The number of data not known to be reliable: k̂ > 0.7, or not computed."""
        return int((~(self.pareto_k <= UNRELIABLE)).sum())

    @property
    def has_pareto_k(self) -> bool:
        """Whether k̂ was computed, as it is from 25 samples on."""
        return not bool(self.pareto_k.isnan().any())

    @property
    def monte_carlo_error(self) -> float:
        """The standard error of the mean over data, over draws; NaN for a single sample."""
        error = self.standard_error.double()
        return error.square().sum().sqrt().item() / len(error)

    def __str__(self) -> str:
        error = self.monte_carlo_error
        drawn = "not computed: a single sample" if math.isnan(error) else f"{error:.2g}"
        tail = f"k̂ > {UNRELIABLE} for {self.unreliable} data"
        if not self.has_pareto_k:
            tail = f"k̂ {NOT_COMPUTED}"
        return for_stdout(
            f"-log p(x) = {self.nll} nats per datum over {len(self.log_px)} data "
            f"(Monte Carlo error of the mean {drawn}, median ESS {self.ess.median():.0f}, {tail})"
        )


def log_likelihood(
    pair: ModelAndGuide,
    x: Data,
    *context: Array,
    mask: Array | None = None,
    num_samples: int = 5000,
    seed: int = 0,
    chunk_size: int | None = None,
    progress: bool = False,
    compile: bool = False,
) -> LogLikelihood:
    r"""Estimate log p(x) of each datum by importance sampling, the guide being the proposal.

        log p̂(x) = log (1/S) Σ_s w_s,    w_s = p(x, z_s) / q(z_s | x),    z_s ~ q(z | x)

    p̂ is unbiased; log p̂ is below log p(x) in expectation, by about half its squared standard error.
    A discrete y that guide or model enumerates is summed, w_s = Σ_y p(x, y, z_sy) / q(z_sy | x, y),
    not averaged over q(y | x) as in the bound; the diagnostics are of the summed weights. Context
    counts as observed: with labels y of a semi-supervised VAE the result is log p(x, y), without
    its classification term.

    The weights are not kept: memory is that of 1,000 rows in the networks at once, 20,000 on an
    accelerator, rows being data × particles × enumerated values, plus a multiple of
    M = min(S/5, 3√S) weights, or 2,500 if that is more, for each of these data. How data and
    particles are divided changes nothing but which draws are made.

    With ``compile`` the programs run once through Pyro's handlers and from then on as a graph
    (:class:`ppl_vae.compilation.CompiledFunction`): on the same draws, with the same result but for
    rounding. The first call for a pair and a number of data (that are weighed at once) and samples
    takes some seconds more. Graphs read the parameters as they are, and are kept for as long as the
    pair lives, so that one can train on and call again. A last batch of fewer data runs uncompiled.
    Graphs check no values: while Pyro's validation is on the first chunk runs uncompiled and is
    checked, and so is a first run of the programs on each batch of data, but no later draws.

    Source: Rezende et al. 2014 (arXiv 1401.4082), appendix E; k̂ of Vehtari et al. 2024 (arXiv
    1507.02646).

    Args:
        pair: any model/guide pair.
        x: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        context: further arguments of the programs, such as labels, of N entries each.
        mask: boolean, of x's shape, True where x is observed; everything if not given.
        num_samples: S, draws from the guide per datum; with fewer than 25 there is no k̂.
        seed: of the draws; the global random state is left as it was.
        chunk_size: at most so many particles of a datum at a time.
        progress: show a progress bar, of data × samples.
        compile: run the programs as a compiled graph; worth it from some millions of rows on.

    Returns:
        log p̂(x) in nats, of the dtype of the programs, with its Monte Carlo standard error,
        effective sample size and Pareto k̂.

    Raises:
        ValueError: if x does not suit the pair or is empty; if a weight is NaN or infinite, or all
            of a datum are zero, the message names the first such datum; if model and guide disagree
            in their latents, or a site is scaled.

    Warns:
        UserWarning: with the number of data whose k̂ > 0.7, if there are any; if there is no k̂.
        NotCompiledWarning: where a program cannot be compiled, and runs as it is.

    Example:
        >>> from ppl_vae import VAE, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> log_likelihood(vae, torch.ones(3, 64), num_samples=1000).log_px.shape
        torch.Size([3])
    """
    owner = "log_likelihood"
    check_pair(owner, pair)
    num_samples = positive_int(owner, "num_samples", num_samples)
    progress, compile = flag(owner, "progress", progress), flag(owner, "compile", compile)
    most = num_samples
    if chunk_size is not None:
        most = min(most, positive_int(owner, "chunk_size", chunk_size))
    results = []
    given = arguments(owner, pair, x, context, mask)
    kind: Kind | None = None
    with (
        torch.no_grad(),
        evaluating(pair.model, pair.guide),
        seeded(owner, seed),
        tqdm(
            total=len(given) * num_samples,
            desc=f"IS-{num_samples}",
            disable=not progress,
            leave=False,
            unit="sample",
            unit_scale=True,
        ) as bar,
    ):
        chunks = _Chunks(CompiledWeights.of(pair) if compile else None)
        for batch in batches(owner, pair, given, min(most, AT_ONCE)):
            sums = WeightSums(num_samples)
            limit = min(most, max(1, row_limit(given) // (len(batch) * batch.combinations)))
            # All are of one size, which a graph is made for: of the last, some may be left over.
            number = math.ceil(num_samples / limit)
            size = math.ceil(num_samples / number)
            for index, log_w in enumerate(chunks.of(batch, size, number)):
                wanted = log_w[: num_samples - index * size]
                sums.add(wanted)
                bar.update(wanted.numel())
            # A weight that is no finite number makes a sum of its kind.
            check_log_weights(owner, sums.log_sum[None], batch.start, zero_too=True)
            parts = (sums.log_mean, sums.standard_error, sums.ess, sums.pareto_k)
            results.append([part.to(log_w.dtype) for part in parts])
            kind = batch.kind
    log_px, error, ess, k = (torch.cat(parts) for parts in zip(*results, strict=True))
    result = LogLikelihood(log_px, error, ess, k, kind, dequantised_levels_of(x))
    if not result.has_pareto_k:
        warnings.warn(
            f"log_likelihood: Pareto k̂ {NOT_COMPUTED}, got num_samples={num_samples}: nothing says "
            f"by how much log p(x) is underestimated; take more",
            UserWarning,
            stacklevel=2,
        )
    elif result.unreliable:
        warnings.warn(
            f"log_likelihood: Pareto k̂ > {UNRELIABLE} for {result.unreliable} of {len(given)} "
            f"data: the guide misses part of the posterior, log p(x) is underestimated there and "
            f"its standard error too small; take more samples than {num_samples}, or use "
            f"annealed_importance_sampling",
            UserWarning,
            stacklevel=2,
        )
    return result


class _Chunks:
    """The log weights of batches, so many particles at a time.

    Args:
        graphs: that weigh them, of batches of the first one's size; none to do without.
    """

    def __init__(self, graphs: CompiledWeights | None) -> None:
        self._graphs = graphs
        self._sizes: tuple[int, int] | None = None

    def of(
        self, batch: Batch, size: int, number: int
    ) -> Iterator[Float[Tensor, "particles batch"]]:
        """Yield the log weights of a number of chunks, each of so many new particles."""
        for _ in range(self._plain(batch, size, number)):
            yield summed_log_weights(batch, size)
            number -= 1
        if number:
            assert self._graphs is not None
            weights = self._graphs.ready(batch, size)
            for _ in range(number):
                yield weights()

    def _plain(self, batch: Batch, size: int, number: int) -> int:
        """Return how many of the chunks are weighed without a graph."""
        sizes = len(batch), size
        first, self._sizes = self._sizes is None, self._sizes or sizes
        if self._graphs is None or sizes != self._sizes:
            return number
        # Values are checked in the first chunk, as graphs cannot.
        return int(first and is_validation_enabled())


def check_log_weights(
    owner: str, log_w: Float[Tensor, "particles batch"], start: int, *, zero_too: bool = False
) -> None:
    """Raise an error that names the first datum with a weight that is no finite number.

    Args:
        owner: the function, for the message.
        log_w: log weights of some particles, or the logarithm of their sum.
        start: index of the first datum.
        zero_too: refuse data whose weights are all zero.
    """
    bad = (log_w.isnan() | (log_w == torch.inf)).any(0)
    if zero_too:
        bad |= (log_w == -torch.inf).all(0)
    if bad.any():
        first = int(bad.nonzero()[0])
        column = log_w[:, first]
        wrong = column[~column.isfinite()]
        number = f", and {int(bad.sum()) - 1} more of its batch" if bad.sum() > 1 else ""
        raise ValueError(
            f"{owner}: log weight {wrong[0].item()} for datum {start + first}{number}: the "
            f"densities of prior, posterior and likelihood must be finite at the latents drawn, "
            f"and p(x, z) not zero at all of them; look at their parameters there, and whether x "
            f"is in the support"
        )
