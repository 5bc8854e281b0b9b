"""Registration of modules' parameters with Pyro: one tensor, one name."""

from __future__ import annotations

import weakref
from collections import Counter

import pyro
from pyro.ops.provenance import detach_provenance
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.runtime import _PYRO_STACK, effectful
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.utils.weak import WeakIdKeyDictionary

# A name belongs to a tensor, not to a module: two pairs never share a name, and a tensor that is
# reachable from model and guide, or from two pairs, has only one.
_name_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
_uses: Counter[str] = Counter()


class IgnoresParameters:
    """An effect handler that no ``pyro.param`` statement concerns; see :func:`register`."""


def register(module: nn.Module) -> None:
    """Register a module's trainable parameters, each as a ``pyro.param`` statement.

    Every handler sees the statements: a trace records them, ``render_model`` draws them. The
    parameter store gets them only under a handler that collects parameters for training,
    ``poutine.trace(param_only=True)``, as in SVI, since it keeps alive what it holds.

    ``pyro.module`` keys the store by a name that the caller chooses. If the name is taken (by a
    second model, or in a store loaded from a file), SVI trains the stored tensor, and the module
    silently never changes. Here that is an error.

    Nothing is done if every handler in effect ignores parameters.

    Raises:
        RuntimeError: if the store, or an effect handler, returns another tensor.
    """
    if all(isinstance(handler, IgnoresParameters) for handler in _PYRO_STACK):
        return
    for path, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        name = _name_of.get(parameter)
        if name is None:
            _uses[path] += 1
            name = path if _uses[path] == 1 else f"{path}__{_uses[path]}"
            _name_of[parameter] = name
        if _is_collected(name):
            returned = pyro.param(name, parameter)
        else:
            returned = _param_without_store(
                name, parameter, constraint=constraints.real, event_dim=None, name=name
            )
        # render_model wraps the tensors whose provenance it tracks.
        if detach_provenance(returned) is not parameter:
            raise RuntimeError(
                f"parameter {path!r} of {type(module).__name__} would silently not be trained: "
                f"Pyro's parameter store (or an effect handler such as poutine.lift) has another "
                f"tensor under its name {name!r}. Call pyro.clear_param_store() and restore "
                f"weights with load_state_dict(); if the parameter is not contiguous, make it so"
            )
        if not isinstance(getattr(parameter, "unconstrained", None), _Unconstrained):
            parameter.unconstrained = _Unconstrained(parameter)


class _Unconstrained:
    """``parameter.unconstrained()``, which Pyro's traces expect; its own cannot be pickled."""

    def __init__(self, parameter: nn.Parameter | None = None) -> None:
        self._of = None if parameter is None else weakref.ref(parameter)

    def __call__(self) -> nn.Parameter | None:
        return None if self._of is None else self._of()

    def __reduce__(self) -> tuple[type[_Unconstrained], tuple[()]]:
        return _Unconstrained, ()  # the copy of a parameter gets its own


def _param(name: str, init_tensor: Tensor, constraint: Constraint, event_dim: int | None) -> Tensor:
    return init_tensor


_param_without_store = effectful(_param, type="param")
"""``pyro.param`` without the store: returns the tensor that it is given."""


def _is_collected(name: str) -> bool:
    """Return whether a handler collects the parameter of that name for training."""
    message = {"type": "param", "name": name, "is_observed": False}
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, BlockMessenger) and handler.hide_fn(message):
            return False
        if isinstance(handler, TraceMessenger) and handler.param_only:
            return True
    return False
