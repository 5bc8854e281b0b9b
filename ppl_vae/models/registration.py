"""Parameters in Pyro's store: one tensor, one name, and never a silent failure to train."""

from __future__ import annotations

from collections import Counter

import pyro
from pyro.ops.provenance import detach_provenance
from pyro.poutine.runtime import _PYRO_STACK
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

# The name belongs to the tensor, not to the module it was found in: two pairs never share a name,
# and a tensor that is reachable from model and guide, or from two pairs, has one.
_name_of: WeakIdKeyDictionary = WeakIdKeyDictionary()
_uses: Counter[str] = Counter()


def register(module: nn.Module) -> None:
    """Tell Pyro of the module's trainable parameters, as ``pyro.module`` does, but safely.

    ``pyro.module`` keys the store by a name that the caller chooses. When the name is taken (a
    second model, a store loaded from a file), SVI trains the tensor in the store and the module
    never changes, without a word.

    Where all effect handlers say that they ignore parameters, there is nobody to tell.

    Raises:
        RuntimeError: if the store, or an effect handler, answers with another tensor.
    """
    if _PYRO_STACK and all(getattr(h, "ignores_parameters", False) for h in _PYRO_STACK):
        return
    for path, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        name = _name_of.get(parameter)
        if name is None:
            _uses[path] += 1
            name = path if _uses[path] == 1 else f"{path}__{_uses[path]}"
            _name_of[parameter] = name
        # Pyro's render_model wraps the tensors whose dependencies it follows.
        if detach_provenance(pyro.param(name, parameter)) is not parameter:
            raise RuntimeError(
                f"parameter {path!r} of {type(module).__name__} would silently not be trained: "
                f"under its name {name!r} Pyro's parameter store (or an effect handler such as "
                f"poutine.lift) holds another tensor. If the store was loaded from a file or "
                f"filled by another program, call pyro.clear_param_store() and restore weights "
                f"with load_state_dict(). If the parameter is not contiguous in memory, make it so"
            )
