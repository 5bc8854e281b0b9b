"""``ppl-vae fit``: train a pair, in a folder from which the run is resumed or repeated."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyro
from torch import Tensor

from ppl_vae import io
from ppl_vae.cli import datasets, schedules
from ppl_vae.cli.configuration import FILE, Configuration, name_of, written
from ppl_vae.cli.data_source import located, note_source
from ppl_vae.cli.errors import NOT_FINITE, SUCCESS, UsageError
from ppl_vae.cli.flags import Flag
from ppl_vae.cli.output import say, show
from ppl_vae.cli.runs import CHECKPOINTS, DATA, MODEL, Run, is_device, pair_in, program, resume
from ppl_vae.errors import reason
from ppl_vae.io.atomic import clear_leftovers, write_file
from ppl_vae.io.config import ConfigError, from_config
from ppl_vae.io.errors import brief
from ppl_vae.io.format import BUILD_BYTES
from ppl_vae.spec import entries

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from ppl_vae import training
    from ppl_vae.models import Pair
    from ppl_vae.training import FitResult


@dataclass(frozen=True)
class Plan:
    """A training to run: what was typed, read and checked before anything is written."""

    configuration: Configuration
    split: datasets.Split
    labelled: Tensor | None
    """The training data whose label a semi-supervised pair is shown; None for one stream."""
    arguments: dict[str, Any]
    """Of :func:`ppl_vae.training.fit`, but for the data and the run."""
    folder: Path
    data: str
    """Their name, or where they are."""
    resume: bool


def run(typed: Any, flags: Sequence[Flag]) -> int:
    """Train, and return the exit code."""
    plan = planned(typed, flags)
    if typed.print_config:
        show(plan.configuration.text().rstrip("\n"))
        return SUCCESS
    if _may_be_first():
        _check_folder(plan)
        if plan.labelled is not None:
            say(datasets.labels_in_words(plan.split.train, plan.labelled))
    from ppl_vae import training  # not above: slow to import

    written = _Written(plan)
    fabric = _fabric(plan, written)
    fabric.launch()
    try:
        fitted = _train(plan, fabric, written, not typed.quiet)
    except training.Interrupted as error:
        if fabric.is_global_zero:
            say_interrupted(error, resume(plan.folder))
        return 128 + error.signal
    except training.NotFiniteError as error:
        if fabric.is_global_zero:
            say_not_finite(
                error,
                plan.folder,
                "A lower --optimizer.lr, --fit.clip_norm 100, or --model.likelihood.min_scale 0.01 "
                "where a scale is learned, often helps",
            )
        return NOT_FINITE
    finally:
        for logger in fabric.loggers:
            logger.finalize("")
    if fabric.is_global_zero:
        show(_summary(plan, fitted))
    return SUCCESS


def say_interrupted(error: training.Interrupted, command: str) -> None:
    """Report a training that a signal ended, and the command that goes on with it."""
    name = signal.Signals(error.signal).name
    say(f"{name} after step {error.step}, saved; to go on: {command}")


def say_not_finite(error: training.NotFiniteError, folder: Path, advice: str) -> None:
    """Report where a loss was not finite, what was saved, and what may help."""
    kept = folder / CHECKPOINTS
    saved = f"{kept} has what was saved" if kept.exists() else "nothing was saved yet"
    say(f"step {error.step}: {error.origin}; {saved}. {advice}")


def planned(typed: Any, flags: Sequence[Flag]) -> Plan:
    """Return the training that was typed."""
    given = typed.configuration
    configuration = Configuration.of(written(given, flags))
    folder = _folder(typed, configuration)
    before = _before(typed, folder)
    if before is not None:
        configuration = Configuration.of(written(given, flags, before))
    name = configuration.data.name
    if before is not None and before.data.name == name:
        name = located(folder, name)
    data = datasets.loaded(replace(configuration.data, name=name), "train")
    said = any(flag.path == ["data", "labels"] for flag in flags)
    partly = data.labels is not None and not data.labelled.all()
    is_shipped = given is None or not Path(given).expanduser().exists()
    if partly and not said and is_shipped:
        # The data determine which labels are known, not a shipped configuration.
        configuration = replace(configuration, data=replace(configuration.data, labels=None))
    datasets.check_labels(data, configuration.data)
    configuration = configuration.resolved(data)
    semi_supervised = "classifier" in configuration.model
    if configuration.data.labels is not None and not semi_supervised:
        raise UsageError(
            f"data.labels is for a SemiSupervisedVAE, and the model is a "
            f"{configuration.model['class']}; leave it out, or try ppl-vae fit ssvae"
        )
    if configuration.model["class"] == "ConditionalVAE" and data.labels is not None:
        datasets.check_all_labelled(data, "ConditionalVAE")
    if configuration.fit.stopping is not None and configuration.data.validation == 0:
        raise UsageError("fit.stopping needs data to validate on; give data.validation 0.1, say")
    if configuration.fit.temperature is not None and not _has_temperature(configuration.model):
        raise UsageError(
            "fit.temperature is for a posterior with relaxed draws; leave it out, or try "
            "--posterior RelaxedBernoulli --prior Bernoulli"
        )
    split = datasets.held_out(data, configuration.data)
    steps = configuration.steps(len(split.train))
    if before is not None:  # whose lengths are of the training as it was begun
        steps = before.steps(len(split.train))
    ready = configuration.in_steps(steps)
    if configuration.init is not None and before is None:
        pair_in(configuration.init)
    labelled = datasets.shown(split.train, configuration.data) if semi_supervised else None
    return Plan(
        # What is printed is for a training of any length.
        configuration=configuration if typed.print_config else ready,
        split=split,
        labelled=labelled,
        arguments=_arguments(ready),
        folder=folder,
        data=name,
        resume=typed.resume,
    )


def _has_temperature(part: Any) -> bool:
    """Return whether a part of a resolved configuration has a temperature."""
    if isinstance(part, Mapping):
        return "temperature" in part or any(map(_has_temperature, part.values()))
    return isinstance(part, list) and any(map(_has_temperature, part))


def _arguments(configuration: Configuration) -> dict[str, Any]:
    """Return the arguments of ``fit`` that a configuration gives."""
    given, schedule = configuration.fit, configuration.lr_schedule
    return {
        **{entry.name: getattr(given, entry.name) for entry in entries("fit")},
        "estimator": configuration.estimator.make(),
        "optimizer": configuration.optimizer.make,
        "lr_schedule": None if schedule is None else schedule.make,
        "beta": schedules.schedule(given.beta, "fit.beta"),
        "temperature": schedules.schedule(given.temperature, "fit.temperature"),
        "num_particles": schedules.particles(given.num_particles),
        "stopping": schedules.stopping(given.stopping),
    }


def _folder(typed: Any, configuration: Configuration) -> Path:
    """Return the folder of the run."""
    given = typed.configuration
    here = Path(given) if given is not None and (Path(given) / FILE).is_file() else None
    if typed.out is not None:
        return Path(typed.out)
    if here is not None and not (typed.resume or typed.print_config):
        raise UsageError(
            f"CONFIG: {here} is a run; go on with it, {resume(here)}, or repeat it in another "
            f"folder, {program()} fit {here} --out FOLDER"
        )
    if here is not None:
        return here
    if typed.resume and given is not None and Path(given).name == FILE:
        return Path(given).parent
    return Path("runs") / f"{name_of(given)}-{Path(configuration.data.name).stem}"


def _before(typed: Any, folder: Path) -> Configuration | None:
    """Return the configuration of the run that is resumed, if any."""
    if not typed.resume:
        return None
    from ppl_vae.training.checkpoints import Checkpoints  # not above: slow to import

    Checkpoints(folder / CHECKPOINTS).refuse_links(folder)  # before the configuration is read
    if not (folder / FILE).exists():
        raise UsageError(
            f"--resume: there is no run in {folder}; leave --resume out to begin one, or give its "
            f"folder: {resume(Path('RUN'))}"
        )
    return Run(folder).configuration


def _check_folder(plan: Plan) -> None:
    """Raise an error if there is a run already, or one with other settings to resume."""
    there = (plan.folder / FILE).exists()
    if not plan.resume and (there or (plan.folder / CHECKPOINTS).exists()):
        raise UsageError(
            f"there is a run in {plan.folder}; go on with {resume(plan.folder)}, or give "
            f"another --out"
        )
    if plan.resume and there:
        plan.configuration.check_resumes(Run(plan.folder).configuration, plan.folder)


class _Written:
    """Writes the configuration and the trained pair, as callbacks of a training."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.pair: Any = None
        """The pair that is trained."""
        self.summary = ""
        """How the data are interpreted."""

    def on_run_open(self) -> None:
        """Write the configuration, before the first step."""
        if _may_be_first():
            show(self.summary)
            clear_leftovers(self._plan.folder)
            write_file(self._plan.folder / FILE, self._plan.configuration.text())
            note_source(self._plan.folder, self._plan.data)
            file, checksum = self._plan.folder / DATA, datasets.checksum(self._plan.data)
            if checksum is not None and not (self._plan.resume and file.exists()):
                write_file(file, f"{checksum}\n")

    def on_run_close(self) -> None:
        """Write the trained pair."""
        if _may_be_first():
            io.save(self.pair, self._plan.folder / MODEL)


