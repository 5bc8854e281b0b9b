"""Parameters of programs, as Pyro's handlers see them: one tensor, one name."""

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

# The name belongs to the tensor, not to the module it was found in: two pairs never share a name,
# and a tensor that is reachable from model and guide, or from two pairs, has one.
_name_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
_uses: Counter[str] = Counter()


def register(module: nn.Module) -> None:
    """Tell Pyro's handlers of the module's trainable parameters, and its store where it is to keep
    them: never with a silent failure to train.

    Every handler sees a ``pyro.param`` statement for each: a trace records it, ``render_model``
    draws it. The parameter store, which keeps alive what it holds, takes them only under a handler
    that collects parameters in order to train them, ``poutine.trace(param_only=True)``, as SVI and
    Pyro's other optimising loops have it. What evaluates leaves no trace there.

    ``pyro.module`` keys the store by a name that the caller chooses. When the name is taken (a
    second model, a store loaded from a file), SVI trains the tensor in the store and the module
    never changes, without a word.

    Where all effect handlers say that they ignore parameters, there is nobody to tell.

    Raises:
        RuntimeError: if the store, or an effect handler, answers with another tensor.
    """
    if all(getattr(handler, "ignores_parameters", False) for handler in _PYRO_STACK):
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
            answer = pyro.param(name, parameter)
        else:
            answer = _given(name, parameter, constraint=constraints.real, event_dim=None, name=name)
        # Pyro's render_model wraps the tensors whose dependencies it follows.
        if detach_provenance(answer) is not parameter:
            raise RuntimeError(
                f"parameter {path!r} of {type(module).__name__} would silently not be trained: "
                f"under its name {name!r} Pyro's parameter store (or an effect handler such as "
                f"poutine.lift) holds another tensor. If the store was loaded from a file or "
                f"filled by another program, call pyro.clear_param_store() and restore weights "
                f"with load_state_dict(). If the parameter is not contiguous in memory, make it so"
            )
        if not isinstance(getattr(parameter, "unconstrained", None), _Itself):
            parameter.unconstrained = _Itself(parameter)


class _Itself:
    """``parameter.unconstrained()``, as Pyro's traces have it; Pyro's own cannot be pickled."""

    def __init__(self, parameter: nn.Parameter | None = None) -> None:
        self._of = None if parameter is None else weakref.ref(parameter)

    def __call__(self) -> nn.Parameter | None:
        return None if self._of is None else self._of()

    def __reduce__(self) -> tuple[type[_Itself], tuple[()]]:
        return _Itself, ()  # of a copy it is made anew


def _param(name: str, init_tensor: Tensor, constraint: Constraint, event_dim: int | None) -> Tensor:
    return init_tensor


_given = effectful(_param, type="param")
"""``pyro.param`` without the store: what it is given is what it returns."""


def _is_collected(name: str) -> bool:
    """Tell whether a handler collects parameters of that name, in order to train them."""
    message = {"type": "param", "name": name, "is_observed": False}
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, BlockMessenger) and handler.hide_fn(message):
            return False
        if isinstance(handler, TraceMessenger) and handler.param_only:
            return True
    return False
