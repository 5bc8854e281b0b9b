"""Uniform random numbers of torch's generators on processors, drawn as many at a time.

torch draws them one after another, for a twelfth of the compiled step of a VAE on binarised images.
The generator, MT19937, makes its numbers in blocks of 624, each of which is a few loops over words
that do not depend on each other. Compiled for the processor at hand, these loops give the same
numbers and leave the same state in a tenth of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# The state that torch.Generator.get_state returns: seed, how many numbers are left of a block (and
# one more), whether it was seeded, the next one's place, and the block, a word in each eight bytes.
# What follows is of normal draws and stays.
_SOURCE = r"""
#include <cstdint>
#include <cstring>

namespace {
constexpr int N = 624, M = 397;
constexpr int LEFT = 8, NEXT = 16, BLOCK = 24;

inline uint32_t twist(uint32_t high, uint32_t low) {
    uint32_t y = (high & 0x80000000u) | (low & 0x7fffffffu);
    return (y >> 1) ^ (-(y & 1u) & 0x9908b0dfu);
}

void next_block(uint32_t* mt) {
    for (int k = 0; k < N - M; k++) mt[k] = mt[k + M] ^ twist(mt[k], mt[k + 1]);
    for (int k = N - M; k < N - 1; k++) mt[k] = mt[k + M - N] ^ twist(mt[k], mt[k + 1]);
    mt[N - 1] = mt[M - 1] ^ twist(mt[N - 1], mt[0]);
}

inline float uniform(uint32_t y) {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    y ^= y >> 18;
    return static_cast<float>(static_cast<int32_t>(y & 0xffffffu)) * (1.0f / 16777216.0f);
}
}  // namespace

extern "C" void draw(unsigned char* state, float* out, int64_t number) {
    if (number == 0) return;
    uint64_t words[N], place;
    uint32_t mt[N];
    int32_t left;
    std::memcpy(words, state + BLOCK, sizeof words);
    std::memcpy(&left, state + LEFT, sizeof left);
    std::memcpy(&place, state + NEXT, sizeof place);
    for (int k = 0; k < N; k++) mt[k] = static_cast<uint32_t>(words[k]);
    int next = left == 1 ? N : static_cast<int>(place);
    while (number > 0) {
        if (next == N) {
            next_block(mt);
            next = 0;
        }
        int some = N - next < number ? N - next : static_cast<int>(number);
        for (int k = 0; k < some; k++) out[k] = uniform(mt[next + k]);
        next += some;
        out += some;
        number -= some;
    }
    for (int k = 0; k < N; k++) words[k] = mt[k];
    left = N - next + 1;
    place = static_cast<uint64_t>(next);
    std::memcpy(state + BLOCK, words, sizeof words);
    std::memcpy(state + LEFT, &left, sizeof left);
    std::memcpy(state + NEXT, &place, sizeof place);
}
"""

_STATE_BYTES = 5056

_draw: Any = None
"""The compiled function, once :func:`load` was called."""


def uniform(
    size: Sequence[int],
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return what ``torch.rand(size, dtype=torch.float32)`` does, and leave the same state.

    Args:
        size: of the result.
        generator: on the device; torch's global one if None.
        device: of the result.
    """
    if _draw is None or torch.device(device).type != "cpu":
        return torch.rand(size, generator=generator, dtype=torch.float32, device=device)
    if generator is None:
        return operation()(list(size))  # which a graph that is traced has to see
    return _drawn(_draw, size, generator)


@cache
def load() -> bool:
    """Compile the loops, for :func:`uniform` to use from now on; return whether they could be."""
    global _draw
    try:
        from torch._inductor.codecache import CppCodeCache  # slow to import, and not public

        draw = CppCodeCache.load(_SOURCE, extra_flags=("-ftree-loop-vectorize",)).draw
        draw.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        draw.restype = None
        if not _agrees(draw):
            return False
    except (ImportError, AttributeError, RuntimeError, OSError):  # no compiler, or another torch
        return False
    _draw = draw
    return True


@cache
def operation() -> Callable[[list[int]], Tensor]:
    """Return :func:`uniform`, of torch's global generator, as an operation of graphs."""
    name = "ppl_vae::uniform"

    def draw(size: list[int]) -> Tensor:
        return _drawn(_draw, size, torch.default_generator)

    torch.library.define(name, "(int[] size) -> Tensor", tags=[torch.Tag.nondeterministic_seeded])
    torch.library.impl(name, "CompositeExplicitAutograd", draw)
    torch.library.register_fake(name, lambda size: torch.empty(size, dtype=torch.float32))
    found: Callable[[list[int]], Tensor] = torch.ops.ppl_vae.uniform.default
    return found


def _drawn(draw: Any, size: Sequence[int], generator: torch.Generator) -> Tensor:
    out = torch.empty(size, dtype=torch.float32, device="cpu")
    state = generator.get_state()
    draw(state.data_ptr(), out.data_ptr(), out.numel())
    generator.set_state(state)
    return out


def _agrees(draw: Any) -> bool:
    """Return whether numbers and states are torch's, whose layout is not documented."""
    ours, torch_own = (torch.Generator().manual_seed(0) for _ in range(2))
    if len(ours.get_state()) != _STATE_BYTES:
        return False
    for number in (1, 700, 623, 1):
        expected = torch.rand(number, generator=torch_own, dtype=torch.float32)
        if not torch.equal(_drawn(draw, (number,), ours), expected):
            return False
    return torch.equal(ours.get_state(), torch_own.get_state())
