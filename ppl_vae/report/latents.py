"""The latents of data, and what the model makes of other latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Part
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.inputs import input_blocks
from ppl_vae.evaluation.latents import BLOCK, Latent, mode_of, run_latents
from ppl_vae.models.pair import mean_of
from ppl_vae.report.pair_data import PairData

OBSERVED = "x"


class Latents:
    """The latents of all data of a pair, with methods that decode and generate.

    To be used under ``evaluating``, ``seeded`` and ``torch.no_grad()``.

    Attributes:
        sites: the continuous latents, the one next to the data first.
        means: site -> E_q[z], shape ``(N, D)``.
        draws: site -> one draw from q, shape ``(N, D)``.
        labels: discrete site -> its most probable value for each datum.
        first: the latents of the first block of data.
        mixture: the site whose prior is a mixture shared by all data; None if there is none.
    """

    def __init__(self, inputs: PairData) -> None:
        self.inputs = inputs
        self.first: dict[str, Latent] = {}
        blocks = []
        for args, kwargs in input_blocks(Part("data", inputs.args, kwargs=inputs.kwargs), BLOCK):
            latents = run_latents("report", inputs.pair, args, kwargs)
            self.first = self.first or latents
            means = {name: mean_of(latent.q) for name, latent in latents.items()}
            draws = {name: latent.z for name, latent in latents.items()}
            blocks.append((means, draws, self._modes(args, kwargs)))
        self.means, self.draws, self.labels = (
            {name: torch.cat([block[name] for block in kind]) for name in kind[0]}
            for kind in zip(*blocks, strict=True)
        )
        self.sites = sorted(self.first, key=lambda s: -len(self.first[s].before_in_model))
        self.mixture = next((s for s in self.sites if self._is_shared_mixture(s)), None)

    def decode(
        self,
        latents: dict[str, Tensor],
        index: Tensor,
        summary: Callable[[Any], Tensor] = mean_of,
    ) -> Tensor:
        """Return E[x | z] for M latents, with the labels and context of the data at ``index``.

        A latent that is not given has its mean given those above it. A ``summary`` of p(x | z)
        takes the place of its mean.
        """
        means = []
        for rows in torch.arange(len(index)).split(BLOCK):
            at = index[rows]
            values = {name: z[rows] for name, z in latents.items()}
            values |= {name: y[at] for name, y in self.labels.items() if name not in values}
            for name in reversed(self.sites):  # from the top
                if name not in values:
                    values[name] = mean_of(self._trace(values, at).nodes[name]["fn"])
            means.append(summary(self._observed(self._trace(values, at))))
        return torch.cat(means)

    def generate(self, n: int, label: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw n latents from the model, and return E[x | z] and the latents.

        All have the ``label``, if given; otherwise a label that is an argument is that of the data,
        and a latent one is drawn.
        """
        index = torch.arange(n) % len(self.inputs.x)
        (x, *context), kwargs = self._arguments(index)
        free = poutine.uncondition(self.inputs.pair.model)
        if label is not None:
            value = torch.full((n,), label, device=x.device)
            if context:
                context = [value]
            else:
                free = poutine.condition(free, data={"y": value})
        trace = poutine.trace(free).get_trace(x, *context, **kwargs)
        return mean_of(self._observed(trace)), {
            site: trace.nodes[site]["value"] for site in self.sites
        }

    def prior_is_shared(self, site: str) -> bool:
        """Return whether all data have the same prior, judging by the first block."""
        latent = self.first[site]
        if latent.before_in_guide or latent.before_in_model:
            return False
        log_p = latent.p.log_prob(latent.z[:1])
        return bool(torch.allclose(log_p, log_p[:1].expand_as(log_p), rtol=1e-4))

    def components(self, site: str, n: int) -> Tensor:
        """Draw n latents from each of the K components of a mixture, shape ``(n, K, D)``."""
        args, kwargs = self._arguments(torch.arange(1))
        prior: Any = run_latents("report", self.inputs.pair, args, kwargs)[site].p
        z = prior.component_distribution.sample(torch.Size([n]))
        return z.reshape(n, -1, z.shape[-1])

    def class_probabilities(self) -> Tensor:
        """Return q(y | x) at the data before binarisation, on the CPU."""
        pair: Any = self.inputs.pair
        blocks = input_blocks(Part("data", (self.inputs.grey,), kwargs=self.inputs.kwargs), BLOCK)
        return torch.cat([pair.classify(*args, **kwargs) for args, kwargs in blocks]).cpu()

    def _is_shared_mixture(self, site: str) -> bool:
        return hasattr(self.first[site].p, "component_distribution") and self.prior_is_shared(site)

    def _arguments(self, index: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return the arguments of the programs for some data."""
        at = index.to(self.inputs.x.device)
        kwargs = {name: t[at] for name, t in self.inputs.kwargs.items()}
        return tuple(t[at] for t in self.inputs.args), kwargs

    def _trace(self, values: dict[str, Tensor], index: Tensor) -> Any:
        conditioned = poutine.condition(self.inputs.pair.model, data=values)
        args, kwargs = self._arguments(index)
        return poutine.trace(conditioned).get_trace(*args, **kwargs)

    def _observed(self, trace: Any) -> Any:
        if OBSERVED not in trace.nodes:
            raise NotImplementedError(f"the model has no site {OBSERVED!r}")
        return trace.nodes[OBSERVED]["fn"]

    def _modes(self, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        trace = poutine.trace(self.inputs.pair.guide).get_trace(*args, **kwargs)
        return {
            site["name"]: mode_of(site["fn"])
            for site in sample_sites(trace)
            if not site["is_observed"] and site["fn"].has_enumerate_support
        }
