"""NumPy arrays as tensors: of any order of bytes and strides, read-only ones too."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def as_tensor(name: str, value: Tensor | np.ndarray) -> Tensor:
    """Return a tensor as it is, and of an array a copy with the same numbers.

    Args:
        name: of the argument, for messages.
        value: a tensor, or an array of numbers or booleans.

    Raises:
        TypeError: if an array has a mask of its own, or holds something else than numbers.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ma.MaskedArray):  # of which torch takes what lies under the mask
        raise TypeError(
            f"{name} must be an array without a mask of its own, got a masked one; give its .data, "
            f"and mask=~numpy.ma.getmaskarray(...) beside it"
        )
    try:
        return torch.from_numpy(np.array(value, value.dtype.newbyteorder("="), order="C"))
    except (TypeError, ValueError) as error:  # objects, text, dates, records
        raise TypeError(
            f"{name} must be a numeric array, got dtype {value.dtype}; convert it with .astype"
        ) from error


def tensor_for(module: nn.Module, name: str, array: np.ndarray) -> Tensor:
    """Return an array as a tensor where a module is.

    Floating arrays, which are mostly of 64 bits, are in the dtype of the module's parameters.

    Raises:
        TypeError: as :func:`as_tensor` does.
    """
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    tensor = as_tensor(name, array)
    return tensor.to(like.device, like.dtype if tensor.is_floating_point() else tensor.dtype)
