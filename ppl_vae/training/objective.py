"""What a step minimises: any pair, under any estimator, in nats per datum."""

from __future__ import annotations

import pyro
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.evaluation.bounds import ModelAndGuide
from ppl_vae.training.distributed import Share
from ppl_vae.training.precision import networks_only
from ppl_vae.training.schedules import Scheduled


class Objective(nn.Module):
    r"""Σ_parts weight · (mean loss of the part's data), in nats per datum.

    The loss of an estimator is minus N/B Σ_b bound_b: it is divided by N, or by B where the
    programs' plates are as large as the batch.

    Args:
        pair: model and guide.
        scheduled: the estimator of a bound.
        args: a batch of the programs' arguments, to find N; the programs run once on it.
    """

    def __init__(self, pair: ModelAndGuide, scheduled: Scheduled, args: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.model = pair.model
        self.guide = pair.guide
        self.scheduled = scheduled
        poutine.trace(self.guide).get_trace(*args)  # some guides make their parameters here
        self.total = _total(self.model, args)

    def forward(self, share: Share, *, weighted: bool = True) -> tuple[Tensor, list[Tensor]]:
        """Return the objective, to be differentiated, and minus the bound of each part.

        Both are in nats per datum, with β or without; what their means over processes are is said
        of :class:`Share`.
        """
        losses = []
        with networks_only(self):
            for part, fraction in zip(share.parts, share.fractions, strict=True):
                estimator = self.scheduled.now() if weighted else self.scheduled.bound
                loss = estimator.differentiable_loss(self.model, self.guide, *part.args)
                losses.append(fraction / (self.total or len(part.args[0])) * loss)
        first, *others = (p.weight * loss for p, loss in zip(share.parts, losses, strict=True))
        return sum(others, first), [loss.detach() for loss in losses]


def _total(model: nn.Module, args: tuple[Tensor, ...]) -> int | None:
    """Return N where the data's plate is subsampled; None where it is as large as the batch."""
    with pyro.validation_enabled(True):
        trace = poutine.trace(model).get_trace(*args)
    for site in trace.nodes.values():
        if site["type"] != "sample" or not site["is_observed"] or site_is_subsample(site):
            continue
        for frame in site["cond_indep_stack"]:
            if frame.size == len(args[0]) and frame.full_size not in (None, frame.size):
                return int(frame.full_size)
    return None
