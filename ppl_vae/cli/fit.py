"""``ppl-vae fit``: train a pair, in a folder from which the training goes on or is repeated."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
from pyro.infer import ELBO

from ppl_vae import storage
from ppl_vae.cli.configuration import FILE, Configuration, name_of, written
from ppl_vae.cli.datasets import Split, for_training, held_out, loaded, per_class
from ppl_vae.cli.errors import NOT_FINITE, SUCCESS, UsageError
from ppl_vae.cli.output import say, show
from ppl_vae.cli.overrides import SWAPS, Override
from ppl_vae.cli.runs import CHECKPOINTS, MODEL, Run, program, resume
from ppl_vae.cli.settings import DeviceSettings, FitSettings
from ppl_vae.config import ConfigError, from_config
from ppl_vae.config.budget import LARGEST
from ppl_vae.config.errors import suggestion, told
from ppl_vae.estimators import cyclical_warm_up, linear_warm_up

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ppl_vae.training import EarlyStopping, Fitted

WARM_UPS: dict[str, tuple[Callable[..., Any], str]] = {
    "linear_warm_up": (linear_warm_up, "steps"),
    "cyclical_warm_up": (cyclical_warm_up, "period"),
}
"""The schedules of β that a configuration can name, and what their one number is."""


@dataclass(frozen=True)
class Plan:
    """What was typed, read and checked, before anything is written.

    Args:
        configuration: all that decides the training.
        split: the data.
        estimator: of the bound.
        beta: weight on the KL, or its schedule.
        stopping: when to stop early.
        folder: of the run.
        resume: go on with what is there.
    """

    configuration: Configuration
    split: Split
    estimator: ELBO
    beta: Any
    stopping: EarlyStopping | None
    folder: Path
    resume: bool


def run(flags: Any, overrides: Sequence[Override]) -> int:
    """Train, and return the exit code."""
    plan = planned(flags, overrides)
    if flags.print_config:
        show(plan.configuration.text().rstrip("\n"))
        return SUCCESS
    if _may_be_first():
        check_folder(plan)
    from ppl_vae import training  # not above: slow to import

    written = _Written(plan)
    fabric = made_fabric(plan, written)
    fabric.launch()
    try:
        fitted = _train(plan, fabric, written, not flags.quiet)
    except training.Interrupted as error:
        if fabric.is_global_zero:
            name = signal.Signals(error.signal).name
            say(f"{name} after step {error.step}, saved; to go on: {resume(plan.folder)}")
        return 128 + error.signal
    except training.NotFiniteError as error:
        if fabric.is_global_zero:
            kept = plan.folder / CHECKPOINTS
            saved = f"{kept} has what was saved" if kept.exists() else "nothing was saved yet"
            say(
                f"step {error.step}: {error.origin}; {saved}. A lower --optimiser.lr, or "
                f"--fit.clip_norm 100, often helps"
            )
        return NOT_FINITE
    finally:
        for logger in fabric.loggers:
            logger.finalize("")
    if fabric.is_global_zero:
        show(_summary(plan, fitted))
    return SUCCESS


def planned(flags: Any, overrides: Sequence[Override]) -> Plan:
    """Return what is to be done.

    Raises:
        UsageError: if there is no such configuration, or it does not go together.
        ConfigError: if an entry is wrong.
        ValueError: if the data do not suit.
        OSError: if the data are not there.
    """
    swaps: list[Override] = [
        ([*place.split("."), "class"], getattr(flags, name))
        for name, place in SWAPS.items()
        if getattr(flags, name) is not None
    ]
    tree = written(flags.configuration, [*swaps, *overrides], flags.logger)
    configuration = Configuration.of(tree)
    given = flags.configuration
    if flags.out is not None:
        folder = Path(flags.out)
    elif flags.resume and given is not None and (Path(given) / FILE).is_file():
        folder = Path(given)
    else:
        name = name_of(given, configuration.model)
        folder = Path("runs") / f"{name}-{Path(configuration.data.name).stem}"
    data = loaded(configuration.data, "train")
    try:
        configuration = configuration.resolved(data)
    except ConfigError as error:
        raise ConfigError(_with_flag(str(error))) from error
    if configuration.data.labels is not None and "classifier" not in configuration.model:
        raise UsageError(
            f"data.labels is for a SemiSupervisedVAE, and the model is a "
            f"{configuration.model['class']}; leave it out, or try ppl-vae fit ssvae"
        )
    if (configuration.fit.steps is None) == (configuration.fit.epochs is None):
        raise UsageError("give either fit.steps or fit.epochs: how long to train")
    if configuration.fit.stopping is not None and configuration.data.validation == 0:
        raise UsageError(
            "fit.stopping needs data to validate on; give data.validation, such as 0.1"
        )
    split = held_out(data, configuration.data)
    if configuration.data.labels is not None:
        per_class(configuration.data.labels, split.train)
    return Plan(
        configuration=configuration,
        split=split,
        estimator=configuration.estimator.make(),
        beta=beta_of(configuration.fit),
        stopping=stopping_of(configuration.fit),
        folder=folder,
        resume=flags.resume,
    )


def check_folder(plan: Plan) -> None:
    """Raise an error if the run may not be written.

    Raises:
        UnsafeError: if there is a link in its folder.
        UsageError: if there is a run already, or another one than is to go on.
    """
    # A checkpoint that is one is set aside later.
    storage.refuse_links(plan.folder, but=lambda path: path.parent == plan.folder / CHECKPOINTS)
    there = (plan.folder / FILE).exists()
    if not plan.resume and (there or (plan.folder / CHECKPOINTS).exists()):
        raise UsageError(
            f"there is a run in {plan.folder}; go on with it, {resume(plan.folder)}, or give "
            f"another --out"
        )
    if plan.resume and there:
        plan.configuration.check_goes_on(Run(plan.folder).configuration, plan.folder)


class _Written:
    """Writes what a run folder has besides what ``fit`` writes, while that holds the folder.

    Args:
        plan: whose folder.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.pair: Any = None
        """What is trained."""
        self.summary = ""
        """What the data are taken to be."""

    def on_run_open(self) -> None:
        """Write the configuration: the training is about to begin, or to go on."""
        if _may_be_first():
            show(self.summary)
            storage.clear_leftovers(self._plan.folder)
            self._plan.configuration.write(self._plan.folder)

    def on_run_close(self) -> None:
        """Write the trained pair."""
        if _may_be_first():
            storage.save(self.pair, self._plan.folder / MODEL)


