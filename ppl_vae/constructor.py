"""The constructor arguments of a live module, read back from its attributes.

Every class of the package keeps each constructor argument as an attribute of the same name, like
scikit-learn's estimators; so can users' classes.
"""

from __future__ import annotations

import html
import inspect
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ppl_vae.equality import differences
from ppl_vae.errors import describe
from ppl_vae.process_state import restored

WIDTH = 88
"""Of lines, before they are broken."""


class Constructed(nn.Module):
    """A module whose constructor arguments are read-only, except for modules.

    They were used to build it: a width or scale assigned later would change nothing, or only part,
    until the module is saved and loaded. Users' subclasses may assign all of theirs.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        cls: Any = type(self)
        is_there = name in vars(self) or isinstance(getattr(cls, name, None), property)
        if is_there and name in _read_only(cls):
            fix = (
                f"pair.replace({name}=...) makes a pair that shares the other parts"
                if hasattr(self, "replace")
                else f"replace this {cls.__name__} by one constructed with it"
            )
            raise AttributeError(
                f"{cls.__name__}.{name} is read-only, got {describe(value)[:60]}; {fix}"
            )
        super().__setattr__(name, value)

    def _repr_html_(self) -> str:
        """Return a table of the constructor's arguments, for notebooks."""
        return html_table(self)


@cache
def _read_only(cls: type) -> frozenset[str]:
    """Return the constructor arguments of a class of the package; none for other classes."""
    if cls.__module__.partition(".")[0] != __name__.partition(".")[0]:
        return frozenset()
    return frozenset(p.name for p in parameters(cls))


def arguments(module: nn.Module) -> dict[str, object]:
    """Return a module's constructor arguments by name, read from the attributes of these names.

    Raises:
        AttributeError: if an argument is not kept as an attribute.
        TypeError: if the constructor takes ``*args`` or ``**kwargs``.

    Example:
        >>> from ppl_vae import priors
        >>> arguments(priors.Flow(10, "maf", transforms=5))
        {'latent_dim': 10, 'kind': 'maf', 'transforms': 5, 'hidden': (64, 64)}
    """
    found = {}
    for name in (p.name for p in parameters(type(module))):
        try:
            found[name] = getattr(module, name)
        except AttributeError as error:
            raise AttributeError(
                f"{type(module).__qualname__}: the constructor's argument {name!r} cannot be read "
                f"back; keep it as an attribute, self.{name} = {name}"
            ) from error
    return found


def parameters(cls: type) -> list[inspect.Parameter]:
    """Return the parameters of a constructor; raise TypeError for ``*args`` or ``**kwargs``."""
    if cls.__init__ is nn.Module.__init__:  # type: ignore[misc]
        return []  # its *args and **kwargs must be empty
    named = list(inspect.signature(cls.__init__).parameters.values())[1:]  # type: ignore[misc]
    for p in named:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            stars = "*" if p.kind is p.VAR_POSITIONAL else "**"
            raise TypeError(
                f"{cls.__qualname__}: the constructor takes {stars}{p.name}, which cannot be read "
                f"back from a module; name its arguments"
            )
    return named


def expression(module: nn.Module) -> str:
    """Return the constructor call that builds a module, as Python source.

    Default arguments are left out. A module that occurs twice is named at its first occurrence,
    ``(posterior := ...)``. What cannot be written as source (a lambda, a module that does not keep
    its arguments, or that is no longer what its constructor builds) appears as its ``repr``.

    Example:
        >>> from ppl_vae import nets, posteriors
        >>> print(expression(posteriors.DiagonalNormal(nets.MLP(784, 20, activation=nn.ReLU))))
        posteriors.DiagonalNormal(
            net=nets.MLP(in_features=784, out_features=20, activation=nn.ReLU),
        )
    """
    return _Writer(module).write(module, "module", indent=0)


def html_table(module: nn.Module) -> str:
    """Return the constructor's call as an HTML table, with the number of parameters of each part.

    Parameters that parts share are counted once in the total.
    """
    try:
        given = list(arguments(module).items())
    except Exception:  # as in a repr: a user's class may not keep its arguments
        return f"<pre>{html.escape(repr(module))}</pre>"
    rows: list[tuple[str, str, str]] = []
    value: Any
    for name, value in given:
        several = isinstance(value, (tuple, list)) and any(isinstance(v, nn.Module) for v in value)
        items = {f"{name}[{i}]": v for i, v in enumerate(value)} if several else {name: value}
        for label, item in items.items():
            count = _number_of_parameters(item) if isinstance(item, nn.Module) else ""
            rows.append((label, _Writer(module).write(item, name, indent=0), count))
    rows.append(("total", "", _number_of_parameters(module)))
    cells = "".join(
        f"<tr><th>{html.escape(name)}</th><td><pre>{html.escape(source)}</pre></td>"
        f"<td>{count}</td></tr>"
        for name, source, count in rows
    )
    head = "<tr><th></th><th></th><th>parameters</th></tr>"
    caption = f"<caption>{html.escape(qualified(type(module)))}</caption>"
    return f"<table>{caption}<thead>{head}</thead><tbody>{cells}</tbody></table>"


