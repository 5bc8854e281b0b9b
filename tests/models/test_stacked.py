"""M1+M2: a semi-supervised VAE stacked on the latents of a VAE."""

import copy
import math

import pyro
import pytest
import torch
from pairs import C, D, Z, binary, net, ssvae
from pyro.infer import SVI, TraceEnum_ELBO

from ppl_vae import (
    VAE,
    SemiSupervisedVAE,
    StackedVAE,
    evaluation,
    likelihoods,
    posteriors,
    priors,
)

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def stacked():
    first = VAE(
        prior=priors.StandardNormal(4),
        posterior=posteriors.DiagonalNormal(net(D, 8)),
        likelihood=likelihoods.Bernoulli(net(4, D)),
    )
    second = SemiSupervisedVAE(
        prior=priors.StandardNormal(Z),
        classifier=net(4, C),
        posterior=posteriors.DiagonalNormal(net(4 + C, 2 * Z)),
        likelihood=likelihoods.Normal(net(Z + C, 8), "per-pixel"),
        num_classes=C,
    )
    return StackedVAE(first=first, second=second)


def test_stacked_feeds_latents_of_one_pair_to_another():
    pair, x = stacked(), binary()
    z1 = pair.first.posterior(x).mean
    torch.testing.assert_close(pair.classify(x), pair.second.classify(z1))
    torch.testing.assert_close(pair.encode(x, LABELS), pair.second.encode(z1, LABELS))
    torch.manual_seed(0)
    drawn = pair.latents(x)
    torch.manual_seed(0)
    torch.testing.assert_close(drawn, pair.first.posterior(x).sample())
    assert not drawn.requires_grad
    y = torch.tensor([0, 1, 2])
    torch.manual_seed(0)
    mean = pair.generate(3, y, mean=True)
    torch.manual_seed(0)
    torch.testing.assert_close(mean, pair.first.likelihood(pair.second.generate(3, y)).mean)
    assert pair.generate(5).shape == (5, D)
    assert pair.reconstruct(x).shape == x.shape
    assert 0 <= evaluation.accuracy(pair, x, LABELS).mean <= 1


def test_training_the_second_leaves_the_first_alone():
    pair, x = stacked(), binary()
    first, second = (copy.deepcopy(dict(p.named_parameters())) for p in (pair.first, pair.second))
    enum = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    svi = SVI(pair.second.model, pair.second.guide, pyro.optim.Adam({"lr": 0.01}), enum)
    assert math.isfinite(svi.step(pair.latents(x)))
    assert all(torch.equal(p, first[n]) for n, p in pair.first.named_parameters())
    assert not [n for n, p in pair.second.named_parameters() if torch.equal(p, second[n])]


def test_stacked_errors(as_users_see_it):
    pair = stacked()
    with pytest.raises(ValueError, match=r"first has latents of shape \(4,\) and second data"):
        StackedVAE(first=pair.first, second=ssvae())
    with pytest.raises(TypeError, match="second must be a SemiSupervisedVAE"):
        StackedVAE(first=pair.first, second=pair.first)