def made_fabric(plan: Plan, written: object = None) -> Fabric:
    """Return Fabric with the devices and the logger of a configuration.

    Raises:
        ConfigError: if Fabric refuses them, or the logger's package is missing.
    """
    from lightning_fabric import Fabric

    settings: DeviceSettings = plan.configuration.devices
    devices: Any = settings.devices
    nodes = settings.num_nodes
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun has started the processes
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    one = devices == 1 or (isinstance(devices, list) and len(devices) == 1)
    strategy = settings.strategy
    if strategy == "auto" and not (one and nodes == 1):
        # Some have parameters without a gradient, such as a classifier where all labels are seen.
        strategy = "ddp_find_unused_parameters_true"
    try:
        return Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=settings.precision,
            loggers=_logger(plan),
            callbacks=written,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"logger: {plan.configuration.logger} needs a package that is not installed: pip "
            f"install {plan.configuration.logger}"
        ) from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"devices: {error}") from error


def beta_of(settings: FitSettings) -> Any:
    """Return β, or its schedule.

    Raises:
        ConfigError: if there is no such schedule, or it refuses its arguments.
    """
    given = settings.beta
    if not isinstance(given, dict):
        return given
    name = next(iter(given), "")
    if len(given) != 1 or name not in WARM_UPS:
        raise ConfigError(
            f"fit.beta must be a number or one schedule, got {told(given)}; "
            f"{suggestion(name, WARM_UPS)}"
        )
    make, number = WARM_UPS[name]
    of_schedule: Any = given[name]
    arguments = of_schedule if isinstance(of_schedule, dict) else {number: of_schedule}
    try:
        return make(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fit.beta.{name}: {error}") from error


def stopping_of(settings: FitSettings) -> EarlyStopping | None:
    """Return when to stop early.

    Raises:
        ConfigError: if it refuses its arguments.
    """
    if settings.stopping is None:
        return None
    from ppl_vae.training import EarlyStopping

    try:
        return EarlyStopping(**settings.stopping)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fit.stopping: {error}") from error


def _may_be_first() -> bool:
    """Tell whether this process, not yet among others, may be the one that writes."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _train(plan: Plan, fabric: Fabric, written: _Written, progress: bool) -> Fitted:
    from ppl_vae.training import data_summary, fit

    configuration = plan.configuration
    settings, schedule = configuration.fit, configuration.lr_schedule
    pyro.set_rng_seed(settings.seed)  # of which the initial weights follow
    written.pair = pair = from_config(configuration.model, data=plan.split.train, max_bytes=LARGEST)
    given = for_training(pair, plan.split, configuration.data, settings, fabric.device)
    written.summary = data_summary(pair, given["data"], given["validation"])
    fitted = fit(
        pair,
        **given,
        steps=settings.steps,
        epochs=settings.epochs,
        estimator=plan.estimator,
        optimiser=configuration.optimiser.make,
        lr_schedule=None if schedule is None else schedule.make,
        beta=plan.beta,
        clip_norm=settings.clip_norm,
        validate_every=settings.validate_every,
        validation_particles=settings.validation_particles,
        stopping=plan.stopping,
        out=plan.folder,
        checkpoint_every=settings.checkpoint_every,
        keep=settings.keep,
        resume=plan.resume,
        fabric=fabric,
        compile=settings.compile,
        seed=settings.seed,
        log_every=settings.log_every,
        progress=progress,
    )
    fabric.barrier()
    return fitted


def _logger(plan: Plan) -> Any:
    name = plan.configuration.logger
    if name is None:
        return None
    from lightning_fabric import loggers

    make = loggers.TensorBoardLogger if name == "tensorboard" else loggers.CSVLogger
    return make(root_dir=plan.folder, name=name)


def _summary(plan: Plan, fitted: Fitted) -> str:
    lines = [f"{fitted.steps} steps" + (", stopped early" if fitted.stopped == "patience" else "")]
    if len(fitted.history.get("loss", ())):
        lines.append(f"training loss   {fitted.history['loss'][-1]:.2f} nats per datum")
    if len(fitted.validation.get("loss", ())):
        row = -1
        if plan.stopping is not None and fitted.best_step is not None:  # whose weights are left
            row = fitted.validation["step"].tolist().index(fitted.best_step)
        loss, error = (fitted.validation[k][row] for k in ("loss", "standard_error"))
        lines.append(f"validation loss {loss:.2f} ± {error:.2f} nats per datum")
    lines += [f"run: {plan.folder}", f"next: {program()} evaluate {plan.folder}"]
    return "\n".join(lines)


def _with_flag(message: str) -> str:
    """Return an error of the model with the flag that mends it."""
    path, missing, _ = message.partition(" is missing: ")
    return f"{message}; on the command line --{path}" if missing and " " not in path else message
