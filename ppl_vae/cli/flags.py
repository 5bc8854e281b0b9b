"""The words of a command line: flags that are entries of a configuration, and all others."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.output import say
from ppl_vae.cli.settings import BOOLEANS, SECTIONS, SHORT, options

PLACES = ("model", "data", "estimator", "optimizer", "lr_schedule", "fit", "devices")
"""The sections that have entries."""

SWAPS = {
    "prior": "model.prior.class",
    "posterior": "model.posterior.class",
    "likelihood": "model.likelihood.class",
    "estimator": "estimator.class",
    "optimizer": "optimizer.class",
    "lr_schedule": "lr_schedule.class",
}
"""The flags that name a class, and the entries that they are."""

STANDARD: dict[str, dict[str, object]] = {
    "GaussianMixture": {"components": 500},
    "VampPrior": {"pseudo_inputs": 500},
    "ImportanceWeightedELBO": {"num_particles": 50},
    "CosineAnnealingLR": {"T_max": 1.0},
}
"""What a class that is named alone is given, where it has no default: as shipped configurations."""

SHORTER = {
    **{section: f"{section}.{entry}" for section, entry in SHORT.items()},
    **{n: f"fit.{n}" for n in ("steps", "epochs", "batch_size", "beta", "seed", "compile")},
    "lr": "optimizer.lr",
    "latent_dim": "model.latent_dim",
    "labels": "data.labels",
    "precision": "devices.precision",
    "device": "devices.accelerator",
    "init": "init",
    "logger": "logger",
}
"""The flags that are short for an entry."""

_OFTEN = (
    "model.latent_dim",
    *("model.prior.components", "model.posterior.net.hidden", "model.likelihood.net.hidden"),
    *("model.likelihood.scale", "estimator.num_particles", "optimizer.lr", "lr_schedule.step_size"),
)
"""Entries that are no section's own, to suggest."""

_OTHER_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")

_OLD = re.compile(r"--optimiser\b")
_SECTION = re.compile(rf"({'|'.join(PLACES)})[.\[]\S+")


@dataclass(frozen=True)
class Flag:
    """An entry of a configuration that was typed.

    Args:
        typed: the flag, such as ``--steps``.
        path: the keys that lead to the entry, such as ``["fit", "steps"]``.
        text: the value.
    """

    typed: str
    path: list[str]
    text: str


def split(words: Sequence[str], own: Collection[str], command: str) -> tuple[list[str], list[Flag]]:
    """Return the words without what are entries of a configuration, and these.

    Hyphens and underscores are one: ``--lr_schedule`` is ``--lr-schedule``.

    Args:
        words: after the name of the command.
        own: the flags that the command has besides; the words have them as they stand here.
        command: its name; only ``fit`` has a configuration.

    Raises:
        UsageError: if a flag is unknown, or has no value.
    """
    rest: list[str] = []
    found: list[Flag] = []
    todo = _with_current_names(words) if command == "fit" else list(words)
    spelled = {_one(flag): flag for flag in own}
    while todo:
        word = todo.pop(0)
        typed, equals, text = word.partition("=")
        if not typed.startswith("-") or _is_number(word):
            rest.append(word)
            continue
        if _one(typed) in spelled:
            rest.append(f"{spelled[_one(typed)]}{equals}{text}")
            continue
        if not typed.startswith("--") and typed[:2] in own:  # -n5
            rest.append(word)
            continue
        path = entry_of(typed) if typed.startswith("--") else None
        if path is None or command != "fit":
            raise UsageError(_unknown(typed, path, own, command))
        if not equals:
            text = _value(typed, path, todo)
        found += _flags(typed, path, text)
    return rest, found


def _with_current_names(words: Sequence[str]) -> list[str]:
    """Return the words with ``--optimiser`` as ``--optimizer``, and say so."""
    old = [word for word in words if _OLD.match(word)]
    if old and any(re.match(r"--optimizer\b", word) for word in words):
        raise UsageError("--optimiser is the old name of --optimizer; give --optimizer alone")
    if old:
        say("warning: --optimiser is now spelled --optimizer")
    return [_OLD.sub("--optimizer", word) for word in words]


