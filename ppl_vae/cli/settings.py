"""The sections of a configuration that have fixed entries: their types, defaults and help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, TypeVar, get_args, get_type_hints

S = TypeVar("S", bound="Section")
Numbers = dict[str, int | float]


def setting(default: Any, help: str) -> Any:
    """Return a field with its default and what ``--help`` says of it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section: every entry has a default, and is checked against its type."""

    @classmethod
    def of(cls: type[S], given: object, path: str) -> S:
        """Return the section that a mapping describes.

        Raises:
            ConfigError: if it is no mapping, or an entry is unknown or of another type.
        """
        from ppl_vae.io.config import ConfigError  # not above: slow to import
        from ppl_vae.io.config.signature import arguments_of, convert
        from ppl_vae.io.errors import suggestion, told

        if not isinstance(given, Mapping):
            raise ConfigError(f"{path} must be a mapping, got {told(given)}")
        known = arguments_of(cls, path)
        for name in given:
            if name not in known:
                raise ConfigError(f"{path}.{name}: no such entry; {suggestion(name, known)}")
        return cls(**{k: convert(known[k], v, f"{path}.{k}") for k, v in given.items()})

    def mapping(self) -> dict[str, object]:
        """Return all entries as plain data."""
        from ppl_vae.io.config.plain import plain  # not above: slow to import

        return plain(asdict(self))


@dataclass(frozen=True, kw_only=True)
class DataSettings(Section):
    """What to train on, and what is held back."""

    name: str = setting(
        "digits",
        "digits (bundled), mnist, fashion-mnist, kmnist, omniglot, or a .npy or .npz file or a "
        "folder of images of your own; --data for short",
    )
    root: str | None = setting(None, "where named data lie; $PPL_VAE_DATA or ./data if not given")
    scale: int | float | None = setting(None, "of your own file: the value that means 1.0")
    missing: Literal["nan"] | None = setting(
        None, "nan: NaN in your own file is what is missing; a mask in a .npz file needs no word"
    )
    channels: Literal["first", "last"] | None = setting(
        None, "of images in your own file, where their sizes do not tell"
    )
    grey: bool | None = setting(
        None, "of your own images: true makes them grey, false colour; colour if any has it"
    )
    x: str | None = setting(None, "of your own .npz: the name of the values; x")
    y: str | None = setting(
        None,
        "of your own .npz: the name of the labels, numbers or strings; y. -1, NaN and an empty "
        "string are no label",
    )
    mask: str | None = setting(None, "of your own .npz: the name of what is observed; mask")
    classes: list[str] | None = setting(  # noqa: RUF009
        None, "of your own data: the names of the classes, in the order of their numbers"
    )
    size: int | list[int] | None = setting(  # noqa: RUF009
        None, "of your own images: resize them to this square, or to [HEIGHT,WIDTH]"
    )
    test_fraction: float | None = setting(None, "of your own data: held out for the test; 0.1")
    binarise: Literal["auto", "static", "threshold"] = setting(
        "auto",
        "grey values under a likelihood of 0 and 1 are drawn anew at each step (auto), drawn once "
        "(static), or compared with 1/2 (threshold)",
    )
    dequantise: bool = setting(False, "add uniform noise to grey values, for a density")
    validation: float = setting(
        0.1, "fraction of the training data on which to follow the bound; 0 for none"
    )
    labels: int | None = setting(
        None,
        "show so many labels, as many of each class, and hide the others (semi-supervised); of "
        "data that are labelled in part all labels, unless this is given: a class may have fewer",
    )
    labelled_batch_size: int = setting(20, "labelled data per step, with data.labels")
    labelled_weight: float = setting(1.0, "weight of the labelled data's mean loss")
    unlabelled_weight: float = setting(1.0, "weight of the unlabelled data's mean loss")
    seed: int = setting(0, "of what is held out, which labels are shown, and static draws")


@dataclass(frozen=True, kw_only=True)
class FitSettings(Section):
    """How to train."""

    steps: int | None = setting(None, "how many steps to take")
    epochs: int | None = setting(None, "passes over the data, in the place of fit.steps")
    batch_size: int = setting(100, "data per step, in all processes together")
    beta: int | float | dict[str, int | float | Numbers] | None = setting(  # noqa: RUF009
        None,
        "weight on the KL: a number, or {linear_warm_up: STEPS}, or {cyclical_warm_up: PERIOD}; a "
        "fraction such as 0.1 is of the training",
    )
    clip_norm: float | None = setting(None, "scale greater gradients to this norm")
    validate_every: int | float | None = setting(
        None,
        "steps between validations, or a fraction of the training; 1000, or a tenth of a shorter "
        "training",
    )
    validation_particles: int = setting(1, "K of the validation bound; 1 is the ELBO")
    stopping: dict[str, int | float | str] | None = setting(  # noqa: RUF009
        None,
        "{patience: P}: stop after P validations without an improvement, once a warm-up has ended; "
        "of what is minimised, or with monitor: bound of the bound whatever beta is",
    )
    checkpoint_every: int | float | None = setting(
        None, "steps between checkpoints, likewise; 1000, or a tenth of a shorter training"
    )
    keep: int = setting(2, "how many checkpoints to keep")
    compile: bool = setting(False, "compile the step of full batches to one graph")
    log_every: int | float | None = setting(
        None, "steps between entries of the history, likewise; 50, or a tenth of a shorter training"
    )
    seed: int = setting(0, "of everything random: initial weights, order of the data, draws")


@dataclass(frozen=True, kw_only=True)
class DeviceSettings(Section):
    """Where to train: arguments of Lightning Fabric."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = setting("auto", "what to train on")
    devices: int | str | list[int] = setting(  # noqa: RUF009
        1, "how many, which ([0, 2]), or auto; --devices for short"
    )
    num_nodes: int = setting(1, "machines")
    strategy: str = setting("auto", "of Fabric; auto is DDP where there is more than one process")
    precision: Literal["32-true", "64-true", "bf16-mixed"] = setting(
        "32-true", "bf16-mixed: networks in bfloat16, densities in float32"
    )


SECTIONS: dict[str, type[Section]] = {
    "data": DataSettings,
    "fit": FitSettings,
    "devices": DeviceSettings,
}
"""The sections with fixed entries, by name."""

SHORT = {"data": "name", "devices": "devices"}
"""Of sections that may be written as one value, the entry which that is."""


def options(section: type[Section]) -> list[tuple[str, Any, Any, str]]:
    """Return name, type, default and help of every entry of a section."""
    hints = get_type_hints(section)
    return [(f.name, hints[f.name], f.default, f.metadata["help"]) for f in fields(section)]


def _entries(*kinds: type) -> frozenset[str]:
    return frozenset(
        f"{section}.{name}"
        for section, cls in SECTIONS.items()
        for name, hint, *_ in options(cls)
        if {*(get_args(hint) or (hint,))} <= {*kinds, type(None)}
    )


BOOLEANS, STRINGS = _entries(bool), _entries(str)
"""The entries, by their paths, that are true or false, and those whose text is no other value."""
