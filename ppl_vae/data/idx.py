"""Files of MNIST and those like it.

Source of the format: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.files import opened

LARGEST = 2**30
"""Bytes of a file, at most: the greatest of MNIST has 47 million."""
_BYTES = 8  # the number of the type: unsigned bytes


def read_idx(path: Path, ndim: int) -> Tensor:
    """Return the unsigned bytes of an IDX file: two zeros, type, ndim, the sizes, the values.

    Raises:
        OSError: if it cannot be opened.
        ValueError: if it holds something else, or is not as long as its header says.
    """
    with opened(path, LARGEST) as file:
        data = bytearray(file.read())
    head = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, _BYTES, ndim]) or len(data) < head:
        raise ValueError(f"{path.name} is no IDX file of {ndim} dimensions of bytes")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, head, 4)]
    if math.prod(shape) != len(data) - head:
        raise ValueError(
            f"the header of {path.name} promises {shape}, and {len(data) - head} bytes follow"
        )
    return torch.frombuffer(data, dtype=torch.uint8)[head:].reshape(shape).clone()
