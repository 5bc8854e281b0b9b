"""Constructor arguments are read back from live modules, and their repr builds them again."""

import pairs
import pytest
import torch
from pairs import CONDITIONAL_PRIORS, LIKELIHOODS, POSTERIORS, PRIORS, D, Z, net
from torch import nn

import ppl_vae
from ppl_vae import VAE, columns, likelihoods, nets, posteriors, priors
from ppl_vae.constructor import arguments, expression

SCOPE = {
    **{name: getattr(ppl_vae, name) for name in ppl_vae.__all__},
    "nn": nn,
    "torch": torch,
}


def made(expression):
    return eval(expression, dict(SCOPE))


def shapes(module):
    return {name: t.shape for name, t in module.state_dict().items()}


def test_arguments_are_what_was_given():
    q = posteriors.DiagonalNormal(net(D, 2 * Z))
    assert arguments(q) == {"net": q.net, "min_scale": 1e-4}
    assert arguments(nets.MLP(3, 4, hidden=[5, 6], activation=nn.ReLU)) == {
        "in_features": 3,
        "out_features": 4,
        "hidden": (5, 6),
        "activation": nn.ReLU,
    }


def test_a_module_without_a_constructor_has_no_arguments():
    class Halves(nn.Module):
        def forward(self, x):
            return x / 2

    assert arguments(Halves()) == {}


def test_an_argument_that_is_not_kept_is_named_with_its_class():
    class Forgets(nn.Module):
        def __init__(self, width):
            super().__init__()

    with pytest.raises(AttributeError, match=r"Forgets: .*'width'.*self\.width = width"):
        arguments(Forgets(3))


@pytest.mark.parametrize(
    "module", [nn.Sequential(nn.ReLU()), nn.Identity(unused=3)], ids=["args", "kwargs"]
)
def test_arguments_without_names_are_refused(module):
    with pytest.raises(TypeError, match=r"\*(args|kwargs), which cannot be read back"):
        arguments(module)


ALL = {
    **{f"prior: {name}": lambda name=name: pairs.vae(prior=name) for name in PRIORS},
    **{f"posterior: {name}": lambda name=name: pairs.vae(posterior=name) for name in POSTERIORS},
    **{f"likelihood: {n}": lambda n=n: pairs.vae(likelihood=n) for n in LIKELIHOODS},
    **{f"ssvae: {n}": lambda n=n: pairs.ssvae(n) for n in (*CONDITIONAL_PRIORS, "vamp")},
}


def test_a_part_that_occurs_twice_hides_no_package_in_its_repr():
    shared = columns.Bernoulli()
    (width,) = likelihoods.Columns.net_shape(columns=[shared, shared, columns.Poisson()])
    of_two = likelihoods.Columns(net(Z, width), columns=[shared, shared, columns.Poisson()])
    again = made(expression(nn.Sequential(of_two, of_two)))
    assert expression(again[0]) == expression(of_two)


@pytest.mark.parametrize("case", ALL)
def test_the_repr_builds_the_pair_again(case):
    pair = ALL[case]()
    again = made(repr(pair))
    assert type(again) is type(pair)
    assert repr(again) == repr(pair)
    assert shapes(again) == shapes(pair)
    assert max(map(len, repr(pair).splitlines())) <= 100
    for name, part in pair.parts().items():
        if not isinstance(part, nn.Module):
            assert getattr(again, name) == part


def test_every_argument_is_in_the_repr():
    """Each argument of each part, changed from its default, is in the repr."""
    modules = [
        priors.GaussianMixture(3, 4, learn_weights=True),
        priors.Flow(3, "maf", transforms=2, hidden=(7,)),
        likelihoods.Normal(nn.Linear(2, 3), scale="learned", event_dim=2, min_scale=0.01),
        posteriors.GaussianMixture(nn.Linear(2, 3), components=1, min_scale=0.01),
        posteriors.Flow(nn.Linear(2, 3), 2, min_scale=2),
        nets.MLP(3, 4, hidden=(), activation=nn.Tanh),
        nets.ConvEncoder((1, 8, 8), 3, channels=(4,), residual_blocks=1, context_features=2),
    ]
    for module in modules:
        again = made(expression(module))
        given, back = arguments(module), arguments(again)
        assert {k: v for k, v in given.items() if k != "net"} == {
            k: v for k, v in back.items() if k != "net"
        }


