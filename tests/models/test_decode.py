"""`decode` of every pair: E[x | z] for tensors and arrays, and errors that say what is wrong."""

import numpy as np
import pytest
import torch
from evaluated import conditional, hierarchical
from pairs import CODE_POSTERIORS, LIKELIHOODS, D, Z, code_vae, net, ssvae, vae
from pyro.distributions import Normal
from torch import nn
from torch.distributions import Distribution

from ppl_vae import SemiSupervisedVAE, StackedVAE, likelihoods, posteriors, priors

Y = torch.tensor([0, 1, 2, 0])


def stacked():
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=net(Z, 3),
        posterior=posteriors.DiagonalNormal(net(Z + 3, 4)),
        likelihood=likelihoods.Normal(net(2 + 3, Z)),
        num_classes=3,
    )
    return StackedVAE(first=vae(), second=second)


PAIRS = {
    **{name: (lambda name=name: vae(likelihood=name), ()) for name in LIKELIHOODS},
    **{name: (lambda name=name: code_vae(posterior=name), ()) for name in CODE_POSTERIORS},
    "ssvae": (ssvae, (Y,)),
    "conditional": (conditional, (Y,)),
    "layers": (hierarchical, ()),
    "stacked": (stacked, (Y,)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_tensors_and_arrays_give_the_same(name):
    make, given = PAIRS[name]
    pair = make().train()
    x = pair.generate(4) if name not in ("conditional", "ssvae") else pair.generate(*_number(name))
    z = pair.encode(x, *given)
    as_array = [t.numpy() for t in z] if isinstance(z, tuple) else z.numpy()
    mean = pair.decode(z, *given)
    assert torch.equal(mean, pair.decode(as_array, *(t.numpy() for t in given)))
    assert mean.shape == x.shape
    assert not mean.requires_grad
    assert pair.training
    if not given and not isinstance(z, tuple):
        assert torch.allclose(mean, pair.likelihood(z).mean)
        assert torch.allclose(mean[:1], pair.decode(z[:1]), atol=1e-6)


def _number(name):
    return (Y,) if name == "conditional" else (4, Y)


@pytest.mark.parametrize(
    ("z", "named"),
    [
        (torch.zeros(3, Z + 1), "expected 2 features on the last dimension"),
        (torch.zeros(3, Z).double(), "torch.float64"),
        (torch.zeros(3, Z, dtype=torch.long), "torch.int64"),
        (torch.zeros(3, Z, device="meta"), "is on cpu, but its input .* on meta"),
        (torch.full((3, Z), torch.nan), "is NaN or infinite at 6 of 6 entries"),
    ],
)
@pytest.mark.usefixtures("as_users_see_it")
def test_wrong_latents_are_named(z, named):
    with pytest.raises(ValueError, match=named):
        vae().decode(z)


@pytest.mark.parametrize("make", [ssvae, conditional, stacked])
@pytest.mark.parametrize("z", [[[0.0, 1.0]], 3, None, torch.tensor(3.0), torch.zeros(Z)])
@pytest.mark.usefixtures("as_users_see_it")
def test_latents_that_come_with_labels_must_be_a_batch(make, z):
    with pytest.raises(TypeError, match=r"decode: z must be a tensor of shape \(batch, latent_dim"):
        make().decode(z, Y)


class NoMean(Normal):
    """A normal distribution whose mean has no closed form."""

    mean = property(lambda self: Distribution.mean.fget(self))


class Meanless(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.net = net(features, D)

    def forward(self, *context):
        return NoMean(self.net(torch.cat(context, -1)), 1.0).to_event(1)


X = torch.zeros(4, D)
MEANS = {
    "vae, decode": (vae, Z, lambda p: p.decode(torch.zeros(4, Z))),
    "vae, reconstruct": (vae, Z, lambda p: p.reconstruct(X)),
    "vae, generate": (vae, Z, lambda p: p.generate(4, mean=True)),
    "vae, impute": (vae, Z, lambda p: p.impute(X, X > 0, mean=True)),
    "vae, impute, twice": (vae, Z, lambda p: p.impute(X, X > 0, mean=True, num_samples=2)),
    "ssvae, decode": (ssvae, Z + 3, lambda p: p.decode(torch.zeros(4, Z), Y)),
    "ssvae, reconstruct": (ssvae, Z + 3, lambda p: p.reconstruct(X)),
    "ssvae, generate": (ssvae, Z + 3, lambda p: p.generate(4, mean=True)),
    "conditional, decode": (conditional, Z + 3, lambda p: p.decode(torch.zeros(4, Z), Y)),
    "conditional, reconstruct": (conditional, Z + 3, lambda p: p.reconstruct(X, Y)),
    "conditional, generate": (conditional, Z + 3, lambda p: p.generate(Y, mean=True)),
    "layers, decode": (hierarchical, 3, lambda p: p.decode(p.encode(X))),
    "layers, reconstruct": (hierarchical, 3, lambda p: p.reconstruct(X)),
    "layers, generate": (hierarchical, 3, lambda p: p.generate(4, mean=True)),
}


@pytest.mark.parametrize("case", MEANS)
def test_a_mean_without_closed_form_is_refused_by_name(case):
    make, features, call = MEANS[case]
    owner = case.split(", ")[1]
    with pytest.raises(NotImplementedError, match=rf"{owner}: the mean of the Meanless.*draw\s+x"):
        call(make().replace(likelihood=Meanless(features)))


def test_a_mean_without_closed_form_of_the_first_of_two_pairs():
    pair = stacked()
    pair = StackedVAE(first=pair.first.replace(likelihood=Meanless(Z)), second=pair.second)
    for call in (pair.reconstruct, lambda x: pair.generate(len(x), mean=True)):
        with pytest.raises(NotImplementedError, match=r"the mean of the Meanless.*draw\s+x"):
            call(X)


@pytest.mark.usefixtures("as_users_see_it")
def test_layers_in_the_wrong_number_or_order():
    pair = hierarchical()
    latents = pair.encode(torch.zeros(2, D))
    for wrong in (latents[0], latents[:1], np.zeros((2, 3))):
        with pytest.raises(ValueError, match="the 2 tensors that encode returns"):
            pair.decode(wrong)
