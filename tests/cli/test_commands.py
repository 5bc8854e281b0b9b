"""The command line: what is typed, what is written, what is refused, and with which exit code."""

import importlib.util
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml

import ppl_vae
from ppl_vae import data, io
from ppl_vae.cli import flags, main
from ppl_vae.cli.configuration import Configuration, shipped, written
from ppl_vae.cli.datasets import held_out, loaded
from ppl_vae.cli.flags import apply, parsed_value
from ppl_vae.spec import ENTRIES, SECTIONS, DataSpec, entries

pytestmark = pytest.mark.usefixtures("as_users_see_it")
CONFIGURATIONS = [
    "beta_vae",
    "cvae",
    "flow",
    "gmvae",
    "iwae",
    "ssvae",
    "vae",
    "vampprior",
]
IN_FULL = ("ssvae", "vampprior")
NARROW = [
    *("--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"),
    *("--model.latent_dim", "2", "--quiet"),
]
IN_AS_MANY_THREADS = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
FEW = ["--num-samples", "30", "--num-data", "20", "--quiet"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*words, steps=3):
    return main(["fit", *words, *NARROW, *(["--fit.steps", str(steps)] if steps else [])])


def split(words):
    """The words of fit in their parts."""
    return flags.split(words, ["--quiet"], "fit")


def weights(run):
    return {k: v.clone() for k, v in io.load(f"{run}/model").state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def configuration(run):
    with open(f"{run}/config.yaml") as file:
        return yaml.safe_load(file)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One run for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    assert fit("vae", "--out", str(folder), "--fit.log_every", "2", steps=6) == 0
    return folder


@pytest.mark.slow  # in one process in test_tables.py and tests/training/test_resume.py
def test_a_run_interrupted_by_ctrl_c_and_resumed_is_the_same_run(capsys):
    np.save("x.npy", np.random.default_rng(0).integers(0, 2, (300, 64)).astype(np.float32))
    words = ["fit", "gmvae", "--model.prior.components", "7", *NARROW, "--data", "x.npy"]
    words += ["--fit.steps", "60", "--fit.checkpoint_every", "5", "--data.validation", "0.1"]
    assert main([*words, "--out", "runs/whole"]) == 0
    with subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", "-m", "ppl_vae", *words, "--out", "runs/cut"],
        stderr=subprocess.PIPE,
        text=True,
        env=IN_AS_MANY_THREADS,
    ) as process:
        deadline = time.monotonic() + 60
        first = "runs/cut/checkpoints/step-000000005"
        while not os.path.exists(first) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1].strip()
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.startswith("ppl-vae: SIGINT after step ")
    assert "\n" not in said
    command = said.partition("to go on: ")[2]
    assert command.endswith("-m ppl_vae fit runs/cut --resume")
    assert not os.path.exists("runs/cut/model")
    capsys.readouterr()
    assert main([*shlex.split(command)[3:], "--quiet"]) == 0
    assert "nats per datum" in capsys.readouterr().out
    assert same(weights("runs/cut"), weights("runs/whole"))
    for name in ("history.csv", "validation.csv"):
        with open(f"runs/cut/{name}") as cut, open(f"runs/whole/{name}") as one:
            assert cut.read() == one.read()


def test_a_run_is_evaluated_reported_sampled_and_reconstructed(trained, capsys, numbers_only):
    def said_by(*words):
        assert main(list(words)) == 0
        return capsys.readouterr().out

    for name in ("one", "again"):
        shutil.copytree(trained, name)
    said = said_by("evaluate", "one", *FEW, "--sections", "calibration", "predictive checks")
    assert "NELBO" in said
    assert re.search("^one, calibration: .*calibrated", said, re.M)
    assert re.search("^one, predictive checks: the data are ", said, re.M)
    assert "one/report/report.html" in said_by("report", "one", "again", *FEW)
    said_by("sample", "one", "-n", "4")
    said_by("reconstruct", "one", "-n", "4")
    for name in ("samples.png", "reconstructions.png"):
        with open(f"one/{name}", "rb") as file:
            assert file.read(4) == b"\x89PNG"
    with open("one/evaluation.json") as file:
        numbers = json.load(file)
    assert numbers["data"]["name"] == "digits"
    with open("one/report/report.json") as file:
        both = json.load(file)["pairs"]
    # The same weights and the same seed.
    expected = numbers["pairs"]["one"]["quantities"]["NELBO"]
    assert both["one"]["quantities"]["NELBO"] == expected
    assert both["again"]["quantities"]["NELBO"] == expected


