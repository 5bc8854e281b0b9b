"""What a training step minimises, in nats per datum, for any pair and estimator."""

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
from ppl_vae.estimators.temperature import has_temperature
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.registration import IgnoresParameters
from ppl_vae.training.distributed import DataShard
from ppl_vae.training.precision import networks_only
from ppl_vae.training.schedules import Scheduled


class TrainingObjective(nn.Module):
    r"""Σ_parts weight · (mean loss of the part's data), in nats per datum.

    An estimator's loss is minus N/B Σ_b bound_b. It is divided by N, or by B where the programs'
    plates have the size of the batch. The programs run once, on the ``first`` data; ValueError is
    raised if one has parameters in Pyro's store alone.
    """

    def __init__(self, pair: ModelAndGuide, scheduled: Scheduled, first: Part) -> None:
        super().__init__()
        self.model = pair.model
        self.guide = pair.guide
        self.scheduled = scheduled
        with kept_buffers(self):
            # Some guides create their parameters at their first run.
            guide_trace = poutine.trace(self.guide).get_trace(*first.args, **first.kwargs)
            model_trace = poutine.trace(self.model).get_trace(*first.args, **first.kwargs)
            self._check_parameters(guide_trace, model_trace)

    def has_temperature(self, part: Part) -> bool:
        """Return whether a program has relaxed draws, given some data."""
        with kept_buffers(self):
            traces = [
                poutine.trace(program).get_trace(*part.args, **part.kwargs)
                for program in (self.guide, self.model)
            ]
        sites = [site for trace in traces for site in trace.nodes.values()]
        return any(has_temperature(site["fn"]) for site in sites if site["type"] == "sample")

    def warm_up(self, part: Part) -> None:
        """Call the estimator once, and change nothing.

        Estimators run new programs once more at their first call. Within the training, a run that
        resumes would then draw other numbers than one that was not interrupted.
        """
        with kept_buffers(self), pyro.validation_enabled(False), self.scheduled.now() as estimator:
            estimator.differentiable_loss(self.model, self.guide, *part.args, **part.kwargs)

    def forward(self, shard: DataShard, *, weighted: bool = True) -> tuple[Tensor, Tensor]:
        """Return the differentiable objective, and minus the bound of each part.

        Both are in nats per datum, with β or without. :class:`DataShard` says what their means over
        processes are.
        """
        losses = []
        with networks_only(self, shard.parts[0].tensors[0].device.type):
            for part, fraction in zip(shard.parts, shard.fractions, strict=True):
                plate = _DataPlate(len(part))
                with plate, self.scheduled.now(weighted=weighted) as estimator:
                    loss = estimator.differentiable_loss(
                        self.model, self.guide, *part.args, **part.kwargs
                    )
                losses.append(fraction / plate.total * loss)
        first, *others = map(_weighted, shard.parts, losses)
        return sum(others, first), torch.stack([loss.detach() for loss in losses])

    def _check_parameters(self, *traces: Trace) -> None:
        own = {id(parameter) for parameter in self.parameters()}
        # The store may have another PyroModule's parameter of the same name, which is not used.
        names = {n for program in (self.model, self.guide) for n, _ in program.named_parameters()}
        for trace in traces:
            for name, site in trace.nodes.items():
                if site["type"] != "param" or name in names:
                    continue
                if id(_unconstrained(site["value"])) not in own:
                    raise ValueError(
                        f"fit: pyro.param {name!r} is in Pyro's parameter store alone, and would "
                        f"not be trained; make it an nn.Parameter, or a PyroParam, of the program"
                    )


class _DataPlate(IgnoresParameters, Messenger):
    """Finds N while programs run: batches of one training may come from plates of any size.

    The data plate is the outermost plate of an observed site that has the size of the batch, which
    is N where no plate is subsampled.
    """

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
    return loss if part.weight == 1 else part.weight * loss  # saves two operations, as a rule


def _unconstrained(value: Tensor) -> Tensor:
    return value.unconstrained() if hasattr(value, "unconstrained") else value
