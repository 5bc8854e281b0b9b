"""Flags that are entries of a configuration: read from the words typed, and put in their places.

argparse cannot read these, as a part of a model may have any arguments:
``--model.prior.components 100``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from ppl_vae.cli.errors import UsageError
from ppl_vae.cli.output import say
from ppl_vae.spec import ENTRIES

PLACES = ("model", "data", "estimator", "optimizer", "lr_schedule", "fit", "devices")
"""The sections that have entries."""

SWAPS = {
    **{part: f"model.{part}.class" for part in ("prior", "posterior", "likelihood")},
    **{section: f"{section}.class" for section in ("estimator", "optimizer", "lr_schedule")},
}
"""The flags that name a class, and the entry of each."""

SHORT = {
    **{entry.short: path for path, entry in ENTRIES.items() if entry.short is not None},
    "lr": "optimizer.lr",
    "latent_dim": "model.latent_dim",
    "init": "init",
    "logger": "logger",
}
"""The short flags, and the entry of each."""

_COMMON = (
    *("model.latent_dim", "model.prior.components", "model.prior.pseudo_inputs"),
    *("model.posterior.net.hidden", "model.likelihood.net.hidden", "model.likelihood.scale"),
    *("estimator.num_particles", "optimizer.lr", "lr_schedule.step_size"),
)
"""Entries of classes, for suggestions."""
_EXAMPLES = {
    "data.name": "mnist",
    "init": "runs/vae",
    "logger": "csv",
    "devices.accelerator": "cpu",
    "optimizer.lr": "1e-3",
}

_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "1", "0")
_NUMBER = re.compile(r"[-+]?\d+\.?\d*[eE][-+]?\d+")
_SECTION = re.compile(rf"({'|'.join(PLACES)})[.\[]\S+")
_OF_TABLE = re.compile(r"--(prior|posterior|estimator)\.\S+")
"""Flags of ``fit table`` for the arguments of a part."""
_OLD = re.compile(r"--optimiser\b")


@dataclass(frozen=True)
class Flag:
    """An entry of a configuration, as typed: ``--steps``, ``["fit", "steps"]`` and the value."""

    typed: str
    path: list[str]
    text: str


def split(words: Sequence[str], own: Collection[str], command: str) -> tuple[list[str], list[Flag]]:
    """Return the words after a command without the entries of a configuration, and these.

    ``own`` has the flags that argparse knows. Hyphens and underscores are the same:
    ``--lr_schedule`` is ``--lr-schedule``.
    """
    rest: list[str] = []
    found: list[Flag] = []
    todo = list(words)
    if command == "fit":  # the only one with a configuration; argparse has its entries for --help
        own = [flag for flag in own if entry_of(flag) is None]
        todo = _with_current_names(words)
    spelled = {hyphens(flag): flag for flag in own}
    while todo:
        word = todo.pop(0)
        typed, equals, text = word.partition("=")
        if not typed.startswith("-") or _is_number(word):
            rest.append(word)
        elif hyphens(typed) in spelled:
            rest.append(f"{spelled[hyphens(typed)]}{equals}{text}")
        elif not typed.startswith("--") and typed[:2] in own:  # -n5
            rest.append(word)
        else:
            path = entry_of(typed) if typed.startswith("--") else None
            if command == "fit table" and _OF_TABLE.fullmatch(typed):
                path = typed.removeprefix("--").replace("-", "_")
            elif path is None or command != "fit":
                raise UsageError(_unknown(typed, path, own, command))
            found += _flags(typed, path, text if equals else _value(typed, path, todo))
    return rest, found


def entry_of(typed: str) -> str | None:
    """Return the path of the entry that a flag sets; None if there is none."""
    name = typed.removeprefix("--").replace("-", "_")
    known = {**SWAPS, **SHORT}
    if name in known or _SECTION.fullmatch(name):
        return known.get(name, name)
    head, _, rest = name.partition(".")  # --beta.linear_warm_up, --prior.components
    return f"{known[head].removesuffix('.class')}.{rest}" if head in known and rest else None


def apply(tree: dict[str, Any], flags: Sequence[Flag]) -> None:
    """Set the entries that were typed, in place; names of classes first.

    Another class keeps none of the arguments of the one before.
    """
    for flag in sorted(flags, key=lambda flag: flag.path[-1] != "class"):
        node, key = _node(tree, flag.path), flag.path[-1]
        value = _value_of(flag)
        if isinstance(node, list):
            node[_index(node, key, flag.path)] = value
        elif key == "class" and flag.path != ["model", "class"]:
            if node.get("class") != value:
                node.clear()
                node["class"] = value
        else:
            node[key] = value


def _value_of(flag: Flag) -> Any:
    """Return the value that was typed; a file's name is a string, whatever YAML makes of it."""
    path = ".".join(flag.path)
    is_string = path == "init" or (path in ENTRIES and ENTRIES[path].is_only(str))
    return flag.text if is_string and flag.text != "null" else parsed_value(flag.text)


def parsed_value(text: str) -> Any:
    """Return the value of a word, read as YAML: ``10``, ``[300, 300]``, ``null``."""
    import yaml  # not above: slow to import

    from ppl_vae.io.config import ConfigError
    from ppl_vae.io.config.files import parsed

    if _NUMBER.fullmatch(text):
        number = float(text)  # YAML wants a point in 1e-3
        return int(number) if number.is_integer() and number > 1 else number  # 1e3 steps
    try:
        return parsed(text)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError):  # not YAML, or not a date
        return text


