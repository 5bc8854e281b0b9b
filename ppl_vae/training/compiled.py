"""A step's forward and backward pass, run once through Pyro's handlers and then as one graph."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae.data import Part
from ppl_vae.models.labels import some_missing
from ppl_vae.training.distributed import Share
from ppl_vae.training.objective import Objective, untouched
from ppl_vae.training.randomness import restored

_PLAIN = (bool, int, float, str, type(None))


class NotCompiledWarning(UserWarning):
    """A step could not be compiled, and is run as it is."""


class CompiledObjective:
    r"""An objective whose value and gradient come from compiled graphs.

    ``make_fx`` runs the objective once, through Pyro's effect handlers and autograd's backward
    pass, and writes down the operations on tensors; Inductor compiles them. Random numbers stay
    those of torch's generators, drawn in the same order, so that a compiled step has the draws of
    an uncompiled one.

    A graph belongs to what it was made from: shapes, dtypes and devices of the data, whether labels
    are missing among them, the tensors of the programs (whose values may change), and every plain
    attribute (numbers, strings, tuples of them) of the programs' modules and of the estimator, such
    as ``training`` or ``num_particles``. When one of them changes, another graph is made, and all
    are kept. β is a tensor to the graph. What programs read from elsewhere (a global variable, a
    list) is fixed when the graph is made.

    The first time, a graph is held against the uncompiled step on the same draws. Where they differ
    by more than rounding, or a program cannot be traced (it looks at values: ``if z > 0``,
    ``.item()``), or there is no compiler, a warning says so, once, and steps are run uncompiled.

    Args:
        objective: what is differentiated.
        share: makes the share of a step of its tensors, as a part of the graph.
        around: makes a context in which the objective is run, such as one of mixed precision.
    """

    def __init__(
        self,
        objective: Objective,
        share: Callable[..., Share],
        *,
        around: Callable[[], AbstractContextManager] = nullcontext,
    ) -> None:
        self._objective = objective
        self._share = share
        self._around = around
        self._parameters = [p for p in objective.parameters() if p.requires_grad]
        self._facts: _Facts | None = None
        self._graphs: dict[tuple, Callable[..., tuple]] = {}
        self._beta: Tensor | None = None
        self.failed = False
        """Whether steps are run uncompiled, after a warning."""

    def __call__(self, *tensors: Tensor, constants: Hashable = ()) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of its parts, with gradients in the parameters.

        Args:
            tensors: what ``share`` is called with.
            constants: what else ``share`` depends on.
        """
        if self.failed:
            return self._filled(self._step(*tensors))
        if self._facts is None or not self._facts.same_structure():
            with restored(), untouched(self._objective):
                self._step(*tensors)  # estimators look at new programs, and note what they find
            self._facts, self._graphs = _Facts(self._objective), {}
        key = (self._facts.values(), _shapes(tensors), constants)
        self._set_beta(tensors[0].device)
        if key not in self._graphs:
            made = self._made(tensors)
            if made is None:
                self.failed = True
                return self._filled(self._step(*tensors))
            self._graphs[key] = made
        with torch.no_grad():
            return self._filled(self._graphs[key](*tensors))

    def _filled(self, results: tuple) -> tuple[Tensor, Tensor]:
        loss, losses, *gradients = results
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        return loss, losses

    def _set_beta(self, device: torch.device) -> None:
        beta = self._objective.scheduled.values().get("beta")
        if beta is not None:
            if self._beta is None:
                self._beta = torch.zeros((), device=device)
            self._beta.fill_(beta)

    def _made(self, tensors: tuple[Tensor, ...]) -> Callable[..., tuple] | None:
        """Return the compiled graph for tensors such as these."""
        try:
            graph = torch.compile(
                self._traced(tensors), dynamic=False, options={"fallback_random": True}
            )
            self._check(graph, tensors)
        except Exception as error:  # whatever programs, tracing and compilers raise
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            if "value out of a tracing tensor" in reason:
                reason = "it looks at values, which a graph cannot; labels must be inputs of it"
            warnings.warn(
                f"a training step cannot be compiled, and is run as it is: slower, with the same "
                f"result ({reason})",
                NotCompiledWarning,
                stacklevel=4,
            )
            return None
        return graph

    def _step(self, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        """Run the objective and its backward pass."""
        with self._around():
            loss, losses = self._objective(self._share(*tensors))
        gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True)
        return (loss.detach(), losses, *gradients)

    def _traced(self, tensors: tuple[Tensor, ...]) -> torch.fx.GraphModule:
        beta_is_a_tensor = self._objective.scheduled.beta_is(self._beta)
        with restored(), untouched(self._objective), _values_stay_tensors(), beta_is_a_tensor:
            return make_fx(self._step)(*tensors)

    def _check(self, graph: Callable[..., tuple], tensors: tuple[Tensor, ...]) -> None:
        """Raise ArithmeticError unless a graph does what the objective does, on the same draws."""
        with restored(), untouched(self._objective):
            expected = self._step(*tensors)
            after = torch.get_rng_state()
        with restored(), untouched(self._objective), torch.no_grad():
            got = graph(*tensors)
            same_draws = torch.equal(after, torch.get_rng_state())
        if not same_draws:
            raise ArithmeticError("the compiled step draws other random numbers")
        for ours, theirs in zip(got, expected, strict=True):
            error = _distance(ours, theirs)
            if not error < 3 * torch.finfo(got[0].dtype).eps ** 0.5:
                raise ArithmeticError(f"the compiled step is off by {error:.1e} of a gradient")


