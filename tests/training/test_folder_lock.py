"""A lock on the folder of a training, signals that end it, and running without a terminal."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import pyro
import pytest

from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
from ppl_vae.io import UnsafeError
from ppl_vae.training import Interrupted, fit
from ppl_vae.training.folder_lock import NAME, locked
from ppl_vae.training.progress import progress_bar
from ppl_vae.training.signals import Interrupts
from ppl_vae.training.validation import Validation

DIGITS = data.load("digits")


def digits_vae():
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))),
    )


def trained(out, steps=4, **options):
    given = {"checkpoint_every": 2, "progress": False, **options}
    return fit(digits_vae(), DIGITS, steps=steps, out=out, **given)


HOLDER = """
import os, sys, time
from pathlib import Path
sys.modules["torch"] = None  # the lock needs none of it
import importlib.util
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lock)
with lock.locked(Path(sys.argv[2])):
    if os.fork() == 0:  # as a loader's worker
        time.sleep(60)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_is_refused_until_the_first_is_killed(resume, tmp_path):
    import ppl_vae.training.folder_lock as lock

    if resume:
        trained(tmp_path, 2)
    command = [sys.executable, "-c", HOLDER, lock.__file__, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as holder:
        try:
            assert holder.stdout.readline() == b"held\n"
            told = f"process {holder.pid} on {socket.gethostname()}, since 20"
            before = sorted(tmp_path.rglob("*"))
            with pytest.raises(BlockingIOError, match=f"{tmp_path}.*{told}"):
                trained(tmp_path, resume=resume)
            assert sorted(tmp_path.rglob("*")) == before
            holder.kill()  # its worker lives on
            holder.wait()
            assert trained(tmp_path, resume=resume).steps == 4
        finally:
            os.killpg(holder.pid, signal.SIGKILL)
    assert not (tmp_path / NAME).exists()


def test_a_locked_folder_is_refused(tmp_path):
    refused = []

    def particles(step):
        if step == 1 and not refused:
            with pytest.raises(BlockingIOError, match=f"process {os.getpid()} ") as error:
                trained(tmp_path, 2)
            refused.append(error)
        return 1

    assert trained(tmp_path, num_particles=particles).steps == 4
    assert refused


def test_a_refusal_leaves_no_new_folder(tmp_path):
    out = tmp_path / "new" / "run"
    with pytest.raises(BlockingIOError), locked(out), locked(out):
        raise AssertionError
    assert not (tmp_path / "new").exists()
    with locked(out):
        (out / "kept").touch()
    assert [p.name for p in out.iterdir()] == ["kept"]


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "outside")
    with pytest.raises(UnsafeError, match=f"{NAME} is a link"):
        trained(tmp_path / "run")
    with pytest.raises(OSError, match=NAME), locked(tmp_path / "run"):
        raise AssertionError
    assert (tmp_path / "outside").read_text() == "mine"


def test_a_file_system_without_locks_brings_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match="cannot be locked"):
        assert trained(tmp_path).steps == 4


