"""Two processes compute what one computes on the joint batch."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from two_processes import FAULTS, GRADIENTS, WORDS, train

from ppl_vae.cli import main
from ppl_vae.data import Part
from ppl_vae.io.tensors import read_tensors
from ppl_vae.training.distributed import shard

HERE = Path(__file__).parents[1]


def ended(command, seconds=120):
    """Run a command that starts processes of its own; none of them outlives a test that hangs."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    ended([sys.executable, HERE / "two_processes.py", folder])
    return folder, [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", GRADIENTS)
def test_the_gradient_is_that_of_the_joint_batch(name, found):
    for rank in found[1]:
        assert rank["sizes"][name] > 1e-3, "nothing to compare"
        assert rank["gradients"][name] < 1e-10
        assert rank["losses"][name] < 1e-10


@pytest.mark.parametrize(("divided", "same"), [(True, True), (False, False)])
def test_a_training_of_two_processes_equals_that_of_one(divided, same, found, tmp_path):
    """With the same noise for each datum; each process draws noise of its own where it may."""
    two = found[0] / ("two" if divided else "straight")
    train(tmp_path, 14 if divided else 10, divided=divided)
    for table in ["history.csv", "validation.csv"] if divided else ["history.csv"]:
        (ours, header), (theirs, named) = (numbers(f / table) for f in (tmp_path, two))
        assert header == named
        assert np.allclose(ours, theirs, rtol=1e-9, atol=0) == same
        # Steps, epochs and the learning rate are the same in any case.
        assert np.array_equal(ours[:, 0], theirs[:, 0])
    ours, theirs = (
        read_tensors(max((f / "checkpoints").iterdir()) / "weights.safetensors")
        for f in (tmp_path, two)
    )
    assert ours.keys() == theirs.keys()
    distance = max((ours[n] - theirs[n]).abs().max().item() for n in ours)
    assert (distance < 1e-8) == same


def numbers(file):
    header, *rows = file.read_text().splitlines()
    return np.array([[float(n) for n in row.split(",")] for row in rows]), header


def test_two_processes_resume_exactly(found):
    for rank in found[1]:
        assert rank["resumed"] == 0


def test_all_processes_skip_a_damaged_checkpoint(found):
    for rank in found[1]:
        assert rank["damaged"] == 0


@pytest.mark.parametrize("what", FAULTS)
def test_a_failure_in_one_process_ends_all(what, found):
    """No process waits for one that is gone; the other says what it is about."""
    here, there = (kind.__name__ for kind in FAULTS[what])
    first, second = (rank["faults"][what] for rank in found[1])
    if what == "disk":
        first, second = second, first
    assert first[0] == there, first
    if what == "disk":
        assert second[0] in ("NotADirectoryError", "FileExistsError"), second
    else:
        assert second[0] == here, second
    if there == "RuntimeError":
        assert "another process failed" in first[1]
    if what == "signal":
        assert "SIGTERM after step 4" in first[1]
        assert "SIGTERM after step 4" in second[1]
    if what == "nan":
        assert "all is finite in this process" in first[1]
        assert "the loss is NaN: the output of module 'guide.posterior.net'" in second[1]


def test_callbacks_are_called_in_the_first_process_and_end_all(found):
    first, second = (rank["called"] for rank in found[1])
    # The history has an entry every 3 steps.
    assert first[:4] == [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4], 6, "callback"]
    assert second[:4] == [[], [], 6, "callback"]
    assert first[4:] == ["ValueError", "enough"]
    assert second[4] == "RuntimeError"
    assert "a callback of the first process failed" in second[5]
    for rank in found[1]:
        assert rank["after a stop"] == 0  # resumed: as if there had been none


def test_a_folder_that_processes_do_not_share_is_refused(found):
    for rank in found[1]:
        assert "all need the same folder" in rank["another folder"]


def test_processes_of_torchrun_are_found_without_an_argument(found):
    for rank in found[1]:
        assert rank["by itself"] == 0


def test_only_the_first_process_writes(found):
    folder = found[0]
    assert sorted(p.name for p in (folder / "straight").iterdir()) == ["checkpoints", "history.csv"]
    names = sorted(p.name for p in (folder / "straight" / "checkpoints").iterdir())
    assert names == ["step-000000008", "step-000000010"]


def test_one_process_resumes_a_run_of_two(found, tmp_path):
    folder = shutil.copytree(found[0] / "straight", tmp_path / "straight")
    with pytest.warns(UserWarning, match="of 2 processes, got 1"):
        pair, fitted = train(folder, 12, divided=False)
    assert fitted.history["step"].tolist() == [3, 6, 9, 10, 12]
    assert fitted.history["epoch"][-1] == 1  # six batches an epoch
    assert all(p.isfinite().all() for p in pair.parameters())


@given(size=st.integers(1, 9), number=st.integers(1, 5))
def test_shards_partition_the_batch(size, number):
    x, y = torch.arange(size).double().add(1), torch.arange(size)
    shares = [shard([Part("data", (x, y), 0.5)], r, number) for r in range(number)]
    mean = sum(s.fractions[0] * s.parts[0].args[0].mean() for s in shares) / number
    assert mean.item() == pytest.approx(x.mean().item(), rel=1e-12)
    seen = torch.cat([s.parts[0].args[1] for s in shares if s.fractions[0]])
    assert seen.sort().values.tolist() == y.tolist()
    assert all(s.parts[0].weight == 0.5 and s.sizes == (size,) for s in shares)
    assert all(len(s.parts[0].args[0]) for s in shares), "each must take part"


def test_one_argument_of_the_command_line_starts_the_command_once_more(monkeypatch, tmp_path):
    """Here it is written down; the slow test lets it run."""
    started = []

    def start(command, env, **_):
        started.append((command, env))
        raise KeyboardInterrupt  # before anybody waits for the other process

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # which the launcher writes to
    module = type(sys)("__main__")
    module.__spec__ = importlib.util.find_spec("ppl_vae.__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    words = [*WORDS, "--devices", "2", "--out", str(tmp_path / "two")]
    monkeypatch.setattr(sys, "argv", [str(HERE.parent / "ppl_vae" / "__main__.py"), *words])
    assert main(words) == 130
    ((command, environment),) = started
    assert command == [sys.executable, "-m", "ppl_vae.__main__", *words]
    assert (environment["WORLD_SIZE"], environment["LOCAL_RANK"]) == ("2", "1")
    assert not (tmp_path / "two" / "history.csv").exists()


@pytest.mark.slow
def test_one_argument_of_the_command_line_starts_the_processes(found, tmp_path):
    """And ends, by another launcher, where torchrun ended."""
    two = tmp_path / "two"
    ours = [sys.executable, "-W", "error::UserWarning", "-m", "ppl_vae"]
    assert ended([*ours, *WORDS, "--devices", "2", "--out", two]).count("training loss") == 1
    for file in ("model/model.safetensors", "history.csv", "validation.csv"):
        assert (two / file).read_bytes() == (found[0] / "typed" / file).read_bytes()


def test_a_run_of_two_processes_is_repeated_by_one(found, tmp_path):
    assert [rank["typed"] for rank in found[1]] == [0, 0]
    two, one = found[0] / "typed", tmp_path / "one"
    assert main(["fit", str(two), "--devices", "1", "--out", str(one), "--quiet"]) == 0
    of_one, of_two = (losses(folder / "history.csv") for folder in (one, two))
    # The same data and initial weights, other draws of the latents.
    assert of_one == pytest.approx(of_two, rel=0.05)
    assert (of_one != of_two).all()


def losses(file):
    rows, header = numbers(file)
    return rows[:, header.split(",").index("loss")]
