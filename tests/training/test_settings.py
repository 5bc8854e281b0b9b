"""A run is gone on with by the same pair, arguments and data alone; what differs is named.

That a refused resume changes nothing is seen by comparing every file of the folder, and the pair.
"""

import logging
import operator
import shutil
import threading
from argparse import Namespace
from collections import deque
from functools import partial
from types import SimpleNamespace

import pyro
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ppl_vae import VAE, SemiSupervisedVAE, data, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.training import EarlyStopping, fit
from ppl_vae.training.checksums import MAX_HASHED, checksum
from ppl_vae.training.settings import STATE, Declaration

pytestmark = pytest.mark.usefixtures("as_users_see_it")
DIGITS = data.load("digits")
GREY = DIGITS.draw(torch.arange(200), binarise="none")
OTHER = torch.where(GREY[3, 20] == GREY, GREY[3, 20] + 0.01, GREY)  # one level, a little brighter


def vae(likelihood=likelihoods.Normal, activation=nn.ELU, net=None, **options):
    pyro.set_rng_seed(0)
    net = net or nets.MLP(64, 4, hidden=(8,), activation=activation)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(net),
        likelihood=likelihood(nets.MLP(2, 64, hidden=(8,)), **options),
    )


def ssvae(weight=3.0):
    pyro.set_rng_seed(0)
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=nets.MLP(64, 10, hidden=(8,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64, hidden=(8,))),
        num_classes=10,
        classification_weight=weight,
    )


def streams(**options):
    return data.SemiSupervised(DIGITS, DIGITS.labelled_subset(3), **options)


class Net(nn.Module):
    """A user's own, whose settings are attributes, one private, one a function, one a tensor."""

    def __init__(self, slope=1.0, hidden=2.0, act=torch.tanh, shift=0.5):
        super().__init__()
        self.layer = nn.Linear(64, 4)
        self.slope, self._hidden, self.act = slope, hidden, act
        self.shift = torch.full((4,), shift)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.act(self.layer(x) * self.slope * self._hidden) + self.shift


def rising(rate):
    return lambda step: min(1.0, rate * step)


class Slotted:
    __slots__ = ("rate",)

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, step):
        return self.rate


class Stream:
    """A user's own epochs."""

    def __init__(self, x):
        self._x = x

    def __iter__(self):
        return iter(self._x.split(50))


class Private:
    """A schedule and a loader, whose settings are in private containers and in the class."""

    pause = 0

    def __init__(self, *kept, **options):
        self._kept, self._options = list(kept), SimpleNamespace(**options)

    def __call__(self, step):
        return self._options.rate

    def __iter__(self):
        return iter(self._kept)


class Patient(Private):
    pause = 1


Patient.__qualname__ = "Private"
RATE = 0.5
OPTIONS = Namespace(rate=0.5, steps=2, resume=False)


