"""Importance weights from compiled graphs, cached per pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pyro
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ppl_vae.compilation import CompiledFunction
from ppl_vae.evaluation.traced_batch import TracedBatch
from ppl_vae.protocols import ModelAndGuide

# model -> guide -> graphs. Weak, so that it keeps no program alive and is not part of a copy or a
# saved pair.
_graphs: WeakIdKeyDictionary = WeakIdKeyDictionary()


class CompiledLogWeights:
    """The log weights of two programs from compiled graphs, which do not validate values.

    Args:
        model: the generative program; not kept alive.
        guide: the variational program; likewise.
    """

    def __init__(self, model: nn.Module, guide: nn.Module) -> None:
        self._batch: TracedBatch | None = None
        self._num_particles = 0
        programs = {"model": model, "guide": guide}
        self._compiled = CompiledFunction(
            self._weights, programs, num_persistent=1, name="log_likelihood"
        )

    @classmethod
    def of(cls, pair: ModelAndGuide) -> CompiledLogWeights:
        """Return those of a pair, with the graphs of earlier calls."""
        model, guide = pair.model, pair.guide
        guides = _graphs.setdefault(model, WeakIdKeyDictionary())
        if guide not in guides:
            guides[guide] = cls(model, guide)
        return guides[guide]

    def sampler(self, batch: TracedBatch, num_particles: int) -> Callable[[], Tensor]:
        """Return a sampler of the log weights of new particles.

        Without a graph, after a warning, it is :meth:`TracedBatch.log_weights`.
        """
        tensors = (*batch.args, *batch.kwargs.values())
        # Kept only while tracing, since a batch holds the programs.
        self._batch, self._num_particles = batch, num_particles
        try:
            draw = self._compiled.sampler(
                *tensors,
                constants=(num_particles, len(batch.args), tuple(batch.kwargs), batch.particle_dim),
            )
        finally:
            self._batch = None
        if self._compiled.failed:
            return partial(batch.log_weights, num_particles)

        def weights() -> Tensor:
            (log_w,) = draw()
            assert log_w is not None
            return log_w

        return weights

    def _weights(self, *tensors: Tensor) -> tuple[Tensor]:
        batch = self._batch
        assert batch is not None
        args, others = tensors[: len(batch.args)], tensors[len(batch.args) :]
        traced = replace(batch, args=args, kwargs=dict(zip(batch.kwargs, others, strict=True)))
        with pyro.validation_enabled(False):
            return (traced.log_weights(self._num_particles),)
