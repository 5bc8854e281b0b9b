"""A function of tensors, run once through Pyro's handlers and from then on as a graph."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.buffers import untouched
from ppl_vae.compilation.facts import Facts, kinds, labels_among, seen
from ppl_vae.compilation.joined import joined
from ppl_vae.compilation.parted import parted
from ppl_vae.models.labels import Labels
from ppl_vae.randomness import random_state, restored

Tensors = tuple[Tensor | None, ...]
Graph = Callable[..., Callable[[], Tensors]]
"""Takes the arguments, and returns what returns results of new draws."""


class NotCompiledWarning(UserWarning):
    """Something could not be compiled, and is run as it is."""


class Compiled:
    r"""A function of tensors that runs programs, as compiled graphs.

    ``make_fx`` runs the function once, through Pyro's effect handlers and any backward pass in it,
    and writes down the operations on tensors; Inductor compiles them. Random numbers stay those of
    torch's generators, drawn in the same order, so that compiled and uncompiled draws are the same.

    Parts of a step that go through one network meet its matrices in one product (:func:`joined`),
    and of a function that is run for many draws, what no draw reaches is run once
    (:func:`parted`).

    A graph belongs to what it was made from: shapes, dtypes and devices of the inputs, whether
    labels are missing among them, the tensors of the modules (whose values may change), and every
    plain attribute (numbers, strings, tuples of them) of the modules and of the other objects, such
    as ``training`` or ``num_particles``. When one of them changes, another graph is made, and all
    are kept. What programs read from elsewhere (a global variable, a list) is fixed when the graph
    is made.

    The first time, a graph is held against the function on the same draws. Where they differ by
    more than rounding, or a program cannot be traced (it looks at values: ``if z > 0``,
    ``.item()``), or there is no compiler, a warning says so, once, and the function is run as it
    is.

    Args:
        function: of tensors; returns a tuple of tensors or None, which need no gradient.
        modules: that it runs; they are not kept alive, except by what the function holds.
        others: objects that it depends on besides, such as estimators.
        but: names of their attributes that change nothing.
        while_tracing: makes a context for the tracing alone.
        lasting: how many of the first results are to last over the next calls. On a CUDA device
            graphs are CUDA graphs, which write the others into the same memory each time.
        what: is compiled, for the warning.
    """

    def __init__(
        self,
        function: Callable[..., Tensors],
        modules: Sequence[nn.Module],
        *,
        others: Sequence[object] = (),
        but: tuple[str, ...] = (),
        while_tracing: Callable[[], AbstractContextManager] = nullcontext,
        lasting: int,
        what: str,
    ) -> None:
        self._function = function
        self._refs = [weakref.ref(module) for module in modules]
        self._others = tuple(others)
        self._but = but
        self._while_tracing = while_tracing
        self._lasting = lasting
        self._what = what
        self._facts: Facts | None = None
        self._labels: dict[Hashable, list[Labels | None]] = {}
        self._graphs: dict[tuple, Graph] = {}
        self.failed = False
        """Whether the function is run as it is, after a warning."""

    def __call__(self, *tensors: Tensor, constants: Hashable = ()) -> Tensors:
        """Return what the function returns.

        Args:
            tensors: its arguments.
            constants: what else it depends on at this call.
        """
        return self._graph(tensors, constants, whole=True)(*tensors)()

    def drawing(self, *tensors: Tensor, constants: Hashable = ()) -> Callable[[], Tensors]:
        """Return what returns what the function returns, of new draws each time it is called.

        What depends on no draw (an encoding of the data, say) is computed now, and once.

        Args:
            tensors: arguments of the function.
            constants: what else it depends on.
        """
        return self._graph(tensors, constants, whole=False)(*tensors)

    def _graph(self, tensors: tuple[Tensor, ...], constants: Hashable, *, whole: bool) -> Graph:
        """Return the graph for such arguments."""
        uncompiled = partial(partial, self._function)
        if self.failed:
            return uncompiled
        if self._facts is None or not self._facts.same_structure():
            self._facts, self._graphs, self._labels = None, {}, {}
        like = (constants, len(tensors))
        if like not in self._labels:
            # Estimators look at new programs, too, and note what they find.
            with restored(), untouched(*self._modules), labels_among(tensors) as labels:
                self._function(*tensors)
            self._labels[like] = labels
        if self._facts is None:
            self._facts = Facts(self._modules, self._others, self._but)
        inputs = kinds(tensors, self._labels[like])
        key = (self._facts.values(), inputs, constants, whole)
        if key not in self._graphs:
            with seen(tensors, inputs):
                made = self._made(tensors, whole=whole)
            if made is None:
                self.failed = True
                return uncompiled
            self._graphs[key] = made
        return self._graphs[key]

    @property
    def _modules(self) -> list[nn.Module]:
        return [module for module in (ref() for ref in self._refs) if module is not None]

    def _made(self, tensors: tuple[Tensor, ...], *, whole: bool) -> Graph | None:
        """Return the compiled graph for tensors such as these."""
        try:
            tracing = self._while_tracing()
            with restored(), untouched(*self._modules), _values_stay_tensors(), tracing:
                traced = make_fx(self._function)(*tensors)
            cuda = any(t.device.type == "cuda" for t in tensors)
            parts = [joined(traced)] if whole else parted(traced)
            *first, last = (_compiled(part, cuda=cuda and part is parts[-1]) for part in parts)
            graph = partial(_run, first, last, self._lasting if cuda else None)
            # A CUDA graph is recorded the second time, and replayed from the third on.
            for _ in range(3 if cuda else 1):
                self._check(graph, tensors, _rounding(traced))
        except Exception as error:  # whatever programs, tracing and compilers raise
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            if "value out of a tracing tensor" in reason:
                reason = "it looks at values, which a graph cannot; labels must be inputs of it"
            warnings.warn(
                f"{self._what} cannot be compiled, and is run as it is: slower, with the same "
                f"result ({reason})",
                NotCompiledWarning,
                stacklevel=_depth(),
            )
            return None
        return graph

    def _check(self, graph: Graph, tensors: tuple[Tensor, ...], rounding: float) -> None:
        """Raise ArithmeticError unless a graph does what the function does, on the same draws."""
        with restored(), untouched(*self._modules):
            expected = self._function(*tensors)
            after = _generators()
        with restored(), untouched(*self._modules), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a compiler has to say is not of the program
            got = graph(*tensors)()
            same_draws = map(torch.equal, after, _generators())
        if not all(same_draws):
            raise ArithmeticError("its graph draws other random numbers")
        for ours, theirs in zip(got, expected, strict=True):
            error = _distance(ours, theirs)
            if not error < rounding:
                raise ArithmeticError(f"its graph is off by {error:.1e} of what it should return")


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


def _distance(got: Tensor | None, expected: Tensor | None) -> float:
    """Return the greatest difference, in units of the greatest entry."""
    if got is None or expected is None:
        return 0.0 if got is expected else float("inf")
    # Infinities, such as the logarithm of a weight of zero, are to be the same and have no size.
    finite = expected.abs().where(expected.isfinite(), 0.0)
    size = finite.max().clamp(min=torch.finfo(expected.dtype).tiny)
    difference = (got - expected).abs().where(got != expected, 0.0)
    return (difference.max() / size).item()


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