class Sloped(nn.Module):
    """A network that uses a global."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 4)

    def forward(self, x):
        return self.layer(x) * RATE


def by_another(step):
    return by_a_global(step)


def by_options(step):
    return OPTIONS.rate


def closed_over(options):
    return lambda step: options.rate


def by_a_global(step):
    return RATE


def loader(x, **options):
    return DataLoader(TensorDataset(x), **{"batch_size": 50, "shuffle": True, **options})


def groups(slow):
    def make(parameters):
        split = [{"params": parameters[:2], "lr": slow}, {"params": parameters[2:]}]
        return torch.optim.Adam(split, lr=1e-3)

    return make


def frozen():
    pair = vae()
    pair.posterior.net.layers[0].bias.requires_grad_(False)
    return pair


def appended():
    pair = vae()
    pair.likelihood.net.layers.append(nn.Tanh())
    return pair


def hooked():
    pair = vae()
    pair.likelihood.net.register_forward_hook(lambda module, args, output: output + 1)
    return pair


def evaluated():
    pair = vae().train()
    pair.posterior.net.eval()
    return pair


def grey():
    return GREY


def mixed(**options):
    return {"pair": vae, "data": grey, **options}


LAMBDA = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=rising(0.1))
VALIDATED = {"validation": GREY[:50], "validate_every": 2, "stopping": EarlyStopping(9)}
TABLE = [0.1] * 5 + [1.0] * 20
# name of what differs -> the first training, and the second, which is to be refused
DIFFERENT = {
    "pair.likelihood was Normal of net and is now Laplace of net": (
        mixed(),
        mixed(pair=partial(vae, likelihoods.Laplace)),
    ),
    "pair.likelihood.scale was 1.0 and is now 0.1": (
        mixed(pair=partial(vae, scale=1.0)),
        mixed(pair=partial(vae, scale=0.1)),
    ),
    "activation was ELU and is now ReLU": (mixed(), mixed(pair=partial(vae, activation=nn.ReLU))),
    "requires|fixed": (mixed(), mixed(pair=frozen)),
    "layers was Sequential of 0, 1, 2 and is": (mixed(), mixed(pair=appended)),
    r"likelihood.net.hooks\[0\]": (mixed(), mixed(pair=hooked)),
    "posterior.net.training": (mixed(), mixed(pair=evaluated)),
    "net.slope": (mixed(pair=lambda: vae(net=Net())), mixed(pair=lambda: vae(net=Net(slope=2.0)))),
    "net._hidden": (mixed(pair=lambda: vae(net=Net())), mixed(pair=lambda: vae(net=Net(hidden=3)))),
    "net.act": (
        mixed(pair=lambda: vae(net=Net())),
        mixed(pair=lambda: vae(net=Net(act=torch.sigmoid))),
    ),
    "net.shift": (mixed(pair=lambda: vae(net=Net())), mixed(pair=lambda: vae(net=Net(shift=0.0)))),
    "pair.classification_weight was 3.0 and is now 30.0": (
        {"pair": ssvae, "data": streams},
        {"pair": partial(ssvae, 30.0), "data": streams},
    ),
    "data.labelled_weight was 1.0 and is now 0.1": (
        {"pair": ssvae, "data": streams},
        {"pair": ssvae, "data": partial(streams, labelled_weight=0.1)},
    ),
    "data was float32": (mixed(), mixed(data=lambda: OTHER)),
    "data.labels": (
        mixed(data=lambda: DIGITS.subset(range(50))),
        mixed(data=lambda: data.Dataset(DIGITS.values[:50], DIGITS.labels[50:100], scale=16)),
    ),
    "data.scale was 16 and is now 17": (
        mixed(data=lambda: DIGITS),
        mixed(data=lambda: data.Dataset(DIGITS.values, DIGITS.labels, scale=17)),
    ),
    "data.generator.seed": (
        mixed(data=lambda: DIGITS.batches(50, binarise="none", seed=1)),
        mixed(data=lambda: DIGITS.batches(50, binarise="none", seed=2)),
    ),
    r"data.dataset.tensors\[0\]": (
        mixed(data=lambda: loader(GREY)),
        mixed(data=lambda: loader(OTHER)),
    ),
    r"data._kept\[0\] was": (
        mixed(data=lambda: Private(*GREY.split(50))),
        mixed(data=lambda: Private(*OTHER.split(50))),
    ),
    "data was list of 2000 with checksum": (
        mixed(data=lambda: [GREY[:5]] * 2000),
        mixed(data=lambda: [GREY[:5]] * 1999 + [GREY[5:10]]),
    ),
    "beta._options.rate was 0.5 and is now 0.6": (
        mixed(beta=Private(rate=0.5)),
        mixed(beta=Private(rate=0.6)),
    ),
    "beta.pause was 0 and is now 1": (
        mixed(beta=Private(rate=0.5)),
        mixed(beta=Patient(rate=0.5)),
    ),
    r"beta.rates\[0\] was 0.5": (
        mixed(beta=(lambda rates: lambda step: rates[0])(deque([0.5]))),
        mixed(beta=(lambda rates: lambda step: rates[0])(deque([0.6]))),
    ),
    "beta.options.rate was 0.1": (
        mixed(beta=closed_over(Namespace(rate=0.1))),
        mixed(beta=closed_over(Namespace(rate=0.2))),
    ),
    "data._x was": (mixed(data=lambda: Stream(GREY)), mixed(data=lambda: Stream(OTHER))),
    "beta.rate was 0.3 and is now 0.4": (mixed(beta=Slotted(0.3)), mixed(beta=Slotted(0.4))),
    "data.sampler": (
        mixed(data=lambda: loader(GREY)),
        mixed(data=lambda: loader(GREY, shuffle=False)),
    ),
    "data was list of 20 with checksum": (
        mixed(data=lambda: list(GREY.split(10))),
        mixed(data=lambda: list(OTHER.split(10))),
    ),
    "validation was float32": (mixed(**VALIDATED), mixed(**VALIDATED | {"validation": OTHER[:50]})),
    "validate_every was 2 and is now 3": (
        mixed(**VALIDATED),
        mixed(**VALIDATED | {"validate_every": 3}),
    ),
    "validation_particles was 1 and is now 5": (
        mixed(**VALIDATED),
        mixed(**VALIDATED, validation_particles=5),
    ),
    "stopping.patience was 9 and is now 3": (
        mixed(**VALIDATED),
        mixed(**VALIDATED | {"stopping": EarlyStopping(3)}),
    ),
    "beta.rate was 0.1 and is now 0.01": (mixed(beta=rising(0.1)), mixed(beta=rising(0.01))),
    "beta .code. was": (
        mixed(beta=lambda step: 0.5 + step * 0.0),
        mixed(beta=lambda step: 0.5 - step * 0.0),
    ),
    r"beta.self\[0\] was 0.1 and is now 0.2": (
        mixed(beta=TABLE[:9].__getitem__),
        mixed(beta=[0.2, *TABLE[1:9]].__getitem__),
    ),
    "lr_schedule.lr_lambdas.0..rate was 0.1 and is now 0.2": (
        mixed(lr_schedule=LAMBDA),
        mixed(lr_schedule=partial(LAMBDA, lr_lambda=rising(0.2))),
    ),
    "optimizer.lr was 0.001 and is now 0.01": (
        mixed(lr_schedule=LAMBDA),
        mixed(lr_schedule=LAMBDA, optimizer=partial(torch.optim.Adam, lr=1e-2, fused=True)),
    ),
    r"optimizer.param_groups\[0\].lr was 0.01 and is now 0.02": (
        mixed(optimizer=groups(0.01)),
        mixed(optimizer=groups(0.02)),
    ),
    "estimator.alpha was 0.0 and is now 0.5": (
        mixed(estimator=ImportanceWeightedELBO(2)),
        mixed(estimator=ImportanceWeightedELBO(2, alpha=0.5)),
    ),
    "optimizer was Adam and is now AdamW": (
        mixed(),
        mixed(optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True, weight_decay=0)),
    ),
}


def trained(out, steps, pair, data, **options):
    made = pair()
    arguments = {"steps": steps, "checkpoint_every": 2, "progress": False, **options}
    return made, fit(made, data(), out=out, **arguments)


def files(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """Folders of first trainings, each made once, which go on as they were."""
    made = []

    def folder_of(first):
        for options, folder in made:
            # By identity: tensors have no truth value.
            if options.keys() == first.keys() and all(options[n] is first[n] for n in first):
                return folder
        folder = tmp_path_factory.mktemp("first") / "run"
        trained(folder, 2, **first)
        made.append((first, folder))
        later = shutil.copytree(folder, folder.with_name("later"))
        assert trained(later, 4, resume=True, **first)[1].steps == 4
        return folder

    return folder_of


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs_is_refused_by_name_and_nothing_changed(what, first_run):
    first, second = DIFFERENT[what]
    folder = first_run(first)
    before, fresh = files(folder), second["pair"]()
    given = {**second, "pair": lambda: fresh}
    weights = {n: t.clone() for n, t in fresh.state_dict().items()}
    with pytest.raises(ValueError, match=f"fit: cannot resume from .*{what}") as caught:
        trained(folder, 4, resume=True, **given)
    assert str(caught.value).count("\n") == 1
    assert files(folder) == before
    assert all(torch.equal(weights[n], t) for n, t in fresh.state_dict().items())


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("beta.RATE", {"beta": by_a_global}),
        ("beta.by_a_global.RATE", {"beta": by_another}),
        ("pair.posterior.net .outside: RATE.", {"pair": lambda: vae(net=Sloped())}),
    ],
)
def test_a_global_number_that_code_uses(name, given, tmp_path, monkeypatch):
    trained(tmp_path, 2, **mixed(**given))
    monkeypatch.setitem(globals(), "RATE", 0.25)
    with pytest.raises(ValueError, match=rf"{name} was 0\.5 and is now 0\.25"):
        trained(tmp_path, 4, resume=True, **mixed(**given))


@pytest.mark.parametrize("of", ["global", "closure"])
def test_of_options_only_what_is_read_is_compared(of, tmp_path, monkeypatch):
    """A script's options have how many steps, and whether it resumes, beside the rate."""
    schedules = {"global": lambda o: by_options, "closure": closed_over}
    trained(tmp_path, 2, **mixed(beta=schedules[of](OPTIONS)))
    later = Namespace(rate=0.5, steps=4, resume=True)
    monkeypatch.setitem(globals(), "OPTIONS", later)
    assert trained(tmp_path, 4, resume=True, **mixed(beta=schedules[of](later)))[1].steps == 4
    other = Namespace(rate=0.6, steps=6, resume=True)
    monkeypatch.setitem(globals(), "OPTIONS", other)
    with pytest.raises(ValueError, match=r"rate was 0\.5 and is now 0\.6"):
        trained(tmp_path, 6, resume=True, **mixed(beta=schedules[of](other)))


