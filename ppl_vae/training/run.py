"""The state of a training and the moves that change it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.buffers import untouched
from ppl_vae.randomness import random_state, restored, seed_everything, set_random_state
from ppl_vae.training.checkpoints import Checkpoint, Checkpoints, put_back, weights
from ppl_vae.training.compiled import CompiledShares
from ppl_vae.training.distributed import Processes, Share, any_of, greatest, together
from ppl_vae.training.guard import FINITE, MADE_BY_ESTIMATOR, NotFiniteError, origin
from ppl_vae.training.history import Table
from ppl_vae.training.objective import Objective
from ppl_vae.training.schedules import Scheduled
from ppl_vae.training.settings import compare
from ppl_vae.training.sources import Source
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
        stepper: the same, as Fabric has set it up.
        compiled: the same, compiled, for shares that suit it; None if not asked for.
        optimiser: of all parameters.
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
    optimiser: Optimizer
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
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.processes = Processes(parts.fabric.global_rank, parts.fabric.world_size)
        self.step = 0
        self.history = Table()
        self.validated = Table()
        self.best = Best()
        self.best_weights: dict[str, Tensor] | None = None
        self.loss = math.nan
        self._since_log: list[Tensor] = []
        self._norm = torch.tensor(math.nan)
        self._rate = math.nan
        self._validated_values = False
        self._parameters = [p for p in parts.objective.parameters() if p.requires_grad]

    def begin(self) -> None:
        """Seed what the first step draws from, and forget gradients from before."""
        self._forget_gradients()
        seed_everything(self.parts.seed + _APART * self.processes.rank)

    def train(self, saved: str) -> None:
        """Take one step.

        Args:
            saved: where the last checkpoint is, in words, for an error.

        Raises:
            NotFiniteError: if the loss or the gradient is not finite; nothing has changed.
            RuntimeError: if another process failed.
        """
        parts = self.parts
        share = self.processes.share(next(parts.source))
        parts.scheduled.at(self.step)
        before = _generators(parts.fabric.device)
        check = not self._validated_values
        try:
            loss, of_parts = self._differentiated(share, check)
        except ValueError as error:
            # Of NaN, Pyro's validation says neither step nor origin. Data with NaN it explains.
            nowhere = torch.tensor(math.nan)
            if check and all(t.isfinite().all() for part in share.parts for t in part.args):
                found = self._origin(share, before, nowhere)
                if MADE_BY_ESTIMATOR not in found:
                    raise NotFiniteError(self.step, found, saved) from error
            raise
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # The norm is that of all processes, the loss this one's.
        if any_of(parts.fabric, not torch.isfinite(loss.detach() + norm)):
            self._forget_gradients()
            raise NotFiniteError(self.step, self._origin(share, before, loss.detach()), saved)
        if parts.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, float(parts.clip_norm), norm)
        parts.optimiser.step()
        self._rate = float(parts.optimiser.param_groups[0]["lr"])
        self._forget_gradients()
        if parts.lr_schedule is not None:
            parts.lr_schedule.step()
        self._since_log.append(torch.cat([loss.detach()[None], of_parts]))
        self._norm, self._share = norm, share
        self.step += 1
        # Values that were all looked at beforehand need no second look; others get it for an epoch.
        self._validated_values = parts.source.whole or parts.source.epoch > 0

    def _differentiated(self, share: Share, check: bool) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of its parts, with gradients in the parameters."""
        parts = self.parts
        if parts.compiled is not None and parts.compiled.suits(share):
            if check:
                self._look_at(share)  # which a graph does not
            with pyro.validation_enabled(False):
                return parts.compiled(share)
        with pyro.validation_enabled(check):
            with together(parts.fabric):
                loss, of_parts = parts.stepper(share)
            parts.fabric.backward(loss)
        return loss, of_parts

    def _look_at(self, share: Share) -> None:
        """Let the programs check the values of a share, and change nothing."""
        objective, autocast = self.parts.objective, self.parts.fabric.autocast()
        nothing_changes = restored(), untouched(objective), torch.no_grad()
        with ExitStack() as stack:
            for context in (*nothing_changes, autocast, pyro.validation_enabled(True)):
                stack.enter_context(context)
            objective(share)

    def log(self) -> dict[str, float | int]:
        """Add the means since the last time to the history, and return the row."""
        parts = self.parts
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
            "learning_rate": self._rate,
            "gradient_norm": float(self._norm),
        }
        self.history.append(row)
        self.loss = row["loss"]
        self._to_loggers(row)
        return row

    def validate(self) -> float:
        """Add minus the bound on the validation data, in nats per datum, and return it."""
        parts = self.parts
        assert parts.validation is not None
        bound = parts.validation.bound(self.processes, parts.fabric)
        self.validated.append(
            {"step": self.step, "loss": bound.mean, "standard_error": bound.standard_error}
        )
        self._to_loggers({"validation_loss": bound.mean})
        min_delta = parts.stopping.min_delta if parts.stopping else 0.0
        if self.best.improved(self.step, bound.mean, min_delta) and parts.stopping:
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

    def save(self, checkpoints: Checkpoints, settings: Mapping[str, str]) -> None:
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
                state = {**self.state_dict(settings), "random": every}
                checkpoints.save(self.step, parts.objective, state, self.best_weights)
                self.write(checkpoints.folder.parent)

    def state_dict(self, settings: Mapping[str, str]) -> dict[str, Any]:
        """Return the state, but for the weights and the random number generators."""
        parts, schedule = self.parts, self.parts.lr_schedule
        return {
            "settings": dict(settings),
            "step": self.step,
            "source": parts.source.state_dict(),
            "optimiser": parts.optimiser.state_dict(),
            "lr_schedule": None if schedule is None else schedule.state_dict(),
            "best": self.best.state_dict(),
            "history": self.history.state_dict(),
            "validation": self.validated.state_dict(),
            "since_log": [t.cpu() for t in self._since_log],
        }

    def resume(self, checkpoints: Checkpoints, settings: Mapping[str, str]) -> bool:
        """Go on from the newest checkpoint; tell whether there was one.

        Raises:
            DamagedError: if all checkpoints are damaged.
            MismatchError: if they are of another pair.
            RuntimeError: if processes do not see the same folder, or another one failed.
            ValueError: if settings were others.
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
                self._load(found, settings)
        return found is not None

    def _load(self, found: Checkpoint, settings: Mapping[str, str]) -> None:
        """Take over the state of a checkpoint."""
        parts = self.parts
        state = found.state
        compare(state["settings"], settings, found.folder)
        parts.source.load_state_dict(state["source"])
        found.load_weights(parts.objective)
        self.step = found.step
        parts.optimiser.load_state_dict(state["optimiser"])
        if parts.lr_schedule is not None:
            parts.lr_schedule.load_state_dict(state["lr_schedule"])
        self.best.load_state_dict(state["best"])
        self.best_weights = found.best
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
        with restored(), untouched(self.parts.objective), fabric.autocast():
            loss, _ = self.parts.objective(self._share, weighted=False)
        return _mean_over_processes(loss.detach().double(), fabric).item()

    def _origin(self, share: Share, before: Mapping[str, Tensor], loss: Tensor) -> str:
        def rerun() -> Tensor:
            with restored(), untouched(self.parts.objective), self.parts.fabric.autocast():
                _set_generators(self.parts.fabric.device, before)
                objective, _ = self.parts.objective(share)
            return objective

        found = origin(self.parts.objective, rerun, loss)
        if found == FINITE and self.processes.number > 1:
            return "all is finite in this process, and not in another one, which says more"
        return found

    def _forget_gradients(self) -> None:
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


def _generators(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the generators that a step draws from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_generators(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