def test_pictures_of_counts_say_what_is_black_and_white(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("counts.npy", np.arange(80 * 64).reshape(80, 8, 8) % 31)
    small = ["--steps", "2", "--out", "run", "--quiet"]
    assert main(["fit", "vae", "--data", "counts.npy", "--likelihood", "Poisson", *small]) == 0
    for command in ("sample", "reconstruct"):
        assert main([command, "run", "-n", "4", "--out", "x.svg"]) == 0
        with open("x.svg") as file:
            assert "<!-- black is 0, white 30 -->" in file.read()


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in IN_FULL else pytest.mark.slow) for n in CONFIGURATIONS],
)
def test_a_shipped_configuration_trains(name, capsys):
    assert main(["fit", name, "--fit.steps", "3", "--quiet"]) == 0
    run = f"runs/{name}-digits"
    assert f"run: {run}" in capsys.readouterr().out
    assert sorted(os.listdir(run)) == [
        "checkpoints",
        "config.yaml",
        "history.csv",
        "model",
        "validation.csv",
    ]
    assert main(["sample", run, "-n", "20", "--file", "x.npy"]) == 0
    assert np.load("x.npy").shape == (20, 64)
    assert main(["reconstruct", run, "-n", "3", "--file", "x.npy"]) == 0
    x, again = np.load("x.npy")
    assert x.shape == (3, 64)
    assert ((x == 0) | (x == 1)).all()
    assert ((again > 0) & (again < 1)).all()


@pytest.mark.parametrize("name", [n for n in CONFIGURATIONS if n not in IN_FULL])
def test_a_shipped_configuration_takes_a_step(name):
    assert main(["fit", name, "--fit.steps", "1", "--data.validation", "0", "--quiet"]) == 0


def test_every_shipped_configuration_is_tested_and_packaged():
    assert sorted(shipped()) == CONFIGURATIONS


def test_the_resolved_configuration_repeats_the_run():
    words = ["--prior", "VampPrior", "--model.prior.pseudo_inputs", "5", "--fit.seed", "3"]
    assert fit(*words, "--fit.clip_norm", "5", "--out", "a", steps=20) == 0
    assert main(["fit", "a/config.yaml", "--out", "b", "--quiet"]) == 0
    assert same(weights("a"), weights("b"))
    with open("a/history.csv") as a, open("b/history.csv") as b:
        assert a.read() == b.read()
    assert configuration("a") == configuration("b")
    assert main(["fit", "a", "--out", "c", "--fit.seed", "4", "--quiet"]) == 0
    assert not same(weights("a"), weights("c"))


def test_the_resolved_configuration_has_every_default(trained):
    full = configuration(trained)
    assert full["ppl_vae"] == ppl_vae.__version__
    assert full["optimizer"]["betas"] == [0.9, 0.999]
    assert full["estimator"]["gradient"] == "iwae"
    assert full["model"]["likelihood"]["net"]["out_features"] == 64
    for section in SECTIONS:
        assert list(full[section]) == [entry.name for entry in entries(section)]
    again = Configuration.of(full).resolved(data.load("digits"))
    assert again.mapping() == full


def test_the_initial_weights_follow_from_the_seed():
    """With a rate of 0 what is left is what it began with."""
    for out, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        torch.rand(3)
        assert fit("--optimizer.lr", "0.0", "--fit.seed", seed, "--out", out) == 0
    assert same(weights("a"), weights("b"))
    assert not same(weights("a"), weights("c"))