@pytest.fixture
def at_a_terminal():
    """SIGHUP is not ignored, whoever started the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("at_a_terminal")
@pytest.mark.parametrize("where", ["step", "validation", "checkpoint"])
def test_sighup_saves_like_sigterm(where, tmp_path, monkeypatch):
    """Twice, as a shell and its terminal send it, more than a second apart."""
    from ppl_vae.training.output_folder import OutputFolder
    from ppl_vae.training.trainer import Trainer

    def hang_up(owner, name):
        original = getattr(owner, name)

        def after(self, *args):
            result = original(self, *args)
            if self_is_at(self):
                signal.raise_signal(signal.SIGHUP)
                signal.raise_signal(signal.SIGHUP)
            return result

        monkeypatch.setattr(owner, name, after)

    def self_is_at(self):
        return getattr(self, "step", 2) >= 2

    monkeypatch.setattr("ppl_vae.training.signals.REPEAT_WINDOW", -1.0)
    places = {"step": (Trainer, "take_step"), "validation": (Validation, "bound")}
    hang_up(*places.get(where, (OutputFolder, "save")))
    with pytest.raises(Interrupted, match="SIGHUP after step 2") as caught:
        trained(tmp_path, 50, validation=DIGITS.subset(range(9)), validate_every=2)
    assert caught.value.signal == signal.SIGHUP
    assert (tmp_path / "checkpoints" / "step-000000002").is_dir()
    monkeypatch.undo()
    options = {"validation": DIGITS.subset(range(9)), "validate_every": 2}
    assert trained(tmp_path, 4, resume=True, **options).steps == 4


def test_under_nohup_sighup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGHUP)
        assert interrupts.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def closed():
    stream = open(os.devnull, "w")  # noqa: SIM115
    stream.close()
    return stream


def full():
    return open("/dev/full", "w", buffering=1)


def broken():
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w", buffering=1)


class Ascii:
    """A terminal of few letters, which knows nothing else of streams."""

    encoding = "ascii"

    def write(self, text):
        text.encode("ascii")


@pytest.mark.parametrize("stream", [lambda: None, closed, full, broken, Ascii])
def test_training_works_without_stderr(stream, tmp_path, monkeypatch):
    made = stream()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setattr("ppl_vae.training.progress.INTERVAL", 0.0)
    assert trained(tmp_path, 4, progress=True, log_every=1).steps == 4
    monkeypatch.undo()
    if hasattr(made, "detach") and not made.closed:
        with suppress(OSError):  # what is left to be written
            made.close()


def test_the_bar_is_on_stderr(capsys):
    with progress_bar(3, 1, True) as bar:
        bar.update()
    written = capsys.readouterr()
    assert "2/3" in written.err
    assert written.out == ""


def odd(folder):
    """Make what looks like checkpoints and is none; return what each is."""
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "precious").write_text("mine")
    (folder / "step-000000099").symlink_to(outside)
    (folder / "step-000000098").symlink_to(folder / "nowhere")
    (folder / "step-000000097").write_text("a file")
    names = ["step-000000007x", "step-٣", "step-" + "9" * 200, "step-", "step--00000001", "step-7"]
    for name in names:
        (folder / name).mkdir()
    return outside, names


@pytest.mark.filterwarnings("default::UserWarning")
def test_links_named_like_checkpoints_are_set_aside(tmp_path):
    out = tmp_path / "run"
    trained(out, 4)
    checkpoints = out / "checkpoints"
    outside, names = odd(checkpoints)
    with pytest.warns(UserWarning, match="step-") as told:
        assert trained(out, 6, resume=True, keep=1).steps == 6
    messages = [str(w.message) for w in told]
    assert sum("is a link or not a folder: set aside as" in m for m in messages) == 3
    assert sum("ignored" in m for m in messages) == 1
    assert all(len(m) < 400 and m.isascii() for m in messages)
    left = {p.name for p in checkpoints.iterdir()}
    assert left == {"step-000000006", *names} | {f"step-00000009{n}.damaged" for n in (7, 8, 9)}
    assert [p.name for p in outside.iterdir()] == ["precious"]


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_link_where_a_checkpoint_is_to_be_written_is_set_aside(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "step-000000002").symlink_to(tmp_path / "outside")
    with pytest.warns(UserWarning, match="set aside"):
        trained(tmp_path / "run", 4)
    assert (tmp_path / "run" / "checkpoints" / "step-000000002").is_dir()
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.mark.filterwarnings("default::UserWarning")
def test_a_checkpoint_that_cannot_be_read_is_set_aside(tmp_path, monkeypatch):
    import ppl_vae.training.checkpoints as module

    trained(tmp_path, 4)
    original = module.check

    def refused(folder):
        if folder.name.endswith("4"):
            raise PermissionError(13, "Permission denied", str(folder / "manifest.json"))
        return original(folder)

    monkeypatch.setattr(module, "check", refused)
    with pytest.warns(UserWarning, match="cannot be read .Permission denied.: set aside"):
        assert trained(tmp_path, 5, resume=True).steps == 5
    assert (tmp_path / "checkpoints" / "step-000000004.damaged").is_dir()


def test_the_error_of_a_full_disk_names_the_folder(tmp_path):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match=f"File too large: '{tmp_path}"):
            trained(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