def _number_of_parameters(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"


class _Writer:
    """Writes the source of one module; knows which modules occur more than once."""

    def __init__(self, module: nn.Module) -> None:
        self.count = Counter(id(part) for part in _occurrences(module, set()))
        self.names: dict[int, str] = {}

    def write(self, value: object, name: str, indent: int) -> str:
        """Return source for a value; ``name`` is what it is called if it occurs again."""
        if isinstance(value, nn.Module) and not isinstance(value, nn.ModuleList):
            return self._shared(value, name, indent)
        if isinstance(value, type):
            name = value.__name__
            return f"nn.{name}" if getattr(nn, name, None) is value else name
        if isinstance(value, (tuple, list, nn.ModuleList)):
            items = [self.write(item, name, indent) for item in value]
            if not isinstance(value, tuple):
                return _call("[", items, "]", indent)
            return f"({items[0]},)" if len(items) == 1 else _call("(", items, ")", indent)
        if isinstance(value, float) and (value != value or abs(value) == float("inf")):
            return f"float({str(value)!r})"
        return f"<{describe(value)}>" if isinstance(value, Tensor) else repr(value)

    def _shared(self, module: nn.Module, name: str, indent: int) -> str:
        if id(module) in self.names:
            return self.names[id(module)]
        source = self._module(module, indent)
        if self.count[id(module)] < 2:
            return source
        taken = {*self.names.values(), *_IN_SCOPE}
        names = (name if n == 1 else f"{name}_{n}" for n in range(1, len(taken) + 2))
        self.names[id(module)] = next(n for n in names if n not in taken)
        return f"({self.names[id(module)]} := {source})"

    def _module(self, module: nn.Module, indent: int) -> str:
        cls = type(module)
        try:
            if type(module) is nn.Sequential:
                children = [self.write(child, "net", indent + 4) for child in module]
                return _call("nn.Sequential(", children, ")", indent)
            if cls.__module__.startswith("torch.nn."):  # keeps no arguments
                one_line = not list(module.children())
                return f"nn.{module!r}" if one_line else self._repr(module, indent)
            if not _is_as_built(module):
                return self._repr(module, indent)
            default = {p.name: p.default for p in parameters(cls)}
            given = {k: v for k, v in arguments(module).items() if not _same(v, default[k])}
            written = [f"{k}={self.write(v, k, indent + 4)}" for k, v in given.items()]
        except Exception:  # a repr must not raise, whatever a user's property does
            return self._repr(module, indent)
        return _call(f"{qualified(cls)}(", written, ")", indent)

    @staticmethod
    def _repr(module: nn.Module, indent: int) -> str:
        try:
            text = nn.Module.__repr__(module)
        except Exception:
            text = object.__repr__(module)
        return text.replace("\n", "\n" + " " * indent)


_IN_SCOPE = ("priors", "posteriors", "likelihoods", "nets", "columns", "nn", "torch")


def _is_as_built(module: nn.Module) -> bool:
    """Return whether a part of the package is what its constructor builds from its arguments.

    Always true of pairs, whose arguments are their parts; assumed of users' modules.
    """
    cls: Any = type(module)
    package, _, rest = cls.__module__.partition(".")
    if package != __name__.partition(".")[0] or rest.startswith("models"):
        return True
    with restored(), torch.device("cpu"):
        again = cls(**arguments(module))
    return not any(differences(module, again))


def _same(value: object, default: object) -> bool:
    if isinstance(value, Tensor) or type(value) is not type(default):
        return False
    return value is default or value == default


def _occurrences(value: object, seen: set[int]) -> Iterator[nn.Module]:
    """Yield a module and those among its arguments, each as often as it occurs."""
    if isinstance(value, (tuple, list, nn.ModuleList)):
        for item in value:
            yield from _occurrences(item, seen)
    if not isinstance(value, nn.Module) or isinstance(value, nn.ModuleList):
        return
    yield value
    if id(value) in seen:
        return
    seen.add(id(value))
    try:
        held = list(value) if type(value) is nn.Sequential else list(arguments(value).values())
    except Exception:  # it appears as its repr
        return
    yield from _occurrences(held, seen)


def qualified(cls: type) -> str:
    """Return the name of a class; of one in ppl_vae with its package, such as ``nets.MLP``."""
    root, _, rest = cls.__module__.partition(".")
    package = rest.partition(".")[0]
    own = root == "ppl_vae" and package != "models"
    return f"{package}.{cls.__name__}" if own else cls.__name__


def _call(start: str, items: list[str], end: str, indent: int) -> str:
    """Return the items on one line if they fit, else on a line each."""
    line = f"{start}{', '.join(items)}{end}"
    if not items or ("\n" not in line and indent + len(line) <= WIDTH):
        return line
    inner = " " * (indent + 4)
    return "\n".join([start, *(f"{inner}{item}," for item in items), " " * indent + end])
