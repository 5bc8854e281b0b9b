"""A checkpoint from a stranger is refused with a message, whatever is wrong in it.

What must hold of a state is torch's own: its optimisers make it so, and their kernels rely on it.
"""

import json
import math
import re
import shutil
import warnings
from functools import partial
from pathlib import Path

import pyro
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, CyclicLR, OneCycleLR

from ppl_vae import VAE, data, likelihoods, nets, posteriors, priors
from ppl_vae.io import DamagedError, StorageError, load_state, save_state
from ppl_vae.io.manifest import seal
from ppl_vae.io.state import _checksum
from ppl_vae.io.tensors import read_tensors, write_tensors
from ppl_vae.training import EarlyStopping, fit
from ppl_vae.training.checkpoint_checks import checked_optimizer

DIGITS = data.load("digits").subset(range(200))
FUSED = partial(torch.optim.Adam, lr=1e-3, fused=True)


def pair():
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 64, hidden=(8,))),
    )


def trained(out, steps, **options):
    options = {
        "optimizer": FUSED,
        "lr_schedule": partial(CosineAnnealingLR, T_max=100),
        "validation": DIGITS.subset(range(20)),
        "validate_every": 2,
        "stopping": EarlyStopping(100),
        **options,
    }
    vae = pair()
    fit(vae, DIGITS, steps=steps, out=out, checkpoint_every=3, progress=False, **options)
    return vae


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    trained(folder, 3)
    return folder


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def changed(run, change):
    """Change the state of a run's checkpoint, and seal it again."""
    (folder,) = (run / "checkpoints").iterdir()
    state = load_state(folder / "state.safetensors")
    change(state)
    save_state(state, folder / "state.safetensors")
    seal(folder)
    return folder


def in_moments(name, value):
    def change(state):
        of = state["optimizer"]["state"][0]
        of[name] = value(of[name]) if callable(value) else value

    return change


def in_group(name, value):
    return lambda state: state["optimizer"]["param_groups"][0].update({name: value})


def to(*path, value):
    def change(state):
        *above, last = path
        for key in above:
            state = state[key]
        state[last] = value(state[last]) if callable(value) else value

    return change


def negative(tensor):
    return -tensor - 1


def nan(tensor):
    return torch.full_like(tensor, math.nan)


