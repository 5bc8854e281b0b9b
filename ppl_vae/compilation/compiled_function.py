"""A function of tensors that runs programs: traced once through Pyro's handlers, then compiled."""

from __future__ import annotations

import random
import sys
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch import Tensor, fx, nn

from ppl_vae.buffers import kept_buffers
from ppl_vae.compilation.compiler import compiler
from ppl_vae.compilation.decompositions import decompositions
from ppl_vae.compilation.guards import Guards, ObjectIds, strides
from ppl_vae.compilation.invariant_split import invariant_split
from ppl_vae.compilation.saved_state import SavedState, preserved
from ppl_vae.compilation.verification import (
    Outcome,
    Tensors,
    other_generators,
    relative_error,
    tolerance,
)
from ppl_vae.labels import Labels, assume_checked, recorded_checks
from ppl_vae.process_state import restored

Graph = Callable[..., Callable[[], Tensors]]
"""Takes the arguments; returns a sampler of results."""

MAX_GRAPHS = 32
"""How many graphs of a function are kept."""
MAX_RECOMPILES = 8
"""Consecutive calls that may each need a new graph because something was changed."""


class NotCompiledWarning(UserWarning):
    """Something could not be compiled and runs uncompiled."""


class SideEffectError(Exception):
    """A program changes something, or draws, where a graph of it would not."""


