"""What a new user meets: help at once, short flags, presets of any length, other weights."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from ppl_vae import io
from ppl_vae.cli import class_names, flags, main
from ppl_vae.cli.commands import parsers
from ppl_vae.cli.configuration import Configuration, shipped, written
from ppl_vae.cli.parser import COMMANDS
from ppl_vae.cli.registry import KINDS
from ppl_vae.cli.schedules import in_steps
from ppl_vae.io.config import ConfigError
from ppl_vae.io.config.names import public

NARROW = [
    *("--model.posterior.net.hidden", "[8]", "--model.likelihood.net.hidden", "[8]"),
    *("--latent-dim", "2", "--quiet"),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def fit(*words):
    return main(["fit", *words, *NARROW])


def configuration(run):
    with open(f"{run}/config.yaml") as file:
        return yaml.safe_load(file)


def weights(run):
    return io.load(f"{run}/model").state_dict()


def of(*words):
    """The entries that are typed, by path."""
    return {".".join(f.path): f.text for f in flags.split(words, [], "fit")[1]}


def test_help_and_version_import_nothing_slow():
    words = [["--help"], ["--version"], [], ["fit", "--stepz", "3"], ["evaluate"]]
    words += [["list"], ["list", "priors"], ["show", "estimator", "Trace_ELBO"]]
    words += [[command, flag] for command in COMMANDS for flag in ("--help", "--version")]
    code = f"""
import sys
from ppl_vae.cli import main
for words in {words}:
    main(words)
