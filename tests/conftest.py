"""One place for seeds, for Pyro's global state and for the garbage collector."""

import gc

import jaxtyping
import matplotlib as mpl
import pyro
import pytest
import run_time_types
import torch

mpl.use("Agg")
run_time_types.install()

# Where there is no device, torch notes for each kind a stack trace of who would have seeded it,
# which takes longer than many a test.
for devices in (torch.cuda, torch.xpu, torch.mtia):
    if not devices.is_available():
        devices.manual_seed_all = lambda seed: None


def pytest_configure(config):
    """Leave seeds to this file: pytest-randomly only shuffles."""
    config.option.randomly_reset_seed = False


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector off ten thousand tests and what they import.

    They live as long as the process, and it would go through them again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collectstart(collector):
    """Seed what a test file draws while it is imported, whatever was imported before."""
    if isinstance(collector, pytest.Module):
        pyro.set_rng_seed(0)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed fixtures of a whole file, whichever of its tests comes first."""
    pyro.set_rng_seed(0)


@pytest.fixture(autouse=True)
def clean_state():
    """Start every test from the same seed, an empty store and validation on."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    # For what the tests of a file share, which is made before this fixture.
    torch.set_default_dtype(torch.float32)
    pyro.enable_validation(True)


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


@pytest.fixture
def little_tuning(monkeypatch):
    """Tune the step sizes of annealed importance sampling in a few transitions."""
    monkeypatch.setattr("ppl_vae.evaluation.annealing._WARM_UP", 1)
    monkeypatch.setattr("ppl_vae.evaluation.annealing._FEWEST_TUNED", 3)
