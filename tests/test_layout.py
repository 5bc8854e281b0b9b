"""Imports point one way, and importing the package has no side effects."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(ppl_vae.__file__).parent
# What each room may import from the package, besides itself.
ROOMS = {
    "errors": set(),
    "events": set(),
    "files": {"errors"},
    "letters": set(),
    "randomness": set(),
    "buffers": set(),
    "turns": {"randomness"},
    "modes": {"buffers", "turns"},
    "registration": set(),
    "tensors": set(),
    "compilation": {"buffers", "models", "randomness"},
    "construction": {"errors", "likeness"},
    "likeness": {"errors"},
    "distributions": {"errors"},
    "nets": {"conditional", "construction", "errors"},
    "conditional": {"construction", "errors"},
    "priors": {"conditional", "distributions", "errors", "randomness"},
    "posteriors": {"conditional", "distributions", "errors"},
    "likelihoods": {"conditional", "distributions", "errors"},
    # A pair's save() imports storage when it is called: storage knows all pairs.
    "models": {
        "conditional",
        "construction",
        "errors",
        "events",
        "modes",
        "posteriors",
        "randomness",
        "registration",
        "storage",
        "tensors",
    },
    "estimators": {"buffers", "errors", "randomness", "turns"},
    "oracles": {"errors", "registration"},
    "data": {"errors", "events", "files", "randomness", "tensors", "turns"},
    "evaluation": {
        "compilation",
        "conditional",
        "data",
        "distributions",
        "errors",
        "estimators",
        "events",
        "letters",
        "models",
        "modes",
        "plots",
        "randomness",
        "tensors",
        "turns",
    },
    "plots": {"errors", "events"},
    "config": {
        "conditional",
        "construction",
        "errors",
        "events",
        "files",
        "likelihoods",
        "likeness",
        "models",
        "nets",
        "posteriors",
        "priors",
        "randomness",
        "turns",
    },
    "cli": {
        "config",
        "data",
        "errors",
        "estimators",
        "evaluation",
        "files",
        "letters",
        "models",
        "plots",
        "storage",
        "training",
    },
    "__main__": {"cli"},
    "storage": {"config", "errors", "files", "likeness", "models", "randomness", "turns"},
    "training": {
        "buffers",
        "compilation",
        "conditional",
        "data",
        "errors",
        "estimators",
        "evaluation",
        "models",
        "modes",
        "randomness",
        "storage",
        "tensors",
        "turns",
    },
}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "ppl_vae" and len(parts) > 1:
                yield parts[1]


def files(room):
    folder = ROOT / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{room}.py"]


def test_every_room_is_listed():
    rooms = {p.stem for p in ROOT.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_one_way(room):
    for file in files(room):
        assert set(imports(file)) <= ROOMS[room] | {room}, file


def test_only_models_and_oracles_sample():
    sampling = {
        room
        for room in ROOMS
        for file in files(room)
        if {"pyro.sample(", "pyro.plate("} & set(file.read_text().replace("(", "(\n").split())
    }
    assert sampling <= {"models", "oracles", "estimators"}


def test_importing_the_package_changes_nothing():
    code = """
import torch, pyro
before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
import ppl_vae, sys
from ppl_vae import VAE, config, data, estimators, evaluation, likelihoods, models, nets
from ppl_vae import posteriors, priors, storage
assert torch.equal(before[0], torch.get_rng_state())
assert before[1:] == (torch.get_default_dtype(), torch.get_num_threads())
assert not list(pyro.get_param_store().keys())
late = {"torchvision", "matplotlib", "sklearn", "lightning_fabric", "triton"}
assert not late & set(sys.modules), late & set(sys.modules)
assert "jaxtyping" in sys.modules and "beartype" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_objects_have_docstrings_with_what_is_public():
    for name in ppl_vae.__all__:
        assert getattr(ppl_vae, name).__doc__, name
