"""The parameters of an objective, and what an optimiser must hold of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Parameters:
    """The parameters of a module as they are now: some may come and go, be frozen and unfrozen.

    Args:
        module: such as an objective.
    """

    def __init__(self, module: nn.Module) -> None:
        self.named = dict(module.named_parameters())
        self.trainable = [p for p in self.named.values() if p.requires_grad]

    def forget_gradients(self) -> None:
        """Free the gradients of all, of those that are not trained too."""
        for parameter in self.named.values():
            parameter.grad = None


class Holdings:
    """What an optimiser holds, held against what it is to train.

    Args:
        optimizer: of the parameters.
        owner: the function, for messages.
        some: whether it may hold some of them only: those that it lacks at the first look, where it
            holds any, are left alone.
    """

    def __init__(self, optimizer: Optimizer, owner: str, *, some: bool = False) -> None:
        self._optimizer = optimizer
        self._owner = owner
        self._some = some
        self._left_alone: set[int] = set()
        self._seen: tuple[object, list[int]] | None = None
        self._known: dict[int, Tensor] = {}

    def check(self, parameters: Parameters) -> None:
        """Raise an error unless the optimiser trains what is to be trained, and nothing else.

        What was the pair's once, and is not any more, may stay with the optimiser.

        Raises:
            ValueError: that names the parameters that would not be trained, or if there are none.
        """
        held = [p for group in self._optimizer.param_groups for p in group["params"]]
        ids = [*map(id, held)]
        if self._seen is not None and self._seen[0] is parameters and self._seen[1] == ids:
            return
        if not parameters.trainable:
            raise ValueError(
                f"{self._owner}: the pair has no parameter that requires a gradient, and nothing "
                f"would be trained; switch them on with pair.requires_grad_(True)"
            )
        self._known.update((id(p), p) for p in parameters.named.values())
        there = set(ids)
        lacking = {name: p for name, p in parameters.named.items() if id(p) not in there}
        if self._seen is None and self._some and len(lacking) < len(parameters.named):
            self._left_alone = {id(p) for p in lacking.values() if p.requires_grad}
        missing = [
            name for name, p in lacking.items() if p.requires_grad and id(p) not in self._left_alone
        ]
        if missing:
            raise ValueError(
                f"{self._owner}: the optimiser does not hold {_some(missing)}, which would not be "
                f"trained; add it (add_param_group), or freeze it by requires_grad_(False)"
            )
        foreign = [p for p in held if id(p) not in self._known]
        if foreign:
            shapes = [str(tuple(p.shape)) for p in foreign]
            raise ValueError(
                f"{self._owner}: the optimiser holds {len(foreign)} parameters that the pair has "
                f"not, of shape {_some(shapes)}, which would not be trained; give it the pair's"
            )
        self._check_state(parameters)
        self._seen = parameters, ids

    def _check_state(self, parameters: Parameters) -> None:
        """Raise ValueError where parameters are of another dtype or device than their state."""
        if not type(self._optimizer).__module__.startswith("torch.optim"):
            return  # others may keep a state of their own kind
        for name, parameter in parameters.named.items():
            for value in self._optimizer.state.get(parameter, {}).values():
                if (
                    not isinstance(value, Tensor)
                    or value.shape != parameter.shape
                    or not value.dim()
                ):
                    continue
                here, there = ((t.dtype, t.device) for t in (parameter, value))
                if here != there:
                    raise ValueError(
                        f"{self._owner}: {name} is of {here[0]} on {here[1]}, and what the "
                        f"optimiser keeps of it of {there[0]} on {there[1]}; make the optimiser "
                        f"anew after converting or moving the pair"
                    )


def check_rates(owner: str, optimizer: Optimizer) -> None:
    """Raise ValueError unless learning rates are finite and at least 0, as schedules leave them.

    Those that are tensors on a device are not looked at, which would be to wait for it.
    """
    for group in optimizer.param_groups:
        rate = group["lr"]
        if isinstance(rate, Tensor) and rate.device.type != "cpu":
            continue
        if not 0 <= float(rate) < math.inf:
            raise ValueError(
                f"{owner}: a learning rate must be finite and at least 0, and that of the "
                f"optimiser is {float(rate)}; look at its schedule"
            )


def total_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm of gradients as of one vector."""
    if not gradients or gradients[0].device.type != "cpu":
        return nn.utils.get_total_norm(gradients)
    # The same number: sorting by device and dtype saves a CPU no launches, and takes as long again.
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))


def gradients_of(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Return the gradients that are there."""
    return [p.grad for p in parameters if p.grad is not None]


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
