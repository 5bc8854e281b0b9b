"""The bound on data that are not trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from ppl_vae.buffers import untouched
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.estimators.kl_weight import KLWeight
from ppl_vae.evaluation.bounds import MAX_ROWS, evaluating
from ppl_vae.evaluation.estimate import Estimate
from ppl_vae.evaluation.seeding import seeded
from ppl_vae.training.distributed import Processes, together


@dataclass(frozen=True, eq=False)
class Validation:
    """Minus the importance-weighted bound on fixed data, the same draws each time.

    Args:
        programs: has ``model`` and ``guide``.
        args: all data, as the programs' arguments.
        num_particles: K; the ELBO with 1.
        seed: of the draws.
    """

    programs: nn.Module
    args: tuple[Tensor, ...]
    num_particles: int
    seed: int

    def check(self) -> None:
        """Look at the first data: an error comes before the training, not at its first validation.

        Raises:
            ValueError: if the data do not suit the programs, or those give no bound per datum.
        """
        with untouched(self.programs):
            check_per_datum(self.programs, [t[:1] for t in self.args], "validation needs them")

    @torch.no_grad()
    def bound(self, processes: Processes, fabric: Fabric, beta: float = 1.0) -> Estimate:
        """Return the mean over data, in nats per datum, each process computing its share.

        With β, the KL has that weight.
        """
        estimator = ImportanceWeightedELBO(self.num_particles)
        size = max(1, MAX_ROWS // self.num_particles)
        model, guide = _programs(self.programs)
        weight: Callable = (lambda program: program) if beta == 1 else KLWeight(beta)
        mine = [t[processes.rank :: processes.number] for t in self.args]
        values = [torch.zeros(0, device=fabric.device, dtype=torch.float64)]
        with (
            together(fabric),
            evaluating(model, guide),
            seeded("fit", self.seed + processes.rank),
        ):
            for start in range(0, len(mine[0]), size):
                some = [t[start : start + size] for t in mine]
                values.append(-estimator.per_datum(weight(model), weight(guide), *some).double())
        return _estimate(torch.cat(values), fabric)


def check_per_datum(programs: nn.Module, args: Sequence[Tensor], why: str) -> None:
    """Raise ValueError unless programs have a bound for each datum; the message says why."""
    model, guide = _programs(programs)
    try:
        with evaluating(model, guide), seeded("fit", 0):
            ImportanceWeightedELBO(1).per_datum(model, guide, *args)
    except ValueError as error:
        raise ValueError(
            f"fit: the programs give no bound per datum, and {why}: {error}"
        ) from error


def _programs(programs: nn.Module) -> tuple[nn.Module, nn.Module]:
    return programs.get_submodule("model"), programs.get_submodule("guide")


def _estimate(values: Tensor, fabric: Fabric) -> Estimate:
    """Return mean and standard error of the values of all processes."""
    if fabric.world_size == 1:
        return Estimate.of(values)
    sums = torch.stack([torch.ones_like(values).sum(), values.sum(), (values**2).sum()])
    number, total, squares = fabric.all_reduce(sums, reduce_op="sum").tolist()  # type: ignore[union-attr]
    mean = total / number
    variance = max(0.0, squares - number * mean**2) / max(1, number - 1)
    return Estimate(mean, math.sqrt(variance / number))
