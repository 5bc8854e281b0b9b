"""A function of tensors, run once through Pyro's handlers and from then on as a graph."""

from __future__ import annotations

import math
import random
import sys
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, fx, nn

from ppl_vae.buffers import kept_buffers
from ppl_vae.compilation.guards import kinds, labels_among, seen
from ppl_vae.compilation.joined import joined
from ppl_vae.compilation.parted import parted
from ppl_vae.compilation.state import Kept, Snapshot, Tokens, left_alone
from ppl_vae.labels import Labels
from ppl_vae.random_state import random_state, restored

Tensors = tuple[Tensor | None, ...]
Graph = Callable[..., Callable[[], Tensors]]
"""Takes the arguments, and returns a sampler of results."""


MOST_GRAPHS = 32
"""Graphs of one function that are kept."""
MOST_CHANGES = 8
"""Calls on end for each of which a graph would be made, since something was changed."""


class NotCompiledWarning(UserWarning):
    """Something could not be compiled, and is run as it is."""


class MovesError(Exception):
    """A program changes something, or draws, where a graph of it would not."""


class Compiled:
    r"""A function of tensors that runs programs, as compiled graphs.

    ``make_fx`` runs the function once, through Pyro's effect handlers and any backward pass in it,
    and writes down the operations on tensors; Inductor compiles them. Random numbers stay those of
    torch's generators, drawn in the same order, so that compiled and uncompiled draws are the same.

    Parts of a step that go through one network meet its matrices in one product (:func:`joined`),
    and of a function that is run for many draws, what no draw reaches is run once
    (:func:`parted`).

    A graph belongs to what it was made from, which is looked at before each run
    (:class:`ppl_vae.compilation.state.Snapshot`), and when it changes, another graph is made. That
    is

    - shapes, dtypes and devices of the inputs, and whether labels are missing among them;
    - all that the modules and the other objects hold, at any depth: modules, functions, hooks,
      parametrisations and other objects; tensors (which, and whether they require a gradient; not
      their values, which graphs read as they are); numbers, strings and arrays by value; all of
      them in lists, dictionaries, tuples and sets as well, in what a function closes over, and in
      attributes of classes, those of torch, Pyro and this package excepted;
    - torch's default dtype, autocast, determinism and global hooks.

    Not noticed, and fixed when the graph is made, is what programs read from elsewhere: a global
    variable, Pyro's parameter store, a file, and the inside of other objects of the standard
    library than collections and namespaces, or of those that are not of Python (generators,
    compiled extensions). Where effect handlers of Pyro are active around a call, the function is
    run as it is, for them to see it.

    Graphs are kept, the last 32 of them, for when what they were made from is again as it was; not
    where a module or tensor was replaced.

    The first time, a graph is held against the function on the same draws: what it returns and what
    it writes to the modules' tensors, such as running means. Where they differ by more than
    rounding, or a program cannot be traced (it looks at values: ``if z > 0``, ``.item()``), or
    changes attributes of its own when it runs (a counter), or draws from generators that are not
    torch's, or there is no compiler, a warning says so, once; all is left as if nothing had been
    tried, and the function is run as it is. So it is where attributes were changed before each of
    8 calls on end, and a graph would be made for each.

    Args:
        function: of tensors; returns a tuple of tensors or None, which need no gradient.
        modules: that it runs, by name; they are not kept alive, except by what the function holds.
        others: objects that it depends on besides, such as estimators, by name.
        but: names of attributes that change nothing, by the name of what has them.
        while_tracing: makes a context for the tracing alone.
        lasting: how many of the first results are to last over the next calls. On a CUDA device
            graphs are CUDA graphs, which write the others into the same memory each time.
        what: is compiled, for the warning.
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        modules: Mapping[str, nn.Module],
        *,
        others: Mapping[str, object] | None = None,
        but: Mapping[str, Sequence[str]] | None = None,
        while_tracing: Callable[[], AbstractContextManager] = nullcontext,
        lasting: int,
        what: str,
    ) -> None:
        self._function = function
        self._refs = {name: weakref.ref(module) for name, module in modules.items()}
        self._others = dict(others or {})
        self._but = but
        self._while_tracing = while_tracing
        self._lasting = lasting
        self._what = what
        self._tokens = Tokens()
        self._labels: dict[Hashable, list[Labels | None]] = {}
        self._graphs: dict[tuple, Graph] = {}
        self._changes = 0
        self.state: Snapshot | None = None
        """What programs held at the last call; None where that was not looked at."""
        self.failed = False
        """Whether the function is run as it is, after a warning."""

    def __call__(self, *tensors: Tensor, constants: Hashable = ()) -> Tensors:
        """Return what the function returns.

        Args:
            tensors: its arguments.
            constants: what else it depends on at this call.
        """
        return self.ready(*tensors, constants=constants)()

    def ready(self, *tensors: Tensor, constants: Hashable = ()) -> Callable[[], Tensors]:
        """Prepare a call, and return it as a function without arguments.

        Args:
            tensors: arguments of the function.
            constants: what else it depends on.
        """
        return self._graph(tensors, constants, whole=True)(*tensors)

    def drawing(self, *tensors: Tensor, constants: Hashable = ()) -> Callable[[], Tensors]:
        """Return a sampler: each call of it gives the results for new draws.

        What depends on no draw (an encoding of the data, say) is computed now, and once.

        Args:
            tensors: arguments of the function.
            constants: what else it depends on.
        """
        return self._graph(tensors, constants, whole=False)(*tensors)

    def _graph(self, tensors: tuple[Tensor, ...], constants: Hashable, *, whole: bool) -> Graph:
        """Return the graph for such arguments."""
        uncompiled = partial(partial, self._function)
        if self.failed or _PYRO_STACK:
            self.state = None
            return uncompiled
        changed = self._look()
        like = (constants, len(tensors))
        before = None
        if like not in self._labels:
            before = Kept(Snapshot(self._roots, Tokens()))
            labels = self._tried(tensors, before)
            self._look()  # at what it has made, or replaced: then nothing is known of others
            self._labels[like] = labels
        assert self.state is not None
        inputs = kinds(tensors, self._labels[like])
        key = (self.state.key, inputs, constants, whole)
        if key not in self._graphs:
            with seen(tensors, inputs):
                made = self._made(tensors, before, changed, whole=whole)
            if made is None:
                return uncompiled
            self._graphs[key] = made
            if len(self._graphs) > MOST_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
        elif changed is None:
            self._changes = 0
        return self._graphs[key]

    def _look(self) -> str | None:
        """See what programs hold now; return the name of what has changed, if something has."""
        before = self.state
        if before is not None and before.holds():
            return None
        self.state = Snapshot(self._roots, self._tokens, self._but)
        if before is None or self.state.structure != before.structure:
            self._graphs, self._labels = {}, {}
        return None if before is None else before.first_difference(self.state)

    def _tried(self, tensors: tuple[Tensor, ...], before: Kept) -> list[Labels | None]:
        """Run the function, which may make what it lacks; return which inputs are labels."""
        # Estimators look at new programs, too, and note what they find.
        try:
            with restored(), kept_buffers(*self._modules), labels_among(tensors) as labels:
                self._function(*tensors)
        except BaseException:
            before.put_back()
            raise
        return labels

    @property
    def _modules(self) -> list[nn.Module]:
        return [module for module in (ref() for ref in self._refs.values()) if module is not None]

    @property
    def _roots(self) -> dict[str, object]:
        modules = ((name, ref()) for name, ref in self._refs.items())
        return {**{n: module for n, module in modules if module is not None}, **self._others}

    def _made(
        self,
        tensors: tuple[Tensor, ...],
        before: Kept | None,
        changed: str | None,
        *,
        whole: bool,
    ) -> Graph | None:
        """Return the compiled graph for tensors such as these.

        Args:
            tensors: the function's arguments.
            before: what programs held before anything was tried; as they are if None.
            changed: what has changed since the last call.
            whole: whether as one graph.
        """
        from torch.fx.experimental.proxy_tensor import make_fx  # not above: slow to import

        try:
            self._changes = 0 if changed is None else self._changes + 1
            if self._changes >= MOST_CHANGES:
                raise MovesError(
                    f"{changed} was changed before each of the last {MOST_CHANGES} calls; give "
                    f"what changes at each step as a tensor, or keep it elsewhere"
                )
            expected = self._expected(tensors)
            if any(t is not None and t.isnan().any() for t in expected.results):
                return None  # no graph can be held against these: the next call makes one
            with restored(), left_alone(self._roots), _values_stay_tensors(), self._while_tracing():
                traced = make_fx(self._function)(*tensors)
            cuda = any(t.device.type == "cuda" for t in tensors)
            parts = [joined(traced)] if whole else parted(traced)
            *first, last = (_compiled(part, cuda=cuda and part is parts[-1]) for part in parts)
            graph = partial(_run, first, last, self._lasting if cuda else None)
            # A CUDA graph is recorded the second time, and replayed from the third on.
            for _ in range(3 if cuda else 1):
                self._check(graph, tensors, expected, _rounding(traced))
        except Exception as error:  # whatever programs, tracing and compilers raise
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            if isinstance(error, MovesError):
                reason = str(error)
            if "value out of a tracing tensor" in reason:
                reason = "it looks at values, which a graph cannot; labels must be inputs of it"
            lost = None if before is None else before.put_back()
            if lost is not None:
                reason += f"; it was run once to try, and {lost} written to"
            self.failed, self.state, self._graphs = True, None, {}
            warnings.warn(
                f"{self._what} cannot be compiled, and is run as it is: slower, with the same "
                f"result ({reason})",
                NotCompiledWarning,
                stacklevel=_depth(),
            )
            return None
        return graph

    def _expected(self, tensors: tuple[Tensor, ...]) -> _Run:
        """Run the function, and see that a graph can do the same.

        Raises:
            MovesError: if not.
        """
        now = Snapshot(self._roots, self._tokens, self._but)
        with restored(), left_alone(self._roots) as kept:
            drawn = _other_generators()
            results = self._function(*tensors)
            run = _Run(results, kept.changed_tensors(), _generators())
            draws_elsewhere = _other_generators() != drawn
            moved = now.first_difference(Snapshot(self._roots, self._tokens, self._but))
            lost = kept.put_back()
        if moved is not None:
            raise MovesError(f"running it changes {moved}, which a graph would not")
        if lost is not None:
            raise MovesError(f"running it writes to {lost}")
        if draws_elsewhere and not self._same_on_other_draws(tensors, run):
            raise MovesError("its results depend on draws from numpy's or Python's generators")
        return run

    def _same_on_other_draws(self, tensors: tuple[Tensor, ...], run: _Run) -> bool:
        """Tell whether results stay the same, bit for bit, on other draws of numpy and Python.

        Some libraries draw for themselves, such as run-time type checkers, which look at a few
        items of a list.
        """
        with restored(), left_alone(self._roots) as kept:
            np.random.random()
            random.random()
            other = _Run(self._function(*tensors), kept.changed_tensors(), _generators())
        ours, theirs = (*run.results, *run.written), (*other.results, *other.written)
        return len(ours) == len(theirs) and all(map(_same, ours, theirs))

    def _check(
        self, graph: Graph, tensors: tuple[Tensor, ...], expected: _Run, rounding: float
    ) -> None:
        """Raise ArithmeticError unless a graph does what the function does, on the same draws."""
        with (
            restored(),
            left_alone(self._roots) as kept,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # what a compiler has to say is not of the program
            results = graph(*tensors)()
            got = _Run(results, kept.changed_tensors(), _generators())
        if not all(map(torch.equal, got.generators, expected.generators)):
            raise ArithmeticError("its graph draws other random numbers")
        if len(got.written) != len(expected.written):
            raise ArithmeticError("its graph writes to other tensors of the modules")
        if _error(got, expected, None) < rounding:
            return
        error = _error(got, expected, self._nudged(tensors, expected))
        if not error < rounding:
            raise ArithmeticError(f"its graph is off by {error:.1e} of what it should return")

    def _nudged(self, tensors: tuple[Tensor, ...], expected: _Run) -> _Run:
        """Run the function with parameters that are off by rounding.

        By how much its results move is what rounding does to them: a gradient that is zero but for
        that, such as of what a batch norm takes away again, is no less right for another zero.
        """
        with restored(), left_alone(self._roots):
            with torch.no_grad():
                for module in self._modules:
                    for parameter in module.parameters():
                        if parameter.is_floating_point():
                            parameter.mul_(1 + 2 * torch.finfo(parameter.dtype).eps)
            return replace(expected, results=self._function(*tensors))


@dataclass(frozen=True)
class _Run:
    """What a run of a function, or of a graph, leaves.

    Args:
        results: what it returned.
        written: values of modules' tensors that it wrote to.
        generators: the states of torch's random number generators.
    """

    results: Tensors
    written: list[Tensor]
    generators: list[Tensor]


def _compiled(traced: fx.GraphModule, *, cuda: bool) -> Callable[..., Tensors]:
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": cuda}
    return torch.compile(traced, dynamic=False, options=options)


@torch.no_grad()
def _run(
    first: list[Callable[..., Tensors]],
    last: Callable[..., Tensors],
    lasting: int | None,
    *tensors: Tensor,
) -> Callable[[], Tensors]:
    """Run what comes before any draw; return what runs the last part, whose first results last."""
    inputs: Tensors = tensors
    for part in first:
        inputs = (*tensors, *part(*tensors))

    @torch.no_grad()
    def run() -> Tensors:
        if lasting is None:
            return last(*inputs)
        torch.compiler.cudagraph_mark_step_begin()
        found = last(*inputs)
        return (*(t if t is None else t.clone() for t in found[:lasting]), *found[lasting:])

    return run


def _depth() -> int:
    """Return the ``stacklevel`` of a warning that points to who called this package."""
    package, found = __name__.partition(".")[0], 1
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
        if frame.f_globals.get("__name__", "").partition(".")[0] == package:
            found = depth
    return found + 1


def _other_generators() -> tuple:
    """Return the states of the generators that graphs do not draw from."""
    _, keys, *others = np.random.get_state()
    return np.asarray(keys).tobytes(), others, random.getstate()


def _generators() -> list[Tensor]:
    """Return the states of torch's random number generators."""
    state = random_state()
    return [state["torch"], *state["cuda"]]


