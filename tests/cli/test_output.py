"""The commands where there is little to write to: no stderr, no letters, a read-only run."""

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import ppl_vae
from ppl_vae import evaluation
from ppl_vae.ascii import in_ascii
from ppl_vae.cli import main
from ppl_vae.evaluation.estimate import Estimate

pytestmark = pytest.mark.usefixtures("as_users_see_it")
NARROW = [
    *("--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"),
    *("--model.latent_dim", "2", "--quiet"),
]
FEW = ["--num-samples", "30", "--num-data", "20", "--quiet"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*words):
    return main(["fit", *words, *NARROW])


def files(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def configuration(run):
    with open(f"{run}/config.yaml") as file:
        return yaml.safe_load(file)


def test_resume_with_fewer_steps_or_other_settings_changes_no_file(capsys):
    words = ["--fit.validate_every", "2", "--fit.stopping.patience", "50"]
    assert fit("--out", "x", "--fit.steps", "6", *words) == 0
    before = files("x")
    for refused, message in (
        (["--fit.steps", "3"], "--fit.steps 3 ends before step 6"),
        (["--fit.validate_every", "3", "--fit.steps", "8"], "validate_every was 2 and is now 3"),
        (["--fit.stopping.monitor", "bound"], "fit.stopping.monitor"),
        (["--devices.precision", "64-true"], "torch.float64|precision was '32-true'"),
        (["--data.binarise", "static"], "data.binarise"),
    ):
        assert main(["fit", "x", "--resume", "--quiet", *refused]) == 2
        said = capsys.readouterr().err
        assert any(m in said for m in message.split("|")), said
        assert files("x") == before
    assert main(["fit", "x", "--resume", "--quiet", "--fit.steps", "8"]) == 0
    assert configuration("x")["fit"]["steps"] == 8
    assert fit("--out", "y", "--fit.steps", "3", "--optimizer.lr", "-1") == 2
    assert not os.path.exists("y")


def test_data_that_were_changed_on_the_disk_are_refused(capsys):
    x = np.random.default_rng(0).random((60, 5)).astype(np.float32)
    np.save("x.npy", x)
    words = ["--data", "x.npy", "--data.scale", "1", "--likelihood", "Normal", "--fit.steps"]
    assert fit("--out", "x", *words, "2") == 0
    np.save("x.npy", x[::-1])
    before = files("x")
    assert main(["fit", "x", "--resume", "--fit.steps", "4", "--quiet"]) == 2
    assert "data.values was float32" in capsys.readouterr().err
    assert files("x") == before


def test_a_read_only_run_is_evaluated_and_its_numbers_printed(capsys):
    """Folders in the files' places: permissions do not bind every user."""
    assert fit("--out", "x", "--fit.steps", "2") == 0
    os.mkdir("x/evaluation.json")
    with open("x/report", "w"):
        pass
    capsys.readouterr()
    assert main(["evaluate", "x", *FEW]) == 0
    written = capsys.readouterr()
    assert "NELBO" in written.out
    assert "x/evaluation.json could not be written" in written.err
    assert main(["report", "x", *FEW]) == 1
    written = capsys.readouterr()
    assert "NELBO" in written.out
    assert "x/report" in written.err
    assert "--out" in written.err


def test_numbers_are_printed_before_a_link_in_their_file_s_place_is_refused(capsys):
    assert fit("--out", "x", "--fit.steps", "2") == 0
    Path("mine").write_text("mine")
    os.symlink("../mine", "x/evaluation.json")
    capsys.readouterr()
    assert main(["evaluate", "x", *FEW]) == 1
    written = capsys.readouterr()
    assert "NELBO" in written.out
    assert "evaluation.json is a link" in written.err
    assert Path("mine").read_text() == "mine"


class Stream(io.TextIOWrapper):
    """A terminal with the letters of an encoding alone."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    @property
    def text(self):
        return self.buffer.getvalue().decode("ascii")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_letters_that_a_terminal_has_not(encoding, monkeypatch):
    stream = Stream(encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    print(Estimate(1.5, 0.25))
    monkeypatch.undo()
    expected = b"1.50 +- 0.25\n" if encoding == "ascii" else "1.50 ± 0.25\n".encode("latin-1")
    assert stream.buffer.getvalue() == expected
    assert str(Estimate(1.5, 0.25)) == "1.50 ± 0.25"
    assert evaluation.Estimate is Estimate


def test_in_other_words():
    assert in_ascii("k̂ > 0.7, 1 ± 2, β, Σ, q ‖ p, é, 3 ≤ 4") == (
        "k-hat > 0.7, 1 +- 2, beta, sum, q || p, e, 3 <= 4"
    )
    assert in_ascii("中") == "?"


def test_a_run_without_stderr_and_a_terminal_of_ascii_alone(tmp_path, monkeypatch):
    """A training without stderr, then an evaluation on ASCII streams."""
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 64)).astype(np.float32))
    stdout, stderr = Stream("ascii"), Stream("ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", None)
    narrow = [word for word in NARROW if word != "--quiet"]
    words = ["--data", "x.npy", "--out", "x", "--fit.steps", "5", *narrow]
    assert main(["fit", *words]) == 0
    assert "validation loss" in stdout.text
    assert "+-" in stdout.text
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main(["evaluate", "x", *FEW]) == 0
    monkeypatch.undo()
    assert "k-hat" in stdout.text
    assert stderr.text.isascii()
    assert json.loads((tmp_path / "x" / "evaluation.json").read_text())["pairs"]


def test_a_process_without_stderr_says_nothing(tmp_path):
    line = " ".join([sys.executable, "-m", "ppl_vae"])
    typed = f"{line} no-such-command 2>&-; echo $?; {line} --version 2>&-"
    done = subprocess.run(["sh", "-c", typed], capture_output=True, text=True, check=False)
    assert done.stdout == f"2\nppl-vae {ppl_vae.__version__}\n"
    assert done.stderr == ""
    # What is opened next would take the place of stderr.
    code = "import os; from ppl_vae.cli.output import open_streams; open_streams(); "
    code += "open('mine', 'w').write('kept'); os.write(2, b'said')"
    subprocess.run(["sh", "-c", f'{sys.executable} -c "{code}" 2>&-'], check=True)
    assert (tmp_path / "mine").read_text() == "kept"


@pytest.mark.slow
def test_a_process_without_stderr_and_a_terminal_of_ascii_alone(tmp_path, monkeypatch):
    """A training with its stderr closed and LC_ALL=C, then an evaluation on ASCII streams."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    line = " ".join([sys.executable, "-m", "ppl_vae"])
    # A file: the digits are scikit-learn's, which takes a second to import.
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (60, 64)).astype(np.float32))
    narrow = " ".join(f"'{word}'" for word in NARROW if word != "--quiet")
    train = f"{line} fit --data x.npy --out x --fit.steps 5 {narrow} 2>&-"
    done = subprocess.run(
        ["sh", "-c", train], env=env, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done
    assert "validation loss" in done.stdout
    assert "+-" in done.stdout
    stdout, stderr = Stream("ascii"), Stream("ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    assert main(["evaluate", "x", *FEW]) == 0
    monkeypatch.undo()
    assert "k-hat" in stdout.text
    assert "+-" in stdout.text
    assert stderr.text.isascii()
    monkeypatch.chdir(tmp_path)
    with open("x/evaluation.json") as file:
        assert json.load(file)["pairs"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_leaves_no_half_written_file(name, tmp_path):
    code = f"""
import os, signal, sys, time
from importlib import import_module
from ppl_vae.io.atomic import replaced_file
entry = import_module("ppl_vae.cli.main")
def run(*arguments):
    with replaced_file("a.csv") as file:
        file.write_text("half")
        os.kill(os.getpid(), signal.{name})
        time.sleep(60)
entry._run, sys.argv = run, ["ppl-vae", "list"]
entry.command()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False)
    assert done.returncode == 128 + getattr(signal, name)
    assert not list(tmp_path.iterdir())