def test_what_a_process_makes_for_itself_is_not_looked_into(tmp_path):
    """Loggers hold every other one of the process, several times over."""

    class Logged(Net):
        def __init__(self):
            super().__init__()
            self.logger, self.lock = logging.getLogger("a.b"), threading.Lock()

    def logged():
        return vae(net=Logged())

    trained(tmp_path, 2, **mixed(pair=logged))
    logging.getLogger("another.of.the.process")
    assert trained(tmp_path, 4, resume=True, **mixed(pair=logged))[1].steps == 4


def test_what_may_change_may(tmp_path):
    trained(tmp_path, 2, **mixed())
    given = {"keep": 5, "log_every": 1, "validate_every": 7, "checkpoint_every": 1}
    assert trained(tmp_path, 4, resume=True, **{**mixed(), **given})[1].steps == 4


def test_the_same_objects_go_on_in_one_process(tmp_path):
    """Also where a network, a schedule or a loader counts, so that it is not as it was."""
    seen = []

    def beta(step):
        seen.append(step)
        return 0.5

    pair, batches = vae(net=Net()), DIGITS.batches(50, binarise="none", seed=1)
    options = mixed(pair=lambda: pair, data=lambda: batches, beta=beta)
    trained(tmp_path, 2, **options)
    pair.generate(3)
    assert trained(tmp_path, 4, resume=True, **options)[1].steps == 4