def test_the_repr_reads_as_one_would_write_it():
    vae = VAE(
        prior=priors.GaussianMixture(10, components=500),
        posterior=posteriors.DiagonalNormal(nets.MLP(78, 20)),
        likelihood=likelihoods.Normal(nets.MLP(10, 78, hidden=(20,), activation=nn.Tanh), 0.5),
    )
    assert repr(vae) == (
        "VAE(\n"
        "    prior=priors.GaussianMixture(latent_dim=10, components=500),\n"
        "    posterior=posteriors.DiagonalNormal(net=nets.MLP(in_features=78, out_features=20)),\n"
        "    likelihood=likelihoods.Normal(\n"
        "        net=nets.MLP(in_features=10, out_features=78, hidden=(20,), activation=nn.Tanh),\n"
        "        scale=0.5,\n"
        "    ),\n"
        ")"
    )


def test_a_module_that_occurs_twice_is_one_module_again():
    pair = made(repr(pairs.vae("vamp")))
    assert pair.prior.posterior is pair.posterior
    assert repr(pair).count("DiagonalNormal(") == 1


def test_two_modules_that_occur_twice_have_two_names():
    first, second = net(D, 2 * Z), net(D, 2 * Z)
    written = expression(
        nn.Sequential(*(posteriors.DiagonalNormal(n) for n in (first, second, first, second)))
    )
    again = made(written)
    assert again[0].net is again[2].net
    assert again[1].net is again[3].net
    assert again[0].net is not again[1].net


def test_equal_modules_are_not_shared():
    pair = made(expression(nn.Sequential(net(2, 2), net(2, 2))))
    assert pair[0] is not pair[1]


class Own(nn.Module):
    def __init__(self, value, *, default=1.0):
        super().__init__()
        self.value = value
        self.default = default


def test_plain_torch_networks_are_written():
    network = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 4, bias=False))
    again = made(expression(posteriors.DiagonalNormal(network))).net
    assert shapes(again) == shapes(network)
    assert repr(again) == repr(network)


@pytest.mark.parametrize(
    "value", [True, None, 3, -0.1, 1e-9, float("inf"), float("nan"), "a'b", (), (1,), [1, (2, 3)]]
)
def test_plain_values_come_back(value):
    back = eval(expression(Own(value)), {"Own": Own, **SCOPE}).value
    assert repr(back) == repr(value)


def test_defaults_are_left_out_but_values_of_another_type_are_not():
    assert expression(Own(3)) == "Own(value=3)"
    assert expression(Own(3, default=True)) == "Own(value=3, default=True)"


class Raises(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 2)

    @property
    def width(self):
        raise RuntimeError("not now")


class Forgets(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(width, 2)


INEXPRESSIBLE = {
    "a lambda": (lambda: nets.MLP(2, 2, activation=lambda: nn.ReLU()), "activation=<function"),
    "an argument not kept": (lambda: Forgets(3), "(layer): Linear(in_features=3"),
    "an argument whose property raises": (lambda: Raises(3), "(layer): Linear(in_features=3"),
    "a torch container": (lambda: nn.ModuleDict({"a": nn.ReLU()}), "(a): ReLU()"),
    "a tensor": (lambda: Own(torch.zeros(3, 4)), "<a tensor of shape (3, 4)"),
    "a class of one's own": (lambda: Own(Forgets), "Own(value=Forgets)"),
    "half a module": (lambda: VAE.__new__(VAE), "VAE"),
}


@pytest.mark.parametrize("case", INEXPRESSIBLE)
@pytest.mark.parametrize("inside", [False, True])
def test_what_cannot_be_written_appears_as_its_repr(case, inside):
    make, words = INEXPRESSIBLE[case]
    module = Own((1, make())) if inside else make()
    assert words in expression(module)


def test_a_pair_with_a_users_network_has_a_repr():
    class Net(nn.Module):
        def __init__(self, out):
            super().__init__()
            self.layer = nn.Linear(Z, out)

        def forward(self, z):
            return self.layer(z)

    pair = pairs.vae().replace(likelihood=likelihoods.Bernoulli(Net(D)))
    assert "likelihood=likelihoods.Bernoulli(\n        net=Net(" in repr(pair)
    assert "prior=priors.StandardNormal(latent_dim=2)" in repr(pair)