slow = "torch pyro numpy yaml matplotlib lightning_fabric torchvision sklearn zuko safetensors"
late = set(slow.split()) & set(sys.modules)
sys.exit(str(late) if late else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_names_what_a_command_takes(command, capsys):
    assert main([command, "--help"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    what = {
        "encode": "RUN [DATA]",
        "explore": "RUN [RUN ...]",
        "fit": "[CONFIG]",
        "fit table": "[SETTINGS]",
        "impute": "RUN DATA",
        "list": "[KIND]",
        "report": "RUN [RUN ...]",
        "reproduce": "[NAME]",
        "show": "KIND NAME",
    }.get(command, "RUN")
    assert first == f"usage: ppl-vae {command} {what} [options]"


def test_without_a_word_the_help_is_printed(capsys):
    assert main([]) == 0
    bare = capsys.readouterr().out
    assert main(["--help"]) == 0
    assert bare == capsys.readouterr().out


def test_the_help_lists_the_classes_that_there_are():
    for part, room in (("prior", "priors"), ("posterior", "posteriors")):
        assert class_names.classes(part) == sorted(public(room))
    assert class_names.classes("likelihood") == sorted(public("likelihoods"))
    assert class_names.classes("estimator") == sorted(KINDS["estimator"])


def test_completion_is_shtab_s(monkeypatch, capsys):
    made = SimpleNamespace(complete=lambda parser, shell: f"{parser.prog} in {shell}")
    monkeypatch.setitem(sys.modules, "shtab", made)
    for flag in ("--print-completion", "--print_completion"):
        assert main([flag, "zsh"]) == 0
        assert capsys.readouterr().out == "ppl-vae in zsh\n"
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "zsh"]) == 2
    assert "pip install shtab" in capsys.readouterr().err


SHORT = {
    "--steps": "fit.steps",
    "--epochs": "fit.epochs",
    "--batch-size": "fit.batch_size",
    "--beta": "fit.beta",
    "--beta.linear-warm-up": "fit.beta.linear_warm_up",
    "--lr": "optimizer.lr",
    "--seed": "fit.seed",
    "--latent-dim": "model.latent_dim",
    "--labels": "data.labels",
    "--data": "data.name",
    "--devices": "devices.devices",
    "--device": "devices.accelerator",
    "--precision": "devices.precision",
    "--prior": "model.prior.class",
    "--prior.components": "model.prior.components",
    "--lr-schedule": "lr_schedule.class",
    "--lr-schedule.step-size": "lr_schedule.step_size",
    "--fit.clip-norm": "fit.clip_norm",
}


@pytest.mark.parametrize("flag", SHORT)
def test_short_flags_hyphens_and_underscores(flag):
    for spelled in (flag, f"--{flag[2:].replace('-', '_')}"):
        assert of(spelled, "3") == of(f"{spelled}=3") == {SHORT[flag]: "3"}


def test_flags_that_are_true_and_devices_by_number():
    assert of("--compile", "--data.dequantise", "--fit.compile", "false") == {
        "fit.compile": "false",
        "data.dequantise": "true",
    }
    device = {"devices.accelerator": "cuda", "devices.devices": "[1]"}
    assert of("--device", "cuda:1") == device
    top, commands = parsers()
    assert "--print-completion" in top.flags
    assert all("--version" in command.flags for command in commands.values())


def test_lengths_are_steps_or_fractions():
    assert in_steps(10, 300, "x") == 10
    assert in_steps(0.1, 300, "x") == 30
    assert in_steps(1.0, 300, "x") == 300
    assert in_steps(1e-9, 300, "x") == 1
    assert in_steps([0.5, 200], 300, "x") == [150, 200]
    for wrong in (0.0, 1.5, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="x must be a number of steps, or a fraction"):
            in_steps(wrong, 300, "x")


def planned(name, *words):
    typed = flags.split(words, [], "fit")[1]
    tried = Configuration.of(written(name, typed))
    return tried.in_steps(tried.steps(1000))


def test_presets_scale_with_the_length_of_the_training():
    few = planned("vampprior", "--steps", "300")
    assert few.fit.beta == {"linear_warm_up": 30}
    assert (few.fit.validate_every, few.fit.checkpoint_every, few.fit.log_every) == (30, 30, 30)
    epochs = planned("vampprior", "--epochs", "7")  # of 10 steps
    assert epochs.fit.beta == {"linear_warm_up": 7}
    assert planned("vampprior").fit.beta == {"linear_warm_up": 200}
    assert planned("beta_vae", "--steps", "80").fit.beta["linear_warm_up"]["steps"] == 20
    long = planned("vae", "--steps", "20000").fit
    assert (long.validate_every, long.checkpoint_every, long.log_every) == (1000, 1000, 50)
    given = planned("vae", "--steps", "80", "--fit.validate-every", "7", "--fit.log-every", "0.5")
    assert (given.fit.validate_every, given.fit.log_every) == (7, 40)
    steps = planned("vampprior", "--steps", "300", "--beta.linear_warm_up", "100")
    assert steps.fit.beta == {"linear_warm_up": 100}


@pytest.mark.parametrize("name", shipped())
def test_no_preset_is_left_in_its_warm_up(name):
    beta = planned(name, "--steps", "10").fit.beta or {}
    assert all((g["steps"] if isinstance(g, dict) else g) <= 10 for g in beta.values())


def test_rates_scale_too():
    words = ["--steps", "200", "--lr-schedule"]
    cosine = planned("vae", *words, "CosineAnnealingLR", "--lr-schedule.T_max", "1.0").lr_schedule
    assert cosine.arguments["T_max"] == 200
    step = planned("vae", *words, "StepLR", "--lr-schedule.step-size", "0.25").lr_schedule
    assert step.arguments["step_size"] == 50
    stones = planned("vae", *words, "MultiStepLR", "--lr-schedule.milestones", "[0.5, 150]")
    assert stones.lr_schedule.arguments["milestones"] == [100, 150]
    assert (
        planned("vae", *words, "StepLR", "--lr-schedule.step-size", "9").lr_schedule.arguments[
            "step_size"
        ]
        == 9
    )


def test_a_printed_configuration_is_for_any_length(capsys):
    assert main(["fit", "vampprior", "--steps", "30", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["fit"]["beta"] == {"linear_warm_up": 0.1}
    assert printed["fit"]["validate_every"] is None


def test_a_training_starts_from_other_weights(capsys):
    assert fit("vae", "--steps", "3", "--out", "one") == 0
    first = weights("one")
    for init in ("one", "one/model"):
        out = f"from-{init.replace('/', '-')}"
        words = ["--steps", "4", "--lr", "0.0", "--out", out, "--init", init]
        assert fit("gmvae", "--prior.components", "3", "--fit.seed", "5", *words) == 0
        said = capsys.readouterr().err
        assert f"--init {init}: {len(first)} tensors are loaded; new: model.prior." in said
        now = weights(out)
        assert all(torch.equal(now[name], tensor) for name, tensor in first.items())
        assert configuration(out)["init"] == init
    assert main(["fit", "from-one", "--resume", "--steps", "5", "--quiet"]) == 0
    assert "--init" not in capsys.readouterr().err
    assert main(["fit", "from-one", "--resume", "--init", "from-one-model"]) == 2
    assert "trained with --init = 'one'" in capsys.readouterr().err
    assert main(["fit", "--data", "digits", "--init", "from-one", "--latent-dim", "3"]) == 1
    assert "nothing in it has the name and shape" in capsys.readouterr().err


def test_a_training_that_goes_on_keeps_its_length(capsys):
    words = ["gmvae", "--prior.components", "3", "--out", "x"]
    assert fit(*words, "--steps", "4") == 0
    before = weights("x")
    assert fit(*words, "--resume") == 0  # the preset has 20,000
    kept = configuration("x")["fit"]
    assert (kept["steps"], kept["epochs"], kept["log_every"]) == (4, None, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights("x").items())
    assert main(["fit", "x", "--resume", "--steps", "5", "--quiet"]) == 0
    assert configuration("x")["fit"]["steps"] == 5
    assert capsys.readouterr().err == ""


def test_what_is_no_image_is_written_as_values(capsys):
    x = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    np.save("x.npy", x)
    words = ["--data", "x.npy", "--data.scale", "1", "--likelihood", "Normal", "--out", "run"]
    assert fit(*words, "--steps", "2") == 0
    capsys.readouterr()
    assert main(["sample", "run", "-n", "7"]) == 0
    assert capsys.readouterr().out == "values: run/samples.csv\n"
    table = np.genfromtxt("run/samples.csv", names=True, delimiter=",")
    assert table.dtype.names == ("x1", "x2", "x3", "x4", "x5")
    assert main(["sample", "run", "-n", "7", "--out", "y.npy"]) == 0
    assert np.allclose(np.load("y.npy"), table.view(np.float64).reshape(7, 5), atol=1e-6)
    assert main(["reconstruct", "run", "-n", "3"]) == 0
    both = np.genfromtxt("run/reconstructions.csv", names=True, delimiter=",")
    assert both.dtype.names == tuple(
        f"{name}{i}" for name in ("x", "reconstruction") for i in range(1, 6)
    )
    assert main(["sample", "run", "--file", "run/x.png"]) == 2
    assert "For the values: --out run/x.csv" in capsys.readouterr().err


def test_the_help_has_the_defaults_of_flags(capsys):
    assert main(["evaluate", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "of all random draws [0]" in text
    assert "of importance sampling, for each datum [5000]" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_has_no_default_that_says_nothing(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert not [nothing for nothing in ("[[]]", "[None]", "[False]") if nothing in text]