def _rounding(traced: fx.GraphModule) -> float:
    """Return how far results may be off that differ by the order of their sums alone.

    That is √ε of the arithmetic, and ε of coarser numbers where there are some on the way.
    """
    found = {
        value.dtype
        for node in traced.graph.nodes
        if isinstance(value := node.meta.get("val"), Tensor) and value.is_floating_point()
    }
    coarse = max((torch.finfo(dtype).eps for dtype in found), default=0.0)
    fine = min(coarse, torch.finfo(torch.float32).eps)
    return max(3 * fine**0.5, 16 * coarse)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())


def _error(got: _Run, expected: _Run, nudged: _Run | None) -> float:
    """Return the greatest error of a result or of a tensor written to, in units of its size.

    Where there is a run off by rounding, 16 times what it differs by is no error.
    """
    found = [0.0]
    others = expected if nudged is None else nudged
    for ours, theirs, other in zip(
        (*got.results, *got.written),
        (*expected.results, *expected.written),
        (*others.results, *others.written),
        strict=True,
    ):
        if ours is None or theirs is None or other is None:
            found.append(0.0 if ours is theirs else float("inf"))
        elif theirs.is_floating_point():
            found.append(_distance(ours, theirs, other))
        else:
            found.append(0.0 if torch.equal(ours, theirs) else float("inf"))
    return float("nan") if any(map(math.isnan, found)) else max(found)


def _distance(got: Tensor, expected: Tensor, nudged: Tensor) -> float:
    """Return the greatest difference, in units of the greatest entry."""
    # Infinities, such as the logarithm of a weight of zero, are to be the same and have no size.
    finite = expected.abs().where(expected.isfinite(), 0.0)
    size = finite.max().clamp(min=torch.finfo(expected.dtype).tiny)
    difference = (got - expected).abs().where(got != expected, 0.0)
    moved = (nudged - expected).abs().where(nudged != expected, 0.0).max()
    return ((difference.max() - 16 * moved).clamp(min=0.0) / size).item()


@contextmanager
def _values_stay_tensors() -> Iterator[None]:
    """Let Pyro's estimators leave losses on the device, where they only report them as numbers."""
    instead: Mapping[str, Callable[..., Any]] = {
        "torch_item": lambda x: x.detach() if isinstance(x, Tensor) else x,
        "warn_if_nan": lambda value, *_, **__: value,
    }
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("pyro.infer")]
    found = [(m, name, getattr(m, name)) for m in modules for name in instead if hasattr(m, name)]
    try:
        for module, name, _ in found:
            setattr(module, name, instead[name])
        yield
    finally:
        for module, name, before in found:
            setattr(module, name, before)
