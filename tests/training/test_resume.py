"""A training that is killed and resumed ends as if it had not been interrupted, bit for bit."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace as Namespace

import pyro
import pytest
import torch
from killed import SOME, drawn
from pyro.infer import Trace_ELBO
from torch import nn

from ppl_vae import VAE, data, estimators, likelihoods, nets, posteriors, priors
from ppl_vae.io import DamagedError
from ppl_vae.training import EarlyStopping, Interrupted, fit
from ppl_vae.training.fingerprint import fingerprint
from ppl_vae.training.settings import Declaration
from ppl_vae.training.signals import Interrupts

pytestmark = pytest.mark.usefixtures("as_users_see_it")
HERE = Path(__file__).parents[1]
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


@pytest.fixture(scope="module", params=["some", pytest.param("all", marks=pytest.mark.slow)])
def killed(request, tmp_path_factory):
    """Trainings with few checkpoints, or many; of one kind for most scenarios, or of both."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, HERE / "killed.py", folder, "1", request.param]
    # A fork has not the threads that its parent's OpenMP counts on, and would wait for them.
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, env=alone)
    assert run.returncode == 0, run.stderr
    return folder


def test_killed_anywhere_and_resumed(killed):
    scenarios = [folder for folder in killed.iterdir() if folder.is_dir()]
    assert len(scenarios) >= len(SOME)
    for folder in scenarios:
        whole = {p.name: p for p in (folder / "whole").iterdir() if p.is_file()}
        assert whole.keys() >= {"history.csv", "model.safetensors", "stopped"}
        deaths = {file.stem: int(file.read_text()) for file in folder.glob("*.deaths")}
        assert sum(deaths.values()) > len(deaths) > 0, (folder.name, deaths)
        for name in deaths:
            for file in whole:
                resumed = folder / name / file
                assert resumed.read_bytes() == whole[file].read_bytes(), resumed
            leftovers = {p.name for p in (folder / name / "checkpoints").iterdir()}
            assert all(n.startswith("step-") and n[5:].isdigit() for n in leftovers), leftovers


def test_a_loader_draws_the_same_in_another_process(killed):
    assert json.loads((killed / "drawn.json").read_text()) == drawn()


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


class Stateful(nn.Module):
    """A network with a state of its own, that each call changes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(64, 4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += self.training
        return self.net(x) + 0.01 * self.calls


@pytest.mark.parametrize("beta", [None, 0.5])
@pytest.mark.parametrize(
    "estimator",
    [
        lambda: estimators.ImportanceWeightedELBO(2),
        lambda: Trace_ELBO(num_particles=2, vectorize_particles=True),
    ],
)
def test_the_first_call_of_an_estimator_is_not_part_of_the_training(estimator, beta, tmp_path):
    """Pyro's guess how plates are nested, and draw; ours run the programs once more."""
    ended = []
    for steps, out in ((6, None), (3, tmp_path), (6, tmp_path)):
        net = Stateful()
        pair = digits_vae().replace(posterior=posteriors.DiagonalNormal(net))
        torch.manual_seed(0)
        nn.init.normal_(net.net.weight, std=0.1)
        nn.init.zeros_(net.net.bias)
        nn.init.zeros_(net.calls)
        options = {"estimator": estimator(), "beta": beta, "out": out}
        options["resume"] = out is not None
        quiet(pair, DIGITS, steps=steps, log_every=2, checkpoint_every=3, **options)
        ended.append(pair)
        assert net.calls == steps
    assert same(ended[0], ended[2])


def test_what_later_versions_add_is_no_other_training(tmp_path):
    """Entries of a declaration that a checkpoint of 0.2 lacks, where they say nothing new."""
    now = Declaration({"data": Namespace(dtype=None, size=3)}, {}).words()
    saved = {name: words for name, words in now.items() if not name.endswith(".dtype")}
    assert saved != now
    Declaration({"data": Namespace(dtype=None, size=3)}, {}).check(saved, tmp_path)
    with pytest.raises(ValueError, match=r"dtype was nothing and is now torch\.float64"):
        Declaration({"data": Namespace(dtype=torch.float64, size=3)}, {}).check(saved, tmp_path)
    q = posteriors.DiagonalNormal(nn.Linear(3, 4))
    prior = priors.VampPrior(q, 2, event_shape=(3,))
    found = fingerprint({"prior": prior})
    assert not [name for name in found if name.startswith("prior._")]


