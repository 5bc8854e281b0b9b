"""What is saved is what is there: the pair that comes back is the one that was, or save refuses.

The right value is the live pair itself: its modules, and its outputs for the same random numbers.
"""

import copy
import inspect
import sys
import threading

import pairs
import pyro.distributions as dist
import pytest
import torch
import yaml
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, C, D, Z, net
from torch import nn
from torch.nn.utils import parametrizations

from ppl_vae import (
    VAE,
    ConditionalVAE,
    HierarchicalVAE,
    SemiSupervisedVAE,
    StackedVAE,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.conditional import ConditionalDistribution
from ppl_vae.io import DamagedError, load, save
from ppl_vae.io.config import ConfigError, from_config, to_config

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def normal():
    return pairs.vae(likelihood="normal")


def layers(vae):
    return vae.likelihood.net.layers


def set_layer(i, layer):
    return lambda vae: layers(vae).__setitem__(i, layer(layers(vae)[i]))


def swap_order(vae):
    modules = layers(vae)._modules
    modules["1"] = modules.pop("1")


def share_bias(vae):
    vae.likelihood.net.layers[0].bias = vae.posterior.net.layers[0].bias


def patch_forward(vae):
    forward = vae.posterior.net.forward
    vae.posterior.net.forward = lambda *x: forward(*x) + 1


def double_in_training(module, _, output):
    return 2 * output if module.training else output


# Each: what is done to the pair, and where the error says that it was.
SURGERIES = {
    "a layer replaced": (set_layer(0, lambda _: nn.Linear(Z, 5, bias=False)), "layers.0.bias"),
    "a wider layer": (set_layer(2, lambda _: nn.Linear(5, 2 * D)), "layers.2.weight has the shape"),
    "a network of another width": (
        lambda v: setattr(v.likelihood, "net", net(Z, D + 1)),
        "posterior DiagonalNormal is incompatible with x of likelihood",
    ),
    "an activation swapped": (set_layer(1, lambda _: nn.ReLU()), "layers.1 is a ReLU here"),
    "an activation's number": (lambda v: setattr(layers(v)[1], "alpha", 0.3), "layers.1.alpha"),
    "a layer appended": (lambda v: layers(v).append(nn.Tanh()), "layers.3 is a module here"),
    "a layer removed": (lambda v: layers(v).__delitem__(1), "layers.2 is a module there"),
    "layers in another order": (swap_order, "layers has its modules in another order"),
    "a layer wrapped": (set_layer(2, nn.Sequential), "layers.2 is a Sequential here"),
    "dropout": (set_layer(1, lambda a: nn.Sequential(a, nn.Dropout())), "layers.1"),
    "weight norm": (lambda v: parametrizations.weight_norm(layers(v)[2]), "layers.2 is"),
    "weight norm, old": (set_layer(2, nn.utils.weight_norm), "layers.2.weight_g"),
    "spectral norm": (lambda v: parametrizations.spectral_norm(layers(v)[2]), "layers.2 is"),
    "spectral norm, old": (set_layer(2, nn.utils.spectral_norm), "layers.2.weight_orig"),
    "a hook": (
        lambda v: layers(v)[0].register_forward_hook(lambda m, i, o: 2 * o),
        "layers.0 has different outputs .* evaluation mode",
    ),
    "a hook before": (
        lambda v: v.posterior.net.register_forward_pre_hook(lambda m, i: (i[0] + 1,)),
        "posterior.net has different outputs",
    ),
    "a hook of training": (
        lambda v: layers(v)[2].register_forward_hook(double_in_training),
        "layers.2 has different outputs .* training mode",
    ),
    "a method": (patch_forward, "posterior.net.forward is not the method of MLP"),
    "a shared parameter": (share_bias, "bias is .* itself here but not there"),
    "a buffer more": (
        lambda v: v.likelihood.register_buffer("extra", torch.ones(2)),
        "likelihood.extra is a buffer here",
    ),
    "a module more": (lambda v: setattr(v, "extra", nn.Linear(2, 2)), "extra is a module here"),
    "a constant in place": (lambda v: v.prior.loc.fill_(1.0), "prior.loc has other values"),
    "another program": (lambda v: setattr(v.guide, "posterior", nn.Identity()), "posterior"),
}


@pytest.mark.parametrize("name", SURGERIES)
def test_pairs_that_would_come_back_differently_are_refused(name, tmp_path):
    change, where = SURGERIES[name]
    vae = normal()
    change(vae)
    random, state = torch.get_rng_state(), copy.deepcopy(vae.state_dict())
    with pytest.raises(ConfigError, match=where):
        save(vae, tmp_path / "pair")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(random, torch.get_rng_state())
    assert state.keys() == vae.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in vae.state_dict().items())