class CompiledShares:
    """A compiled objective for shares as ``fit`` has them.

    Args:
        objective: what is differentiated.
        first: a share of the size that most have; those of other sizes, such as the last of an
            epoch, are to be run uncompiled.
        around: as for :class:`CompiledObjective`.
    """

    def __init__(
        self,
        objective: Objective,
        first: Share,
        around: Callable[[], AbstractContextManager],
    ) -> None:
        self._like = first
        self._sizes = first.sizes
        self._compiled = CompiledObjective(objective, self._made_of, around=around)

    def suits(self, share: Share) -> bool:
        """Tell whether a share is of the size of most."""
        return share.sizes == self._sizes and not self._compiled.failed

    def __call__(self, share: Share) -> tuple[Tensor, Tensor]:
        """Return the objective and the losses of the parts, with gradients in the parameters."""
        self._like = share
        tensors = [tensor for part in share.parts for tensor in part.args]
        named = tuple((part.name, part.weight, len(part.args)) for part in share.parts)
        return self._compiled(*tensors, constants=(named, share.fractions))

    def _made_of(self, *tensors: Tensor) -> Share:
        rest = iter(tensors)
        parts = [
            Part(part.name, tuple(next(rest) for _ in part.args), part.weight)
            for part in self._like.parts
        ]
        return Share(parts, self._like.fractions, self._like.sizes)


class _Facts:
    """The plain attributes of an objective's modules and estimator, and which tensors it has."""

    def __init__(self, objective: Objective) -> None:
        self._structure: list[tuple[dict[str, Any], str, object]] = []
        self._places: list[tuple[dict[str, Any], str]] = []
        for module in objective.modules():
            for held in (module._modules, module._parameters, module._buffers):
                self._structure += [(held, name, value) for name, value in held.items()]
            self._note(vars(module))
        for estimator in objective.scheduled.estimators:
            self._note(vars(estimator), but=("step",))

    def same_structure(self) -> bool:
        """Tell whether modules, parameters and buffers are still the same objects."""
        return all(held.get(name) is value for held, name, value in self._structure)

    def values(self) -> tuple[object, ...]:
        """Return what the attributes are now."""
        return tuple([held.get(name) for held, name in self._places])

    def _note(self, attributes: dict[str, Any], but: tuple[str, ...] = ()) -> None:
        self._places += [
            (attributes, name)
            for name, value in attributes.items()
            if name not in but and _is_plain(value)
        ]


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _shapes(tensors: tuple[Tensor, ...]) -> tuple[tuple, ...]:
    """Return what a graph takes for granted of its tensors."""
    return tuple(
        (tuple(t.shape), t.dtype, t.device, not t.is_floating_point() and some_missing(t))
        for t in tensors
    )


def _distance(got: Tensor | None, expected: Tensor | None) -> float:
    """Return the greatest difference, in units of the greatest entry."""
    if got is None or expected is None:
        return 0.0 if got is expected else float("inf")
    size = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return ((got - expected).abs().max() / size).item()


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
