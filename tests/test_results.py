"""Figures of docs/results.md, reproduced. Minutes each on two cores: by hand, `pytest -m slow`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
MNIST = Path(os.environ.get("PPL_VAE_DATA", "data")) / "MNIST" / "raw"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MNIST.is_dir(), reason=f"no MNIST in {MNIST}; set PPL_VAE_DATA"),
]


def number(example, pattern, tmp_path):
    command = [sys.executable, str(EXAMPLES / f"{example}.py"), "--dataset", "mnist"]
    result = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True
    )
    return float(re.search(pattern, result.stdout)[1])


def test_mixture_prior_beats_the_standard_one_on_mnist(tmp_path):
    nelbo = {name: number(name, r"NELBO ([\d.]+)", tmp_path) for name in ("vae", "gmvae")}
    assert nelbo["vae"] == pytest.approx(100, abs=3)
    assert nelbo["gmvae"] < nelbo["vae"] - 1.5


def test_a_hundred_labels_on_mnist(tmp_path):
    assert number("ssvae", r"test accuracy ([\d.]+)", tmp_path) > 92
