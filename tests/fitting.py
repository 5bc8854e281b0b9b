"""Pairs and programs for tests of ``fit``, most of them of the bundled digits."""

import dataclasses
from functools import partial

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from ppl_vae import (
    VAE,
    SemiSupervisedVAE,
    data,
    likelihoods,
    nets,
    posteriors,
    priors,
)
from ppl_vae.training import fit

DIGITS = data.load("digits")
quiet = partial(fit, progress=False)


def digits_vae(latent=2):
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(latent),
        posterior=posteriors.DiagonalNormal(nets.MLP(64, 2 * latent, hidden=(32,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(latent, 64, hidden=(32,))),
    )


def digits_ssvae(**options):
    pyro.set_rng_seed(0)
    return SemiSupervisedVAE(
        prior=priors.StandardNormal(2),
        classifier=nets.MLP(64, 10, hidden=(8,)),
        posterior=posteriors.DiagonalNormal(nets.MLP(74, 4, hidden=(8,))),
        likelihood=likelihoods.Bernoulli(nets.MLP(12, 64, hidden=(8,))),
        num_classes=10,
        **options,
    )


def weights(pair):
    return {name: value.clone() for name, value in pair.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def scaled_by(likelihood, posterior=None):
    pyro.set_rng_seed(0)
    return VAE(
        prior=priors.StandardNormal(2),
        posterior=posterior or posteriors.DiagonalNormal(nets.MLP(64, 4, hidden=(8,))),
        likelihood=likelihood,
    )


@dataclasses.dataclass
class Own:
    model: nn.Module
    guide: nn.Module


class Shown(nn.Module):
    """Programs that note the arguments they are called with."""

    def __init__(self):
        super().__init__()
        self.model, self.guide = ShownModel(), ShownGuide()


class ShownModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = []
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, c=None):
        self.seen.append((x, c))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            loc = self.scale * z.unsqueeze(-1) * torch.ones(x[0].numel())
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x.flatten(1))


class ShownGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(()))

    def forward(self, x, c=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc.expand(len(x)), 1.0))