def test_a_pair_in_evaluation_mode_goes_on(tmp_path):
    vae, _ = trained(tmp_path, 5)
    vae.eval()
    quiet(vae, DIGITS, steps=9, out=tmp_path, checkpoint_every=5, log_every=5, resume=True)
    assert same(vae, trained(tmp_path / "whole", 9)[0])


def test_resuming_a_finished_training_changes_nothing(tmp_path):
    vae, fitted = trained(tmp_path, 10)
    again, refitted = trained(tmp_path, 10, resume=True)
    assert same(vae, again)
    assert refitted.history["loss"].tolist() == fitted.history["loss"].tolist()


def test_resuming_after_an_early_stop_takes_no_step(tmp_path):
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


def test_patience_and_the_best_weights_are_resumed(tmp_path):
    options = {
        "validation": DIGITS.subset(range(20)),
        "validate_every": 1,
        "stopping": EarlyStopping(6, min_delta=100),
    }
    whole, once = trained(tmp_path / "whole", 50, **options)
    assert (once.best_step, once.steps) == (1, 7)
    trained(tmp_path / "run", 5, **options)
    vae, fitted = trained(tmp_path / "run", 50, resume=True, **options)
    assert (fitted.stopped, fitted.best_step, fitted.steps) == ("patience", 1, 7)
    assert same(vae, whole)


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
        ({"optimizer": partial(torch.optim.Adam, lr=0.5)}, "optimizer"),
        ({"beta": 0.5}, "beta"),
        ({"beta": estimators.linear_warm_up(3)}, "beta"),
        ({"estimator": estimators.KLWeighted(estimators.ImportanceWeightedELBO(1), 0.5)}, "beta"),
        (
            {"estimator": estimators.ImportanceWeightedELBO(1, alpha=0.5)},
            r"estimator.*alpha was 0\.0 and is now 0\.5",
        ),
        ({"lr_schedule": partial(torch.optim.lr_scheduler.StepLR, step_size=3)}, "lr_schedule"),
        ({"num_particles": lambda step: 1}, "num_particles"),
        ({"clip_norm": 0.5}, "clip_norm"),
        ({"batch_size": 7}, "batch_size was 100 and is now 7"),
    ],
)
def test_another_training_is_not_resumed(options, what, tmp_path):
    trained(tmp_path, 5)
    vae = digits_vae()
    with pytest.raises(ValueError, match=what):
        quiet(vae, DIGITS, steps=9, out=tmp_path, resume=True, **options)
    assert same(vae, digits_vae()), "a refused checkpoint must not touch the pair"


def test_another_length_of_a_schedule_is_another_training(tmp_path):
    schedules = [partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=n) for n in (5, 9)]
    trained(tmp_path, 5, lr_schedule=schedules[0])
    with pytest.raises(ValueError, match=r"lr_schedule\.T_max was 5 and is now 9"):
        trained(tmp_path, 9, lr_schedule=schedules[1], resume=True)


def test_another_pair_is_not_resumed(tmp_path):
    trained(tmp_path, 5)
    other = digits_vae().replace(prior=priors.GaussianMixture(2, components=3))
    with pytest.raises(ValueError, match="prior"):
        quiet(other, DIGITS, steps=9, out=tmp_path, resume=True)


@pytest.fixture(scope="module")
def ten_steps(tmp_path_factory):
    """The folder of a training of ten steps, and the pair after fifteen."""
    folder = tmp_path_factory.mktemp("ten")
    trained(folder, 10)
    return folder, trained(None, 15)[0]