def _fabric(plan: Plan, written: _Written) -> Fabric:
    """Return Fabric with the devices and the logger of a configuration."""
    from lightning_fabric import Fabric, loggers

    settings = plan.configuration.devices
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
    if not is_device(settings.accelerator):
        raise ConfigError(
            f"devices.accelerator: torch has no {settings.accelerator} here; give cpu or auto"
        )
    some = devices > 0 or devices == -1 if isinstance(devices, int) else isinstance(devices, list)
    if devices != "auto" and not (some and devices):
        raise ConfigError(
            f"devices.devices must be how many, 1 or more, which, such as [0, 2], or auto, got "
            f"{brief(devices)}"
        )
    name = plan.configuration.logger
    try:
        make = {"tensorboard": loggers.TensorBoardLogger, "csv": loggers.CSVLogger}
        logger = None if name is None else make[name](root_dir=plan.folder, name=name)
        return Fabric(
            accelerator=settings.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy=strategy,
            precision=settings.precision,
            loggers=logger,
            callbacks=written,
        )
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger: {name} is not installed: pip install {name}") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(
            f"devices: {brief(devices)} with accelerator {settings.accelerator} and strategy "
            f"{brief(strategy)} are not available: {reason(error)}"
        ) from error


def _may_be_first() -> bool:
    """Tell whether this process may be the first one, before the others are started."""
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _train(plan: Plan, fabric: Fabric, written: _Written, progress: bool) -> FitResult:
    from ppl_vae.training import data_summary, fit
    from ppl_vae.training.checkpoints import Checkpoints

    configuration = plan.configuration
    settings = configuration.fit
    pyro.set_rng_seed(settings.seed)  # of the initial weights
    written.pair = pair = from_config(
        configuration.model, data=plan.split.train, max_bytes=BUILD_BYTES
    )
    given = datasets.for_training(
        pair, plan.split, plan.labelled, configuration.data, settings, fabric.device
    )
    written.summary = data_summary(pair, given["data"], given["validation"])
    if configuration.init is not None and not Checkpoints(plan.folder / CHECKPOINTS).steps():
        _initialise(pair, configuration.init, fabric.is_global_zero)
    fitted = fit(
        pair,
        **{**plan.arguments, **given},
        out=plan.folder,
        resume=plan.resume,
        fabric=fabric,
        progress=progress,
    )
    fabric.barrier()
    return fitted


