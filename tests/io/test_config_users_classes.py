"""Users' classes in configurations, and pairs that cannot be written as one."""

import sys

import pairs
import pytest
import torch
import yaml
from configs import SHORTEST, net_of, prior, shapes
from torch import nn

from ppl_vae import (
    likelihoods,
    nets,
    priors,
)
from ppl_vae.io.config import ConfigError, dump, from_config, to_config
from ppl_vae.io.config.resolver import resolve

OWN = """
from collections.abc import Callable
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import nn
from ppl_vae.conditional import ConditionalDistribution, NeuralConditional
from ppl_vae import VAE

Path(__file__).with_suffix(".imported").touch()


class Wide(ConditionalDistribution):
    def __init__(self, latent_dim: int, scale: float = 2.0, label: int | str = 0):
        super().__init__()
        self.latent_dim = latent_dim
        self.scale = scale
        self.label = label

    def forward(self):
        return dist.Normal(torch.zeros(self.latent_dim), self.scale).to_event(1)

    class Inner(nn.Module):
        pass


class Posterior(NeuralConditional):
    def __init__(self, net: nn.Module, start=0.0, shift: torch.Tensor = None):
        super().__init__(net)
        self.start = start
        self.shift = shift

    @staticmethod
    def net_features(latent_dim):
        return latent_dim

    def forward(self, *context):
        return dist.Normal(self.start + self.outputs(*context), 1.0).to_event(1)


class First(Posterior):
    def forward(self, x):
        return super().forward(x[..., :4])


class Plain:
    pass


class Net(nn.Module):
    def __init__(self, in_features, out_features, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.activation = activation
        self.layers = nn.Sequential(nn.Linear(in_features, out_features), activation())

    def forward(self, x):
        return self.layers(x)


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class Pair(VAE):
    pass


class Starred(nn.Module):
    def __init__(self, **kwargs):
        super().__init__()


def function():
    pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name of a package of a user's on sys.path, and a file that it leaves."""
    package = tmp_path / "mypackage"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "parts.py").write_text(OWN)
    (package / "broken.py").write_text("1 / 0")
    (package / "needy.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    yield package / "parts.imported"
    for name in [n for n in sys.modules if n.partition(".")[0] == "mypackage"]:
        del sys.modules[name]


OWN_PAIR = {
    **SHORTEST,
    "class": "mypackage.parts.Pair",
    "prior": {"class": "mypackage.parts.Wide", "scale": 3},
    "posterior": {
        "class": "mypackage.parts.Posterior",
        "net": {"class": "mypackage.parts.Net", "activation": "mypackage.parts.Swish"},
    },
    "likelihood": {"class": "Bernoulli", "net": {"class": "mypackage.parts.Net"}},
}


def test_users_classes_with_allow(own, tmp_path):
    pair = from_config(OWN_PAIR, allow=("mypackage",))
    parts = sys.modules["mypackage.parts"]
    assert isinstance(pair, parts.Pair)
    assert pair.prior().base_dist.scale[0] == 3
    assert (pair.posterior.net.in_features, pair.posterior.net.out_features) == (8, 3)
    assert (pair.likelihood.net.in_features, pair.likelihood.net.out_features) == (3, 8)
    assert pair.posterior.net.activation is parts.Swish
    full = to_config(pair)
    assert full == resolve(OWN_PAIR, allow=("mypackage",))
    assert full["prior"] == {
        "class": "mypackage.parts.Wide",
        "latent_dim": 3,
        "scale": 3.0,
        "label": 0,
    }
    assert full["posterior"]["shift"] is None
    file = tmp_path / "pair.yaml"
    file.write_text(dump(pair))
    assert shapes(from_config(file, allow={"mypackage"})) == shapes(pair)


@pytest.mark.parametrize("place", ["class", "prior", "posterior", "net", "activation"])
def test_nothing_is_imported_that_is_not_allowed(own, place):
    mapping = {
        "class": {**SHORTEST, "class": "mypackage.parts.Pair"},
        "prior": {**SHORTEST, "prior": "mypackage.parts.Wide"},
        "posterior": {**SHORTEST, "posterior": {"class": "mypackage.parts.Posterior"}},
        "net": net_of("likelihood", **{"class": "mypackage.parts.Net"}),
        "activation": net_of("likelihood", activation="mypackage.parts.Swish"),
    }[place]
    for allow in ((), ("my",), ("mypackage.parts",), ("other",)):
        with pytest.raises(ConfigError, match=r"'mypackage\.parts\..* is outside ppl_vae and was"):
            from_config(mapping, allow=allow)
        assert not own.exists()
        assert "mypackage" not in sys.modules
    from_config(mapping, allow=("mypackage",))
    assert own.exists()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("label", [3, "3", "null", "[1]"])
def test_strings_stay_strings_where_a_string_may_be(label):
    mapping = prior(**{"class": "mypackage.parts.Wide", "label": label})
    back = yaml.safe_load(dump(resolve(mapping, allow=("mypackage",))))
    assert from_config(back, allow=("mypackage",)).prior.label == label


@pytest.mark.usefixtures("own")
def test_a_users_part_may_transform_its_networks_inputs():
    mapping = {
        **SHORTEST,
        "posterior": {"class": "mypackage.parts.First", "net": {"in_features": 4}},
    }
    assert from_config(mapping, allow=("mypackage",)).posterior.net.in_features == 4


OWN_ERRORS = {
    "no such module": ("mypackage.nothing.Wide", "is not a class of the allowed package"),
    "no such class": ("mypackage.parts.Wider", "is not a class of the allowed package"),
    "no such package": ("yourpackage.parts.Wide", "cannot be imported: No module named 'yourp"),
    "a function": ("mypackage.parts.function", "is not a class of the allowed package"),
    "a module": ("mypackage.parts", "is not a class of the allowed package"),
    "what it imports": ("mypackage.parts.torch.nn.Linear", "is not a class of the allowed package"),
    "a class it imports": ("mypackage.parts.Path", "is not a class of the allowed package"),
    "a part it imports": ("mypackage.parts.VAE", "is not a class of the allowed package"),
    "a class that is no module": ("mypackage.parts.Plain", "must be a class of torch.nn.Module"),
    "its builtins": ("mypackage.parts.__builtins__.eval", "is not a class of the allowed package"),
    "a method": ("mypackage.parts.Wide.forward", "is not a class of the allowed package"),
    "a module that fails": ("mypackage.broken.Wide", "importing 'mypackage.broken' failed: div"),
    "a module that lacks one": ("mypackage.needy.Wide", "No module named 'nowhere_to_be_found'"),
    "arguments without names": ("mypackage.parts.Starred", r"takes \*\*kwargs"),
}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("case", OWN_ERRORS)
def test_allowed_packages_give_modules_of_their_own_only(case):
    name, words = OWN_ERRORS[case]
    with pytest.raises(ConfigError, match=f"^model.prior: .*{words}"):
        from_config({**SHORTEST, "prior": name}, allow=("mypackage", "yourpackage"))


@pytest.mark.usefixtures("own")
def test_a_nested_class_can_be_named():
    with pytest.raises(ConfigError, match=r"model: Module \[Inner\] is missing the requ"):
        from_config({**SHORTEST, "prior": "mypackage.parts.Wide.Inner"}, allow=("mypackage",))


@pytest.mark.usefixtures("as_users_see_it")
def test_allow_must_not_be_a_string():
    with pytest.raises(
        TypeError, match=r"allow must be a collection of package names, such as \('x',\)"
    ):
        from_config(SHORTEST, allow="x")


class Local(nn.Module):
    def __init__(self, out: int, made=None):
        super().__init__()
        self.out = out
        self.made = made
        self.layer = nn.Linear(2, out)

    def forward(self, z):
        return self.layer(z)


class Forgets(Local):
    def __init__(self, width):
        super().__init__(width)


def with_net(make):
    return pairs.vae().replace(likelihood=likelihoods.Bernoulli(make()))


def in_a_function():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 6)

        def forward(self, z):
            return self.layer(z)

    return Hidden()


