"""IDX files, the format of MNIST.

Source of the format: LeCun, Cortes and Burges, http://yann.lecun.com/exdb/mnist/.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ppl_vae.files import opened

MAX_BYTES = 2**30
"""Size of a file, at most; MNIST's largest has 47 million bytes."""
_UINT8 = 8  # the code of the dtype


def read_idx(path: Path, ndim: int) -> Tensor:
    """Return the uint8 values of an IDX file: two zeros, dtype, ndim, the sizes, the values.

    Raises:
        OSError: it cannot be opened.
        ValueError: another dtype or number of dimensions, or not as long as its header says.
    """
    with opened(path, MAX_BYTES) as file:
        data = bytearray(file.read())
    head = 4 + 4 * ndim
    if data[:4] != bytes([0, 0, _UINT8, ndim]) or len(data) < head:
        raise ValueError(f"{path.name} is not an IDX file of uint8 in {ndim} dimensions")
    shape = [int.from_bytes(data[at : at + 4], "big") for at in range(4, head, 4)]
    if math.prod(shape) != len(data) - head:
        raise ValueError(
            f"the header of {path.name} promises {shape}, got {len(data) - head} bytes"
        )
    return torch.frombuffer(data, dtype=torch.uint8)[head:].reshape(shape).clone()