def _initialise(pair: Pair, init: str, tells: bool) -> None:
    """Load the weights of another pair, and report which."""
    found = io.load_matching(pair, pair_in(init))
    if tells:
        rest = [("new", found.new), ("not used", found.left)]
        told = (f"; {words}: {_shortened(names)}" for words, names in rest if names)
        say(f"--init {init}: {len(found.taken)} tensors are loaded{''.join(told)}")


def _shortened(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _summary(plan: Plan, fitted: FitResult) -> str:
    lines = [f"{fitted.steps} steps" + (", stopped early" if fitted.stopped == "patience" else "")]
    if len(fitted.history.get("loss", ())):
        lines.append(f"training loss   {fitted.history['loss'][-1]:.2f} nats per datum")
    if len(fitted.validation.get("loss", ())):
        row, stopping = -1, plan.configuration.fit.stopping
        if stopping is not None and fitted.best_step is not None:  # whose weights are left
            row = fitted.validation["step"].tolist().index(fitted.best_step)
        loss, error = (fitted.validation[k][row] for k in ("loss", "standard_error"))
        lines.append(f"validation loss {loss:.2f} ± {error:.2f} nats per datum")
    lines += [f"run: {plan.folder}", f"next: {program()} evaluate {plan.folder}"]
    return "\n".join(lines)