OPTIMIZER = {
    "another shape": in_moments("exp_avg", torch.zeros(3)),
    "fewer numbers": in_moments("exp_avg", lambda t: t[:1].clone()),
    "more dimensions": in_moments("exp_avg_sq", lambda t: t[None].clone()),
    "a scalar": in_moments("exp_avg", torch.tensor(0.0)),
    "empty": in_moments("exp_avg_sq", torch.empty(0)),
    "transposed": in_moments("exp_avg", lambda t: t.T.clone()),
    "another dtype": in_moments("exp_avg", lambda t: t.double()),
    "integers": in_moments("exp_avg_sq", lambda t: t.int()),
    "NaN": in_moments("exp_avg", nan),
    "infinite": in_moments("exp_avg_sq", lambda t: t + math.inf),
    "negative squares": in_moments("exp_avg_sq", negative),
    "a step of two": in_moments("step", torch.ones(2)),
    "a negative step": in_moments("step", negative),
    "a step that is NaN": in_moments("step", nan),
    "a number": in_moments("exp_avg", 0.0),
    "none": in_moments("exp_avg", None),
    "a list": in_moments("exp_avg", [0.0]),
    "one is missing": lambda s: s["optimizer"]["state"][0].pop("exp_avg_sq"),
    "one more": in_moments("max_exp_avg_sq", torch.ones(8, 64)),
    "no mapping": lambda s: s["optimizer"]["state"].update({0: 3}),
    "a parameter that is not there": lambda s: s["optimizer"]["state"].update({99: {}}),
    "named by words": lambda s: s["optimizer"]["state"].update({"0": {}}),
    "two numbers exchanged": in_group("params", [1, 0, 2, 3, 4, 5, 6, 7]),
    "one number twice": in_group("params", [0, 0, 2, 3, 4, 5, 6, 7]),
    "a group less": lambda s: s["optimizer"].update(param_groups=[]),
    "a group more": lambda s: s["optimizer"]["param_groups"].append({"params": []}),
    "another flag": in_group("fused", None),
    "maximised": in_group("maximize", True),
    "lr NaN": in_group("lr", math.nan),
    "lr negative": in_group("lr", -1.0),
    "lr a word": in_group("lr", "1e-3"),
    "lr a vector": in_group("lr", torch.ones(5)),
    "betas above 1": in_group("betas", (0.9, 7.0)),
    "three betas": in_group("betas", (0.9, 0.9, 0.9)),
    "an unknown option": in_group("strange", 1),
    "no state": lambda s: s["optimizer"].pop("state"),
}
OTHERS = {
    "another step": to("step", value=7),
    "no step": lambda s: s.pop("step"),
    "an epoch below 0": to("source", "epoch", value=-1),
    "a position beyond the data": to("source", "batches", "position", value=10**9),
    "a start of other words": to("source", "batches", "start", value=torch.ones(5)),
    "a start that is zero": to("source", "batches", "start", value=torch.zeros_like),
    "the rate of a schedule": to("lr_schedule", "_last_lr", value=[math.inf]),
    "rates of a schedule": to("lr_schedule", "_last_lr", value=[0.1, 0.1]),
    "a method of a schedule": to("lr_schedule", "step", value=1),
    "no schedule": to("lr_schedule", value=None),
    "a huge epoch of a schedule": to("lr_schedule", "last_epoch", value=2**900),
    "torch's generator": to("random", 0, "torch", value=lambda t: t[: len(t) // 2].clone()),
    "zeros for torch's generator": to("random", 0, "torch", value=torch.zeros_like),
    "floats for torch's generator": to("random", 0, "torch", value=lambda t: t.float()),
    "numpy's place": to("random", 0, "numpy", 2, value=10**6),
    "numpy's words": to("random", 0, "numpy", 1, value=lambda t: t[:5].clone()),
    "numpy's negative words": to("random", 0, "numpy", 1, value=negative),
    "numpy's name": to("random", 0, "numpy", 0, value="PCG64"),
    "Python's words": to("random", 0, "python", 1, value=lambda t: t * 10**6),
    "Python's place": to("random", 0, "python", 1, value=lambda t: t.fill_(10**6)),
    "no generators": to("random", value=[3]),
    "a history of matrices": to("history", "loss", value=torch.ones(1, 1, dtype=torch.float64)),
    "a history of two lengths": to("history", "loss", value=torch.ones(9, dtype=torch.float64)),
    "a step that is NaN": to("validation", "step", value=nan),
    "an escape in a column's name": lambda s: s["history"].update(
        {"\x1b[2J": torch.zeros(1, dtype=torch.float64)}
    ),
    "a line in a column's name": lambda s: s["history"].update(
        {"a\n1,2": torch.zeros(1, dtype=torch.float64)}
    ),
    "losses of two lengths": to("since_log", value=[torch.ones(2), torch.ones(3)]),
    "losses that are numbers": to("since_log", value=[1.0]),
    "a best loss in words": to("best", "loss", value="low"),
    "a best step to come": to("best", "step", value=10**6),
}
CHANGES = OPTIMIZER | OTHERS


@pytest.mark.parametrize("case", CHANGES)
def test_an_invalid_state_is_refused_with_a_message(run, case):
    folder = changed(run, CHANGES[case])
    vae = pair()
    history = (run / "history.csv").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"\w") as caught:
            resumed(vae, run)
    if case not in ("a position beyond the data", *(c for c in OTHERS if "start" in c)):
        assert isinstance(caught.value, StorageError), caught.value
        assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert (run / "history.csv").read_bytes() == history
    fresh = pair().state_dict()
    assert all(torch.equal(t, fresh[n]) for n, t in vae.state_dict().items())


def resumed(vae, run, steps=6):
    return fit(
        vae,
        DIGITS,
        steps=steps,
        out=run,
        resume=True,
        checkpoint_every=3,
        progress=False,
        optimizer=FUSED,
        lr_schedule=partial(CosineAnnealingLR, T_max=100),
        validation=DIGITS.subset(range(20)),
        validate_every=2,
        stopping=EarlyStopping(100),
    )


def test_an_unchanged_state_written_again_resumes(run, tmp_path):
    """So that the tests above refuse for what they change alone."""
    changed(run, lambda state: None)
    vae = pair()
    resumed(vae, run)
    whole = trained(tmp_path / "whole", 6)
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in vae.state_dict().items())