def test_flags_win_over_the_file_and_shorthands_are_read():
    with open("mine.yaml", "w") as file:
        file.write(
            "model: {class: VAE, latent_dim: 3, likelihood: Bernoulli,\n"
            "        prior: {class: GaussianMixture, components: 3, spread: 2.0}}\n"
            "data: digits\nestimator: Trace_ELBO\nfit: {epochs: 7, seed: 5}\ndevices: 1\n"
        )
    flags = ["--model.prior.components", "4", "--fit.steps=9", "--estimator.num_particles", "2"]
    rest, dotted = split(["fit", "mine.yaml", *flags])
    assert rest == ["fit", "mine.yaml"]
    found = Configuration.of(written("mine.yaml", dotted)).resolved(data.load("digits"))
    assert found.model["prior"] == {
        "class": "GaussianMixture",
        "latent_dim": 3,
        "components": 4,
        "learn_weights": False,
        "spread": 2.0,
    }
    assert (found.fit.steps, found.fit.epochs, found.fit.seed) == (9, None, 5)
    assert found.estimator.name == "Trace_ELBO"
    assert found.estimator.arguments["num_particles"] == 2
    assert found.data.name == "digits"
    assert found.devices.devices == 1


def test_a_swap_keeps_nothing_of_the_other_class():
    def prior(*words):
        tree = {"model": {"class": "VAE", "prior": {"class": "Flow", "transforms": 2}}}
        apply(tree, split(list(words))[1])
        return tree["model"]["prior"]

    swap = "--model.prior.class"
    assert prior(swap, "StandardNormal") == {"class": "StandardNormal"}
    assert prior(swap, "Flow") == {"class": "Flow", "transforms": 2}
    # Whatever the order in which they are typed.
    few = {"class": "GaussianMixture", "components": 3}
    assert prior("--model.prior.components", "3", swap, "GaussianMixture") == few
    assert prior(swap, "GaussianMixture") == {"class": "GaussianMixture"}


def test_parts_are_swapped_by_name():
    words = ["--prior", "Flow", "--posterior", "FullRankNormal", "--likelihood", "Normal"]
    words += ["--estimator", "Trace_ELBO", "--optimizer", "AdamW", "--lr_schedule", "StepLR"]
    words += ["--lr_schedule.step_size", "2", "--data.dequantise", "true", "--out", "x"]
    words += ["--model.likelihood.scale", "learned"]
    assert fit(*words) == 0
    full = configuration("x")
    assert [full["model"][k]["class"] for k in ("prior", "posterior", "likelihood")] == [
        "Flow",
        "FullRankNormal",
        "Normal",
    ]
    assert full["model"]["posterior"]["net"]["out_features"] == 2 + 3
    history = np.genfromtxt("x/history.csv", names=True, delimiter=",")
    assert history["learning_rate"] == pytest.approx([1e-3, 1e-3, 1e-4])


def test_entries_of_lists_and_what_values_are():
    tree = {"model": {"posteriors": [{"class": "A", "net": "MLP"}, {"class": "B"}]}}
    apply(tree, split(["--model.posteriors[0].net.hidden", "[3]", "--model.posteriors.1.k=2"])[1])
    first, second = tree["model"]["posteriors"]
    assert first["net"] == {"class": "MLP", "hidden": [3]}
    assert second["k"] == 2
    with pytest.raises(ValueError, match="must be an index below 2"):
        apply(tree, split(["--model.posteriors.2.k", "2"])[1])
    values = {
        "1e-3": 1e-3,
        "1e3": 1000,
        "1.5e0": 1.5,
        "3": 3,
        "true": True,
        "null": None,
        "[1, 2]": [1, 2],
        "a: b: c": None,
    }
    for text, value in values.items():
        assert parsed_value(text) == (text if text == "a: b: c" else value)
    assert type(parsed_value("1e3")) is int


def test_the_data_are_what_was_asked_for():
    plain = loaded(DataSpec(), "train")
    assert torch.equal(plain.values, data.load("digits").values)
    static = loaded(DataSpec(binarise="static", seed=1), "train")
    assert torch.equal(static.values, plain.binarised(1).values)
    threshold = loaded(DataSpec(binarise="threshold"), "train")
    assert torch.equal(threshold.values, (plain.values > 8).float())
    parts = held_out(plain, DataSpec(validation=0.25, seed=2))
    assert torch.equal(parts.validation.values, plain.split(0.25, 2)[1].values)
    assert len(parts.train) + len(parts.validation) == len(plain)
    assert held_out(plain, DataSpec(validation=0.0)).validation is None


