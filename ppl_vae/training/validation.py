"""The bound on validation data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ppl_vae.data import Part
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.estimators.kl_weight import KLWeight
from ppl_vae.estimators.training_terms import without_training_terms
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.inputs import DatasetInputs, ProgramInputs, check_all_data
from ppl_vae.models.imputation import MAX_ROWS
from ppl_vae.module_modes import evaluating
from ppl_vae.process_state import seeded
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.training.distributed import sharing_failures

DENSE_ROWS = 1000
"""At most so many rows of a sparse matrix are dense at once, as in `Dataset.drawn_for`."""


@dataclass(frozen=True, eq=False)
class Validation:
    """Minus the importance-weighted bound on fixed data, with the same draws each time.

    Terms that only training has are left out.
    """

    programs: ModelAndGuide
    data: ProgramInputs  # all validation data
    num_particles: int  # K; the ELBO with 1
    seed: int  # of the draws

    def check(self) -> None:
        """Evaluate the first datum, to fail before the training and not at its first validation."""
        first = self.data.rows(slice(1))
        check_per_datum(self.programs, first, "validation needs them", self.num_particles)

    @torch.no_grad()
    def bound(self, fabric: Fabric, beta: float = 1.0) -> Estimate:
        """Return the mean over all processes' data, in nats per datum, with weight β on the KL."""
        estimator = ImportanceWeightedELBO(self.num_particles)
        size = max(1, MAX_ROWS // self.num_particles)
        model, guide = self.programs.model, self.programs.guide
        of_model, of_guide = without_training_terms(model, guide)
        if beta != 1:
            weight = KLWeight(beta)
            of_model, of_guide = weight(of_model), weight(of_guide)
        if isinstance(self.data, DatasetInputs):  # of a sparse matrix, or a file
            size = min(size, DENSE_ROWS)
        mine = range(len(self.data))[fabric.global_rank :: fabric.world_size]
        values = [torch.zeros(0, device=fabric.device, dtype=torch.float64)]
        with (
            sharing_failures(fabric),
            evaluating(model, guide),
            seeded("fit", (self.seed + fabric.global_rank) % 2**64),
        ):
            for start in range(0, len(mine), size):
                some = mine[start : start + size]
                rows = self.data.rows(slice(some.start, some.stop, some.step))
                bound = estimator.per_datum(of_model, of_guide, *rows.args, **rows.kwargs)
                values.append(-bound.double())
                check_all_data("fit", len(values[-1]), len(rows))
        return _estimate(torch.cat(values), fabric)


def check_per_datum(programs: ModelAndGuide, data: Part, why: str, num_particles: int = 1) -> None:
    """Raise ValueError, which says why it is needed, unless programs give a bound per datum."""
    model, guide = programs.model, programs.guide
    try:
        with evaluating(model, guide), seeded("fit", 0):
            ImportanceWeightedELBO(num_particles).per_datum(model, guide, *data.args, **data.kwargs)
    except ValueError as error:
        raise ValueError(
            f"fit: the programs give no bound per datum, and {why}: {error}"
        ) from error


def _estimate(values: Tensor, fabric: Fabric) -> Estimate:
    """Return mean and standard error of the values of all processes."""
    if fabric.world_size == 1:
        return Estimate.of(values)
    sums = torch.stack([torch.ones_like(values).sum(), values.sum()])
    number, total = fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
    mean = total / number
    # In two passes: a difference of sums of squares would cancel.
    deviations = fabric.all_reduce((values - mean).square().sum(), reduce_op="sum")
    variance = float(deviations) / max(1, number - 1)  # type: ignore[arg-type]
    return Estimate(mean, math.sqrt(variance / number), int(number))