UNWRITABLE = {
    "a lambda": (
        lambda: nets.MLP(2, 6, activation=lambda: nn.ELU()),
        r"model\.likelihood\.net\.activation is <function .*cannot hold; use a class of torch\.nn",
    ),
    "a torch module": (
        lambda: nn.Linear(2, 6),
        r"model\.likelihood\.net is a torch\.nn\.Linear, .*use a network of ppl_vae\.nets",
    ),
    "a tensor": (
        lambda: Local(6, torch.zeros(3)),
        r"model\.likelihood\.net\.made is a tensor of shape \(3,\).*holds no tensors",
    ),
    "an object": (lambda: Local(6, {1, 2}), r"net\.made is \{1, 2\} \(set\), which a conf"),
    "a class": (
        lambda: Local(6, nn.ELU),
        r"net\.made is a class without a type hint .*annotate the",
    ),
    "an argument that is not kept": (
        lambda: Forgets(6),
        r"model\.likelihood\.net: Forgets: .*'width' cannot be read back; .*self\.width = width",
    ),
    "a class in a function": (in_a_function, r"in_a_function.*define the class at the top level"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_what_cannot_be_written_is_named(case):
    make, words = UNWRITABLE[case]
    with pytest.raises(ConfigError, match=words):
        to_config(with_net(make))


def test_a_class_of_the_package_that_is_not_public_is_named():
    class_ = type("Secret", (priors.StandardNormal,), {"__module__": "ppl_vae.priors.secret"})
    with pytest.raises(ConfigError, match=r"model\.prior: ppl_vae\.priors\.secret\.Secret is not"):
        to_config(pairs.vae().replace(prior=class_(2)))
