"""Checksums of bytes and of tensors."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

MAX_HASHED = 16 * 2**20
"""Bytes up to which a tensor's checksum is its SHA-256."""
_CHUNK = 2**20  # bytes of a larger tensor per sum
_DIGITS = 12


def short_hash(data: bytes | memoryview) -> str:
    """Return the first digits of the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


def checksum(tensor: Tensor) -> str:
    """Return a checksum of all of a tensor's values, on any device.

    Up to ``MAX_HASHED`` bytes it is their SHA-256. For larger tensors it is that of the sums
    Σ_i (2i + 1) w_i modulo 2^64 over the 64-bit words w_i of each chunk, which is hardly slower
    than reading them: a change of any one value changes it, and of several almost certainly.
    """
    values = tensor.detach().resolve_conj().resolve_neg()
    if values.layout != torch.strided or values.is_meta or values.is_quantized:
        return f"of layout {values.layout}"
    size = values.numel() * values.element_size()
    if size <= MAX_HASHED:
        return short_hash(_bytes(values).cpu().numpy().data)
    rows = values if values.dim() > 1 and len(values) > 1 else values.reshape(-1)
    found = hashlib.sha256()
    weights = torch.arange(1, _CHUNK // 8 * 2, 2, device=values.device)
    for part in rows.split(max(1, len(rows) * _CHUNK // size)):
        for chunk in _bytes(part).split(_CHUNK):
            aligned = len(chunk) // 8 * 8
            words = chunk[:aligned].clone().view(torch.int64)  # a copy is aligned
            found.update(str((words * weights[: len(words)]).sum().item()).encode())
            found.update(chunk[aligned:].cpu().numpy().data)
    return found.hexdigest()[:_DIGITS]


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().reshape(-1).view(torch.uint8)