def test_fewer_steps_than_were_taken_are_refused(tmp_path):
    trained(tmp_path, 4, **mixed())
    before = files(tmp_path)
    with pytest.raises(ValueError, match="steps=3 ends before step 4"):
        trained(tmp_path, 3, resume=True, **mixed())
    assert files(tmp_path) == before
    assert trained(tmp_path, 4, resume=True, **mixed())[1].steps == 4


def test_another_default_dtype_and_another_torch(tmp_path):
    saved = Declaration({}, {}).words()
    with pytest.warns(UserWarning, match=r"torch was 0\.1 and is"):
        Declaration({}, {}).check({**saved, "versions.torch": "0.1"}, tmp_path)
    with pytest.raises(ValueError, match=r"default dtype was torch\.float64"):
        Declaration({}, {}).check({**saved, "torch's default dtype": "torch.float64"}, tmp_path)


def test_what_changes_in_training_is_no_setting():
    net = Net()
    declaration = Declaration({"pair": net, "beta": operator.itemgetter(0)}, {})
    net(torch.zeros(1, 64))
    words = declaration.words()
    assert words["pair.calls"] == STATE
    assert words["pair.slope"] == "1.0"


@pytest.mark.parametrize("size", [1000, MAX_HASHED // 4 + 3])
def test_no_value_changes_without_the_checksum(size):
    """One bit, two values exchanged, and the same values in another memory."""
    values = torch.rand(size, 2)[:, :1]
    before = checksum(values)
    assert checksum(values.clone()) == before
    for place in (0, size // 3, size - 1):
        changed = values.clone()
        changed[place] = torch.nextafter(changed[place], torch.tensor(2.0))
        assert checksum(changed) != before
    changed = values.clone()
    changed[[5, size - 5]] = values[[size - 5, 5]]
    assert checksum(changed) != before
