"""The compiler's settings while a graph is made, and the loops that are compiled meanwhile."""

import pytest
import torch
from torch._inductor import config

from ppl_vae import uniform_draws
from ppl_vae.compilation.compiler import compiler


@pytest.mark.parametrize(("given", "taken"), [(None, True), (False, False), (True, True)])
def test_vector_instructions_are_trusted_unless_a_user_decides(given, taken):
    with config.patch({"cpp.vec_isa_ok": given}):
        with compiler():
            assert config.cpp.vec_isa_ok is taken
        assert config.cpp.vec_isa_ok is given


@pytest.mark.skipif(not uniform_draws.load(), reason="no C++ compiler")
def test_loops_are_compiled_meanwhile_and_there_at_the_end(monkeypatch):
    monkeypatch.setattr(uniform_draws, "_draw", None)
    monkeypatch.setattr(uniform_draws, "load", uniform_draws.load.__wrapped__)
    with compiler():
        pass
    assert uniform_draws._draw is not None


def test_settings_are_what_they_were_after_an_error():
    before = config.cpp.vec_isa_ok
    with pytest.raises(RuntimeError, match="cannot"), compiler():
        raise RuntimeError("cannot")
    assert config.cpp.vec_isa_ok is before


def test_a_graph_draws_the_same_numbers_before_the_loops_are_there(monkeypatch):
    draw = uniform_draws.operation()
    torch.manual_seed(3)
    expected, state = draw([2, 400]), torch.get_rng_state()
    monkeypatch.setattr(uniform_draws, "_draw", None)
    torch.manual_seed(3)
    assert torch.equal(draw([2, 400]), expected)
    assert torch.equal(torch.get_rng_state(), state)
