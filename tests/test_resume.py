"""A training that is killed and resumed ends as if nothing had happened, bit for bit."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pyro
import pytest
import torch

from ppl_vae import VAE, data, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.storage import DamagedError
from ppl_vae.training import EarlyStopping, Interrupted, fit

HERE = Path(__file__).parent
DIGITS = data.load("digits")
quiet = partial(fit, progress=False)


def digits_vae():
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))),
    )


def same(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@pytest.mark.parametrize("scenario", ["everything", "shared tensors", "streams", "a DataLoader"])
def test_killed_anywhere_and_resumed(scenario, tmp_path):
    command = [sys.executable, HERE / "killed.py", scenario, tmp_path, str(len(scenario))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    deaths = dict(line.split() for line in run.stdout.splitlines())
    assert sum(map(int, deaths.values())) >= 4, deaths
    whole = {p.relative_to(tmp_path / "whole"): p for p in (tmp_path / "whole").rglob("*.*")}
    files = [p for p in whole if "checkpoints" not in p.parts and p.name != "manifest.json"]
    assert {p.name for p in files} >= {"history.csv", "model.safetensors"}
    for name in ("rarely", "always"):
        for file in files:
            assert (tmp_path / name / file).read_bytes() == whole[file].read_bytes(), (name, file)
        assert (tmp_path / name / "stopped").read_text() == (
            tmp_path / "whole" / "stopped"
        ).read_text()
        leftovers = {p.name for p in (tmp_path / name / "checkpoints").iterdir()}
        assert all(n.startswith("step-") and n[5:].isdigit() for n in leftovers), leftovers


def trained(out, steps, **options):
    vae = digits_vae()
    fitted = quiet(vae, DIGITS, steps=steps, out=out, checkpoint_every=5, log_every=5, **options)
    return vae, fitted


def test_more_steps_are_taken_from_where_it_ended(tmp_path):
    trained(tmp_path, 10)
    vae, fitted = trained(tmp_path, 20, resume=True)
    whole, once = trained(tmp_path / "whole", 20)
    assert same(vae, whole)
    assert fitted.history.keys() == once.history.keys()
    assert all((fitted.history[n] == once.history[n]).all() for n in once.history)


def test_a_training_that_ended_is_left_as_it_is(tmp_path):
    vae, fitted = trained(tmp_path, 10)
    again, refitted = trained(tmp_path, 10, resume=True)
    assert same(vae, again)
    assert refitted.history["loss"].tolist() == fitted.history["loss"].tolist()


def test_an_early_stop_stays_a_stop(tmp_path):
    options = {
        "validation": DIGITS.subset(range(20)),
        "validate_every": 1,
        "stopping": EarlyStopping(2, min_delta=100),
    }
    vae, fitted = trained(tmp_path, 50, **options)
    assert fitted.stopped == "patience"
    again, refitted = trained(tmp_path, 50, resume=True, **options)
    assert (refitted.stopped, refitted.steps) == ("patience", fitted.steps)
    assert same(vae, again)


def test_without_resume_nothing_is_overwritten(tmp_path):
    trained(tmp_path, 5)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(FileExistsError, match="resume=True"):
        trained(tmp_path, 5)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"seed": 1}, "seed"),
        ({"estimator": estimators.ImportanceWeightedELBO(2)}, "estimator"),
        ({"optimiser": partial(torch.optim.Adam, lr=0.5)}, "optimiser"),
        ({"beta": 0.5}, "beta"),
        ({"clip_norm": 0.5}, "clip_norm"),
        ({"batch_size": 7}, "batch_size=100 .here 7."),
    ],
)
def test_another_training_is_not_resumed(options, what, tmp_path):
    trained(tmp_path, 5)
    vae = digits_vae()
    with pytest.raises(ValueError, match=what):
        quiet(vae, DIGITS, steps=9, out=tmp_path, resume=True, **options)
    assert same(vae, digits_vae()), "a refused checkpoint must not touch the pair"


def test_another_pair_is_not_resumed(tmp_path):
    trained(tmp_path, 5)
    other = digits_vae().replace(prior=priors.GaussianMixture(2, components=3))
    with pytest.raises(ValueError, match="prior"):
        quiet(other, DIGITS, steps=9, out=tmp_path, resume=True)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(file, damage, tmp_path):
    trained(tmp_path, 10)
    last = tmp_path / "checkpoints" / "step-000000010"
    victim = last / file
    content = bytearray(victim.read_bytes())
    if damage == "cut":
        victim.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.unlink()
    with pytest.warns(UserWarning, match="going back to the one before"):
        vae, _ = trained(tmp_path, 15, resume=True)
    assert same(vae, trained(tmp_path / "whole", 15)[0])
    assert last.with_name("step-000000010.damaged").exists()


def test_nothing_is_invented_where_all_are_damaged(tmp_path):
    trained(tmp_path, 10)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "state.pt").unlink()
    with (
        pytest.warns(UserWarning, match="going back"),
        pytest.raises(DamagedError, match=r"state\.pt"),
    ):
        trained(tmp_path, 15, resume=True)


def test_only_so_many_are_kept(tmp_path):
    trained(tmp_path, 30, keep=3)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{n:09d}" for n in (20, 25, 30)]


FULL_DISK = """
import resource, signal, sys
sys.path.insert(0, sys.argv[2])
from test_resume import trained
from pathlib import Path
out = Path(sys.argv[1])
trained(out, 10)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # what a full disk is to a program
try:
    trained(out, 15, resume=True)
except OSError as error:
    print("refused")
"""


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    command = [sys.executable, "-c", FULL_DISK, tmp_path / "run", HERE]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.stdout == "refused\n", run.stderr
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000005", "step-000000010"]
    vae, _ = trained(tmp_path / "run", 15, resume=True)
    assert same(vae, trained(tmp_path / "whole", 15)[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heeded_between_steps_and_says_how_to_go_on(number, tmp_path):
    def later():
        while not (tmp_path / "checkpoints" / "step-000000005").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=later)
    thread.start()
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match="resume=True goes on") as caught:
        trained(tmp_path, 100_000)
    thread.join()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    step = caught.value.step
    assert caught.value.signal == number
    assert (tmp_path / "checkpoints" / f"step-{step:09d}").exists()
    vae, _ = trained(tmp_path, step + 3, resume=True)
    assert same(vae, trained(tmp_path / "whole", step + 3)[0])


def test_a_signal_without_a_folder_says_that_nothing_is_saved():
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(Interrupted, match="Nothing was saved; give out="):
        quiet(digits_vae(), DIGITS, steps=100_000)


def test_a_folder_that_is_copied_elsewhere_goes_on_there(tmp_path):
    trained(tmp_path / "here", 10)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    vae, _ = trained(tmp_path / "there", 15, resume=True)
    assert same(vae, trained(tmp_path / "whole", 15)[0])
