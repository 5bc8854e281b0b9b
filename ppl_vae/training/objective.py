"""What a step minimises: any pair, under any estimator, in nats per datum."""

from __future__ import annotations

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.buffers import kept_buffers
from ppl_vae.data import Part
from ppl_vae.estimators.handlers import PARTICLES
from ppl_vae.protocols import ModelAndGuide
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
        first: data, for a first look at the programs.

    Raises:
        ValueError: if a program has parameters of its own in Pyro's store.
    """

    def __init__(self, pair: ModelAndGuide, scheduled: Scheduled, first: Part) -> None:
        super().__init__()
        self.model = pair.model
        self.guide = pair.guide
        self.scheduled = scheduled
        with kept_buffers(self):
            # Some guides make their parameters here.
            guide_trace = poutine.trace(self.guide).get_trace(*first.args, **first.kwargs)
            model_trace = poutine.trace(self.model).get_trace(*first.args, **first.kwargs)
            self._check_parameters(guide_trace, model_trace)

    def try_out(self, part: Part) -> None:
        """Call the estimator, and change nothing.

        Estimators run new programs once more at their first call: that should not be a part of the
        training, where one that resumes would draw other numbers than one that went on.
        """
        with kept_buffers(self), pyro.validation_enabled(False), self.scheduled.now() as estimator:
            estimator.differentiable_loss(self.model, self.guide, *part.args, **part.kwargs)

    def forward(self, share: Share, *, weighted: bool = True) -> tuple[Tensor, Tensor]:
        """Return the objective, to be differentiated, and minus the bound of each part.

        Both are in nats per datum, with β or without; what their means over processes are is said
        of :class:`Share`.
        """
        losses = []
        with networks_only(self, share.parts[0].tensors[0].device.type):
            for part, fraction in zip(share.parts, share.fractions, strict=True):
                plate = _DataPlate(len(part))
                with plate, self.scheduled.now(weighted=weighted) as estimator:
                    loss = estimator.differentiable_loss(
                        self.model, self.guide, *part.args, **part.kwargs
                    )
                losses.append(fraction / plate.total * loss)
        first, *others = map(_weighted, share.parts, losses)
        return sum(others, first), torch.stack([loss.detach() for loss in losses])

    def _check_parameters(self, *traces: Trace) -> None:
        own = {id(parameter) for parameter in self.parameters()}
        # Of a PyroModule, the store may have another's of the same name, which it does not use.
        names = {n for program in (self.model, self.guide) for n, _ in program.named_parameters()}
        for trace in traces:
            for name, site in trace.nodes.items():
                if site["type"] != "param" or name in names:
                    continue
                if id(_unconstrained(site["value"])) not in own:
                    raise ValueError(
                        f"fit: pyro.param {name!r} is in Pyro's parameter store and in no module, "
                        f"so that it would not be trained; make it an nn.Parameter of the program, "
                        f"or a pyro.nn.PyroParam of a PyroModule"
                    )


class _DataPlate(Messenger):
    """Notes N while programs run: batches of one training may come from plates of any size.

    That is the outermost plate of an observed site with as many data as the batch.

    Args:
        batch: its size, which is N where no plate is subsampled.
    """

    ignores_parameters = True

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.total = self._batch = batch
        self._found = False

    def _pyro_post_sample(self, msg: dict) -> None:
        if self._found or not msg["is_observed"] or site_is_subsample(msg):
            return
        for frame in msg["cond_indep_stack"]:
            if frame.size == self._batch and frame.name != PARTICLES:
                self.total = int(frame.full_size or frame.size)
                self._found = True
                return


def _weighted(part: Part, loss: Tensor) -> Tensor:
    return loss if part.weight == 1 else part.weight * loss  # two operations fewer, as a rule


def _unconstrained(value: Tensor) -> Tensor:
    return value.unconstrained() if hasattr(value, "unconstrained") else value
