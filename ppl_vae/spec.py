"""The declaration of a training run: every setting's name, type, default and meaning, once.

``fit`` checks its arguments by it. On the command line the flags, the sections of a configuration,
``--help``, the ``config.yaml`` that is written, and what may change when a run is resumed follow
from it. It imports nothing slow: the pages of help read it.
"""
# ruff: noqa: RUF009 (the defaults of the fields are made by a function)

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache, partial
from typing import Any, Literal, get_args, get_type_hints

from ppl_vae.errors import flag, number, positive_int, seed_of

IN_PYTHON = "Python"
"""The place of a setting that cannot be typed, nor be in a configuration."""

Schedule = dict[str, int | float | dict[str, int | float]]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting, as a configuration has it.

    Args:
        path: such as ``fit.steps``.
        hint: its type.
        default: what it is if not given.
        help: what it means.
        check: of ``(owner, name, value)``, returns the value of the argument of ``fit`` or raises.
        short: its short flag without hyphens.
        place: where a configuration or a command line has it, if not as an entry of its section.
        length: whether it is in steps; in a configuration it may then be a fraction of the
            training, and is by default at most a tenth of it.
        may_change: whether it may differ when a run is resumed.
        load: whether it is an argument of :func:`ppl_vae.data.load`.
    """

    path: str = ""
    hint: Any = None
    default: Any
    help: str
    check: Callable[[str, str, Any], Any] | None = None
    short: str | None = None
    place: str | None = None
    length: bool = False
    may_change: bool = False
    load: bool = False

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]

    def is_only(self, kind: type) -> bool:
        """Tell whether it is of this type alone, or None."""
        return {*(get_args(self.hint) or (self.hint,))} <= {kind, type(None)}


def _setting(
    default: Any, help: str, *, usual: Any = None, length: bool = False, **options: Any
) -> Any:
    """Return a field with a default for Python, and ``usual`` for a configuration if given."""
    if length:
        help += f", or a fraction of the training; {default}, or a tenth of a shorter one"
    found = None if length else default if usual is None else usual
    setting = Setting(default=found, help=help, length=length, **options)
    return field(default=default, metadata={"setting": setting})


def _seed(owner: str, name: str, value: Any) -> int:
    return seed_of(owner, value)


_positive = partial(number, above=0, fix="leave it out for no clipping")
_count = partial(_setting, check=positive_int)
_interval = partial(_setting, check=positive_int, length=True, may_change=True)
_of_file = partial(_setting, None, load=True)
_of_device = partial(_setting, may_change=True)


@dataclass(frozen=True, kw_only=True)
class FitSpec:
    """The arguments of :func:`ppl_vae.training.fit`, in their order, besides the pair and the data.

    Those without a ``place`` are the section ``fit`` of a configuration.
    """

    steps: int | None = _count(None, "how many steps to take", short="steps", may_change=True)
    epochs: int | None = _count(
        None, "passes over the data, in place of fit.steps", short="epochs", may_change=True
    )
    batch_size: int | None = _count(
        None, "data per step, in all processes together", short="batch_size", usual=100
    )
    estimator: Any = _setting(
        None,
        "the bound",
        place="estimator",
        usual={"class": "ImportanceWeightedELBO", "num_particles": 1},
    )
    optimizer: Any = _setting(
        None,
        "of the parameters",
        place="optimizer",
        usual={"class": "Adam", "lr": 1e-3, "fused": True},
    )
    lr_schedule: Any = _setting(None, "of the learning rate", place="lr_schedule")
    beta: int | float | Schedule | None = _setting(
        None,
        "weight on the KL: a number, {linear_warm_up: STEPS} or {cyclical_warm_up: PERIOD}; a "
        "fraction such as 0.1 is of the training",
        short="beta",
    )
    temperature: int | float | Schedule | None = _setting(
        None,
        "of the gradients of a relaxed posterior: a number above 0, or a schedule, "
        "{linear_warm_up: {steps: STEPS, start: 1.0, end: 0.5}}; the posterior's own if not given",
        short="temperature",
    )
    num_particles: int | dict[str, list[int | float]] | None = _setting(
        None,
        "{milestones: [M, ...], values: [K, ...]}: the estimator's particles by step, one value "
        "more than milestones; a constant number is estimator.num_particles",
    )
    clip_norm: int | float | None = _setting(
        None, "scale the gradient down to this norm where it is greater", check=_positive
    )
    validation: Any = _setting(None, "data to validate on", place="data.validation")
    validate_every: int | float | None = _interval(1000, "steps between validations")
    validation_particles: int = _count(1, "K of the validation bound; 1 is the ELBO")
    stopping: dict[str, int | float | str] | None = _setting(
        None,
        "{patience: P}: stop after P validations without an improvement, once a warm-up has ended; "
        "monitor: bound follows the bound whatever beta is",
    )
    out: Any = _setting(None, "the run folder", place="--out", may_change=True)
    checkpoint_every: int | float | None = _interval(1000, "steps between checkpoints")
    keep: int = _count(2, "how many checkpoints to keep", may_change=True)
    resume: bool = _setting(
        False, "go on from the newest checkpoint", check=flag, place="--resume", may_change=True
    )
    fabric: Any = _setting(None, "devices and loggers", place="devices", may_change=True)
    compile: bool = _setting(
        False, "compile the step of full batches to one graph", check=flag, short="compile"
    )
    seed: int = _setting(
        0, "of everything random: initial weights, data order, draws", check=_seed, short="seed"
    )
    log_every: int | float | None = _interval(50, "steps between entries of the history")
    callbacks: Any = _setting(
        (), "called after steps and validations", place=IN_PYTHON, may_change=True
    )
    progress: bool = _setting(
        True, "show a progress bar", check=flag, place="--quiet", may_change=True
    )


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What to train on, and what is held out."""

    name: str = _setting(
        "digits",
        "digits (bundled), mnist, fashion-mnist, kmnist, omniglot, sprites (drawn, factors known), "
        "or your own .npy or .npz file or folder of images",
        short="data",
    )
    root: str | None = _of_file(
        "folder of the named data; $PPL_VAE_DATA or ./data if not given", may_change=True
    )
    scale: int | float | None = _of_file("of your own file: the value that means 1.0")
    missing: Literal["nan"] | None = _of_file(
        "nan: NaN in your own file is missing; a mask in a .npz file is found"
    )
    channels: Literal["first", "last"] | None = _of_file(
        "of images in your own file, where the shape is ambiguous"
    )
    grey: bool | None = _of_file(
        "of your own images: true makes them grey, false colour; colour if any has it"
    )
    x: str | None = _of_file("of your own .npz: the name of the values; x")
    y: str | None = _of_file(
        "of your own .npz: the name of the labels, numbers or strings; y. -1, NaN and an empty "
        "string are no label"
    )
    mask: str | None = _of_file("of your own .npz: the name of the mask of observed values; mask")
    memory_map: bool | None = _of_file(
        "of your own .npy: true reads its values from the disk as they are used, for a file larger "
        "than the memory"
    )
    classes: list[str] | None = _of_file(
        "of your own data: the names of the classes, in the order of their numbers"
    )
    size: int | list[int] | None = _of_file(
        "of your own images: resize them to this square, or to [HEIGHT,WIDTH]"
    )
    test_fraction: int | float | None = _of_file(
        "of your own data: the fraction held out for the test; 0.1"
    )
    binarise: Literal["auto", "static", "threshold"] = _setting(
        "auto",
        "grey values under a likelihood of 0 and 1 are drawn anew at each step (auto), drawn once "
        "(static), or compared with 1/2 (threshold)",
    )
    dequantise: bool = _setting(False, "add uniform noise to grey values, for a density")
    validation: float = _setting(
        0.1, "fraction of the training data held out for validation; 0 for none"
    )
    labels: int | None = _setting(
        None,
        "semi-supervised: show this many labels, as many of each class, and hide the others; all "
        "known labels if not given",
        short="labels",
    )
    labelled_batch_size: int = _setting(20, "labelled data per step, with data.labels")
    labelled_weight: float = _setting(1.0, "weight of the labelled data's mean loss")
    unlabelled_weight: float = _setting(1.0, "weight of the unlabelled data's mean loss")
    seed: int = _setting(0, "of what is held out, which labels are shown, and static draws")


