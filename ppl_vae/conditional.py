"""Conditional distributions: modules that return a distribution. The library's one abstraction."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from ppl_vae.constructor import Constructed, qualified
from ppl_vae.errors import describe, reason
from ppl_vae.resident_constants import map_constants

map_constants()


class NotFinitePartError(ValueError):
    """A part has no distribution: its context or its parameters are NaN or infinite."""


class ConditionalDistribution(Constructed, ABC):
    """A distribution p(v | context) whose parameters are computed from the context.

    Calling the module returns a Pyro distribution over v. The same object provides ``log_prob``,
    ``sample`` and KL, so that training and generation cannot disagree. A prior has no context.

    Context tensors have shape ``(..., features)``, and the distribution has batch shape ``(...)``
    for *any* number of leading dimensions, which hold particles and enumerated values.
    """

    @abstractmethod
    def forward(self, *context: Any, **_: Any) -> Distribution:  # of any signature, to mypy
        """Return the distribution of v given the context."""

    def __call__(self, *context: Tensor) -> Any:
        """Return the distribution; raise an error naming a non-finite context or parameter."""
        for c in context:
            if not isinstance(c, Tensor):
                owner = qualified(type(self))
                raise TypeError(f"{owner}: a context must be a tensor, got {describe(c)}")
        try:
            return super().__call__(*context)
        except NotFinitePartError:
            raise  # by a part within this one
        except (ValueError, torch.linalg.LinAlgError) as error:
            refused = str(error).startswith("Expected parameter")  # by torch's distributions
            if refused or isinstance(error, torch.linalg.LinAlgError):
                check_finite(self, *context)
                raise NotFinitePartError(
                    f"{qualified(type(self))}: the network's output is invalid, although context "
                    f"and parameters are finite: {reason(error)}"
                ) from error
            raise


def check_finite(part: nn.Module, *context: Tensor) -> None:
    """Raise NotFinitePartError, naming it, if a context or parameter of a part is not finite.

    NaN in a context is a missing entry where a network of the part says ``reads_missing``.
    """
    if any(getattr(module, "reads_missing", False) for module in part.modules()):
        context = tuple(c.nan_to_num(posinf=torch.inf, neginf=-torch.inf) for c in context)
    advice = "check what it was computed from"
    tensors = [(f"context of shape {tuple(c.shape)}", c, advice) for c in context]
    advice = "load weights from before training diverged"
    tensors += [(f"parameter {name!r}", p, advice) for name, p in part.named_parameters()]
    for what, values, fix in tensors:
        if not values.isfinite().all():
            count = int((~values.isfinite()).sum())
            raise NotFinitePartError(
                f"{qualified(type(part))}: its {what} is NaN or infinite at {count} of "
                f"{values.numel()} entries; {fix}"
            )


class NeuralConditional(ConditionalDistribution, ABC):
    """A conditional distribution whose parameters are the output of a network.

    Args:
        net: any module ``(..., features_in) -> (..., features_out)``. Several contexts (x and y, z
            and y) are broadcast and concatenated on the last dimension, unless ``net.forward``
            takes them separately, with as many required positional arguments as there are contexts
            or with ``*context``. :class:`ppl_vae.nets.MLP` does, so as to multiply x once and not
            once for each y.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        if not isinstance(net, nn.Module):
            raise TypeError(
                f"{type(self).__name__}: net must be a torch.nn.Module, got {describe(net)}"
            )
        self.net = net

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "net" and isinstance(value, nn.Module):
            self._num_inputs = _num_inputs(value)

    def outputs(self, *context: Tensor) -> Tensor:
        """Return the network's output for the context, shape ``(..., features_out)``.

        Within ``torch.autocast`` networks work in few digits, distributions do not: their
        parameters are float32.
        """
        separate = len(context) > 0 and self._num_inputs in (None, len(context))
        if not separate:
            _check_same_dtype(type(self).__name__, self.net, context)
        inputs = context if separate else (concatenate(*context),)
        try:
            return in_float32(self.net(*inputs))
        except torch.OutOfMemoryError:
            raise
        except ValueError as error:
            if _OF_BATCH_NORM not in str(error):
                raise
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise ValueError(
                f"{type(self).__name__}: batch normalisation in its {type(self.net).__name__} "
                f"needs two data per batch or more in training, got an input of shape {shapes}; "
                f"drop a short last batch, dataset.batches(batch_size, drop_last=True)"
            ) from error
        except RuntimeError as error:
            _check_dtype_and_device(type(self).__name__, self.net, inputs, error)
            shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
            raise ValueError(
                f"{type(self).__name__}: its network {type(self.net).__name__} cannot take an "
                f"input of shape {shapes}: {error}. Networks must accept any number of leading "
                f"dimensions; nets.KeepLeading(net, event_dim) adapts one that takes only one"
            ) from error


