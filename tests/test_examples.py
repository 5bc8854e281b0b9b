"""Every example runs, and every example is listed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
LISTED = [
    "vae",
    "gmvae",
    "iwae",
    "ssvae",
    "conditional",
    "hierarchical",
    "impute",
    "swap_priors",
    "custom_networks",
    "evaluate",
]


def run(name, *flags, cwd, **environment):
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *flags],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_script_is_listed():
    scripts = {p.stem for p in EXAMPLES.glob("*.py")} - {"common"}
    assert scripts == set(LISTED)


@pytest.mark.parametrize("name", LISTED)
def test_example_runs_and_writes_its_figure(name, tmp_path):
    result = run(name, "--smoke", "--seed", "3", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"figure: runs/{name}-digits/{name}.png" in result.stdout
    assert "step" in result.stderr  # the progress bar
    figure = tmp_path / "runs" / f"{name}-digits" / f"{name}.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_seed_decides_the_figures(tmp_path):
    outputs = [run("vae", "--smoke", "--seed", s, cwd=tmp_path).stdout for s in ("1", "1", "2")]
    assert outputs[0] == outputs[1] != outputs[2]


def test_an_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = run("vae", "--smoke", "--out", str(tmp_path / "file" / "runs"), cwd=tmp_path)
    assert result.returncode != 0
    assert "--out: cannot write to" in result.stderr
    assert "training" not in result.stderr
    assert (tmp_path / "file").read_text() == "in the way"


def test_bad_flags_are_refused_in_one_line(tmp_path):
    for flags, message in [
        (("--dataset", "nmist"), "nmist"),
        (("--epochs", "0"), "must be 1 or more"),
        (("--dataset", "mnist", "--data-root", str(tmp_path)), str(tmp_path)),
        (("--device", "tpu"), "--device"),
    ]:
        result = run("vae", *flags, cwd=tmp_path)
        assert result.returncode != 0
        assert message in result.stderr
        assert "Traceback" not in result.stderr, result.stderr
