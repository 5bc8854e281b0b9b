"""Uniform numbers drawn many at a time are torch's, and leave its generators in the same state."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch._inductor.fx_passes import post_grad
from torch.fx.experimental.proxy_tensor import make_fx

from ppl_vae import uniform_draws
from ppl_vae.compilation.compiled_function import inductor
from ppl_vae.compilation.decompositions import decompositions
from ppl_vae.uniform_draws import uniform

pytestmark = pytest.mark.skipif(not uniform_draws.load(), reason="no C++ compiler")


@pytest.mark.parametrize("number", [0, 1, 2, 622, 623, 624, 625, 1247, 1248, 5000])
@pytest.mark.parametrize("drawn", [0, 1, 300, 623, 624, 625])
def test_numbers_and_states_are_those_of_torch(number, drawn):
    ours, torch_own = (torch.Generator().manual_seed(17) for _ in range(2))
    for generator in (ours, torch_own):
        torch.rand(drawn, generator=generator)
    expected = torch.rand(number, generator=torch_own, dtype=torch.float32)
    assert torch.equal(uniform((number,), ours), expected)
    assert torch.equal(ours.get_state(), torch_own.get_state())
    assert torch.equal(torch.rand(3, generator=ours), torch.rand(3, generator=torch_own))


def test_normal_draws_between_stay_torchs_too():
    ours, torch_own = (torch.Generator().manual_seed(3) for _ in range(2))
    for _ in range(3):
        for shape in ((), (5, 7), (0, 2)):
            expected = torch.rand(shape, generator=torch_own, dtype=torch.float32)
            assert torch.equal(uniform(shape, ours), expected)
            # Of an odd number of single draws the generator keeps one.
            got, expected = (torch.randn(1, generator=g) for g in (ours, torch_own))
            assert torch.equal(got, expected)


def test_the_global_generator_is_the_default():
    torch.manual_seed(5)
    expected = torch.rand(2, 400, dtype=torch.float32), torch.get_rng_state()
    torch.manual_seed(5)
    got = uniform((2, 400)), torch.get_rng_state()
    assert all(map(torch.equal, got, expected))


@pytest.mark.parametrize(("left", "place"), [(1, 0), (1, 5), (2, 623), (5, 0), (5, 620), (624, 0)])
def test_states_set_by_hand_go_on_as_torch_does(left, place):
    state = torch.Generator().manual_seed(3).get_state()
    numbers = state.numpy()
    numbers[8:12].view(np.int32)[:] = left
    numbers[16:24].view(np.int64)[:] = place
    ours, torch_own = (torch.Generator().set_state(state) for _ in range(2))
    expected = torch.rand(1500, generator=torch_own, dtype=torch.float32)
    assert torch.equal(uniform((1500,), ours), expected)
    assert torch.equal(ours.get_state(), torch_own.get_state())


@pytest.mark.parametrize("theirs", [uniform, lambda size, g: torch.rand(size, generator=g)])
def test_threads_that_share_a_generator_draw_different_numbers(theirs):
    generator, barrier = torch.Generator().manual_seed(1), threading.Barrier(2)
    drawn = [], []

    def run(draw, found):
        barrier.wait(timeout=60)
        found += [draw((20_000,), generator)[-4:].clone() for _ in range(500)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread = threading.Thread(target=run, args=(theirs, drawn[0]))
        thread.start()
        run(uniform, drawn[1])
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    values = torch.stack([*drawn[0], *drawn[1]])
    assert len(values.unique(dim=0)) == len(values) == 1000


def test_threads_may_define_the_operation_at_once():
    code = """
import sys, threading
from ppl_vae.uniform_draws import operation
sys.setswitchinterval(1e-6)
barrier, found = threading.Barrier(4), []
def run():
    barrier.wait()
    found.append(operation())
threads = [threading.Thread(target=run) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 4 and len(set(found)) == 1, found
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_generator_of_another_device_is_left_to_torch(monkeypatch):
    class Elsewhere(torch.Generator):
        device = torch.device("cuda")

    monkeypatch.setattr(uniform_draws, "_draw", lambda *_: pytest.fail("wrote to its memory"))
    assert uniform((3,), Elsewhere()).shape == (3,)


def test_without_compiled_loops_torch_draws(monkeypatch):
    torch.manual_seed(5)
    expected = uniform((2, 400))
    monkeypatch.setattr(uniform_draws, "_draw", None)
    torch.manual_seed(5)
    assert torch.equal(uniform((2, 400)), expected)


def test_other_numbers_than_those_of_torch_are_found():
    def too_many(state, out, number):
        uniform_draws._draw(state, out, number)
        uniform_draws._draw(state, out, number)

    assert uniform_draws._agrees(uniform_draws._draw)
    assert not uniform_draws._agrees(too_many)


def test_a_machine_without_a_compiler_draws_as_torch(monkeypatch):
    from torch._inductor.codecache import CppCodeCache

    def without(*args, **kwargs):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(CppCodeCache, "load", without)
    monkeypatch.setattr(uniform_draws, "_draw", None)
    load = uniform_draws.load.__wrapped__
    assert not load()
    assert uniform((3,)).shape == (3,)


DRAWS = {
    "bernoulli": torch.bernoulli,
    "bernoulli, expanded": lambda p: torch.bernoulli(p.expand(2, *p.shape)),
    "bernoulli, transposed": lambda p: torch.bernoulli(p.t()),
    "bernoulli, double precision": lambda p: torch.bernoulli(p.double()),
    "rand": lambda p: torch.rand(3, 4),
    "rand, double precision": lambda p: torch.rand(5, dtype=torch.float64),
    "rand_like": torch.rand_like,
    "rand_like, transposed": lambda p: torch.rand_like(p.t()),
    "randn": torch.randn_like,
}


@pytest.fixture(scope="module")
def of_graph():
    """Draws of a graph, of the same function uncompiled, and the states that both leave."""
    if not hasattr(post_grad, "_chain_random_ops_for_ordering"):
        pytest.skip("this torch may reorder many draws of one graph, which a step's check finds")
    found = []
    p = torch.linspace(0, 1, 30 * 41).view(30, 41)

    def draw(p):
        return [f(p) for f in DRAWS.values()] + [torch.rand(3, 4)]

    traced = make_fx(draw, decompositions())(p)
    compiled = inductor(traced, cuda=False)
    compiled(p)
    for function in (compiled, draw):
        torch.manual_seed(1)
        found.append([*function(p), torch.get_rng_state()])
    return traced, found


@pytest.mark.parametrize("index", range(len(DRAWS)), ids=DRAWS)
def test_graphs_draw_the_same(of_graph, index):
    got, expected = (found[index] for found in of_graph[1])
    assert got.dtype is expected.dtype
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_equal_draws_are_not_merged_and_states_agree(of_graph):
    traced, (got, expected) = of_graph
    assert torch.equal(got[-2], expected[-2])
    assert not torch.equal(got[-2], got[list(DRAWS).index("rand")])
    assert torch.equal(got[-1], expected[-1])
    assert traced.code.count("ppl_vae.uniform") == 6


def test_a_traced_function_draws_anew_at_each_run():
    traced = make_fx(lambda x: x + uniform((3, 4)))(torch.zeros(3, 4))
    assert not torch.equal(traced(torch.zeros(3, 4)), traced(torch.zeros(3, 4)))
