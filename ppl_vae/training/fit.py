"""Training any pair under any estimator."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, SingleDeviceStrategy
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ppl_vae.errors import describe, positive_int
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.evaluation.bounds import ModelAndGuide
from ppl_vae.training.loop import Every, RunFolder, loop
from ppl_vae.training.objective import Objective
from ppl_vae.training.randomness import restored
from ppl_vae.training.run import Parts, Run
from ppl_vae.training.schedules import Scheduled
from ppl_vae.training.sources import fixed, source_of
from ppl_vae.training.stopping import EarlyStopping
from ppl_vae.training.validation import Validation


@dataclass(frozen=True)
class Fitted:
    """What a training leaves behind, besides the trained pair.

    Args:
        steps: how many were taken.
        stopped: why it ended: ``"steps"``, or ``"patience"`` for an early stop.
        history: name -> an array, with an entry each ``log_every`` steps. ``loss`` is minus the
            bound in nats per datum, the mean over the steps since the last entry. With β it is that
            of β = 1 on the data of the last step alone, and ``objective`` is the mean of what was
            minimised. Where data come in several parts, ``loss`` is their weighted sum, and a
            column of each part's name has its own.
        validation: likewise, with an entry for each validation.
        best_step: the step of the best validation; None if there was none.
    """

    steps: int
    stopped: str
    history: dict[str, np.ndarray]
    validation: dict[str, np.ndarray]
    best_step: int | None


def fit(
    pair: ModelAndGuide,
    data: Any,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    estimator: ELBO | None = None,
    optimiser: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    lr_schedule: Callable[[Optimizer], LRScheduler] | None = None,
    beta: float | int | Callable[[int], float] | None = None,
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
    seed: int = 0,
    log_every: int = 50,
    progress: bool = True,
) -> Fitted:
    r"""Train any model/guide pair, in place, under any estimator of a bound.

    Each step minimises minus the estimator's bound in nats per datum; where data come in several
    parts (:class:`ppl_vae.data.SemiSupervised`) Σ_parts weight · (minus the mean bound of the
    part). Pyro's parameter store plays no part.

    With ``out``, checkpoints are written there from which an interrupted training goes on exactly:
    ``fit`` with the same arguments and ``resume=True`` ends with the same weights and history, bit
    for bit on the same machine, as if it had not been interrupted.

    Everything random follows from ``seed``: the order of the data, their binarisation, latents and
    dropout. The generators of torch, numpy and Python are left as they were. The networks' initial
    weights are the pair's.

    Args:
        pair: a pair of this package, or any object whose ``model`` and ``guide`` are modules.
        data: a :class:`ppl_vae.data.Dataset`, its batches, :class:`ppl_vae.data.SemiSupervised`, a
            tensor ``(N, *event)``, or any iterable of batches such as a ``DataLoader``. Grey values
            of a data set are binarised anew at each step for a likelihood of 0 and 1. Labels, or a
            batch's further tensors, go to programs that take them.
        steps: how many steps to take.
        epochs: as many steps as this many passes over the data, in the place of ``steps``.
        batch_size: data per step, in all processes together; 100 where the data have none.
        estimator: any ``pyro.infer.ELBO``; the ELBO, labels summed exactly, if not given.
        optimiser: makes the optimiser of the parameters, such as
            ``functools.partial(torch.optim.AdamW, lr=1e-4)``; Adam at a rate of 1e-3 by default.
        lr_schedule: makes the schedule of an optimiser's rate, stepped at every step.
        beta: the weight on the KL, or a function of the step
            (:func:`ppl_vae.estimators.linear_warm_up`).
        num_particles: the estimator's number of particles as a function of the step.
        clip_norm: scale the gradient to this norm where it is greater.
        validation: data on which to follow the bound: a data set, a tensor, or a tuple of the
            programs' arguments. Binarised once, and latents drawn with the same seed each time.
        validate_every: steps.
        validation_particles: K of the importance-weighted bound; the ELBO with 1.
        stopping: when to stop early; the weights of the best validation are then what is left.
        out: a folder, for checkpoints and the history as CSV.
        checkpoint_every: steps.
        keep: how many checkpoints to keep, the newest.
        resume: go on from the newest checkpoint in ``out``, if there is one.
        fabric: devices, processes, precision and loggers, such as ``Fabric(devices=2)``; the
            pair's device if not given.
        seed: of everything random.
        log_every: steps between entries of the history.
        progress: show a progress bar.

    Returns:
        The history; the pair itself is trained.

    Raises:
        FileExistsError: if ``out`` has checkpoints and ``resume`` is False.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after a checkpoint is written to ``out``.
        NotFiniteError: if the loss or a gradient is not finite; names the step and where it began.
        OSError: if a checkpoint cannot be written; the one before stays whole.
        TypeError: if an argument is of another type.
        ValueError: if arguments contradict each other, or data do not suit the pair.

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
    counts = {
        "steps": steps,
        "epochs": epochs,
        "batch_size": batch_size,
        "validate_every": validate_every,
        "validation_particles": validation_particles,
        "checkpoint_every": checkpoint_every,
        "keep": keep,
        "log_every": log_every,
    }
    _check_numbers({k: v for k, v in counts.items() if v is not None}, seed, clip_norm)
    if stopping is not None and validation is None:
        raise ValueError("fit: stopping needs validation, got None; give validation=")
    fabric = _launched(fabric, pair)
    with restored():
        like = _on_device(pair, fabric)
        source = source_of(pair, data, batch_size, seed, like)
        total = _total_steps(steps, epochs, source.batches)
        scheduled = Scheduled(estimator or ImportanceWeightedELBO(1), beta, num_particles, total)
        objective = Objective(pair, scheduled, source.first()[0].args)
        made = (optimiser or _adam)([p for p in objective.parameters() if p.requires_grad])
        parts = Parts(
            fabric=fabric,
            objective=objective,
            stepper=fabric.setup_module(objective),
            optimiser=made,
            lr_schedule=None if lr_schedule is None else lr_schedule(made),
            scheduled=scheduled,
            source=source,
            validation=None
            if validation is None
            else Validation(
                objective, fixed(pair, validation, seed, like), validation_particles, seed
            ),
            stopping=stopping,
            clip_norm=clip_norm,
            seed=seed,
        )
        run = Run(parts)
        run.begin()
        folder = None
        if out is not None:
            folder = RunFolder(Path(out), keep, _settings(parts, beta, num_particles))
            folder.open(run, resume)
        every = Every(None if validation is None else validate_every, checkpoint_every, log_every)
        stopped = loop(run, total, every, folder, progress)
        run.use_best()
    return Fitted(
        steps=run.step,
        stopped=stopped,
        history=run.history.arrays(),
        validation=run.validated.arrays(),
        best_step=run.best.step if run.best.step >= 0 else None,
    )


