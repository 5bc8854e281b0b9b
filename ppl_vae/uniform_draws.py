"""Uniform random numbers of torch's generators on processors, drawn many at a time.

torch draws them one after another, for a twelfth of the compiled step of a VAE on binarised images.
The generator, MT19937, makes its numbers in blocks of 624, each of which is a few loops over words
that do not depend on each other. Compiled for the processor at hand, these loops give the same
numbers and leave the same state in a tenth of the time.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

# torch's engine keeps how many numbers are left of a block, and one more, and the next one's place.
# Other threads that draw from the generator wait meanwhile, as they do when torch draws.
_SOURCE = r"""
#include <ATen/CPUGeneratorImpl.h>
#include <algorithm>
#include <mutex>

namespace {
constexpr int N = at::MERSENNE_STATE_N, M = at::MERSENNE_STATE_M;

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

extern "C" void draw(c10::GeneratorImpl* generator, float* out, int64_t number) {
    auto* torch_own = static_cast<at::CPUGeneratorImpl*>(generator);
    std::lock_guard<std::mutex> lock(torch_own->mutex_);
    at::mt19937 engine = torch_own->engine();
    at::mt19937_data_pod state = engine.data();
    uint32_t* mt = state.state_.data();
    int left = state.left_ - 1, next = static_cast<int>(state.next_);
    while (number > 0) {
        if (left == 0 || next == N) {
            next_block(mt);
            left = N;
            next = 0;
        }
        int some = static_cast<int>(std::min<int64_t>({left, N - next, number}));
        for (int k = 0; k < some; k++) out[k] = uniform(mt[next + k]);
        left -= some;
        next += some;
        out += some;
        number -= some;
    }
    state.left_ = left + 1;
    state.next_ = static_cast<uint32_t>(next);
    engine.set_data(state);
    torch_own->set_engine(engine);
}
"""

_draw: Any = None
"""The compiled function, once :func:`load` was called."""
_definition = threading.Lock()


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
    where = device if generator is None else generator.device
    if _draw is None or {torch.device(device).type, torch.device(where).type} != {"cpu"}:
        return torch.rand(size, generator=generator, dtype=torch.float32, device=device)
    if generator is None:
        return operation()(list(size))  # tracing sees operations alone
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
    except (ImportError, AttributeError, TypeError, RuntimeError, OSError):
        # No compiler, or another torch.
        return False
    _draw = draw
    return True


def operation() -> Callable[[list[int]], Tensor]:
    """Return :func:`uniform`, of torch's global generator, as an operation of graphs."""
    with _definition:  # another thread may be defining it
        return _operation()


@cache
def _operation() -> Callable[[list[int]], Tensor]:
    name = "ppl_vae::uniform"

    def draw(size: list[int]) -> Tensor:
        if _draw is None:  # a graph may be there first
            return torch.rand(size, dtype=torch.float32, device="cpu")
        return _drawn(_draw, size, torch.default_generator)

    torch.library.define(name, "(int[] size) -> Tensor", tags=[torch.Tag.nondeterministic_seeded])
    torch.library.impl(name, "CompositeExplicitAutograd", draw)
    torch.library.register_fake(name, lambda size: torch.empty(size, dtype=torch.float32))
    found: Callable[[list[int]], Tensor] = torch.ops.ppl_vae.uniform.default
    return found


def _drawn(draw: Any, size: Sequence[int], generator: torch.Generator) -> Tensor:
    out = torch.empty(size, dtype=torch.float32, device="cpu")
    draw(generator._cdata, out.data_ptr(), out.numel())  # type: ignore[attr-defined]
    return out


def _agrees(draw: Any) -> bool:
    """Return whether numbers and states are torch's."""
    ours, torch_own = (torch.Generator().manual_seed(0) for _ in range(2))
    for number in (1, 700, 623, 1):
        expected = torch.rand(number, generator=torch_own, dtype=torch.float32)
        if not torch.equal(_drawn(draw, (number,), ours), expected):
            return False
    return torch.equal(ours.get_state(), torch_own.get_state())
