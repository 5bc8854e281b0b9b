"""log p(x) by importance sampling, with diagnostics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from ppl_vae.ascii import for_stdout
from ppl_vae.errors import flag, positive_int
from ppl_vae.evaluation.bits import Kind, bits_per_dim, no_bits
from ppl_vae.evaluation.compiled_log_weights import CompiledLogWeights
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.hmc import remedies
from ppl_vae.evaluation.inputs import (
    Array,
    Data,
    dequantised_levels_of,
    program_inputs,
    progress_bar,
)
from ppl_vae.evaluation.pareto import NOT_COMPUTED, UNRELIABLE, warn_of_tail
from ppl_vae.evaluation.results import Result
from ppl_vae.evaluation.traced_batch import TracedBatch, row_limit, traced_batches
from ppl_vae.evaluation.weight_statistics import WeightStatistics, check_log_weights
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide

AT_ONCE = 100
"""Particles of a datum at a time, if there are enough data; x is encoded once for so many."""


@dataclass(frozen=True, eq=False, repr=False)
class LogEvidence(Result):
    """Estimates of log p(x), each of shape ``(N,)``.

    Args:
        log_px: log p̂(x) in nats.
        standard_error: of ``log_px``, over draws.
        ess: effective sample size, 1 to the number of draws.
        kind: whether p(x) is a ``"mass"``, a ``"density"``, or ``"both"``, in different sites; None
            if unknown.
        dequantised_levels: the number of levels before dequantisation, if the data declare it.
    """

    log_px: Float[Tensor, " data"]
    standard_error: Float[Tensor, " data"]
    ess: Float[Tensor, " data"]
    kind: Kind | None = field(default=None, kw_only=True)
    dequantised_levels: int | None = field(default=None, kw_only=True)
    _method: ClassVar[str] = ""

    def __str__(self) -> str:
        (name, value), *others = self._rows().items()
        details = ", ".join(f"{n} {v}" for n, v in others)
        return for_stdout(f"{name} = {value} ({self._method}{details})")

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
            dequantised_levels: of tensors; a dequantised data set, or its batches, declare it.

        Raises:
            ValueError: if p(x) is a density of data not known to be dequantised; if
                ``dequantised_levels`` is given for a mass, or contradicts the data.
        """
        known = self.dequantised_levels
        if known is not None and dequantised_levels not in (None, known):
            raise ValueError(
                f"bits_per_dim: dequantised_levels={dequantised_levels} was given, but the data "
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
                f"bits_per_dim: p(x) is a mass, got dequantised_levels={dequantised_levels}, which "
                f"is for densities; leave it out"
            )
        return bits_per_dim(self.nll, event_shape, dequantised_levels=dequantised_levels)