@dataclass(frozen=True, kw_only=True)
class DeviceSpec:
    """Where to train: arguments of Lightning Fabric.

    All may change when a run is resumed, but for the precision, which ``fit`` itself compares.
    """

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = _of_device(
        "auto", "what to train on", short="device"
    )
    devices: int | str | list[int] = _of_device(
        1, "how many, which ([0, 2]), or auto", short="devices"
    )
    num_nodes: int = _of_device(1, "machines")
    strategy: str = _of_device("auto", "of Fabric; auto is DDP for more than one process")
    precision: Literal["32-true", "64-true", "bf16-mixed"] = _of_device(
        "32-true", "bf16-mixed: networks in bfloat16, densities in float32", short="precision"
    )


SECTIONS: dict[str, Any] = {"data": DataSpec, "fit": FitSpec, "devices": DeviceSpec}
"""The sections of a configuration with a fixed set of entries."""


@cache
def entries(section: str) -> tuple[Setting, ...]:
    """Return the entries of a section of a configuration."""
    cls = SECTIONS[section]
    hints = get_type_hints(cls)
    found = {f.name: f.metadata["setting"] for f in fields(cls)}
    return tuple(
        replace(setting, path=f"{section}.{name}", hint=hints[name])
        for name, setting in found.items()
        if setting.place is None
    )


ENTRIES: dict[str, Setting] = {e.path: e for section in SECTIONS for e in entries(section)}
"""All entries of these sections, by path."""

ARGUMENTS: dict[str, Setting] = {f.name: f.metadata["setting"] for f in fields(FitSpec)}
"""The arguments of ``fit`` by name."""

MAY_CHANGE = tuple(name for name, setting in ARGUMENTS.items() if setting.may_change)
"""Those that may differ when a run is resumed."""


def checked(owner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``fit`` among ``given``; raise an error that names a wrong one."""
    found = {name: given[name] for name in ARGUMENTS}
    for name, value in found.items():
        check, optional = ARGUMENTS[name].check, getattr(FitSpec, name) is None
        if check is not None and not (optional and value is None):
            found[name] = check(owner, name, value)
    return found
