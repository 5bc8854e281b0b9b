"""One place for seeds and for Pyro's global state."""

import matplotlib as mpl
import pyro
import pytest
import torch

mpl.use("Agg")


@pytest.fixture(autouse=True)
def clean_state():
    """Start every test from the same seed, an empty store and validation on."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def float64():
    """Make float64 the default, for comparisons with mathematics."""
    torch.set_default_dtype(torch.float64)
