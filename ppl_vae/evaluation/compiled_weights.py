"""Importance weights from compiled graphs, which live as long as their programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pyro
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ppl_vae.compilation import CompiledFunction
from ppl_vae.evaluation.programs import Batch
from ppl_vae.evaluation.weights import summed_log_weights
from ppl_vae.protocols import ModelAndGuide

# model -> guide -> graphs. Nothing in there keeps a program alive, and a pair that is copied or
# written to a file knows nothing of it.
_graphs: WeakIdKeyDictionary = WeakIdKeyDictionary()


class CompiledWeights:
    """The log weights of two programs from graphs, as ``ppl_vae.compilation`` has them.

    Graphs do not check values: what comes before them does.

    Args:
        model: the generative program; not kept alive.
        guide: the variational program; likewise.
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self._batch: Batch | None = None
        self._num_particles = 0
        programs = {"model": model, "guide": guide}
        self._compiled = CompiledFunction(
            self._weights, programs, num_persistent=1, name="log_likelihood"
        )

    @classmethod
    def of(cls, pair: ModelAndGuide) -> CompiledWeights:
        """Return those of a pair, with the graphs that earlier calls have made."""
        model, guide = pair.model, pair.guide
        of_model = _graphs.setdefault(model, WeakIdKeyDictionary())
        if guide not in of_model:
            of_model[guide] = cls(model, guide)
        return of_model[guide]

    def ready(self, batch: Batch, num_particles: int) -> Callable[[], Tensor]:
        """Return a sampler of log weights: those of new particles at each call.

        It runs :func:`summed_log_weights` as it is, after a warning, where there is no graph.
        """
        tensors = (*batch.args, *batch.kwargs.values())
        # Known while a graph is made, and no longer: a batch holds the programs.
        self._batch, self._num_particles = batch, num_particles
        try:
            draw = self._compiled.prepare(
                *tensors,
                constants=(num_particles, len(batch.args), tuple(batch.kwargs), batch.particle_dim),
            )
        finally:
            self._batch = None
        if self._compiled.failed:
            return partial(summed_log_weights, batch, num_particles)

        def weights() -> Tensor:
            (log_w,) = draw()
            assert log_w is not None
            return log_w

        return weights

    def _weights(self, *tensors: Tensor) -> tuple[Tensor]:
        batch = self._batch
        assert batch is not None
        args, others = tensors[: len(batch.args)], tensors[len(batch.args) :]
        some = replace(batch, args=args, kwargs=dict(zip(batch.kwargs, others, strict=True)))
        with pyro.validation_enabled(False):
            return (summed_log_weights(some, self._num_particles),)