def in_flags(text: str, flags: Sequence[Flag], arguments: Mapping[str, str]) -> str:
    """Return a message with the flags that were typed in place of entries and of arguments.

    ``arguments`` has the flag of each argument in Python.
    """

    def with_value(match: re.Match[str]) -> str:
        value = match[2] or match[3] or match[4] or ""
        if match[5]:
            value = f"[{match[5].replace(' ', '')}]"
        return arguments[match[1]] if value in ("", "True") else f"{arguments[match[1]]} {value}"

    names = "|".join(map(re.escape, arguments))
    text = re.sub(
        rf"(?<![\w.\"'-])({names})=(?:\"(\w+)\"|'(\w+)'|(-?\w+(?:\.\w+)?)|\(([\w, ]+)\))?",
        with_value,
        text,
    )
    text = re.sub(
        rf"^(?:\w+: )?({names}) (?=must |ends |does )", lambda m: f"{arguments[m[1]]} ", text
    )
    places = {".".join(flag.path): flag.typed for flag in flags}
    places |= {p.removesuffix(".class"): typed for p, typed in places.items()}
    for path in sorted(places, key=len, reverse=True):
        # A single word is an entry only where a message begins.
        before = r"(?<![\w.-])(--)?" if "." in path else "^"
        text = re.sub(rf"{before}{re.escape(path)}(?!\w)", places[path], text)
    return text


def nearest(typed: str, known: Collection[str]) -> str:
    """Return the flag that is most similar to what was typed."""
    came = hyphens(typed)[:100].lower()
    flags = {hyphens(flag).lower(): flag for flag in known}
    if "." not in came:  # the last part of a path, too; of the first flag that ends in it
        flags = {name.rpartition(".")[2]: flags[name] for name in reversed(flags)} | flags
    return flags[get_close_matches(came, flags, n=1, cutoff=0)[0]]


def _with_current_names(words: Sequence[str]) -> list[str]:
    """Return the words with ``--optimiser`` as ``--optimizer``, with a warning."""
    old = [word for word in words if _OLD.match(word)]
    if old and any(re.match(r"--optimizer\b", word) for word in words):
        raise UsageError("--optimiser is the old name of --optimizer; give --optimizer alone")
    if old:
        say("warning: --optimiser is now spelled --optimizer")
    return [_OLD.sub("--optimizer", word) for word in words]


def _flags(typed: str, path: str, text: str) -> list[Flag]:
    if typed == "--device":  # as the other commands have it: cuda:1
        kind, colon, index = text.partition(":")
        number = [Flag(typed, ["devices", "devices"], f"[{index}]")] if colon else []
        return [Flag(typed, ["devices", "accelerator"], kind), *number]
    return [Flag(typed, [key for key in re.split(r"[.\[\]]+", path) if key], text)]


def _value(typed: str, path: str, todo: list[str]) -> str:
    """Return the value of a flag, the next word; of one that is true or false it may be missing."""
    boolean = path in ENTRIES and ENTRIES[path].is_only(bool)
    if boolean and (not todo or todo[0] not in ("true", "false")):
        if todo and todo[0].lower() in _BOOLEANS:
            raise UsageError(f"{typed} must be true or false, got {todo[0]!r}")
        return "true"
    if not todo or (todo[0].startswith("-") and not _is_number(todo[0])):
        example = _EXAMPLES.get(path, "NAME" if path.endswith(".class") else "10")
        raise UsageError(f"{typed} needs a value, such as {typed} {example}")
    return todo.pop(0)


def _unknown(typed: str, path: str | None, own: Collection[str], command: str) -> str:
    if path is not None:
        return f"{typed} is a flag of ppl-vae fit; see ppl-vae {command} --help"
    known = list(own)
    if command == "fit":
        known += [f"--{name.replace('_', '-')}" for name in (*SHORT, *SWAPS)]
        known += [f"--{path}" for path in (*_COMMON, *ENTRIES)]
    hint = nearest(typed, known)
    return f"there is no flag {typed}; did you mean {hint}? ppl-vae {command} --help lists all"


def _node(tree: dict[str, Any], path: Sequence[str]) -> Any:
    """Return the mapping or list that holds the last key of a path; made if it is missing."""
    from ppl_vae.io.errors import ConfigError, brief  # not above: slow to import

    node: Any = tree
    for depth, key in enumerate(path[:-1]):
        at: Any = _index(node, key, path) if isinstance(node, list) else key
        child = node[at] if isinstance(node, list) else node.get(at)
        if child is None:
            child = {}
        elif not isinstance(child, (dict, list)):
            if not isinstance(child, str):
                above = ".".join(path[: depth + 1])
                raise ConfigError(f"{'.'.join(path)}: {above} is {brief(child)}, without entries")
            child = {"class": child}
        node[at] = child
        node = child
    return node


def _index(node: list[Any], key: str, path: Sequence[str]) -> int:
    from ppl_vae.io.errors import ConfigError  # not above: slow to import

    if key.isdecimal() and int(key) < len(node):
        return int(key)
    raise ConfigError(
        f"{'.'.join(path)}: {key!r} must be an index below {len(node)}, the length of the list"
    )


def hyphens(flag: str) -> str:
    """Return a flag's name with hyphens."""
    return flag.lstrip("-").replace("_", "-")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
