"""One place for seeds and for Pyro's global state."""

import random

import jaxtyping
import matplotlib as mpl
import pyro
import pytest
import torch
from beartype._check.code import codemain

mpl.use("Agg")
# The type checks look at a random entry of a tuple, which is no draw of the code they check.
codemain.getrandbits = random.Random(0).getrandbits


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


@pytest.fixture
def as_users_see_it():
    """Switch the run-time type checks of the tests off: users do not have them."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
