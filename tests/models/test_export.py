"""torch.export traces encode and decode, whatever is validated."""

import pytest
import torch
from evaluated import conditional, hierarchical
from pairs import LIKELIHOODS, D, ssvae, vae
from torch import nn
from torch.distributions import Distribution
from torch.export import Dim, export

pytestmark = pytest.mark.usefixtures("as_users_see_it")
X = (torch.arange(6 * D).reshape(6, D) % 2).float()


class Calling(nn.Module):
    """A method of a pair as a module."""

    def __init__(self, pair, method):
        super().__init__()
        self.pair = pair
        self.method = method

    def forward(self, *args):
        return getattr(self.pair, self.method)(*args)


def check(pair, method, *args):
    assert Distribution._validate_args  # as it is by default
    pair.train()
    exported = export(Calling(pair, method), args, strict=False)
    assert Distribution._validate_args
    assert all(part.training for part in pair.modules())
    assert torch.equal(exported.module()(*args), getattr(pair, method)(*args))


@pytest.mark.parametrize("posterior", ["diagonal", "full rank"])
def test_encode(posterior):
    check(vae(posterior=posterior), "encode", X)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_decode(likelihood):
    pair = vae(likelihood=likelihood)
    z = pair.prior().sample((6,))
    assert torch.allclose(pair.decode(z), pair.likelihood(z).mean)
    check(pair, "decode", z)


@pytest.mark.parametrize("make", [conditional, ssvae])
def test_with_labels(make):
    pair, y = make(), torch.tensor([0, 1, 2, 0, 1, 2])
    check(pair, "encode", X, y)
    check(pair, "decode", pair.encode(X, y), y)
    with pytest.raises(ValueError, match="integer labels from 0"):
        pair.decode(pair.encode(X, y), y + 7)


def test_layers():
    pair = hierarchical()
    latents = pair.encode(X)
    check(pair, "decode", latents)
    exported = export(Calling(pair, "encode"), (X,), strict=False)
    assert all(map(torch.equal, exported.module()(X), latents))


def test_any_number_of_data():
    pair = vae()
    sizes = ({0: Dim("batch")},)
    exported = export(Calling(pair, "encode"), (X,), dynamic_shapes=(sizes,), strict=False)
    assert torch.equal(exported.module()(X[:3]), pair.encode(X[:3]))
