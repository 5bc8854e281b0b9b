"""The state of a training, and the operations on it: step, log, validate, save, resume."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.buffers import MovingBuffers, kept_buffers
from ppl_vae.labels import assume_checked
from ppl_vae.process_state import exclusively, restored
from ppl_vae.random_state import generators, seed_everything, set_random_state
from ppl_vae.training.checkpoint_checks import (
    check_schedule,
    check_weights,
    checked_optimizer,
)
from ppl_vae.training.checkpoints import Checkpoint, copy_weights
from ppl_vae.training.compiled_objective import FullBatchObjective
from ppl_vae.training.data_stream import DataStream
from ppl_vae.training.deferred_checks import DeferredChecks, StepRecord
from ppl_vae.training.distributed import DataShard, any_process, shard, sharing_failures
from ppl_vae.training.history import Table
from ppl_vae.training.nan_tracing import FROM_ESTIMATOR, OVERFLOW, NotFiniteError, find_origin
from ppl_vae.training.objective import TrainingObjective
from ppl_vae.training.parameters import OptimizerCoverage, Parameters
from ppl_vae.training.precision import networks_only
from ppl_vae.training.schedules import Scheduled
from ppl_vae.training.stopping import Best, EarlyStopping
from ppl_vae.training.validation import Validation

_SEED_STRIDE = 1_000_003
"""Difference between the seeds of two processes."""


@dataclass(eq=False)
class Trainer:
    """A training in progress."""

    fabric: Fabric
    objective: TrainingObjective
    compiled: FullBatchObjective | None
    optimizer: Optimizer
    coverage: OptimizerCoverage
    lr_schedule: LRScheduler | None
    scheduled: Scheduled
    stream: DataStream
    validation: Validation | None
    stopping: EarlyStopping | None
    clip_norm: float | int | None
    seed: int
    settled: Callable[[int], bool]  # whether, after so many steps, all schedules have ended

    def __post_init__(self) -> None:
        fabric, objective = self.fabric, self.objective
        self.step = 0
        self.history = Table()
        self.validated = Table()
        self.best = Best()
        self.best_weights: dict[str, Tensor] | None = None
        self.saved = "Nothing was saved; give out= to be able to resume"
        """Where the last checkpoint is, in words, for errors."""
        several = fabric.world_size > 1
        self._distributed: nn.Module = fabric.setup_module(objective) if several else objective
        self._since_log: list[Tensor] = []
        self._loss = torch.tensor(math.nan)
        self._norm = torch.tensor(math.nan)
        self._rate: float | Tensor = math.nan
        self._validation_enabled = is_validation_enabled()
        # All of them: parameters may be frozen and unfrozen in the course of the training.
        self.parameters = Parameters(objective)
        self._first_fixed = self._fixed()
        self._moving = MovingBuffers(objective)
        self._deferred: DeferredChecks | None = None
        if not several and DeferredChecks.supports(self.optimizer, fabric.device):
            self._deferred = DeferredChecks(self.optimizer)

    def begin(self) -> None:
        """Seed the generators for the first step, and free old gradients."""
        self.parameters.free_gradients()
        self._seed(self.seed)

    def _seed(self, seed: int) -> None:
        seed_everything(seed + _SEED_STRIDE * self.fabric.global_rank)

    @exclusively()
    def take_step(self) -> None:
        """Take one step; raise NotFiniteError, maybe some steps later, if it was not finite."""
        fabric = self.fabric
        mine = shard(next(self.stream), fabric.global_rank, fabric.world_size)
        validate = self._validates_step
        self.scheduled.at(self.step)
        before = generators(fabric.device)
        restore_buffers = self._moving.snapshot()
        try:
            loss, of_parts = self._forward_and_backward(mine, validate)
        except BaseException as error:
            restore_buffers()
            if not isinstance(error, ValueError):
                raise
            # Pyro's validation reports a NaN without step and origin. NaN in the data it explains.
            if validate and all(part.finite for part in mine.parts):
                origin = self._origin(mine, before, torch.tensor(math.nan))
                if FROM_ESTIMATOR not in origin:
                    raise NotFiniteError(self.step, origin, self.saved) from error
            raise
        self._moving.update()
        losses = torch.cat([loss.detach()[None], of_parts])
        norm = self.parameters.gradient_norm(self.coverage.left_out)
        # The norm is over all processes, the loss is this one's.
        record = StepRecord(self.step, mine, before, restore_buffers, losses[0], losses[0] + norm)
        deferred = None if validate else self._deferred  # Pyro's validation synchronises anyway
        if deferred is None and any_process(fabric, not math.isfinite(record.total.item())):
            self.parameters.free_gradients()
            raise self._not_finite(record)
        if self.clip_norm is not None:
            parameters = self.parameters.named.values()
            nn.utils.clip_grads_with_norm_(parameters, float(self.clip_norm), norm)
        if deferred is None:
            self.optimizer.step()
        else:
            deferred.step(record)
        rate = self.optimizer.param_groups[0]["lr"]
        self._rate = rate.clone() if isinstance(rate, Tensor) else rate  # schedules write to it
        if self.lr_schedule is not None:
            self.lr_schedule.step()
        self._since_log.append(losses)
        self._loss = losses[0]
        self._norm, self._shard = norm, mine
        self.step += 1
        if self._deferred is not None and self._deferred.due:
            self.check_finite()

    @exclusively()
    def check_finite(self) -> None:
        """Raise NotFiniteError if a step whose check was deferred was not finite."""
        failure = None if self._deferred is None else self._deferred.first_failure()
        if failure is not None:
            raise self._not_finite(failure)

    @property
    def last_loss(self) -> float:
        """What the last step minimised in this process, in nats per datum."""
        return float(self._loss)

    @property
    def _validates_step(self) -> bool:
        """Whether Pyro's validation stays enabled for the step whose data were just drawn.

        It may change rounding, so it must depend on the position alone for an exact resumption.
        """
        # Data that were checked as a whole are validated for a step, others for an epoch.
        stream = self.stream
        return self._validation_enabled and not (self.step and (stream.checked or stream.epoch > 0))

    def _forward_and_backward(self, mine: DataShard, validate: bool) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of its parts, with gradients in the parameters."""
        # Where no label is missing, steps need not read labels, which would synchronise.
        labelled = self.stream.labelled and not validate
        tensors = [t for part in mine.parts for t in part.args] if labelled else []
        with assume_checked(*((t, False) for t in tensors)):
            return self._run(mine, validate)

    def _run(self, mine: DataShard, validate: bool) -> tuple[Tensor, Tensor]:
        if self.compiled is not None and self.compiled.supports(mine):
            if validate:
                self._validate_values(mine)  # which a graph does not
            with pyro.validation_enabled(False):
                return self.compiled(mine)
        self.parameters.free_gradients()  # before the new ones: memory is for one set of them
        # If enabled: as it was when fit was called.
        device = mine.parts[0].tensors[0].device.type
        with (
            nullcontext() if validate else pyro.validation_enabled(False),
            self.fabric.autocast(),
            # Networks that are run again for the backward pass have the precision of the forward.
            networks_only(self.objective, device),
        ):
            with sharing_failures(self.fabric):
                loss, of_parts = self._distributed(mine)
            loss.backward()
        return loss, of_parts

    def _validate_values(self, mine: DataShard) -> None:
        """Run the programs with Pyro's validation, and change nothing."""
        with restored(), kept_buffers(self.objective), torch.no_grad(), self.fabric.autocast():
            self.objective(mine)

    @exclusively()
    def log(self) -> dict[str, float | int]:
        """Add the means since the last call to the history, and return the row."""
        self.coverage.check(Parameters(self.objective))
        self.coverage.check_rates()
        means = torch.stack(self._since_log).double().mean(0)
        self._since_log = []
        objective, *losses = _mean_over_processes(means, self.fabric).tolist()
        row: dict[str, float | int] = {"step": self.step, "epoch": self.stream.epoch}
        row["loss"] = objective
        if len(losses) > 1:
            row |= dict(zip((part.name for part in self._shard.parts), losses, strict=True))
        if self.scheduled.weighted:
            row |= {"objective": objective, "loss": self._unweighted_loss()}
        row |= self.scheduled.values()
        row |= {"learning_rate": float(self._rate), "gradient_norm": float(self._norm)}
        self.history.append(row)
        self._to_loggers(row)
        return row

    def log_rest(self) -> None:
        """Add the means since the last call to the history, if a step was taken since."""
        if self._since_log:
            self.log()

    @exclusively()
    def validate(self) -> float:
        """Record minus the bound on the validation data, in nats per datum, and return it.

        With β, minus the objective is recorded, too.
        """
        assert self.validation is not None
        objective = bound = self.validation.bound(self.fabric)
        row = {"step": self.step, "loss": bound.mean, "standard_error": bound.standard_error}
        if self.scheduled.weighted:
            beta = self.scheduled.values()["beta"]
            if beta != 1:
                objective = self.validation.bound(self.fabric, beta)
            row |= {"objective": objective.mean, "beta": beta}
        self.validated.append(row)
        self._to_loggers(
            {f"validation_{name}": row[name] for name in ("loss", "objective") if name in row}
        )
        stopping = self.stopping
        monitored = bound if self._follows_bound else objective
        if self._counts(self.step):
            min_delta = stopping.min_delta if stopping else 0.0
            if self.best.improved(self.step, monitored.mean, min_delta) and stopping:
                self.best_weights = copy_weights(self.objective)
            if not self.settled(self.step):
                self.best.since = 0  # patience waits
        return bound.mean

    @property
    def _follows_bound(self) -> bool:
        return self.stopping is not None and self.stopping.monitor == "bound"

    def _counts(self, step: int) -> bool:
        """Tell whether a validation after so many steps counts for the best."""
        return self._follows_bound or self.settled(step)

    @property
    def out_of_patience(self) -> bool:
        """Whether it is time to stop early."""
        stopping = self.stopping
        return stopping is not None and self.best.since >= stopping.patience

    def use_best(self) -> None:
        """Load the best weights, if they were kept."""
        if self.best_weights is not None:
            self.objective.load_state_dict(self.best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the state, except weights and random number generators."""
        return {
            "step": self.step,
            "source": self.stream.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_schedule": None if self.lr_schedule is None else self.lr_schedule.state_dict(),
            "best": asdict(self.best),
            "history": self.history.state_dict(),
            "validation": self.validated.state_dict(),
            "since_log": [t.cpu() for t in self._since_log],
            "fixed": {"first": self._first_fixed, "now": self._fixed()},
        }

    def _fixed(self) -> list[str]:
        """Return the names of parameters that are not trained."""
        named = self.objective.named_parameters()
        return [name for name, parameter in named if not parameter.requires_grad]

    def load(self, found: Checkpoint, state: Mapping[str, Any]) -> None:
        """Load a checkpoint, with its state in the names of today; check all of it before."""
        folder = found.folder
        check_schedule(state["lr_schedule"], self.lr_schedule, folder)
        weights = found.weights()
        check_weights(weights, self.objective, f"{folder}: the weights")
        if found.best is not None:
            check_weights(found.best, self.objective, f"{folder}: the best weights")
        optimizer = checked_optimizer(state["optimizer"], self.optimizer, folder)
        self.stream.load_state_dict(state["source"], found.step)
        self.objective.load_state_dict(weights)
        self.step = found.step
        self.optimizer.load_state_dict(optimizer)
        if self.lr_schedule is not None:
            self.lr_schedule.load_state_dict(state["lr_schedule"])
        self.best, self.best_weights = Best(**state["best"]), found.best
        if self.best.step >= 0 and not self._counts(self.best.step):
            # The training is longer now, and a schedule no longer ends where it ended.
            self.best, self.best_weights = Best(), None
        self.history = Table(state["history"])
        self.validated = Table(state["validation"])
        self._since_log = [t.to(self.fabric.device) for t in state["since_log"]]
        fixed = state.get("fixed")  # since 0.3
        if fixed is not None and fixed["first"] == self._first_fixed:
            # As a callback left them; unless they begin otherwise now, which is then meant.
            for name, parameter in self.objective.named_parameters():
                parameter.requires_grad_(name not in fixed["now"])
        rank, number = self.fabric.global_rank, self.fabric.world_size
        if len(state["random"]) == number:
            set_random_state(state["random"][rank])
            return
        if rank == 0:
            warnings.warn(
                f"fit: the checkpoint is of {len(state['random'])} processes, got {number}: data "
                f"continue in the same order, latents are drawn anew",
                stacklevel=3,
            )
        self._seed(self.seed + self.step)

    def _unweighted_loss(self) -> float:
        """Return minus the bound without β on the last step's data, with new draws."""
        # With gradients, though unused: some of Pyro's estimators fail without.
        with restored(), kept_buffers(self.objective), self.fabric.autocast():
            loss, _ = self.objective(self._shard, weighted=False)
        return _mean_over_processes(loss.detach().double(), self.fabric).item()

    def _not_finite(self, record: StepRecord) -> NotFiniteError:
        record.restore_buffers()
        self.scheduled.at(record.step)  # β and the number of particles at that step
        origin = self._origin(record.inputs, record.generators, record.loss)
        return NotFiniteError(record.step, origin, self.saved)

    def _origin(self, mine: DataShard, before: Mapping[torch.device, Tensor], loss: Tensor) -> str:
        def forward() -> Tensor:
            with self.fabric.autocast():
                return self.objective(mine)[0]

        origin = find_origin(self.objective, before, forward, loss)
        if origin == OVERFLOW and self.fabric.world_size > 1:
            return "all is finite in this process; see the error of another one"
        return origin

    def _to_loggers(self, row: Mapping[str, float | int]) -> None:
        values = {name: value for name, value in row.items() if name != "step"}
        if self.fabric.is_global_zero:
            self.fabric.log_dict(values, step=self.step)


def _mean_over_processes(values: Tensor, fabric: Fabric) -> Tensor:
    mean = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean
