"""Runs of a pair's programs, for what the pictures show. Any pair will do."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import Distribution

from ppl_vae.data import Part
from ppl_vae.estimators.traces import sample_sites
from ppl_vae.evaluation.inputs import input_blocks
from ppl_vae.evaluation.latents import BLOCK, Latent, run_latents
from ppl_vae.models.pair import mean_of
from ppl_vae.report.evaluated_pair import Subject

OBSERVED = "x"


class Runs:
    """The latents of all data, and what the programs do with other latents.

    Nothing is seeded here and no mode is switched: call everything under ``evaluating``, ``seeded``
    and ``torch.no_grad()``.

    Args:
        subject: the pair and its data.

    Attributes:
        sites: the continuous latents, that next to the data first.
        means: site -> E_q[z], shape ``(N, D)``.
        draws: site -> one draw from q, shape ``(N, D)``.
        labels: discrete site -> its likeliest value for each datum.
        first: the latents of the first data.
        mixture: the site whose prior is a mixture, the same for all data; None if there is none.
    """

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        means: dict[str, list[Tensor]] = {}
        draws: dict[str, list[Tensor]] = {}
        labels: dict[str, list[Tensor]] = {}
        self.first: dict[str, Latent] = {}
        inputs = Part("data", (subject.x, *subject.context), kwargs=subject.kwargs)
        for args, kwargs in input_blocks(inputs, BLOCK):
            latents = run_latents("report", subject.pair, args, kwargs)
            self.first = self.first or latents
            for name, latent in latents.items():
                means.setdefault(name, []).append(mean_of(latent.q))
                draws.setdefault(name, []).append(latent.z)
            for name, value in self._likeliest(args, kwargs).items():
                labels.setdefault(name, []).append(value)
        self.means = {name: torch.cat(parts) for name, parts in means.items()}
        self.draws = {name: torch.cat(parts) for name, parts in draws.items()}
        self.labels = {name: torch.cat(parts) for name, parts in labels.items()}
        self.sites = sorted(self.first, key=lambda s: -len(self.first[s].before_in_model))
        self.mixture = next((s for s in self.sites if self._is_shared_mixture(s)), None)

    def decode(self, latents: dict[str, Tensor], index: Tensor) -> Tensor:
        """Return E[x | z] at latents of M rows, with the labels and context of data ``index``.

        A latent that is not given is at its mean given those above it.
        """
        parts = []
        for rows in torch.arange(len(index)).split(BLOCK):
            some = index[rows]
            values = {name: z[rows] for name, z in latents.items()}
            values |= {name: y[some] for name, y in self.labels.items() if name not in values}
            for name in reversed(self.sites):  # from the top
                if name not in values:
                    values[name] = mean_of(self._trace(values, some).nodes[name]["fn"])
            parts.append(self._mean(self._trace(values, some)))
        return torch.cat(parts)

    def generate(self, n: int, label: int | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw latents from the model, and return E[x | z] with them.

        Args:
            n: how many.
            label: of all of them, where the programs have a label; that of the data where they are
                given it, and drawn where it is latent, if None.
        """
        index = torch.arange(n) % len(self.subject.x)
        (x, *context), kwargs = self._arguments(index)
        free = poutine.uncondition(self.subject.pair.model)
        if label is not None:
            value = torch.full((n,), label, device=x.device)
            if context:
                context = [value]
            else:
                free = poutine.condition(free, data={"y": value})
        trace = poutine.trace(free).get_trace(x, *context, **kwargs)
        return self._mean(trace), {site: trace.nodes[site]["value"] for site in self.sites}

    def prior_is_shared(self, site: str) -> bool:
        """Tell whether the prior is the same distribution for all data, as far as some show."""
        latent = self.first[site]
        if latent.before_in_guide or latent.before_in_model:
            return False
        log_p = latent.p.log_prob(latent.z[:1])
        return bool(torch.allclose(log_p, log_p[:1].expand_as(log_p), rtol=1e-4))

    def components(self, site: str, n: int) -> Tensor:
        """Draw n latents from each of the K components of a mixture, shape ``(n, K, D)``."""
        args, kwargs = self._arguments(torch.arange(1))
        prior: Any = run_latents("report", self.subject.pair, args, kwargs)[site].p
        z = prior.component_distribution.sample(torch.Size([n]))
        return z.reshape(n, -1, z.shape[-1])

    def classified(self) -> Tensor:
        """Return q(y | x) at the data before binarisation, on the CPU."""
        pair: Any = self.subject.pair
        inputs = Part("data", (self.subject.grey,), kwargs=self.subject.kwargs)
        blocks = input_blocks(inputs, BLOCK)
        return torch.cat([pair.classify(*args, **kwargs) for args, kwargs in blocks]).cpu()

    def _is_shared_mixture(self, site: str) -> bool:
        return hasattr(self.first[site].p, "component_distribution") and self.prior_is_shared(site)

    def _arguments(self, index: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return what the programs are called with, by position and by name."""
        subject, at = self.subject, index.to(self.subject.x.device)
        named = {name: t[at] for name, t in subject.kwargs.items()}
        return tuple(t[at] for t in (subject.x, *subject.context)), named

    def _trace(self, values: dict[str, Tensor], index: Tensor) -> Any:
        fixed = poutine.condition(self.subject.pair.model, data=values)
        args, kwargs = self._arguments(index)
        return poutine.trace(fixed).get_trace(*args, **kwargs)

    def _mean(self, trace: Any) -> Tensor:
        if OBSERVED not in trace.nodes:
            raise NotImplementedError(f"the model has no site {OBSERVED!r} to draw")
        return mean_of(trace.nodes[OBSERVED]["fn"])

    def _likeliest(self, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> dict[str, Tensor]:
        trace = poutine.trace(self.subject.pair.guide).get_trace(*args, **kwargs)
        return {
            site["name"]: _mode(site["fn"])
            for site in sample_sites(trace)
            if not site["is_observed"] and site["fn"].has_enumerate_support
        }


def _mode(d: Distribution) -> Tensor:
    """Return the likeliest value of each of a batch of discrete distributions."""
    values = d.enumerate_support()
    index = d.log_prob(values).argmax(0)
    return values[index, torch.arange(len(index), device=index.device)]