def entry_of(typed: str) -> str | None:
    """Return the path of the entry that a flag is; None if it is none."""
    name = typed.removeprefix("--").replace("-", "_")
    known = {**SWAPS, **SHORTER}
    if name in known or _SECTION.fullmatch(name):
        return known.get(name, name)
    head, _, rest = name.partition(".")  # --beta.linear_warm_up, --prior.components
    return f"{known[head].removesuffix('.class')}.{rest}" if head in known and rest else None


def in_flags(text: str, flags: Sequence[Flag], arguments: Mapping[str, str]) -> str:
    """Return a message with flags, as they were typed, where it names entries or arguments.

    Args:
        text: the message.
        flags: those that were typed.
        arguments: the names that Python has for what is typed, and the flag of each.
    """
    names = "|".join(map(re.escape, arguments))
    text = re.sub(
        rf"(?<![\w.\"'-])({names})=(?:\"(\w+)\"|'(\w+)'|(-?\w+(?:\.\w+)?)|\(([\w, ]+)\))?",
        lambda m: _spelled(arguments[m[1]], m[2] or m[3] or m[4] or _as_list(m[5] or "")),
        text,
    )
    text = re.sub(
        rf"^(?:\w+: )?({names}) (?=must |ends |does )", lambda m: f"{arguments[m[1]]} ", text
    )
    places = {".".join(flag.path): flag.typed for flag in flags}
    places |= {p.removesuffix(".class"): typed for p, typed in places.items()}
    for path in sorted(places, key=len, reverse=True):
        # A word alone is an entry only where a message begins.
        before = r"(?<![\w.-])(--)?" if "." in path else "^"
        text = re.sub(rf"{before}{re.escape(path)}(?!\w)", places[path], text)
    return text


def _as_list(text: str) -> str:
    return f"[{text.replace(' ', '')}]" if text else ""


def _spelled(flag: str, value: str) -> str:
    return flag if value in ("", "True") else f"{flag} {value}"


def _flags(typed: str, path: str, text: str) -> list[Flag]:
    if typed.lstrip("-") == "device":  # as the other commands have it: cuda:1
        kind, colon, index = text.partition(":")
        number = [Flag(typed, ["devices", "devices"], f"[{index}]")] if colon else []
        return [Flag(typed, ["devices", "accelerator"], kind), *number]
    return [Flag(typed, [key for key in re.split(r"[.\[\]]+", path) if key], text)]


def _value(typed: str, path: str, todo: list[str]) -> str:
    if path in BOOLEANS and (not todo or todo[0] not in ("true", "false")):
        if todo and todo[0].lower() in _OTHER_BOOLEANS:
            raise UsageError(f"{typed} must be true or false, got {todo[0]!r}")
        return "true"
    if not todo or (todo[0].startswith("-") and not _is_number(todo[0])):
        raise UsageError(f"{typed} needs a value, such as {typed} {_example(path)}")
    return todo.pop(0)


def _example(path: str) -> str:
    return {
        "data.name": "mnist",
        "init": "runs/vae",
        "logger": "csv",
        "devices.accelerator": "cpu",
        "optimizer.lr": "1e-3",
    }.get(path, "NAME" if path.endswith(".class") else "10")


def _unknown(typed: str, path: str | None, own: Collection[str], command: str) -> str:
    if path is not None:
        return (
            f"{typed} is a flag of ppl-vae fit; ppl-vae {command} --help lists those of {command}"
        )
    known = list(own)
    if command == "fit":
        sections = (f"{s}.{option[0]}" for s, c in SECTIONS.items() for option in options(c))
        known += [f"--{name.replace('_', '-')}" for name in (*SHORTER, *SWAPS)]
        known += [f"--{path}" for path in (*sections, *_OFTEN)]
    hint = nearest(typed, known)
    return f"there is no flag {typed}; did you mean {hint}? ppl-vae {command} --help lists all"


def nearest(typed: str, known: Collection[str]) -> str:
    """Return the flag that is most like what was typed."""
    came = _one(typed)[:100]

    def likeness(flag: str) -> float:
        whole = _one(flag)
        end = 0.0 if "." in came else 0.99 * _ratio(came, whole.rpartition(".")[2])
        return max(_ratio(came, whole), end)

    return max(known, key=likeness)


def _ratio(one: str, other: str) -> float:
    return SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _one(flag: str) -> str:
    """Return a flag in one spelling."""
    return flag.lstrip("-").replace("_", "-")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