@pytest.mark.parametrize("file", ["weights", "best"])
@pytest.mark.parametrize("wrong", ["NaN", "shape", "name"])
def test_invalid_weights_are_refused_before_the_training(run, file, wrong):
    (folder,) = (run / "checkpoints").iterdir()
    path = folder / f"{file}.safetensors"
    tensors = read_tensors(path)
    name = next(n for n in tensors if n.endswith("weight"))
    first = tensors.pop(name)
    tensors[name if wrong != "name" else "other"] = {"NaN": nan(first), "name": first}.get(
        wrong, first[:1].clone()
    )
    write_tensors(tensors, path)
    seal(folder)
    with pytest.raises(StorageError, match="best weights" if file == "best" else "the weights"):
        resumed(pair(), run)


def test_a_pickled_state_is_not_read(run):
    (folder,) = (run / "checkpoints").iterdir()
    (folder / "state.safetensors").unlink()
    torch.save({"step": 3}, folder / "state.pt")
    seal(folder)
    with pytest.raises(StorageError, match=r"state\.pt is a pickle of an older version"):
        resumed(pair(), run)
    assert folder.is_dir()


# --- every optimiser of torch


def parameters():
    torch.manual_seed(0)
    images = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    turned = torch.randn(4, 3).t()
    return [nn.Parameter(t) for t in (torch.randn(3, 4), torch.randn(2), images, turned)]


def stepped(optimizer, count=2):
    for _ in range(count):
        for p in (p for g in optimizer.param_groups for p in g["params"]):
            p.grad = torch.ones_like(p) + 0.1 * p.detach()
        optimizer.step()
    return optimizer


