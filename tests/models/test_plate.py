"""The plate over the data: with its subsampling statement, or without."""

import pyro
import torch
from pyro import poutine

from ppl_vae.estimators.handlers import Recording
from ppl_vae.models.plate import data_plate


def program():
    with data_plate(3):
        pyro.sample("free", pyro.distributions.Normal(0.0, 1.0))
        pyro.sample("of_its_shape", pyro.distributions.Normal(torch.zeros(3), 1.0))


def test_sites_are_the_same_with_and_without_the_statement():
    with_statement = poutine.trace(program).get_trace()
    recording = Recording()
    with pyro.validation_enabled(False), recording:
        program()
    without = recording.trace
    assert "data" in with_statement.nodes
    assert set(with_statement.nodes) - set(without.nodes) == {"data", "_INPUT", "_RETURN"}
    for name in ("free", "of_its_shape"):
        one, other = with_statement.nodes[name], without.nodes[name]
        assert one["fn"].batch_shape == other["fn"].batch_shape == (3,)
        assert one["value"].shape == other["value"].shape
        assert one["cond_indep_stack"] == other["cond_indep_stack"]
        assert one["scale"] == other["scale"] == 1.0


def test_validation_keeps_the_statement():
    recording = Recording()
    with pyro.validation_enabled(True), recording:
        program()
    assert "data" in recording.trace.nodes
