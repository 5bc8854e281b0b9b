"""Parameters and their gradients, and checks that an optimiser has all that it is to train."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class Parameters:
    """A module's parameters at one time; they may be added, removed, frozen and unfrozen later."""

    def __init__(self, module: nn.Module) -> None:
        self.named = dict(module.named_parameters())
        self.trainable = [p for p in self.named.values() if p.requires_grad]

    def free_gradients(self) -> None:
        """Free all gradients, also of parameters that are frozen."""
        for parameter in self.named.values():
            parameter.grad = None

    def gradients(self, but: Collection[int] = ()) -> list[Tensor]:
        """Return the gradients that there are, but of parameters with one of some ids."""
        named = self.named.values()
        return [p.grad for p in named if p.grad is not None and id(p) not in but]

    def gradient_norm(self, but: Collection[int] = ()) -> Tensor:
        """Return the norm of these gradients as of one vector."""
        gradients = self.gradients(but)
        if not gradients or gradients[0].device.type != "cpu":
            return nn.utils.get_total_norm(gradients)
        # The same in half the time: on a CPU, grouping by device and dtype saves nothing.
        return torch.linalg.vector_norm(torch.stack([*map(torch.linalg.vector_norm, gradients)]))


class OptimizerCoverage:
    """Checks that an optimiser has all parameters that are to be trained, at valid rates.

    If it may have only some (``partial``), those that it lacks at the first check are left
    untrained, unless it has none.
    """

    def __init__(self, optimizer: Optimizer, owner: str, *, partial: bool = False) -> None:
        self._optimizer = optimizer
        self._owner = owner
        self._partial = partial
        self._untrained: set[int] = set()
        self._checked: tuple[object, list[int]] | None = None
        self._known: dict[int, Tensor] = {}

    def check(self, parameters: Parameters) -> None:
        """Raise ValueError unless the optimiser has exactly the parameters to be trained.

        It may keep parameters that the pair has had before.
        """
        own = [p for group in self._optimizer.param_groups for p in group["params"]]
        ids = [*map(id, own)]
        if self._checked is not None and self._checked[0] is parameters and self._checked[1] == ids:
            return
        if not parameters.trainable:
            text = "the pair has no parameter that requires a gradient"
            raise ValueError(f"{self._owner}: {text}; call pair.requires_grad_(True)")
        self._known.update((id(p), p) for p in parameters.named.values())
        present = set(ids)
        lacking = {name: p for name, p in parameters.named.items() if id(p) not in present}
        if self._checked is None and self._partial and len(lacking) < len(parameters.named):
            self._untrained = {id(p) for p in lacking.values() if p.requires_grad}
        trained = {name: p for name, p in lacking.items() if p.requires_grad}
        missing = [name for name, p in trained.items() if id(p) not in self._untrained]
        if missing:
            raise ValueError(
                f"{self._owner}: the optimiser does not have {_first_three(missing)}, which would "
                f"not be trained; add it by add_param_group, or freeze it by requires_grad_(False)"
            )
        foreign = [str(tuple(p.shape)) for p in own if id(p) not in self._known]
        if foreign:
            raise ValueError(
                f"{self._owner}: the optimiser has {len(foreign)} parameters that are not the "
                f"pair's, of shape {_first_three(foreign)}; give it the pair's parameters"
            )
        self._check_state(parameters)
        self._checked = parameters, ids

    @property
    def left_out(self) -> set[int]:
        """The ids of parameters that have gradients and are not trained."""
        if not self._untrained:
            return set()
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        return self._untrained - held

    def check_rates(self) -> None:
        """Raise ValueError unless learning rates, which schedules set, are finite and at least 0.

        Rates that are tensors on a device are not read, which would synchronise.
        """
        for group in self._optimizer.param_groups:
            rate = group["lr"]
            if isinstance(rate, Tensor) and rate.device.type != "cpu":
                continue
            if not 0 <= float(rate) < math.inf:
                raise ValueError(
                    f"{self._owner}: the learning rate must be finite and at least 0, got "
                    f"{float(rate)}; check its schedule"
                )

    def _check_state(self, parameters: Parameters) -> None:
        """Raise ValueError if parameters and their state differ in dtype or device."""
        if not type(self._optimizer).__module__.startswith("torch.optim"):
            return  # others may keep state of any kind
        for name, parameter in parameters.named.items():
            for value in self._optimizer.state.get(parameter, {}).values():
                if not isinstance(value, Tensor) or value.shape != parameter.shape:
                    continue
                here, there = ((t.dtype, t.device) for t in (parameter, value))
                if value.dim() and here != there:
                    raise ValueError(
                        f"{self._owner}: {name} is {here[0]} on {here[1]}, but its optimiser state "
                        f"is {there[0]} on {there[1]}; create the optimiser after converting or "
                        f"moving the pair"
                    )


def _first_three(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