@pytest.mark.parametrize("file", ["weights.safetensors", "state.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_after_a_damaged_checkpoint_the_previous_one_is_used(file, damage, ten_steps, tmp_path):
    folder, whole = ten_steps
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
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
    with pytest.warns(UserWarning, match="the previous one is used"):
        vae, _ = trained(tmp_path, 15, resume=True)
    assert same(vae, whole)
    assert last.with_name("step-000000010.damaged").exists()


def test_the_history_file_agrees_with_the_checkpoint(tmp_path):
    """Also where a kill came after the last checkpoint and before the history was written."""
    trained(tmp_path, 10)
    whole = (tmp_path / "history.csv").read_text()
    (tmp_path / "history.csv").unlink()
    trained(tmp_path, 10, resume=True)
    assert (tmp_path / "history.csv").read_text() == whole


def test_an_unwritable_folder_fails_before_the_training(tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        vae = digits_vae()
        with pytest.raises(NotADirectoryError):
            quiet(vae, DIGITS, steps=5, out=out)
        assert same(vae, digits_vae())


def test_a_state_that_cannot_be_saved_fails_before_the_training(tmp_path):
    class Unsaved(torch.optim.lr_scheduler.ConstantLR):
        def state_dict(self):
            return {"function": print}

    vae = digits_vae()
    with pytest.raises(TypeError, match=r"state\['lr_schedule'\]\['function'\]"):
        quiet(vae, DIGITS, steps=5, out=tmp_path, lr_schedule=Unsaved)
    assert same(vae, digits_vae())


def test_if_all_checkpoints_are_damaged_resuming_fails(tmp_path):
    trained(tmp_path, 10)
    for folder in (tmp_path / "checkpoints").iterdir():
        (folder / "state.safetensors").unlink()
    with (
        pytest.warns(UserWarning, match="the previous one"),
        pytest.raises(DamagedError, match=r"state\.safetensors"),
    ):
        trained(tmp_path, 15, resume=True)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    trained(tmp_path, 30, keep=3)
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == [f"step-{n:09d}" for n in (20, 25, 30)]


@pytest.fixture
def fill_the_disk():
    """Let files be no longer than 20 kB from now on: to a program that is a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("at", [10, 12])
def test_a_full_disk_leaves_the_previous_checkpoint(at, tmp_path, fill_the_disk):
    """Full before anything is trained, or later, when the training may not be for nothing."""

    def particles(step):
        if step == at:
            fill_the_disk()
        return 1

    options = {"num_particles": particles}
    trained(tmp_path / "run", 10, **options)
    if at == 10:
        fill_the_disk()
    with pytest.raises(OSError, match="File too large"):
        trained(tmp_path / "run", 15, resume=True, **options)
    names = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["step-000000005", "step-000000010"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_training_between_steps_with_a_checkpoint(number, tmp_path):
    def later():
        while not (tmp_path / "checkpoints" / "step-000000005").exists():
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=later)
    thread.start()
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted, match="resume=True continues") as caught:
        trained(tmp_path, 100_000)
    thread.join()
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    step = caught.value.step
    assert caught.value.signal == number
    assert (tmp_path / "checkpoints" / f"step-{step:09d}").exists()
    vae, _ = trained(tmp_path, step + 3, resume=True)
    assert same(vae, trained(tmp_path / "whole", step + 3)[0])


def test_a_forwarded_signal_counts_once_and_a_later_one_acts(usual_handler):
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # within a second
        assert interrupts.received == signal.SIGTERM
        interrupts._time -= 2
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_signals_are_not_handled():
    before, found = signal.getsignal(signal.SIGINT), []

    def train():
        pair = digits_vae()
        found.append(quiet(pair, DIGITS, steps=2).steps)
        found.append(signal.getsignal(signal.SIGINT) is before)

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [2, True]


def test_a_signal_without_a_folder_says_that_nothing_is_saved(usual_handler):
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(Interrupted, match="Nothing was saved; give out="):
        quiet(digits_vae(), DIGITS, steps=100_000)


def test_a_copied_folder_resumes(tmp_path):
    trained(tmp_path / "here", 10)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    vae, _ = trained(tmp_path / "there", 15, resume=True)
    assert same(vae, trained(tmp_path / "whole", 15)[0])
