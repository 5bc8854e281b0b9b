"""Training any pair under any estimator."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from pyro.infer import ELBO
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae import estimators
from ppl_vae.compilation import NotCompiledWarning
from ppl_vae.deprecation import renamed_argument
from ppl_vae.errors import describe, path_of
from ppl_vae.module_modes import training
from ppl_vae.process_state import exclusively, own_state
from ppl_vae.protocols import ModelAndGuide
from ppl_vae.random_state import seed_everything
from ppl_vae.spec import MAY_CHANGE, checked
from ppl_vae.training.arguments import (
    check_kind,
    checked_estimator,
    default,
    made_optimizer,
    made_schedule,
)
from ppl_vae.training.callbacks import Callback, Callbacks, checked_callbacks
from ppl_vae.training.compiled_objective import FullBatchObjective
from ppl_vae.training.data_stream import (
    DataStream,
    check_classes,
    make_stream,
    validation_data,
)
from ppl_vae.training.distributed import shard
from ppl_vae.training.fabric import avoid_gpu_search, launch, on_device
from ppl_vae.training.loop import loop
from ppl_vae.training.objective import TrainingObjective
from ppl_vae.training.output_folder import OutputFolder
from ppl_vae.training.parameters import OptimizerCoverage, Parameters
from ppl_vae.training.precision import MIXED, check_mixed
from ppl_vae.training.schedules import Scheduled
from ppl_vae.training.settings import Declaration, optimizer_settings, pair_settings
from ppl_vae.training.stopping import EarlyStopping, Settled
from ppl_vae.training.trainer import Trainer
from ppl_vae.training.validation import Validation, check_per_datum


@dataclass(frozen=True)
class FitResult:
    """The result of a training, besides the trained pair.

    Args:
        steps: how many were taken.
        stopped: why it ended: ``"steps"``, ``"patience"`` for an early stop, or ``"callback"``.
        history: name -> an array, with an entry each ``log_every`` steps, and at the end. ``loss``
            is minus the bound, and terms of training such as a classification term, in nats per
            datum, the mean over the steps since the last entry. With β it is that of β = 1 on the
            data of the last step alone, and ``objective`` is the mean of what was minimised. Where
            data come in several parts, ``loss`` is their weighted sum, and a column of each part's
            name has its own.
        validation: likewise, with an entry for each validation, and no terms of training: ``loss``
            is minus the bound, and with β ``objective`` minus the bound with that weight.
        best_step: the step of the best validation, by ``objective`` where there is β, among those
            that count (:class:`EarlyStopping`); None if there was none.
    """

    steps: int
    stopped: str
    history: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    best_step: int | None

    def __repr__(self) -> str:
        why = {
            "steps": "",
            "patience": ", stopped early",
            "callback": ", stopped by a callback",
        }.get(self.stopped, f", {self.stopped}")
        lines = [f"FitResult({self.steps} step{'s' * (self.steps != 1)}{why}"]
        lines += [f"  {name}: {value}" for name, value in self._rows()]
        return "\n".join(lines) + ")"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td>{value}</td></tr>"
            for name, value in [("steps", self.steps), ("stopped by", self.stopped), *self._rows()]
        )
        return f"<table>{rows}</table>"

    def _rows(self) -> list[tuple[str, str]]:
        """Return what is shown of the result: names and values."""
        rows = []
        if len(losses := self.history.get("loss", np.empty(0))):
            rows.append(("training loss", f"{losses[0]:.2f} → {losses[-1]:.2f} nats per datum"))
        if len(losses := self.validation.get("loss", np.empty(0))):
            error = self.validation["standard_error"][-1]
            rows.append(("validation loss", f"{losses[-1]:.2f} ± {error:.2f} nats per datum"))
        if self.best_step is not None:
            rows.append(("best step", str(self.best_step)))
        return rows


@renamed_argument("optimiser", "optimizer")
def fit(
    pair: ModelAndGuide,
    data: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    estimator: ELBO | None = None,
    optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
    beta: float | int | Callable[[int], float] | None = None,
    temperature: float | int | Callable[[int], float] | None = None,
    num_particles: Callable[[int], int] | None = None,
    clip_norm: float | int | None = None,
    validation: Any = None,
    validate_every: int = 1000,
    validation_particles: int = 1,
    stopping: EarlyStopping | None = None,
    out: str | Path | None = None,
    checkpoint_every: int = 1000,
    keep: int = 2,
    resume: bool = False,
    fabric: Fabric | None = None,
    compile: bool = False,
    seed: int = 0,
    log_every: int = 50,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
) -> FitResult:
    r"""Train any model/guide pair, in place, under any estimator of a bound.

    Each step minimises minus the estimator's bound in nats per datum; where data come in several
    parts (:class:`ppl_vae.data.SemiSupervised`) Σ_parts weight · (minus the mean bound of the
    part). Pyro's parameter store plays no part.

    With ``out``, checkpoints are written there from which an interrupted training goes on exactly:
    ``fit`` with the same arguments and ``resume=True`` ends with the same weights and history, bit
    for bit on the same machine, as if it had not been interrupted. What differs is refused by name:
    pair, data, and all arguments but ``steps``, ``epochs``, ``checkpoint_every``, ``keep``,
    ``log_every``, ``callbacks``, ``progress``, ``validate_every`` without ``stopping``, and of
    ``fabric`` all but the precision.

    Pyro's validation, if it is on, is left on for the first batch, and for the first epoch of data
    whose values were not all looked at beforehand; ``pyro.enable_validation(False)`` before
    switches it off.

    Everything random follows from ``seed``: the order of the data, their binarisation, latents and
    dropout. The generators of torch, numpy and Python are left as they were. The networks' initial
    weights are the pair's.

    A program in evaluation mode is trained in training mode, with dropout, and left in evaluation
    mode. In one that is in training mode, a part that is not, such as a fixed encoder, stays so.

    Args:
        pair: a pair of this package, or any object whose ``model`` and ``guide`` are modules.
        data: a :class:`ppl_vae.data.Dataset`, its batches, :class:`ppl_vae.data.SemiSupervised`, a
            tensor or an array ``(N, *event)``, or any iterable of batches such as a ``DataLoader``.
            Grey values of a data set are binarised anew at each step for a likelihood of 0 and 1,
            integers are counts for one of counts, and images flattened for a flat one
            (`data_summary` says all of it); programs of your own get a data set flat and grey, and
            a floating tensor as it is. Labels of a data set go to programs that take a second
            argument, -1 for a datum without one, and its mask to ``mask=``; x is 0 where it is
            missing. A batch may be a mapping of the programs' arguments by name; what no program
            takes is an error.
        steps: how many steps to take.
        epochs: as many steps as this many passes over the data, in the place of ``steps``.
        batch_size: data per step, in all processes together; 100 where the data have none.
        estimator: any ``pyro.infer.ELBO`` that torch can differentiate; the ELBO, labels summed
            exactly, if not given.
        optimizer: makes the optimiser of the parameters, such as
            ``functools.partial(torch.optim.AdamW, lr=1e-4)``; Adam at a rate of 1e-3 by default.
        lr_schedule: makes the schedule of an optimiser's rate, stepped at every step.
        beta: the weight on the KL, or a function of the step
            (:func:`ppl_vae.estimators.linear_warm_up`).
        temperature: τ of the gradients of relaxed draws, above 0, or a function of the step, for a
            posterior such as ``posteriors.RelaxedBernoulli``; its own if not given.
        num_particles: the estimator's number of particles as a function of the step.
        clip_norm: scale the gradient, that of the optimiser's parameters, to this norm where it is
            greater.
        validation: data on which to follow the bound: a data set, a tensor, an array, or the
            programs' arguments, a tuple or a mapping by name. Binarised once, and latents drawn
            with the same seed each time. Weights that programs have of their own, by
            ``poutine.scale``, stay: what is followed is then their loss, and no bound.
        validate_every: steps.
        validation_particles: K of the importance-weighted bound; the ELBO with 1.
        stopping: when to stop early; the weights of the best validation are then what is left.
        out: a folder, for checkpoints and the history as CSV.
        checkpoint_every: steps.
        keep: how many checkpoints to keep, the newest.
        resume: go on from the newest checkpoint in ``out``, if there is one.
        fabric: devices, processes, precision and loggers, such as ``Fabric(devices=2)``; the
            pair's device if not given. Its callbacks' ``on_run_open()`` is called when the training
            is about to begin or to go on, and ``on_run_close()`` at its end.
        compile: compile the forward and backward pass of full batches to one graph, checked
            against the uncompiled step; see :func:`ppl_vae.training.compile_step`. Takes seconds
            to a minute at the start. With several processes steps stay as they are.
        seed: of everything random.
        log_every: steps between entries of the history.
        callbacks: :class:`Callback` objects, called after steps, after validations and at the end.
        progress: show a progress bar.

    Returns:
        The history; the pair itself is trained.

    Raises:
        BlockingIOError: if another training writes into ``out``; the message says which.
        FileExistsError: if ``out`` has checkpoints and ``resume`` is False.
        KeyboardInterrupt: on Ctrl-C, SIGTERM or SIGHUP, after a checkpoint is written to ``out``.
        NotFiniteError: if the loss or a gradient is not finite; names the step and where it began;
            that step, and any after it, was not taken.
        OSError: if a checkpoint cannot be written, before the training where that can be known; the
            one before stays whole.
        RuntimeError: if another process failed.
        TypeError: if an argument is of another type.
        ValueError: if arguments contradict each other, data are incompatible with the pair, a
            program has parameters in Pyro's store alone, the optimiser does not hold the parameters
            that are trained, or holds others, a schedule gives an invalid weight, number or rate,
            the precision is mixed and networks are not in float32, or a checkpoint is of
            another training.

    Example:
        >>> from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
        >>> vae = VAE(
        ...     prior=priors.StandardNormal(2),
        ...     posterior=posteriors.DiagonalNormal(nets.MLP(64, 4)),
        ...     likelihood=likelihoods.Bernoulli(nets.MLP(2, 64)),
        ... )
        >>> fitted = fit(vae, data.load("digits"), steps=10, log_every=5, progress=False)
        >>> fitted.history["step"]
        array([ 5, 10])
    """
    given = Namespace(**checked("fit", locals()))
    if (given.steps is None) == (given.epochs is None):
        raise ValueError("fit: give either steps= or epochs=, how long to train")
    if out is None and given.resume:
        raise ValueError("fit: resume=True needs the folder of the checkpoints; give out=")
    folder = None if out is None else path_of("fit", "out", out)
    usual = estimator is None
    bound = default("estimator", estimators) if usual else checked_estimator("fit", estimator)
    watching = checked_callbacks("fit", callbacks)
    if stopping is not None:
        check_kind("fit", "stopping", stopping, EarlyStopping, "EarlyStopping(patience)")
        if validation is None:
            raise ValueError("fit: stopping needs validation, got None; give validation=")
    if fabric is not None:
        check_kind("fit", "fabric", fabric, Fabric, "a lightning_fabric.Fabric, Fabric(devices=1)")
    fabric = launch(fabric, pair)
    avoid_gpu_search()
    # With a store of its own: PyroModules would take over by name what another pair left there.
    with own_state(), training(pair.model, pair.guide), ExitStack() as turn:
        turn.enter_context(exclusively())
        seed_everything(given.seed)  # some guides draw their first weights below
        like = on_device(pair, fabric)
        stream = make_stream(pair, data, given.batch_size, given.seed, like)
        total = _total_steps(given.steps, given.epochs, stream.batches)
        scheduled = Scheduled(bound, beta, num_particles, total, temperature=temperature)
        first = stream.first()[0]
        objective = TrainingObjective(pair, scheduled, first)
        if temperature is not None and not any(map(objective.has_temperature, stream.first())):
            raise ValueError(
                f"fit: temperature is that of relaxed draws, such as those of "
                f"posteriors.RelaxedBernoulli, and the pair has none, got "
                f"{describe(temperature)}; leave temperature out"
            )
        if usual:
            why = "the default estimator needs them; give another estimator"
            check_per_datum(objective, first, why)
        objective.warm_up(first)
        if fabric.strategy.precision.precision == MIXED:
            check_mixed("fit", objective, fabric.device, depth=1)
        parameters = Parameters(objective)
        made = made_optimizer(optimizer, parameters.trainable)
        coverage = OptimizerCoverage(made, "fit", partial=True)
        coverage.check(parameters)
        declared = optimizer_settings(made, objective)
        following = None
        if validation is not None:
            check_classes(data, validation)
            held_out = validation_data(pair, validation, given.seed, like)
            following = Validation(objective, held_out, given.validation_particles, given.seed)
            following.check()
        trainer = Trainer(
            fabric=fabric,
            objective=objective,
            compiled=_compiled(objective, stream, fabric) if given.compile else None,
            optimizer=made,
            coverage=coverage,
            lr_schedule=made_schedule(lr_schedule, made),
            scheduled=scheduled,
            stream=stream,
            validation=following,
            stopping=stopping,
            clip_norm=given.clip_norm,
            seed=given.seed,
            settled=Settled(
                [*scheduled.schedules.values(), num_particles], total, [*scheduled.first, 0]
            ),
        )
        run_folder = None
        if folder is not None:
            decisive: dict[str, Any] = {"precision": fabric.strategy.precision.precision}
            decisive |= {n: value for n, value in vars(given).items() if n not in MAY_CHANGE}
            del decisive["optimizer"]  # declared by what it made
            decisive |= {
                **pair_settings(pair),
                "data": data,
                "batch_size": getattr(stream.batches, "batch_size", None),
                "estimator": scheduled.bound,
                **scheduled.settings(),
                "lr_schedule": trainer.lr_schedule,
                "validate_every": None if stopping is None else given.validate_every,
            }
            declaration = Declaration(decisive, declared)
            run_folder = OutputFolder(folder, given.keep, declaration, trainer)
        trainer.begin()
        with run_folder.opened(total, given.resume) if run_folder else nullcontext():
            fabric.call("on_run_open")
            called = Callbacks(watching, pair, total, trainer)
            turn.close()
            try:
                stopped = loop(
                    trainer,
                    total,
                    run_folder,
                    validate_every=given.validate_every,
                    checkpoint_every=given.checkpoint_every,
                    log_every=given.log_every,
                    progress=given.progress,
                    callbacks=called,
                )
            finally:
                trainer.parameters.free_gradients()
                if fabric.is_global_zero:
                    for logger in fabric.loggers:
                        logger.save()  # some keep many rows back
            with exclusively():
                trainer.use_best()
            result = FitResult(
                steps=trainer.step,
                stopped=stopped,
                history=trainer.history.arrays(),
                validation=trainer.validated.arrays(),
                best_step=trainer.best.step if trainer.best.step >= 0 else None,
            )
            called.end(result)
            fabric.call("on_run_close")
    return result


def _compiled(
    objective: TrainingObjective, stream: DataStream, fabric: Fabric
) -> FullBatchObjective | None:
    if fabric.world_size > 1:
        text = "fit: compile=True is for one process; the steps of several are run as they are"
        warnings.warn(text, NotCompiledWarning, stacklevel=4)
        return None
    return FullBatchObjective(objective, shard(stream.first()), fabric.autocast)


def _total_steps(steps: int | None, epochs: int | None, batches: Any) -> int:
    if steps is not None:
        return steps
    assert epochs is not None
    try:
        return epochs * len(batches)
    except TypeError as error:  # no len(), or of a stream that has none
        raise TypeError(
            f"fit: epochs={epochs} needs data with a len(), the number of batches; give steps="
        ) from error