@pytest.mark.parametrize("words", [["--data.binarise", "static"], ["--data.binarise", "threshold"]])
def test_other_data_train(words):
    assert fit(*words, "--data.validation", "0", "--out", "x") == 0
    assert not os.path.exists("x/validation.csv")
    assert main(["reconstruct", "x", "-n", "5", "--file", "x.npy"]) == 0
    test = loaded(DataSpec(binarise=words[1]), "test")
    assert np.array_equal(np.load("x.npy")[0], test.values[:5].flatten(1).numpy())


def test_images_for_convolutional_networks():
    words = ["--model.likelihood.net", "{class: ConvDecoder, channels: [4]}"]
    words += ["--model.posterior.net", "{class: ConvEncoder, channels: [4]}"]
    assert main(["fit", "vae", *words, "--fit.steps", "2", "--out", "x", "--quiet"]) == 0
    assert main(["sample", "x", "-n", "3", "--file", "x.npy"]) == 0
    assert np.load("x.npy").shape == (3, 1, 8, 8)


def test_early_stopping_and_a_logger(capsys):
    words = ["--fit.stopping.patience", "1", "--fit.validate_every", "1", "--optimizer.lr", "0.0"]
    assert fit(*words, "--logger", "csv", "--out", "x", steps=50) == 0
    assert "2 steps, stopped early" in capsys.readouterr().out
    assert os.path.exists("x/csv/version_0/metrics.csv")
    assert configuration("x")["logger"] == "csv"


def test_the_configuration_is_printed_and_nothing_trained(capsys):
    assert fit("gmvae", "--print-config") == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["model"]["prior"]["components"] == 500
    assert printed["fit"]["steps"] == 3
    assert os.listdir() == []


def test_a_run_is_not_trained_over(capsys):
    assert fit("--out", "x") == 0
    before = weights("x")
    assert fit("--out", "x", steps=5) == 2
    assert "fit x --resume, or give another --out" in capsys.readouterr().err
    assert same(before, weights("x"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--estimator", "Trace_ELBO"], "--estimator = 'ImportanceWeightedELBO'"),
        (["--optimizer.lr", "0.5"], "optimizer.lr = 0.001"),
        (["--model.posterior.net.activation", "ReLU"], "activation = 'ELU'"),
        (["--data.seed", "1"], "data.seed = 0"),
    ],
)
def test_another_training_does_not_go_on(trained, words, message, capsys):
    before = (trained / "config.yaml").read_text()
    assert main(["fit", str(trained), "--resume", *words]) == 2
    assert message in capsys.readouterr().err
    assert (trained / "config.yaml").read_text() == before


@pytest.mark.slow  # also in test_first_use.py
def test_a_longer_training_goes_on():
    assert fit("--out", "x", "--fit.log_every", "1", steps=4) == 0
    assert main(["fit", "x", "--resume", "--fit.epochs", "1", "--quiet"]) == 0
    assert configuration("x")["fit"]["epochs"] == 1
    assert fit("--out", "y", "--fit.log_every", "1", steps=13) == 0
    assert same(weights("x"), weights("y"))


