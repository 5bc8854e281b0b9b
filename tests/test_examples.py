"""Every example runs, and every example is listed."""

import os
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from matplotlib import pyplot as plt

EXAMPLES = Path(__file__).parents[1] / "examples"
# Some combinations of versions warn: of deprecations in each other, NumPy 1 of flushed numbers.
OTHERS = ("default::DeprecationWarning", "default:The value of the smallest subnormal")
STRICT = ["-W", "error", *(word for warning in OTHERS for word in ("-W", warning))]
LISTED = [
    "vae",
    "gmvae",
    "iwae",
    "ssvae",
    "discrete",
    "conditional",
    "hierarchical",
    "impute",
    "swap_priors",
    "custom_networks",
    "evaluate",
    "calibration",
    "search",
]
NEEDS = {"search": "optuna"}
"""Packages that an example needs, and the tests do not."""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys, as_users_see_it, coarse):
    """Run a script as ``python script.py`` does, in this process, which saves the imports."""

    def run(name, *flags):
        script = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [script, *flags])
        status = 0
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        if isinstance(status, str):  # the interpreter prints it
            return 1, said.out, said.err + status
        return status, said.out, said.err

    # Of a report, which has tests of its own, only the pictures of all pairs.
    sections = import_module("ppl_vae.report.figures.sections")
    monkeypatch.setattr(sections, "SECTION_KINDS", ())
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield run
    torch.set_flush_denormal(False)
    sys.modules.pop("common", None)
    plt.close("all")


def test_every_example_is_listed():
    scripts = {p.stem for p in EXAMPLES.glob("*.py")} - {"common"}
    assert scripts == set(LISTED)


@pytest.mark.parametrize("name", LISTED)
def test_example_runs_and_writes_its_figure(name, run, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{NEEDS[name]} is missing: pip install it")
    status, out, err = run(name, "--smoke", "--seed", "3")
    assert status == 0
    assert f"figure: runs/{name}-digits/{name}.png" in out
    assert "step" in err  # the progress bar
    figure = tmp_path / "runs" / f"{name}-digits" / f"{name}.png"
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_seed_decides_the_numbers(run):
    first, other, again = (run("vae", "--smoke", "--seed", s)[1] for s in ("1", "2", "1"))
    assert other != first
    assert again == first


@pytest.mark.slow  # that of the command line in another process is in tests/cli
def test_the_seed_decides_the_numbers_in_another_process_too(run, tmp_path):
    here = run("vae", "--smoke", "--seed", "1")[1]
    typed = subprocess.run(
        [sys.executable, *STRICT, EXAMPLES / "vae.py", "--smoke", "--seed", "1"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert typed.stdout == here


def test_an_unwritable_folder_is_refused_before_training(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, _, err = run("vae", "--smoke", "--out", str(tmp_path / "file" / "runs"))
    assert status != 0
    assert "--out: cannot write to" in err
    assert "training" not in err
    assert (tmp_path / "file").read_text() == "in the way"


def test_invalid_flags_are_refused_in_one_line(run, tmp_path):
    for flags, message in [
        (("--dataset", "nmist"), "nmist"),
        (("--epochs", "0"), "must be 1 or more"),
        (("--dataset", "mnist", "--data-root", str(tmp_path)), str(tmp_path)),
        (("--device", "tpu"), "--device"),
    ]:
        status, _, err = run("vae", *flags)
        assert status != 0
        assert message in err
        assert "Traceback" not in err, err
