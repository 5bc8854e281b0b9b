"""What must be the same for a training to go on, in words that another process finds again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING

from ppl_vae.errors import reason

if TYPE_CHECKING:
    from ppl_vae.training.run import Parts


def settings(parts: Parts, num_particles: object) -> dict[str, str]:
    """Return what decides a training, by the name of the argument of ``fit``."""
    bound, schedule = parts.scheduled.bound, parts.lr_schedule
    numbers = {name: value for name, value in vars(bound).items() if not name.startswith("_")}
    if num_particles is not None:
        numbers.pop("num_particles", None)
    return {
        "estimator": _with(bound, numbers),
        "beta": _words(parts.scheduled.beta),
        "num_particles": _words(num_particles),
        "optimiser": _with(parts.optimiser, parts.optimiser.defaults),
        "lr_schedule": "None" if schedule is None else _with(schedule, schedule.state_dict()),
        "clip_norm": _words(parts.clip_norm),
        "stopping": _words(parts.stopping),
        "compile": _words(parts.compiled is not None),
        "seed": _words(parts.seed),
    }


def compare(saved: Mapping[str, str], now: Mapping[str, str], folder: Path) -> None:
    """Raise ValueError unless a checkpoint's settings are those of now; it names the first."""
    for name in now:
        if saved.get(name) != now[name]:
            raise ValueError(
                f"fit: cannot resume from {folder}: there {name} is "
                f"{reason(str(saved.get(name)))}, and now it is {now[name]}; give what was given "
                f"before, or another folder"
            )


def _with(value: object, numbers: Mapping[str, object]) -> str:
    plain = {n: v for n, v in numbers.items() if isinstance(v, (int, float, str, tuple))}
    inner = {n: v for n, v in numbers.items() if is_dataclass(v)}
    return f"{type(value).__name__} with {plain | inner}"


def _words(value: object) -> str:
    """Return what says the same in another process: an address in memory does not."""
    if isinstance(value, (int, float, NoneType)) or is_dataclass(value):
        return repr(value)
    if isinstance(value, partial):
        return f"{_words(value.func)} with {[*map(_words, value.args)]} and {value.keywords}"
    return f"{getattr(value, '__qualname__', type(value).__qualname__)}"
