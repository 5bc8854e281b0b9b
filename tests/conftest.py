"""One place for seeds, for Pyro's global state, temporary files and the garbage collector.

What takes seconds to import is imported late: pytest-xdist's first process, for which the others
wait, hands out tests and runs none.
"""

import gc
import os
import shutil
import signal
from importlib import import_module

import pytest

os.environ["MPLBACKEND"] = "Agg"
# Inductor asks the CPU which instructions it has; it need not also compile a program for each.
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
MEMORY = "/dev/shm"


def pytest_configure(config):
    config.option.randomly_reset_seed = False  # pytest-randomly only shuffles
    # Checkpoints are synchronised with the disk, for which tests would wait.
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**31:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", MEMORY)
    if not config.getoption("numprocesses", None):
        prepare()


def prepare():
    """Set up a process that runs tests."""
    import run_time_types
    import torch

    run_time_types.install()
    # Where there is no device, torch notes for each kind a stack trace of who would have seeded
    # it, which takes longer than many a test.
    for devices in (torch.cuda, torch.xpu, torch.mtia):
        if not devices.is_available():
            devices.manual_seed_all = lambda seed: None


def seed():
    import pyro

    pyro.set_rng_seed(0)


def pytest_collection_modifyitems(items):
    """Put what Inductor compiles side by side: one process imports it, and makes its headers."""
    items.sort(key=lambda item: item.get_closest_marker("inductor") is None)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector off ten thousand tests and what they import.

    They live as long as the process, and it would go through them again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collectstart(collector):
    """Seed what a test file draws while it is imported, whatever was imported before."""
    if isinstance(collector, pytest.Module):
        seed()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Seed fixtures of a whole file, whichever of its tests comes first."""
    seed()


@pytest.fixture(autouse=True)
def clean_state():
    """Start every test from the same seed, an empty store and validation on."""
    import pyro
    import torch

    seed()
    pyro.clear_param_store()
    pyro.enable_validation(True)
    yield
    # For what the tests of a file share, which is made before this fixture.
    torch.set_default_dtype(torch.float32)
    pyro.enable_validation(True)


@pytest.fixture
def float64():
    """Make float64 the default, for comparisons with mathematics."""
    import torch

    torch.set_default_dtype(torch.float64)


@pytest.fixture
def as_users_see_it():
    """Switch the run-time type checks of the tests off: users do not have them."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def little_tuning(monkeypatch):
    """Tune the step sizes of annealed importance sampling in a few transitions."""
    monkeypatch.setattr("ppl_vae.evaluation.annealing._WARM_UP", 1)
    monkeypatch.setattr("ppl_vae.evaluation.annealing._FEWEST_TUNED", 3)


@pytest.fixture
def coarse(monkeypatch):
    """Draw the pictures of reports of few dots, which is faster."""
    monkeypatch.setattr("ppl_vae.report.figures.picture.PER_INCH", 40)


@pytest.fixture
def unrendered(monkeypatch):
    """Draw the pictures of reports, and write a pixel in their place, which is faster still."""
    from matplotlib.figure import Figure
    from PIL import Image

    monkeypatch.setattr(
        Figure, "savefig", lambda self, file, **_: Image.new("L", (1, 1)).save(file, "png")
    )


@pytest.fixture
def numbers_only(monkeypatch, unrendered):
    """Leave the pictures of single pairs out of reports, which take most of the time."""
    sections = import_module("ppl_vae.report.figures.sections")
    monkeypatch.setattr(sections, "SECTION_KINDS", ())


@pytest.fixture
def usual_handler():
    """Python's own for SIGINT, which a shell's background jobs ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