class CompiledFunction:
    r"""A function of tensors that runs programs, as compiled graphs.

    ``make_fx`` runs the function once, through Pyro's effect handlers and any backward pass in it,
    and records the operations on tensors; Inductor compiles them. Random numbers come from torch's
    generators in the same order, so that compiled and uncompiled draws are equal. A sampler runs
    once what no draw reaches (:func:`invariant_split`).

    A graph is valid while its guards hold; when one fails, another graph is made. Guarded are

    - shapes, strides, dtypes and devices of the inputs, and whether labels are missing among them;
    - everything that the modules and the dependencies hold, at any depth: modules, functions,
      hooks, parametrisations and other objects; tensors (identity, strides and ``requires_grad``;
      graphs read their current values); numbers, strings and arrays by value; also in lists,
      dictionaries, tuples, sets, closures and class attributes, except those of torch, Pyro and
      this package;
    - torch's default dtype, autocast, determinism and global hooks.

    Not guarded, and fixed when the graph is made, is what programs read from elsewhere: global
    variables, Pyro's parameter store, files, and the inside of standard-library objects other than
    collections and namespaces, or of objects that are not Python's (generators, compiled
    extensions). Within effect handlers of Pyro the function runs uncompiled, so that they see it.

    The last 32 graphs are kept for when their guards hold again, until a module or a tensor is
    replaced.

    A new graph is compared with the function on the same draws: its results, and what it writes to
    the modules' tensors, such as running means. The function runs uncompiled, after one warning and
    with no trace of the attempt, if the two differ by more than rounding; if a program reads values
    (``if z > 0``, ``.item()``), changes attributes of its own (a counter), or draws from generators
    other than torch's; if there is no compiler; or if attributes change before each of 8
    consecutive calls.

    Args:
        function: takes tensors; returns a tuple of tensors or None, which need no gradient.
        modules: the modules that it runs, by name; not kept alive.
        dependencies: other objects that it depends on, such as estimators, by name.
        ignored: names of attributes that make no difference, by the name of their owner.
        tracing_context: makes a context for the tracing alone.
        num_persistent: how many of the first results outlive the next call. On a CUDA device,
            graphs are CUDA graphs, which overwrite the others at each call.
        name: for the warning.
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        modules: Mapping[str, nn.Module],
        *,
        dependencies: Mapping[str, object] | None = None,
        ignored: Mapping[str, Sequence[str]] | None = None,
        tracing_context: Callable[[], AbstractContextManager] = nullcontext,
        num_persistent: int,
        name: str,
    ) -> None:
        self._function = function
        self._refs = {name: weakref.ref(module) for name, module in modules.items()}
        self._dependencies = dict(dependencies or {})
        self._ignored = ignored
        self._tracing_context = tracing_context
        self._num_persistent = num_persistent
        self._name = name
        self._ids = ObjectIds()
        self._labels: dict[Hashable, list[Labels | None]] = {}
        self._graphs: dict[tuple, Graph] = {}
        self._recompiles = 0
        self.guards: Guards | None = None
        """What programs held at the last call: one object while it holds; None if unknown."""
        self.failed = False
        """Whether the function runs uncompiled, after a warning."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def __call__(self, *tensors: Tensor, constants: Hashable = ()) -> Tensors:
        """Return the function's results; ``constants`` are what else it depends on at this call."""
        return self.prepare(*tensors, constants=constants)()

    def prepare(self, *tensors: Tensor, constants: Hashable = ()) -> Callable[[], Tensors]:
        """Check guards, compile if needed, and return the call as a function without arguments."""
        return self._graph(tensors, constants, split=False)(*tensors)

    def sampler(self, *tensors: Tensor, constants: Hashable = ()) -> Callable[[], Tensors]:
        """Return a function without arguments, each call of which gives results for new draws.

        What depends on no draw (an encoding of the data, say) is computed now, and once.
        """
        return self._graph(tensors, constants, split=True)(*tensors)

    def _graph(self, tensors: tuple[Tensor, ...], constants: Hashable, *, split: bool) -> Graph:
        """Return the graph for such arguments, or the function itself."""
        uncompiled = partial(partial, self._function)
        if self.failed or _PYRO_STACK:
            self.guards = None
            return uncompiled
        changed = self._update_guards()
        signature = (constants, len(tensors))
        before = None
        if signature not in self._labels:
            before = SavedState(self._roots)
            labels = self._trial_run(tensors, before)
            self._update_guards()  # what it has created or replaced empties _labels
            self._labels[signature] = labels
        assert self.guards is not None
        missing = _missing_labels(tensors, self._labels[signature])
        inputs = tuple((tuple(t.shape), strides(t), t.dtype, t.device) for t in tensors)
        key = (self.guards.key, inputs, tuple(missing), constants, split)
        if key not in self._graphs:
            aliases = _aliases(tensors)
            known = [
                (given[i], some)
                for given in (tensors, aliases)
                for i, some in enumerate(missing)
                if some is not None
            ]
            with assume_checked(*known), compiler():
                graph = self._compile(tensors, aliases, before, changed, split=split)
            if graph is None:
                return uncompiled
            self._graphs[key] = graph
            if len(self._graphs) > MAX_GRAPHS:
                del self._graphs[next(iter(self._graphs))]
        elif changed is None:
            self._recompiles = 0
        return self._graphs[key]

    def _update_guards(self) -> str | None:
        """Record what programs hold now; return the name of the first change, if any."""
        before = self.guards
        if before is not None and before.hold():
            return None
        self.guards = Guards(self._roots, self._ids, self._ignored)
        if before is None or self.guards.structure != before.structure:
            self._graphs, self._labels = {}, {}
        return None if before is None else before.first_difference(self.guards)

    def _trial_run(self, tensors: tuple[Tensor, ...], before: SavedState) -> list[Labels | None]:
        """Run the function, which may create parameters; return which inputs are labels.

        Estimators, too, inspect new programs at their first call.
        """
        tensors = _aliases(tensors)
        try:
            with restored(), kept_buffers(*self._modules), recorded_checks() as checks:
                self._function(*tensors)
        except BaseException:
            before.restore()
            raise
        return [next((labels for y, labels in checks if y is t), None) for t in tensors]

    @property
    def _modules(self) -> list[nn.Module]:
        return [module for module in (ref() for ref in self._refs.values()) if module is not None]

    @property
    def _roots(self) -> dict[str, object]:
        modules = ((name, ref()) for name, ref in self._refs.items())
        return {**{n: module for n, module in modules if module is not None}, **self._dependencies}

    def _compile(
        self,
        tensors: tuple[Tensor, ...],
        aliases: tuple[Tensor, ...],
        before: SavedState | None,
        changed: str | None,
        *,
        split: bool,
    ) -> Graph | None:
        """Return the compiled graph for such tensors; None where there is none.

        ``aliases`` are the same, to be traced; ``before`` is what programs held before anything was
        tried, None if it is what they hold; ``changed`` what has changed since the last call.
        """
        from torch._guards import TracingContext, tracing  # slow to import, all three
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.proxy_tensor import make_fx

        try:
            self._recompiles = 0 if changed is None else self._recompiles + 1
            if self._recompiles >= MAX_RECOMPILES:
                raise SideEffectError(
                    f"{changed} was changed before each of the last {MAX_RECOMPILES} calls; pass "
                    f"what changes at each step as a tensor, or keep it elsewhere"
                )
            expected = self._uncompiled_run(tensors)
            if any(t is not None and t.isnan().any() for t in expected.results):
                return None  # nothing to compare a graph with: the next call makes one
            with (
                preserved(self._roots),
                _losses_stay_tensors(),
                self._tracing_context(),
                # Without it make_fx makes a mode, and formats a stack trace, for each operation.
                tracing(TracingContext(FakeTensorMode())),
            ):
                traced = make_fx(self._function, decompositions())(*aliases)
            cuda = any(t.device.type == "cuda" for t in tensors)
            *first, last = invariant_split(traced) if split else (traced,)
            graph = partial(
                _run,
                [inductor(part, cuda=False) for part in first],
                inductor(last, cuda=cuda),
                self._num_persistent if cuda else None,
            )
            # A CUDA graph is recorded at the second run and replayed from the third on.
            for _ in range(3 if cuda else 1):
                self._verify(graph, tensors, expected, tolerance(traced))
        except Exception as error:  # whatever programs, tracing and compilers raise
            message, *below = str(error).strip().splitlines() or [""]
            if message.endswith(":"):  # a backend's failure
                message = " ".join([message, *below[:1]])
            reason = f"{type(error).__name__}: {message[:200]}"
            if isinstance(error, SideEffectError):
                reason = str(error)
            if "value out of a tracing tensor" in reason:
                reason = "it looks at values, which a graph cannot; labels must be inputs of it"
            lost = None if before is None else before.restore()
            if lost is not None:
                reason += f"; a trial run has written to {lost}"
            self.failed, self.guards, self._graphs = True, None, {}
            warnings.warn(
                f"{self._name} cannot be compiled and runs uncompiled: slower, with the same "
                f"result ({reason})",
                NotCompiledWarning,
                stacklevel=_stacklevel(),
            )
            return None
        return graph

    def _uncompiled_run(self, tensors: tuple[Tensor, ...]) -> Outcome:
        """Run the function; raise SideEffectError if a graph could not do the same."""
        now = Guards(self._roots, self._ids, self._ignored)
        with preserved(self._roots) as saved:
            drawn = other_generators()
            outcome = Outcome.of(self._function, tensors, saved)
            draws_elsewhere = other_generators() != drawn
            changed = now.first_difference(Guards(self._roots, self._ids, self._ignored))
            lost = saved.restore()
        if changed is not None:
            raise SideEffectError(f"running it changes {changed}, which a graph would not")
        if lost is not None:
            raise SideEffectError(f"running it writes to {lost}")
        if draws_elsewhere and not self._ignores_other_generators(tensors, outcome):
            raise SideEffectError("its results depend on draws from numpy's or Python's generators")
        return outcome

    def _ignores_other_generators(self, tensors: tuple[Tensor, ...], expected: Outcome) -> bool:
        """Return whether results are the same for other draws of numpy and Python.

        Some libraries draw for purposes of their own, such as run-time type checkers that sample
        the items of a list.
        """
        with preserved(self._roots) as saved:
            np.random.random()
            random.random()
            return expected.equals(Outcome.of(self._function, tensors, saved))

    def _verify(
        self, graph: Graph, tensors: tuple[Tensor, ...], expected: Outcome, allowed: float
    ) -> None:
        """Raise ArithmeticError unless a graph does what the function does, on the same draws."""
        with preserved(self._roots) as saved, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a compiler's, not the program's
            got = Outcome.of(lambda *t: graph(*t)(), tensors, saved)
        if not all(map(torch.equal, got.generators, expected.generators)):
            raise ArithmeticError("its graph draws other random numbers")
        if len(got.written) != len(expected.written):
            raise ArithmeticError("its graph writes to other tensors of the modules")
        if relative_error(got, expected) <= allowed:
            return
        error = relative_error(got, expected, self._perturbed_run(tensors, expected))
        if not error <= allowed:
            raise ArithmeticError(f"its graph is off by {error:.1e}, relative to the function")

    def _perturbed_run(self, tensors: tuple[Tensor, ...], expected: Outcome) -> Outcome:
        """Run the function with parameters that are off by rounding.

        How much its results change is what rounding does to them. A gradient that is zero but for
        rounding, such as of a bias before a batch norm, may be any other such zero.
        """
        with preserved(self._roots):
            with torch.no_grad():
                for module in self._modules:
                    for parameter in module.parameters():
                        if parameter.is_floating_point():
                            parameter.mul_(1 + 2 * torch.finfo(parameter.dtype).eps)
            return replace(expected, results=self._function(*tensors))


