"""The state of a training and the moves that change it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.buffers import Moving, kept_buffers
from ppl_vae.labels import known
from ppl_vae.process_state import exclusively
from ppl_vae.random_state import (
    generators,
    random_state,
    restored,
    seed_everything,
    set_generators,
    set_random_state,
)
from ppl_vae.training.checkpoint_checks import check_entries, check_schedule, check_weights
from ppl_vae.training.checkpoints import Checkpoint, Checkpoints, put_back, weights
from ppl_vae.training.compiled import CompiledShares
from ppl_vae.training.data_source import Source
from ppl_vae.training.deferred_checks import Attempt, Lookout
from ppl_vae.training.distributed import Processes, Share, any_of, greatest, together
from ppl_vae.training.history import Table
from ppl_vae.training.nan_tracing import FINITE, MADE_BY_ESTIMATOR, NotFiniteError, origin
from ppl_vae.training.objective import Objective
from ppl_vae.training.optimizer_state import checked_optimizer
from ppl_vae.training.parameters import Holdings, Parameters, check_rates, total_norm
from ppl_vae.training.schedules import Scheduled
from ppl_vae.training.settings import Declaration, with_current_names
from ppl_vae.training.stopping import Best, EarlyStopping
from ppl_vae.training.validation import Validation

_APART = 1_000_003
"""How far the seeds of two processes are apart."""


@dataclass(frozen=True)
class Parts:
    """What a run is made of; none of it changes.

    Args:
        fabric: devices, precision and loggers.
        objective: what is minimised.
        stepper: the same, as Fabric has set it up for several processes.
        compiled: the same, compiled, for shares that suit it; None if not asked for.
        optimizer: of all parameters.
        holdings: whether it holds all that is to be trained.
        lr_schedule: of the learning rate.
        scheduled: the estimator.
        source: of the training data.
        validation: of the bound on other data.
        stopping: when to stop early.
        clip_norm: the greatest norm of the gradient.
        seed: of everything.
    """

    fabric: Fabric
    objective: Objective
    stepper: nn.Module
    compiled: CompiledShares | None
    optimizer: Optimizer
    holdings: Holdings
    lr_schedule: LRScheduler | None
    scheduled: Scheduled
    source: Source
    validation: Validation | None
    stopping: EarlyStopping | None
    clip_norm: float | int | None
    seed: int


class Run:
    """A training under way.

    Args:
        parts: what it is made of.
        settled: whether a validation after so many steps counts for the best.
    """

    def __init__(self, parts: Parts, settled: Callable[[int], bool]) -> None:
        self.parts = parts
        self._settled = settled
        self.processes = Processes(parts.fabric.global_rank, parts.fabric.world_size)
        self.step = 0
        self.history = Table()
        self.validated = Table()
        self.best = Best()
        self.best_weights: dict[str, Tensor] | None = None
        self.loss = math.nan
        self._since_log: list[Tensor] = []
        self._norm = torch.tensor(math.nan)
        self._rate: float | Tensor = math.nan
        self._validates = is_validation_enabled()
        # All: some may be frozen now and not later, and the other way round.
        self._parameters = list(parts.objective.parameters())
        self._moving = Moving(parts.objective)
        self._lookout: Lookout | None = None
        if self.processes.number == 1 and Lookout.suits(parts.optimizer, parts.fabric.device):
            self._lookout = Lookout(parts.optimizer)

    def begin(self) -> None:
        """Seed what the first step draws from, and forget gradients from before."""
        self.forget_gradients()
        seed_everything(self.parts.seed + _APART * self.processes.rank)

    @exclusively()
    def train(self, saved: str) -> None:
        """Take one step.

        Args:
            saved: where the last checkpoint is, in words, for an error.

        Raises:
            NotFiniteError: if the loss or the gradient is not finite; weights and buffers have not
                changed. On a GPU it may come some steps later, as :meth:`look` has it.
            RuntimeError: if another process failed.
        """
        parts = self.parts
        share = self.processes.share(next(parts.source))
        check = self._looks_at_values
        parts.scheduled.at(self.step)
        before = generators(parts.fabric.device)
        put_back = self._moving.keep()
        try:
            loss, of_parts = self._differentiated(share, check)
        except BaseException as error:
            put_back()
            if not isinstance(error, ValueError):
                raise
            # Of NaN, Pyro's validation says neither step nor origin. Data with NaN it explains.
            nowhere = torch.tensor(math.nan)
            if check and all(part.finite for part in share.parts):
                found = self._origin(share, before, nowhere)
                if MADE_BY_ESTIMATOR not in found:
                    raise NotFiniteError(self.step, found, saved) from error
            raise
        self._moving.look()
        losses = torch.cat([loss.detach()[None], of_parts])
        norm = total_norm([p.grad for p in self._parameters if p.grad is not None])
        # The norm is that of all processes, the loss this one's; their sum is finite if both are.
        attempt = Attempt(self.step, share, before, put_back, losses[0], losses[0] + norm)
        later = self._lookout is not None and not check  # Pyro's validation waits, too
        if not later and any_of(parts.fabric, not math.isfinite(attempt.sum.item())):
            self.forget_gradients()
            raise self._not_finite(attempt, saved)
        if parts.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, float(parts.clip_norm), norm)
        if later:
            assert self._lookout is not None
            self._lookout.step(attempt)
        else:
            parts.optimizer.step()
        rate = parts.optimizer.param_groups[0]["lr"]
        self._rate = rate.clone() if isinstance(rate, Tensor) else rate  # schedules write on it
        if parts.lr_schedule is not None:
            parts.lr_schedule.step()
        self._since_log.append(losses)
        self._norm, self._share = norm, share
        self.step += 1
        if self._lookout is not None and self._lookout.due:
            self.look(saved)

    @exclusively()
    def look(self, saved: str) -> None:
        """See whether the last steps were finite, where that was not seen at each of them.

        Args:
            saved: as for :meth:`train`.

        Raises:
            NotFiniteError: if one was not; that one, and those after it, were not taken.
        """
        spoilt = None if self._lookout is None else self._lookout.first_spoilt()
        if spoilt is not None:
            raise self._not_finite(spoilt, saved)

    @property
    def _looks_at_values(self) -> bool:
        """Whether Pyro's validation is left on for the step whose data were just drawn.

        That must follow from the place alone: sums may round in another way with it, and a training
        that is gone on with is to be the same.
        """
        # Values that were all looked at beforehand need no second look; others get it for an epoch.
        source = self.parts.source
        return self._validates and not (self.step and (source.whole or source.epoch > 0))

    def _differentiated(self, share: Share, check: bool) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of its parts, with gradients in the parameters."""
        parts = self.parts
        # All labels were looked at, and none is missing: no step waits for the device to say so.
        labelled = parts.source.labelled and not check
        tensors = [t for part in share.parts for t in part.args] if labelled else []
        with known(*((t, False) for t in tensors)):
            return self._run(share, check)

    def _run(self, share: Share, check: bool) -> tuple[Tensor, Tensor]:
        parts = self.parts
        if parts.compiled is not None and parts.compiled.suits(share):
            if check:
                self._look_at(share)  # which a graph does not
            with pyro.validation_enabled(False):
                return parts.compiled(share)
        # Pyro's validation is as it was given to fit, and off where there is nothing new to it.
        off: AbstractContextManager = nullcontext() if check else pyro.validation_enabled(False)
        self.forget_gradients()  # before the new ones are there: memory is for one of each
        with off:
            with together(parts.fabric), parts.fabric.autocast():
                loss, of_parts = parts.stepper(share)
            loss.backward()
        return loss, of_parts

    def _look_at(self, share: Share) -> None:
        """Let the programs check the values of a share, and change nothing."""
        objective = self.parts.objective
        with restored(), kept_buffers(objective), torch.no_grad(), self.parts.fabric.autocast():
            objective(share)

    @exclusively()
    def log(self) -> dict[str, float | int]:
        """Add the means since the last time to the history, and return the row.

        Raises:
            ValueError: if something that is trainable by now, or again, was not trained, or the
                learning rate is no rate.
        """
        parts = self.parts
        parts.holdings.check(Parameters(parts.objective))
        check_rates("fit", parts.optimizer)
        means = torch.stack(self._since_log).double().mean(0)
        self._since_log = []
        objective, *each = _mean_over_processes(means, parts.fabric).tolist()
        names = [part.name for part in self._share.parts]
        row: dict[str, float | int] = {
            "step": self.step,
            "epoch": parts.source.epoch,
            "loss": objective,
        }
        if len(names) > 1:
            row |= dict(zip(names, each, strict=True))
        if parts.scheduled.weighted:
            row |= {"objective": objective, "loss": self._unweighted()}
        row |= parts.scheduled.values()
        row |= {
            "learning_rate": float(self._rate),
            "gradient_norm": float(self._norm),
        }
        self.history.append(row)
        self.loss = row["loss"]
        self._to_loggers(row)
        return row

    @exclusively()
    def validate(self) -> float:
        """Add minus the bound on the validation data, in nats per datum, and return it.

        With β, minus the objective is added, too.
        """
        parts = self.parts
        assert parts.validation is not None
        objective = bound = parts.validation.bound(self.processes, parts.fabric)
        row = {"step": self.step, "loss": bound.mean, "standard_error": bound.standard_error}
        if parts.scheduled.weighted:
            beta = parts.scheduled.values()["beta"]
            if beta != 1:
                objective = parts.validation.bound(self.processes, parts.fabric, beta)
            row |= {"objective": objective.mean, "beta": beta}
        self.validated.append(row)
        self._to_loggers(
            {f"validation_{name}": row[name] for name in ("loss", "objective") if name in row}
        )
        stopping = parts.stopping
        followed = bound if stopping and stopping.monitor == "bound" else objective
        if self._settled(self.step):
            min_delta = stopping.min_delta if stopping else 0.0
            if self.best.improved(self.step, followed.mean, min_delta) and stopping:
                self.best_weights = weights(parts.objective)
        return bound.mean

    @property
    def out_of_patience(self) -> bool:
        """Whether it is time to stop early."""
        stopping = self.parts.stopping
        return stopping is not None and self.best.since >= stopping.patience

    def use_best(self) -> None:
        """Give the pair its best weights, if they were kept."""
        if self.best_weights is not None:
            put_back(self.parts.objective, self.best_weights)

    @exclusively()
    def save(self, checkpoints: Checkpoints, declaration: Declaration) -> None:
        """Write a checkpoint and the history, by the first process.

        Raises:
            OSError: if they cannot be written.
            RuntimeError: if another process failed.
        """
        parts = self.parts
        mine = random_state()
        every = [mine]
        if self.processes.number > 1:
            every = [None] * self.processes.number  # type: ignore[list-item]
            torch.distributed.all_gather_object(every, mine)
        with together(parts.fabric):
            if self.processes.rank == 0:
                state = {**self.state_dict(declaration), "random": every}
                checkpoints.save(self.step, parts.objective, state, self.best_weights)
                self.write(checkpoints.folder.parent)

    def state_dict(self, declaration: Declaration) -> dict[str, Any]:
        """Return the state, but for the weights and the random number generators."""
        parts, schedule = self.parts, self.parts.lr_schedule
        return {
            "declaration": declaration.words(),
            "step": self.step,
            "source": parts.source.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "lr_schedule": None if schedule is None else schedule.state_dict(),
            "best": self.best.state_dict(),
            "history": self.history.state_dict(),
            "validation": self.validated.state_dict(),
            "since_log": [t.cpu() for t in self._since_log],
        }

    def resume(self, checkpoints: Checkpoints, declaration: Declaration, total: int) -> bool:
        """Go on from the newest checkpoint; tell whether there was one.

        Args:
            checkpoints: where.
            declaration: of this training, which must be that of the checkpoint.
            total: the steps of this training.

        Raises:
            DamagedError: if all checkpoints are damaged.
            MismatchError: if they are of another pair.
            RuntimeError: if processes do not see the same folder, or another one failed.
            ValueError: if the declaration is another, or the checkpoint of a later step than the
                last one of this training.
        """
        fabric, found = self.parts.fabric, None
        # The first process sets what is damaged aside; the others find the rest.
        for first in (True, False) if self.processes.number > 1 else (True,):
            with together(fabric):
                if (self.processes.rank == 0) == first:
                    found = checkpoints.newest()
        step = -1 if found is None else found.step
        newest = greatest(fabric, step)
        if any_of(fabric, step != newest):
            raise RuntimeError(
                f"fit: for process {self.processes.rank} the newest checkpoint in "
                f"{checkpoints.folder} is of step {step} (-1: none), and for another one of "
                f"another step; all processes need the same folder"
            )
        with together(fabric):
            if found is not None:
                self._load(found, declaration, total)
        return found is not None

    def _load(self, found: Checkpoint, declaration: Declaration, total: int) -> None:
        """Take over the state of a checkpoint."""
        parts = self.parts
        state, folder = with_current_names(found.state), found.folder
        check_entries(state, found.step, folder)
        declaration.check(state["declaration"], folder)
        if found.step > total:
            raise ValueError(
                f"fit: steps={total} ends before step {found.step}, of which {folder} is\n"
                f"Give {found.step} or more, or another folder as out"
            )
        # All is looked at before anything is used.
        check_schedule(state["lr_schedule"], parts.lr_schedule, folder)
        weights_there = found.weights()
        check_weights(weights_there, parts.objective, f"{folder}: the weights")
        if found.best is not None:
            check_weights(found.best, parts.objective, f"{folder}: the best weights")
        optimizer = checked_optimizer(state["optimizer"], parts.optimizer, folder)
        parts.source.load_state_dict(state["source"], found.step)
        put_back(parts.objective, weights_there)
        self.step = found.step
        parts.optimizer.load_state_dict(optimizer)
        if parts.lr_schedule is not None:
            parts.lr_schedule.load_state_dict(state["lr_schedule"])
        self.best.load_state_dict(state["best"])
        self.best_weights = found.best
        if self.best.step >= 0 and not self._settled(self.best.step):
            # The training is longer now, and a schedule does not end where it ended.
            self.best, self.best_weights = Best(), None
        self.history = Table(state["history"])
        self.validated = Table(state["validation"])
        self._since_log = [t.to(parts.fabric.device) for t in state["since_log"]]
        if len(state["random"]) == self.processes.number:
            set_random_state(state["random"][self.processes.rank])
        else:
            if self.processes.rank == 0:
                warnings.warn(
                    f"fit: the checkpoint is of {len(state['random'])} processes, and there are "
                    f"{self.processes.number} now: the data go on as they were, with other draws "
                    f"of the latents",
                    stacklevel=3,
                )
            seed_everything(parts.seed + self.step + _APART * self.processes.rank)

    def write(self, folder: Path) -> None:
        """Write the histories as CSV."""
        self.history.write(folder / "history.csv")
        if len(self.validated):
            self.validated.write(folder / "validation.csv")

    def _unweighted(self) -> float:
        """Return minus the bound without β of the last step's data, at other draws."""
        fabric = self.parts.fabric
        # With gradients, though none is wanted: some of Pyro's estimators refuse to go without.
        with restored(), kept_buffers(self.parts.objective), fabric.autocast():
            loss, _ = self.parts.objective(self._share, weighted=False)
        return _mean_over_processes(loss.detach().double(), fabric).item()

    def _not_finite(self, attempt: Attempt, saved: str) -> NotFiniteError:
        attempt.put_back()
        self.parts.scheduled.at(attempt.step)  # of β and the number of particles, as it was then
        found = self._origin(attempt.inputs, attempt.before, attempt.loss)
        return NotFiniteError(attempt.step, found, saved)

    def _origin(self, share: Share, before: Mapping[str, Tensor], loss: Tensor) -> str:
        def rerun() -> Tensor:
            with restored(), kept_buffers(self.parts.objective), self.parts.fabric.autocast():
                set_generators(self.parts.fabric.device, before)
                objective, _ = self.parts.objective(share)
            return objective

        found = origin(self.parts.objective, rerun, loss)
        if found == FINITE and self.processes.number > 1:
            return "all is finite in this process, and not in another one, which says more"
        return found

    def forget_gradients(self) -> None:
        """Free the gradients of all parameters."""
        # Of all: an optimiser may have some of the parameters only.
        for parameter in self._parameters:
            parameter.grad = None

    def _to_loggers(self, row: Mapping[str, float | int]) -> None:
        values = {name: value for name, value in row.items() if name != "step"}
        if self.processes.rank == 0:
            self.parts.fabric.log_dict(values, step=self.step)


def _mean_over_processes(values: Tensor, fabric: Fabric) -> Tensor:
    mean = fabric.all_reduce(values, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean
