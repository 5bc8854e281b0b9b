"""NumPy arrays to tensors: any byte order and strides, read-only or not."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ppl_vae.errors import describe


def as_tensor(name: str, value: Tensor | np.ndarray) -> Tensor:
    """Return a tensor unchanged, or a copy of an array of numbers or booleans as a tensor.

    Raises TypeError, which names the argument, for what is no array, a masked array, or one that is
    not numeric.
    """
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(
            f"{name} must be a NumPy array, got {describe(value)}; make one, by numpy.asarray or "
            f"a frame's .to_numpy()"
        )
    if isinstance(value, np.ma.MaskedArray):  # torch would ignore the mask
        raise TypeError(
            f"{name} must not be a masked array; give its .data, and "
            f"mask=~numpy.ma.getmaskarray(...)"
        )
    try:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:  # objects, text, dates, records
        raise TypeError(
            f"{name} must be a numeric array, got dtype {value.dtype}; convert it with .astype"
        ) from error


def tensor_for(module: nn.Module, name: str, array: np.ndarray) -> Tensor:
    """Return an array as a tensor on the module's device, floats in the dtype of its parameters."""
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    tensor = as_tensor(name, array)
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