OPTIMIZERS = {
    "Adam": torch.optim.Adam,
    "Adam, amsgrad": partial(torch.optim.Adam, amsgrad=True),
    "Adam, fused": partial(torch.optim.Adam, fused=True),
    "Adam, a tensor": partial(torch.optim.Adam, lr=torch.tensor(0.01), fused=True),
    "AdamW": torch.optim.AdamW,
    "NAdam": torch.optim.NAdam,
    "RAdam": torch.optim.RAdam,
    "Adamax": torch.optim.Adamax,
    "Adagrad": torch.optim.Adagrad,
    "Adadelta": torch.optim.Adadelta,
    "Adafactor": torch.optim.Adafactor,
    "ASGD": torch.optim.ASGD,
    "RMSprop": partial(torch.optim.RMSprop, centered=True, momentum=0.5),
    "Rprop": torch.optim.Rprop,
    "SGD": partial(torch.optim.SGD, lr=0.1),
    "SGD, momentum": partial(torch.optim.SGD, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("case", OPTIMIZERS)
def test_every_optimizer_resumes_bit_for_bit(case, tmp_path):
    whole = stepped(OPTIMIZERS[case](parameters()))
    save_state(whole.state_dict(), tmp_path / "state")
    again = OPTIMIZERS[case]([nn.Parameter(p.detach().clone()) for p in _all(whole)])
    state = checked_optimizer(load_state(tmp_path / "state"), again, tmp_path)
    again.load_state_dict(state)
    stepped(whole, 3), stepped(again, 3)
    assert all(map(torch.equal, _all(whole), _all(again)))
    places = [t.data_ptr() for s in again.state.values() for t in s.values() if torch.is_tensor(t)]
    assert len(set(places)) == len(places)


def _all(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"]]


class OfOnesOwn(torch.optim.Optimizer):
    """Keeps a mean, and what it likes besides."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for p in _all(self):
            state = self.state[p]
            state.setdefault("mean", torch.zeros_like(p)).add_(p.grad)
            state.setdefault("seen", {"numbers": [torch.zeros(1), 3], "word": "a"})
            p.sub_(state["mean"], alpha=0.1)


def test_a_user_optimizer_resumes_and_its_shapes_are_checked(tmp_path):
    whole = stepped(OfOnesOwn(parameters()))
    save_state(whole.state_dict(), tmp_path / "state")
    again = OfOnesOwn([nn.Parameter(p.detach().clone()) for p in _all(whole)])
    again.load_state_dict(checked_optimizer(load_state(tmp_path / "state"), again, tmp_path))
    stepped(whole, 2), stepped(again, 2)
    assert all(map(torch.equal, _all(whole), _all(again)))
    for path in (("mean",), ("seen", "numbers", 0)):
        state = load_state(tmp_path / "state")
        to(0, *path, value=torch.ones(7))(state["state"])
        with pytest.raises(DamagedError, match=r"must have one element or the shape \(3, 4\)"):
            checked_optimizer(state, again, tmp_path)


@pytest.mark.parametrize(
    "schedule",
    [
        partial(OneCycleLR, max_lr=0.1, total_steps=20),
        partial(CyclicLR, base_lr=1e-4, max_lr=1e-2, step_size_up=3, cycle_momentum=False),
    ],
)
def test_schedules_that_change_options_resume(tmp_path, schedule):
    options = {"lr_schedule": schedule, "optimizer": torch.optim.Adam}
    trained(tmp_path / "run", 3, **options)
    vae = trained(tmp_path / "run", 6, resume=True, **options)
    whole = trained(tmp_path / "whole", 6, **options)
    assert all(torch.equal(t, whole.state_dict()[n]) for n, t in vae.state_dict().items())


# --- the file itself


def header_of(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + length])["__metadata__"]["ppl_vae_state"]


def test_no_pickle_is_in_a_state(tmp_path):
    """Pickles begin with a protocol number, archives of them with PK; this is JSON and numbers."""
    save_state({"step": 3, "x": torch.arange(3)}, tmp_path / "s")
    raw = (tmp_path / "s").read_bytes()
    assert b"PK" not in raw
    assert json.loads(header_of(tmp_path / "s"))["state"] == {
        "dict": [["step", 3], ["x", {"tensor": "0"}]]
    }


def handmade(path, state, tensors):
    text = state if isinstance(state, str) else json.dumps({"format": 1, "state": state})
    sums = {"ppl_vae_state": text, "sha256": _checksum(text, tensors)}
    path.write_bytes(safetensors.torch.save(tensors, metadata=sums))


HANDMADE = {
    "nested": "[" * 100_000,
    "very many": '{"format": 1, "state": [' + "[]," * 1_000_000 + "[]]}",
    "very deep": '{"format": 1, "state": ' + "[" * 500 + "]" * 500 + "}",
    "an unknown kind": {"pickle": "abc"},
    "two kinds": {"dict": [], "list": []},
    "a list for a mapping": {"dict": {"a": 1}},
    "a key twice": {"dict": [["a", 1], ["a", 2]]},
    "a list as a key": {"dict": [[[1], 2]]},
    "a tensor as a key": {"dict": [[{"tensor": "0"}, 2]]},
    "a tensor twice": {"dict": [["a", {"tensor": "0"}], ["b", {"tensor": "0"}]]},
    "a tensor that is not there": {"dict": [["a", {"tensor": "1"}]]},
    "a tensor that is not named": {"dict": []},
    "NaN as JSON has it": '{"format": 1, "state": {"dict": [["a", NaN]]}}',
    "a float of words": {"dict": [["a", {"float": "1e5"}]]},
    "many digits": '{"format": 1, "state": {"dict": [["a", ' + "9" * 4000 + "]]}}",
    "no mapping": [1, 2],
    "a counter of words": {"counter": [["a", "b"]]},
}


@pytest.mark.parametrize("case", HANDMADE)
def test_handmade_states_are_refused(tmp_path, case):
    handmade(tmp_path / "s", HANDMADE[case], {"0": torch.ones(2)})
    with pytest.raises(DamagedError) as caught:
        load_state(tmp_path / "s")
    assert re.search(r"/s[: ]", str(caught.value))
    assert len(str(caught.value)) < 500


def test_an_impossible_position_in_the_data_is_refused(tmp_path):
    """An endless loader would be replayed up to there: three steps take three batches."""

    class Endless:
        def __iter__(self):
            generator = torch.Generator().manual_seed(0)
            while True:
                yield torch.rand(20, 64, generator=generator).round()

    options = {"steps": 3, "out": tmp_path, "progress": False}
    fit(pair(), Endless(), **options)
    changed(tmp_path, to("source", "batches", "position", value=10**15))
    with pytest.raises(ValueError, match=r"after 3 steps the data cannot be at batch 10+ of"):
        fit(pair(), Endless(), **options | {"steps": 5}, resume=True)
    changed(tmp_path, to("source", "batches", "position", value=3))
    assert fit(pair(), Endless(), **options | {"steps": 5}, resume=True).steps == 5