@pytest.mark.parametrize("name", [n for n in SURGERIES if "hook" not in n])
def test_a_configuration_of_another_structure_is_refused(name):
    change, where = SURGERIES[name]
    vae = normal()
    change(vae)
    with pytest.raises(ConfigError, match=where):
        to_config(vae)


def test_an_older_pair_in_the_folder_stays(tmp_path):
    vae = normal()
    save(vae, tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    layers(vae)[1] = nn.ReLU()
    with pytest.raises(ConfigError, match=r"likelihood\.net\.layers\.1"):
        save(vae, tmp_path)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def same(one, two, *inputs):
    """Tell whether two pairs draw the same data from the same seed."""
    draws = []
    for pair in (one, two):
        torch.manual_seed(7)
        draws.append(pair.generate(*inputs))
    return torch.equal(*draws)


# What may be done to a pair, and is saved.
ALLOWED = {
    "nothing": lambda v: None,
    "another network": lambda v: setattr(v.likelihood, "net", nets.GatedMLP(Z, D, hidden=(3,))),
    "a network wrapped": lambda v: setattr(
        v.likelihood, "net", nets.KeepLeading(v.likelihood.net, event_dim=1)
    ),
    "a parameter replaced": lambda v: setattr(layers(v)[2], "bias", nn.Parameter(torch.randn(D))),
    "a hook that looks on": lambda v: layers(v)[0].register_forward_hook(lambda *_: None),
    "a note": lambda v: setattr(v.likelihood, "note", "mine"),
    "its own method": lambda v: setattr(v.posterior.net, "forward", v.posterior.net.forward),
    "evaluation mode": lambda v: v.eval(),
    "float64": lambda v: v.double(),
    "bfloat16": lambda v: v.bfloat16(),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_changed_pairs_that_come_back_the_same_are_saved(name, tmp_path):
    vae = normal()
    ALLOWED[name](vae)
    modes = [m.training for m in vae.modules()]
    again = load(save(vae, tmp_path))
    assert same(vae, again, 5)
    assert again.training  # as the docs say
    assert modes == [m.training for m in vae.modules()]


def frozen(prior, posterior):
    vae = pairs.vae(prior, posterior)
    vae.posterior.net.layers[0].requires_grad_(False)
    return vae


@pytest.mark.parametrize(
    ("prior", "posterior"),
    [("vamp", "diagonal"), ("maf", "diagonal"), *(("standard", name) for name in POSTERIORS)],
)
def test_frozen_parameters_come_back_frozen(prior, posterior, tmp_path):
    vae = frozen(prior, posterior)
    again = load(save(vae, tmp_path))
    there = {name: p.requires_grad for name, p in again.named_parameters()}
    assert there == {name: p.requires_grad for name, p in vae.named_parameters()}
    assert sum(not trained for trained in there.values()) == 2
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert len(config["requires_grad"]) == 2


@pytest.mark.parametrize("prior", ["standard", "vamp", "maf"])
def test_invalid_requires_grad_is_refused(prior, tmp_path):
    save(frozen(prior, "diagonal"), tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for wrong in (["a"], {"no.such": True}, dict.fromkeys(config["requires_grad"], 1)):
        changed = yaml.safe_dump({**config, "requires_grad": wrong})
        (tmp_path / "config.yaml").write_text(changed)
        with pytest.raises(DamagedError, match="requires_grad"):
            load(tmp_path)


def test_saving_leaves_the_pair_unchanged(tmp_path):
    """Running statistics, modes, counters and attributes do not move, in training mode either."""
    vae = VAE(
        prior=priors.StandardNormal(Z),
        posterior=posteriors.DiagonalNormal(Restless(D, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )
    vae.posterior.net.norm.eval()
    restless = vae.posterior.net
    attributes, state = {**vars(restless)}, copy.deepcopy(vae.state_dict())
    modes = [m.training for m in vae.modules()]
    random = torch.get_rng_state()
    again = load(save(vae, tmp_path), allow=[__name__.partition(".")[0]])
    assert vars(restless) == attributes
    assert all(torch.equal(state[k], v) for k, v in vae.state_dict().items())
    assert [m.training for m in vae.modules()] == modes
    assert torch.equal(random, torch.get_rng_state())
    x = pairs.binary(8)
    assert torch.equal(vae.eval().encode(x), again.eval().encode(x))


# ------------------------------------------------------------------------ classes of users


class Restless(nn.Module):
    """Counts its calls, keeps its last output and moves running statistics."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.width_in, self.width_out = width_in, width_out
        self.linear = nn.Linear(width_in, width_out)
        self.norm = nn.BatchNorm1d(width_out)
        self.drop = nn.Dropout(0.5)
        self.calls = 0
        self.last = None

    def forward(self, x):
        self.calls += 1
        self.last = self.linear(self.drop(x))
        return self.norm(self.last.flatten(0, -2)).view_as(self.last)


class Tempered(ConditionalDistribution):
    """Looks at its argument at each call, so that it may be assigned."""

    def __init__(self, latent_dim: int, temperature: float = 1.0) -> None:
        super().__init__()
        self.latent_dim, self.temperature = latent_dim, temperature

    def forward(self):
        scale = torch.full((self.latent_dim,), self.temperature)
        return dist.Normal(torch.zeros_like(scale), scale).to_event(1)


class Baked(Tempered):
    """Looks at its argument once."""

    def __init__(self, latent_dim: int, temperature: float = 1.0) -> None:
        super().__init__(latent_dim, temperature)
        self.of_construction = Tempered(latent_dim, temperature)
        self.switch = False

    def forward(self):
        return Tempered(self.latent_dim, 3.0)() if self.switch else self.of_construction()


class Halved(likelihoods.Bernoulli):
    """A class derived from one of the package, whose argument is its own."""

    def __init__(self, net: nn.Module, factor: float = 0.5) -> None:
        super().__init__(net)
        self.factor = factor

    def outputs(self, *context):
        return self.factor * super().outputs(*context)


def test_arguments_assigned_in_users_classes_are_saved(tmp_path):
    vae = pairs.vae().replace(prior=Tempered(Z), likelihood=Halved(net(Z, D)))
    vae.prior.temperature = 0.3
    vae.likelihood.factor = 4.0
    again = load(save(vae, tmp_path), allow=[__name__.partition(".")[0]])
    assert again.prior.temperature == 0.3
    assert same(vae, again, 5)


def test_arguments_that_were_only_used_at_construction_are_refused(tmp_path):
    vae = pairs.vae().replace(prior=Baked(Z))
    save(vae, tmp_path / "as it was")
    vae.prior.temperature = 0.3
    with pytest.raises(ConfigError, match=r"prior\.of_construction has different"):
        save(vae, tmp_path / "pair")
    vae.prior.temperature = 1.0
    vae.prior.switch = True  # no argument, but it shows
    with pytest.raises(ConfigError, match="prior has different outputs"):
        save(vae, tmp_path / "pair")
    vae.prior.switch = False
    save(vae, tmp_path / "pair")


def test_a_redefined_class_is_the_class_of_that_name(tmp_path, monkeypatch):
    """As in a notebook, where a cell is run again."""
    vae = pairs.vae().replace(prior=Tempered(Z))
    anew = type("Tempered", (ConditionalDistribution,), dict(vars(Other)))
    anew.__module__, anew.__qualname__ = __name__, "Tempered"
    monkeypatch.setattr(sys.modules[__name__], "Tempered", anew)
    with pytest.raises(ConfigError, match="prior has different outputs"):
        save(vae, tmp_path)


class Other(ConditionalDistribution):
    """What the class of the same name is after a change."""

    def __init__(self, latent_dim: int, temperature: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.latent_dim, self.temperature = latent_dim, temperature

    def forward(self):
        return dist.Normal(torch.ones(self.latent_dim), 1.0).to_event(1)


# ------------------------------------------------------------------------ other pairs


def hierarchical():
    shared = priors.ConditionalNormal(net(Z, 2 * 3))
    return HierarchicalVAE(
        prior=priors.StandardNormal(Z),
        conditionals=[shared],
        posteriors=[
            posteriors.PrecisionWeighted(net(D, 2 * 3), shared),
            posteriors.DiagonalNormal(net(D, 2 * Z)),
        ],
        likelihood=likelihoods.Bernoulli(net(3, D)),
        inference="top-down",
    )


def conditional():
    return ConditionalVAE(
        prior=CONDITIONAL_PRIORS["normal given y"](None),
        posterior=posteriors.DiagonalNormal(net(D + C, 2 * Z)),
        likelihood=likelihoods.Bernoulli(net(Z + C, D)),
        num_classes=C,
    )


def stacked():
    second = pairs.ssvae(likelihood="normal, per pixel")
    first = VAE(
        prior=priors.StandardNormal(D),
        posterior=posteriors.DiagonalNormal(net(9, 2 * D)),
        likelihood=likelihoods.Bernoulli(net(D, 9)),
    )
    return StackedVAE(first=first, second=second)


OTHERS = {
    "hierarchical": (hierarchical, lambda p: p.posteriors[0]),
    "conditional": (conditional, lambda p: p.prior),
    "semi-supervised": (pairs.ssvae, lambda p: p.classifier),
    "semi-supervised, labels scored": (
        lambda: pairs.ssvae("spline given y", alpha=2.0),
        lambda p: p.posterior,
    ),
    "vamp": (lambda: pairs.ssvae("vamp"), lambda p: p.posterior),
    "stacked": (stacked, lambda p: p.second.classifier),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_pair_is_compared(name, tmp_path):
    make, part = OTHERS[name]
    pair = make()
    again = load(save(pair, tmp_path / "one"))
    assert len(list(again.parameters())) == len(list(pair.parameters()))  # shared ones once
    part(pair).net.layers[1] = nn.Tanh()
    with pytest.raises(ConfigError, match=r"net\.layers\.1 is a Tanh here and an ELU there"):
        save(pair, tmp_path / "two")
    part(pair).net.layers[1] = nn.ELU()
    part(pair).net.register_forward_hook(lambda m, i, o: o + 1)
    with pytest.raises(ConfigError, match=r"net has different outputs here"):
        save(pair, tmp_path / "two")


# ------------------------------------------------------------------------ read-only arguments

NETWORKS = {
    "mlp": lambda: nets.MLP(3, 4, hidden=(5,)),
    "gated": lambda: nets.GatedMLP(3, 4, hidden=(5,)),
    "encoder": lambda: nets.ConvEncoder((1, 8, 8), 3, channels=(4,)),
    "decoder": lambda: nets.ConvDecoder(3, (1, 8, 8), channels=(4,)),
    "residual": lambda: nets.ResidualBlock(3),
    "leading": lambda: nets.KeepLeading(nn.Flatten(), event_dim=3),
    "arranged": lambda: nets.Arranged(nn.Flatten(), (1, 8, 8)),
}
MODULES = {
    **NETWORKS,
    **{f"prior: {k}": (lambda f=f: f(POSTERIORS["diagonal"]())) for k, f in PRIORS.items()},
    **{f"prior: {k}": (lambda f=f: f(None)) for k, f in CONDITIONAL_PRIORS.items()},
    **{f"posterior: {k}": f for k, f in POSTERIORS.items()},
    **{f"likelihood: {k}": f for k, f in LIKELIHOODS.items()},
    **{f"pair: {k}": make for k, (make, _) in OTHERS.items()},
    "pair": normal,
}


@pytest.mark.parametrize("name", MODULES)
def test_arguments_are_read_only_and_parts_are_live(name):
    module = MODULES[name]()
    for argument in inspect.signature(type(module)).parameters:
        before = getattr(module, argument)
        if isinstance(before, nn.Module) and argument in dict(module.named_children()):
            other = copy.deepcopy(before)
            setattr(module, argument, other)
            assert getattr(module, argument) is other
            continue
        with pytest.raises(
            AttributeError, match=f"{type(module).__name__}.{argument} is read-only"
        ):
            setattr(module, argument, before)
        assert getattr(module, argument) is before or getattr(module, argument) == before


def test_fixed_scales_are_read_only_and_saved(tmp_path):
    vae = normal()
    with pytest.raises(AttributeError, match=r"Normal.scale is read-only.*replace this Normal"):
        vae.likelihood.scale = 0.1
    with pytest.raises(
        AttributeError, match=r"VAE.prior is read-only.*pair.replace\(prior=\.\.\.\)"
    ):
        vae.prior = priors.GaussianMixture(Z, 3)
    assert "prior" not in dict(vae.named_children())
    assert load(save(vae, tmp_path)).likelihood.scale == 0.7


def test_copies_and_pickles_are_read_only_too():
    part = copy.deepcopy(normal().likelihood)
    with pytest.raises(AttributeError, match="read-only"):
        part.scale = 2.0


def test_a_network_with_other_contexts_may_be_assigned():
    part = posteriors.DiagonalNormal(net(D + C, 2 * Z))
    x, y = torch.randn(4, D), torch.eye(C)[torch.zeros(4, dtype=torch.long)]

    class Concatenated(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(D + C, 2 * Z)

        def forward(self, xy):
            return self.inner(xy)

    part.net = Concatenated()  # an MLP takes any number of contexts apart, this one none
    assert part(x, y).batch_shape == (4,)


# ------------------------------------------------------------------------ repr and replace


def test_the_repr_shows_a_network_as_it_is():
    vae = normal()
    assert "MLP(in_features=2, out_features=6, hidden=(5,))" in repr(vae)
    layers(vae)[1] = nn.ReLU()
    written = repr(vae)
    assert "(1): ReLU()" in written
    assert "nets.MLP(in_features=6, out_features=4, hidden=(5,))" in written  # the posterior's


def test_replace_keeps_live_modules_and_their_modes():
    vae = normal()
    layers(vae)[1] = nn.Tanh()
    vae.posterior.eval()
    new = vae.replace(prior=priors.GaussianMixture(Z, 3))
    assert new.likelihood is vae.likelihood
    assert new.posterior is vae.posterior
    assert not vae.posterior.training
    assert new.training
    assert vae.training
    assert not any(m.training for m in vae.eval().replace(prior=PRIORS["mixture"](None)).modules())


def test_pairs_built_from_a_configuration_can_be_saved():
    for pair in (normal(), pairs.ssvae(), hierarchical()):
        assert to_config(from_config(to_config(pair))) == to_config(pair)
    assert isinstance(pairs.ssvae(), SemiSupervisedVAE)


def test_threads_may_save_one_pair_while_another_draws_and_trains(tmp_path):
    vae, stop, failures = pairs.vae("mixture", "diagonal", "normal"), threading.Event(), []
    optimizer = torch.optim.SGD(vae.parameters(), lr=1e-3)

    def train():
        while not stop.is_set():
            assert all(m.training for m in vae.modules())
            loss = -vae.prior().log_prob(torch.randn(3, Z)).sum()
            torch.autograd.backward(loss)
            optimizer.step()

    def write(folder):
        try:
            for _ in range(3):
                save(vae, folder)
        except Exception as error:
            failures.append(error)

    trainer = threading.Thread(target=train)
    writers = [threading.Thread(target=write, args=[tmp_path / str(i)]) for i in range(3)]
    for thread in (trainer, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    trainer.join()
    assert not failures
    assert load(tmp_path / "0").prior.components == 4


def test_saving_does_not_disturb_other_threads_draws(tmp_path):
    """What a thread draws within a turn of its own is what it draws alone."""
    from ppl_vae.process_state import exclusively

    def draws(number):
        found = []
        for _ in range(number):
            with exclusively():
                torch.manual_seed(5)
                found.append([torch.rand(1).item() for _ in range(50)])
        return found

    (alone,) = draws(1)
    vae, found, done = normal(), [], threading.Event()

    def draw():
        while not done.is_set():
            found.extend(draws(1))

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for i in range(5):
            save(vae, tmp_path / str(i))
    finally:
        done.set()
        thread.join()
    assert all(one == alone for one in found)
