"""Short words for many numbers, by which others are told from them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

WHOLE = 16 * 2**20
"""Bytes up to which a tensor goes through SHA-256."""
_STRETCH = 2**20  # so many bytes of a larger one are summed at a time
_DIGITS = 12


def short(data: bytes | memoryview) -> str:
    """Return the first digits of the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def checksum(tensor: Tensor) -> str:
    """Return a checksum of all of a tensor's values, wherever it lies.

    Up to ``WHOLE`` bytes it is their SHA-256. Of more it is that of the sums Σ_i (2i + 1) w_i over
    the 64-bit words w_i of each stretch, modulo 2^64, which costs little more than reading them:
    no one value can change without it, and hardly two.
    """
    values = tensor.detach().resolve_conj().resolve_neg()
    if values.layout != torch.strided or values.is_meta or values.is_quantized:
        return f"of layout {values.layout}"
    size = values.numel() * values.element_size()
    if size <= WHOLE:
        return short(_bytes(values).cpu().numpy().data)
    rows = values if values.dim() > 1 and len(values) > 1 else values.reshape(-1)
    found = hashlib.sha256()
    weights = torch.arange(1, _STRETCH // 8 * 2, 2, device=values.device)
    for some in rows.split(max(1, len(rows) * _STRETCH // size)):
        for part in _bytes(some).split(_STRETCH):
            whole = len(part) // 8 * 8
            words = part[:whole].clone().view(torch.int64)  # a word begins where words may begin
            found.update(str((words * weights[: len(words)]).sum().item()).encode())
            found.update(part[whole:].cpu().numpy().data)
    return found.hexdigest()[:_DIGITS]


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().reshape(-1).view(torch.uint8)