def test_a_refusal_of_fit_leaves_the_folder_as_it_was(monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise ValueError("fit: something is wrong")

    assert fit("--out", "x") == 0
    before = configuration("x")
    monkeypatch.setattr(ppl_vae.training, "fit", refuse)
    assert main(["fit", "x", "--resume", "--fit.steps", "9", "--quiet"]) == 2
    assert configuration("x") == before
    assert fit("--out", "y") == 2
    assert not os.path.exists("y")
    assert "ppl-vae: error: something is wrong" in capsys.readouterr().err


def test_a_loss_that_is_not_finite(capsys):
    words = ["--optimizer.class", "SGD", "--optimizer.lr", "1e30", "--fit.checkpoint_every", "1"]
    assert fit(*words, "--out", "x", steps=30) == 3
    said = capsys.readouterr().err
    assert "the loss is" in said
    assert "x/checkpoints has what was saved" in said
    assert not os.path.exists("x/model")
    assert main(["evaluate", "x"]) == 2
    assert "fit x --resume" in capsys.readouterr().err


def test_runs_of_different_data_are_not_compared(trained, capsys):
    assert fit("--data.binarise", "static", "--out", "x") == 0
    assert main(["report", str(trained), "x", *FEW]) == 2
    assert "data.binarise = 'static'" in capsys.readouterr().err
    assert main(["report", "x", "x", *FEW]) == 2
    assert "a run is given twice" in capsys.readouterr().err


@pytest.mark.slow  # also in tests/evaluation/test_bits.py
def test_a_dequantised_density_stands_beside_a_mass_and_no_other_density(
    trained, capsys, numbers_only
):
    for name, noise in (("noisy", "true"), ("raw", "false")):
        words = ["--likelihood", "Normal", "--data.dequantise", noise]
        assert fit("vae", *words, "--out", name) == 0
    capsys.readouterr()
    assert main(["report", "noisy", "raw", *FEW]) == 2
    assert "raw False, under a density (Normal)" in capsys.readouterr().err
    assert main(["report", str(trained), "noisy", *FEW, "--out", "both"]) == 0
    with open("both/report.json") as file:
        both = json.load(file)
    table = both["pairs"]["noisy"]["quantities"]
    # 17 levels: log2(17) more than the nats in bits
    bits, nats = (table[f"IS-30{of}"] for of in (", bits per dimension", ""))
    expected = nats["value"] / 64 / math.log(2) + math.log2(17)
    assert bits["value"] == pytest.approx(expected)
    assert "cannot be compared" in both["warnings"][0]
    prepared = both["data"]["prepared"]
    assert prepared["noisy"] == "dequantised from 17 levels"
    assert prepared["one"].startswith("binarised once")


def test_the_samples_follow_from_the_seed(trained):
    drawn = []
    for seed in ("1", "1", "2"):
        assert main(["sample", str(trained), "-n", "3", "--seed", seed, "--file", "x.npy"]) == 0
        drawn.append(np.load("x.npy"))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    assert main(["sample", str(trained), "--draw", "--file", "x.npy"]) == 0
    assert ((np.load("x.npy") == 0) | (np.load("x.npy") == 1)).all()


def test_a_damaged_model_is_an_error_of_files(capsys):
    assert fit("--out", "x") == 0
    with open("x/model/model.safetensors", "r+b") as file:
        file.truncate(100)
    assert main(["sample", "x"]) == 1
    assert "model.safetensors" in capsys.readouterr().err


def test_debug_shows_where(capsys):
    assert main(["fit", "--fit.steps", "0", "--debug", "--out", "x"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "model: {class: VAE, latent_dim: 2, likelihood: Bernoulli, prior: {class: os.system}}",
        "model: {class: os.system}",
        "estimator: {class: os.system, command: touch canary}",
        "optimizer: {class: os.system, command: touch canary}",
        "optimizer: {class: subprocess.Popen, args: [touch, canary]}",
        "lr_schedule: os.system",
        "estimator: {class: ppl_vae.cli.main}",
        "fit: !!python/object/apply:os.system ['touch canary']",
        "fit: {beta: !!python/object/apply:os.system ['touch canary']}",
        "fit: {beta: {os.system: touch canary}}",
        "logger: os.system",
        "data: {name: digits, class: os.system}",
        "format: 99\nfit: {steps: 3}",
        "no_such_section: 3",
        "- 3",
        "class: VAE",
        "fit: {steps: 3, steps: 4}",
        "model: &m {class: VAE, prior: *m}",
    ],
)
def test_a_file_from_a_stranger_runs_nothing(text, monkeypatch, capsys):
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("it was run"))
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("it was run"))
    with open("their.yaml", "w") as file:
        file.write(text)
    assert main(["fit", "their.yaml", "--fit.steps", "1"]) in (1, 2)
    said = capsys.readouterr().err
    assert said.startswith("ppl-vae: error: ")
    assert "Traceback" not in said
    assert os.listdir() == ["their.yaml"]


def test_flags_of_a_stranger_run_nothing(capsys):
    for flag in ("--model.prior.class", "--estimator.class", "--optimizer.class"):
        assert main(["fit", flag, "os.system"]) == 2
        assert "os.system" in capsys.readouterr().err
    assert main(["fit", "--fit.beta", "!!python/object/apply:os.getcwd []"]) == 2