@dataclass(frozen=True, eq=False, repr=False)
class LogLikelihood(LogEvidence):
    """Importance-sampling estimates of log p(x), with a diagnostic of the weights.

    Args:
        pareto_k: the shape k̂ of the tail of the weights; NaN with fewer than 25 samples. The
            standard error is reliable if it is at most 0.7.
    """

    pareto_k: Float[Tensor, " data"]

    @property
    def unreliable(self) -> int:
        """The number of data whose estimate may be unreliable: k̂ > 0.7, or not computed."""
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

    def _rows(self) -> dict[str, object]:
        error = self.monte_carlo_error
        drawn = "not computed: a single sample" if math.isnan(error) else f"{error:.2g}"
        tail = f"> {UNRELIABLE} for {self.unreliable} data"
        return {
            "-log p(x)": f"{self.nll} nats per datum over {len(self.log_px)} data",
            "Monte Carlo error of the mean": drawn,
            "median ESS": f"{self.ess.median():.0f}",
            "k̂": tail if self.has_pareto_k else NOT_COMPUTED,
        }


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
    r"""Estimate log p(x) of each datum by importance sampling, with the guide as proposal.

        log p̂(x) = log (1/S) Σ_s w_s,    w_s = p(x, z_s) / q(z_s | x),    z_s ~ q(z | x)

    p̂ is unbiased; log p̂ is below log p(x) in expectation, by about half its squared standard error.
    A guide that is a point mass, as of a VQ-VAE, does not cover the posterior: the result is then
    the ELBO, with k̂ = ∞: a lower bound if the prior has a mass there, none if it has a density.
    A discrete y that guide or model enumerates is summed, w_s = Σ_y p(x, y, z_sy) / q(z_sy | x, y),
    not averaged over q(y | x) as in the bound; the diagnostics are of the summed weights. Context
    counts as observed: with labels y of a semi-supervised VAE the result is log p(x, y), without
    its classification term.

    Weights are not stored: memory is that of 1,000 rows in the networks (20,000 on an accelerator),
    rows being data × particles × enumerated values, plus a multiple of M = min(S/5, 3√S) weights,
    or 2,500 if that is more, for each of these data. The chunking affects only which draws are
    made.

    With ``compile`` the programs run once through Pyro's handlers and then as a compiled graph
    (:class:`ppl_vae.compilation.CompiledFunction`), on the same draws, with the same result up to
    rounding. The first call for a pair and a number of data and samples takes some seconds more.
    Graphs read the current parameters and live as long as the pair. A last, smaller batch runs
    uncompiled. Graphs do not validate values: while Pyro's validation is on, the first chunk and
    one run of the programs on each batch are validated uncompiled, but no later draws.

    Source: Rezende et al. 2014 (arXiv 1401.4082), appendix E; k̂ of Vehtari et al. 2024 (arXiv
    1507.02646).

    Args:
        pair: any model/guide pair.
        x, context, mask: the data, as in :func:`ppl_vae.evaluation.elbo_terms`.
        num_samples: S, draws from the guide per datum; k̂ needs at least 25.
        seed: of the draws; the global random state is unchanged.
        chunk_size: maximal number of particles of a datum at a time.
        progress: show a progress bar, of data × samples.
        compile: run the programs as a compiled graph; pays off from some millions of rows on.

    Raises:
        ValueError: if x is empty or incompatible with the pair; if a weight is NaN or infinite, or
            all of a datum are zero (the message names the first such datum); if model and guide
            have different latents, or a site is scaled.

    Warns:
        UserWarning: with the number of data whose k̂ > 0.7, if any, or if there is no k̂.
        NotCompiledWarning: if a program cannot be compiled, and runs as it is.

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
    num_samples = positive_int(owner, "num_samples", num_samples)
    compile = flag(owner, "compile", compile)
    most = num_samples
    if chunk_size is not None:
        most = min(most, positive_int(owner, "chunk_size", chunk_size))
    results = []
    inputs = program_inputs(owner, pair, x, context, mask)
    total = len(inputs) * num_samples
    bar = progress_bar(owner, f"IS-{num_samples}", total, progress, "sample")
    with bar, torch.no_grad(), evaluating(pair.model, pair.guide), seeded(owner, seed):
        graphs = CompiledLogWeights.of(pair) if compile else None
        first: tuple[int, int] | None = None
        for batch in traced_batches(owner, pair, inputs, min(most, AT_ONCE)):
            statistics = WeightStatistics(num_samples)
            limit = min(most, max(1, row_limit(inputs) // (len(batch) * batch.combinations)))
            # All chunks have one size, that of the graph; the last may have particles to spare.
            number = math.ceil(num_samples / limit)
            size = math.ceil(num_samples / number)
            uncompiled = number
            if graphs is not None and first in (None, (len(batch), size)):
                # Values are validated in the first chunk, as graphs cannot.
                uncompiled = int(first is None and is_validation_enabled())
            first = first or (len(batch), size)
            chunks = _chunks(batch, size, number, uncompiled, graphs)
            for index, log_w in enumerate(chunks):
                wanted = log_w[: num_samples - index * size]
                statistics.add(wanted)
                bar.update(wanted.numel())
            # A weight that is not finite makes the sum so.
            check_log_weights(owner, statistics.log_sum[None], batch.start, zero_too=True)
            results.append([part.to(log_w.dtype) for part in statistics.all])
    columns = map(torch.cat, zip(*results, strict=True))
    levels = dequantised_levels_of(x)
    result = LogLikelihood(*columns, kind=batch.kind, dequantised_levels=levels)
    if batch.is_point_mass:
        worst = torch.full_like(result.pareto_k, math.inf)
        result = replace(result, pareto_k=worst, ess=torch.ones_like(result.ess))
    setting, instead = f"num_samples={num_samples}", "use annealed_importance_sampling"
    warn_of_tail(
        owner,
        result.pareto_k,
        setting,
        "log p(x) and its standard error",
        remedies(batch, f"take more than {setting}", instead, "prior"),
    )
    return result


def _chunks(
    batch: TracedBatch, size: int, number: int, uncompiled: int, graphs: CompiledLogWeights | None
) -> Iterator[Float[Tensor, "particles batch"]]:
    """Yield log weights of ``number`` chunks of ``size`` new particles, some first uncompiled."""
    for _ in range(uncompiled):
        yield batch.log_weights(size)
    if uncompiled < number:
        assert graphs is not None
        draw = graphs.sampler(batch, size)
        for _ in range(number - uncompiled):
            yield draw()