def _adam(parameters: list[nn.Parameter]) -> Optimizer:
    return Adam(parameters, lr=1e-3, fused=True)


def _launched(fabric: Fabric | None, pair: ModelAndGuide) -> Fabric:
    """Return Fabric with its processes running: those of torchrun, or one on the pair's device."""
    if not isinstance(pair, ModelAndGuide) or not all(
        isinstance(program, nn.Module) for program in (pair.model, pair.guide)
    ):
        raise TypeError(
            f"fit: pair must have a model and a guide that are modules, got {describe(pair)}; a "
            f"program that is a function can be the forward method of one"
        )
    if fabric is None:
        device = _like(pair).device
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if here > 1 or int(os.environ.get("WORLD_SIZE", 1)) > 1:
            fabric = Fabric(
                accelerator="cpu" if device.type == "cpu" else "auto",
                devices=here,
                num_nodes=int(os.environ["WORLD_SIZE"]) // here,
                strategy="ddp_find_unused_parameters_true",
            )
        else:
            devices: Any = 1 if device.index is None else [device.index]
            fabric = Fabric(accelerator=device.type, devices=devices)
    if not isinstance(fabric.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise ValueError(
            f"fit: strategy must keep all weights in each process, as 'auto' and 'ddp' do, got "
            f"{type(fabric.strategy).__name__}"
        )
    precision = fabric.strategy.precision.precision
    if precision not in ("32-true", "64-true", "bf16-mixed"):
        raise ValueError(
            f"fit: precision must be '32-true', '64-true' or 'bf16-mixed' (networks in bfloat16, "
            f"densities in float32), got {precision!r}: log-densities need more digits"
        )
    if not fabric._launched:
        fabric.launch()
    return fabric


def _like(pair: ModelAndGuide) -> Tensor:
    """Return a parameter of the device and dtype of all."""
    for program in (pair.model, pair.guide):
        for parameter in program.parameters():
            if parameter.is_floating_point():
                return parameter
    return torch.empty(0)


def _on_device(pair: ModelAndGuide, fabric: Fabric) -> Tensor:
    for program in (pair.model, pair.guide):
        fabric.to_device(fabric.strategy.precision.convert_module(program))
    return _like(pair)


def _total_steps(steps: int | None, epochs: int | None, batches: Any) -> int:
    if steps is not None:
        return steps
    assert epochs is not None
    if not hasattr(batches, "__len__"):
        raise TypeError(
            f"fit: epochs={epochs} needs data with a len(), the number of batches, and "
            f"{type(batches).__name__} has none; give steps="
        )
    return epochs * len(batches)


def _settings(parts: Parts, beta: object, num_particles: object) -> dict[str, str]:
    """Return what must be the same for a training to go on, by name, in words."""
    bound = parts.scheduled.bound
    numbers = {k: v for k, v in vars(bound).items() if isinstance(v, (int, float, str))}
    if num_particles is not None:
        numbers.pop("num_particles", None)
    defaults = {
        k: v for k, v in parts.optimiser.defaults.items() if isinstance(v, (int, float, tuple))
    }
    return {
        "estimator": f"{type(bound).__name__} with {numbers}",
        "beta": _words(beta),
        "num_particles": _words(num_particles),
        "optimiser": f"{type(parts.optimiser).__name__} with {defaults}",
        "lr_schedule": type(parts.lr_schedule).__name__,
        "clip_norm": _words(parts.clip_norm),
        "stopping": _words(parts.stopping),
        "seed": _words(parts.seed),
    }


def _words(value: object) -> str:
    """Return what says the same in another process: an address in memory does not."""
    if isinstance(value, (int, float, NoneType)) or is_dataclass(value):
        return repr(value)
    return f"{getattr(value, '__qualname__', type(value).__qualname__)}"


def _check_numbers(
    counts: Mapping[str, object], seed: object, clip_norm: float | int | None
) -> None:
    for name, value in counts.items():
        positive_int("fit", name, value)
    if ("steps" in counts) == ("epochs" in counts):
        raise ValueError("fit: give either steps= or epochs=, how long to train")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"fit: seed must be an integer, got {describe(seed)}")
    if clip_norm is not None and not 0 < clip_norm < math.inf:
        raise ValueError(
            f"fit: clip_norm must be finite and above 0, got {describe(clip_norm)}; leave it out "
            f"for no clipping"
        )