def in_float32(output: Any) -> Any:
    """Return what autocast has rounded in float32; anything else as it is."""
    if not isinstance(output, Tensor) or output.dtype not in _LOW_PRECISION:
        return output
    return output.float() if in_autocast(output.device.type) else output


def in_autocast(device: str) -> bool:
    """Return whether autocast chooses the dtypes of networks on a kind of device."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


_LOW_PRECISION = (torch.bfloat16, torch.float16)
_OF_BATCH_NORM = "Expected more than 1 value per channel when training"
"""torch's error for a batch of one."""


def _check_dtype_and_device(
    owner: str, net: nn.Module, inputs: tuple[Tensor, ...], error: RuntimeError
) -> None:
    """Raise an error if an input has another dtype or device than the network."""
    like = next((p for p in net.parameters() if p.is_floating_point()), None)
    for t in inputs:
        if like is not None and t.device != like.device:
            raise ValueError(
                f"{owner}: its network {type(net).__name__} is on {like.device}, but its input "
                f"(of shape {tuple(t.shape)}) on {t.device}: {error}; move one with .to(device)"
            ) from error
        # Integers may be for an embedding.
        floating = t.is_floating_point() or "dtype" in str(error)
        mixed = in_autocast(t.device.type) or not floating
        if like is not None and t.dtype != like.dtype and not mixed:
            fix = f", or pair.to({t.dtype}) (a Dataset's batches have torch's default dtype)"
            raise ValueError(
                f"{owner}: its network {type(net).__name__} has {like.dtype}, but its input (of "
                f"shape {tuple(t.shape)}) {t.dtype}: {error}; give it .to({like.dtype})"
                f"{fix if t.is_floating_point() else ''}"
            ) from error


def _check_same_dtype(owner: str, net: nn.Module, context: tuple[Tensor, ...]) -> None:
    """Raise an error if inputs to concatenate have several dtypes: torch would convert one."""
    floating = [t for t in context if isinstance(t, Tensor) and t.is_floating_point()]
    if all(t.dtype == floating[0].dtype for t in floating) or in_autocast(floating[0].device.type):
        return
    like = next((p.dtype for p in net.parameters() if p.is_floating_point()), floating[0].dtype)
    wrong = next(t for t in floating if t.dtype != like)
    raise ValueError(
        f"{owner}: its network {type(net).__name__} has {like}, but its input (of shape "
        f"{tuple(wrong.shape)}) {wrong.dtype}, beside another dtype; give it .to({like})"
    )


def concatenate(*context: Tensor) -> Float[Tensor, "*batch features"]:
    """Broadcast the leading dimensions of ``(..., d_i)`` and concatenate: ``(..., sum d_i)``.

    Example:
        >>> concatenate(torch.zeros(5, 3), torch.zeros(2, 1, 4)).shape
        torch.Size([2, 5, 7])
    """
    if not context:
        raise TypeError("a conditional distribution needs a tensor as its context, got none")
    if len(context) == 1:
        return context[0]
    leading = torch.broadcast_shapes(*(c.shape[:-1] for c in context))
    return torch.cat([c.expand(*leading, c.shape[-1]) for c in context], dim=-1)


def takes_context(part: nn.Module) -> bool:
    """Return whether a part's ``forward`` takes context: p(z | y) does, p(z) does not."""
    return any(p.kind in (*_POSITIONAL, p.VAR_POSITIONAL) for p in _inputs(part))


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _num_inputs(net: nn.Module) -> int | None:
    """Return how many inputs the network requires; None if it takes any number."""
    inputs = _inputs(getattr(net, "_orig_mod", net))  # torch.compile hides the signature
    if any(p.kind is p.VAR_POSITIONAL for p in inputs):
        return None
    return sum(p.kind in _POSITIONAL and p.default is p.empty for p in inputs)


def _inputs(module: nn.Module) -> list[inspect.Parameter]:
    return list(inspect.signature(module.forward).parameters.values())