def _aliases(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return new tensors of the same memory.

    Tracing tells tensors apart by identity: it would take an input that is given twice, or that is
    a module's own tensor, for one and the same in later calls, too.
    """
    return tuple(t.detach().requires_grad_(t.requires_grad) for t in tensors)


def _missing_labels(
    tensors: Sequence[Tensor], labels: Sequence[Labels | None]
) -> list[bool | None]:
    """Return whether labels are missing, which programs branch on; None for other inputs.

    No other values are read, such as the indices of a batch: reading synchronises with the device.
    """
    pairs = zip(tensors, labels, strict=True)
    return [None if of is None else of.check(t, len(t)) for t, of in pairs]


def inductor(traced: fx.GraphModule, *, cuda: bool) -> Callable[..., Tensors]:
    """Return a graph that Inductor compiles at its first call.

    ``torch.compile`` would trace it once more, and look the result up at each call: 0.3 ms of a
    step of 3.3 at batch 32. CUDA graphs need what it says about parameters.
    """
    options: dict[str, Any] = {"fallback_random": True, "triton.cudagraphs": cuda}
    if cuda:
        return torch.compile(traced, dynamic=False, options=options)
    compiled: list[Callable[..., Tensors]] = []

    def run(*tensors: Tensor) -> Tensors:
        if not compiled:
            from torch import _inductor  # slow to import

            compiled.append(_inductor.compile(traced, list(tensors), options))
        return tuple(compiled[0](*tensors))

    return run


@torch.no_grad()
def _run(
    first: list[Callable[..., Tensors]],
    last: Callable[..., Tensors],
    num_persistent: int | None,
    *tensors: Tensor,
) -> Callable[[], Tensors]:
    """Run what no draw reaches; return a sampler that runs the rest.

    With a number, ``last`` is a CUDA graph, and so many of its first results are copied.
    """
    inputs: Tensors = tensors
    for part in first:
        inputs = (*tensors, *part(*tensors))

    @torch.no_grad()
    def sample() -> Tensors:
        if num_persistent is None:
            return last(*inputs)
        torch.compiler.cudagraph_mark_step_begin()
        found = last(*inputs)
        persistent = (t if t is None else t.clone() for t in found[:num_persistent])
        return (*persistent, *found[num_persistent:])

    return sample


def _stacklevel() -> int:
    """Return the ``stacklevel`` of a warning that points to the caller of this package."""
    package, found = __name__.partition(".")[0], 1
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
        if frame.f_globals.get("__name__", "").partition(".")[0] == package:
            found = depth
    return found + 1


@contextmanager
def _losses_stay_tensors() -> Iterator[None]:
    """Keep Pyro's estimators from converting losses to numbers, and from checking them."""
    replacements: Mapping[str, Callable[..., Any]] = {
        "torch_item": lambda x: x.detach() if isinstance(x, Tensor) else x,
        "warn_if_nan": lambda value, *_, **__: value,
    }
    modules = [m for name, m in list(sys.modules.items()) if name.startswith("pyro.infer")]
    originals = [
        (m, name, getattr(m, name)) for m in modules for name in replacements if hasattr(m, name)
    ]
    try:
        for module, name, _ in originals:
            setattr(module, name, replacements[name])
        yield
    finally:
        for module, name, original in originals:
            setattr(module, name, original)