@pytest.mark.parametrize("command", ["fit", "evaluate", "report", "sample", "reconstruct"])
def test_help_of_a_command(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: ppl-vae ")
    assert "Example" in text
    assert f"  ppl-vae {command} " in text.partition("Example")[2]


def test_help_of_fit_names_every_entry(capsys):
    assert main(["fit", "--help"]) == 0
    text = capsys.readouterr().out
    for path in ENTRIES:
        assert f"--{path}" in text
    for name in ("--prior", "--posterior", "--likelihood", "--estimator", "--resume", "--out"):
        assert name in text
    for name in CONFIGURATIONS:
        assert name in text
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for command in ("fit", "evaluate", "report", "sample", "reconstruct"):
        assert f"\n    {command} " in text
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ppl-vae {ppl_vae.__version__}\n"


@pytest.mark.skipif(
    any(map(importlib.util.find_spec, ("tensorboard", "tensorboardX"))), reason="it is installed"
)
def test_a_logger_that_is_not_installed(capsys):
    assert fit("--logger", "tensorboard", "--out", "x") == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert os.listdir() == []


def test_the_old_spelling_of_optimizer_is_read(capsys):
    with open("mine.yaml", "w") as file:
        file.write("model: {class: VAE, likelihood: Bernoulli}\noptimiser: {class: SGD, lr: 0.1}\n")
    for words in (["mine.yaml"], ["vae", "--optimiser", "SGD", "--optimiser.lr=0.1"]):
        assert fit(*words, "--print-config") == 0
        said = capsys.readouterr()
        assert "now spelled" in said.err
        assert len(said.err.splitlines()) == 1
        optimizer = yaml.safe_load(said.out)["optimizer"]
        assert (optimizer["class"], optimizer["lr"]) == ("SGD", 0.1)
    with open("mine.yaml", "a") as file:
        file.write("optimizer: Adam\n")
    for words in (["mine.yaml"], ["--optimiser", "SGD", "--optimizer.lr", "0.1"]):
        assert fit(*words) == 2
        assert "is the old name of" in capsys.readouterr().err


def test_a_run_of_the_version_that_spelled_optimiser_goes_on(monkeypatch, capsys):
    def renamed(entries):
        return {name.replace("optimizer", "optimiser"): v for name, v in entries.items()}

    def save_state(state, file):
        io.save_state({**renamed(state), "declaration": renamed(state["declaration"])}, file)

    with monkeypatch.context() as older:
        older.setattr("ppl_vae.training.checkpoints.save_state", save_state)
        assert fit("vae", "--out", "x") == 0
    with open("x/config.yaml") as file:
        text = file.read()
    with open("x/config.yaml", "w") as file:
        file.write(text.replace("optimizer:", "optimiser:"))
    capsys.readouterr()
    assert main(["fit", "x", "--resume", "--optimizer.lr", "0.5", "--quiet"]) == 2
    assert "optimizer.lr = 0.001" in capsys.readouterr().err
    assert main(["fit", "x", "--resume", "--steps", "5", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert fit("vae", "--out", "y", steps=5) == 0
    assert same(weights("x"), weights("y"))
    assert "optimizer" in configuration("x")


def test_generate_is_another_name_of_sample(trained, capsys):
    assert main(["generate", "--help"]) == 0
    assert "ppl-vae sample RUN" in capsys.readouterr().out
    for command in ("generate", "sample"):
        words = [command, str(trained), "-n", "3", "--out", f"{command}.npy"]
        assert main(words) == 0
    assert np.array_equal(np.load("generate.npy"), np.load("sample.npy"))


def test_fewer_reconstructions_than_were_asked_for_are_said_to_be(trained, capsys):
    for number, ending in (("4", "x.csv\n"), ("5000", "x.csv, 360 of 5000, all test data\n")):
        assert main(["reconstruct", str(trained), "-n", number, "--out", "x.csv"]) == 0
        assert capsys.readouterr().out.endswith(ending)


def test_particles_by_step_are_typed_in_fractions_of_the_training():
    words = ["--fit.num_particles", "{milestones: [0.5], values: [1, 3]}", "--fit.log_every", "1"]
    assert fit(*words, "--out", "x", steps=4) == 0
    history = np.genfromtxt("x/history.csv", names=True, delimiter=",")
    assert history["num_particles"].tolist() == [1, 1, 3, 3]
    assert configuration("x")["fit"]["num_particles"] == {"milestones": [2], "values": [1, 3]}
