"""Chunks of particles leave running statistics as one run of the model does."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from ppl_vae import VAE, HierarchicalVAE, likelihoods, nets, posteriors, priors
from ppl_vae.estimators import ImportanceWeightedELBO


@pytest.mark.parametrize("gradient", ["iwae", "dreg"])
@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_chunks_move_a_running_error_once(chunk_size, gradient, float64):
    """The scale of a Normal is that of a running mean, which a run of the model moves."""
    found = []
    for chunk in (None, chunk_size):
        torch.manual_seed(0)
        vae = VAE(
            prior=priors.StandardNormal(2),
            posterior=posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=(5,))),
            likelihood=likelihoods.Normal(nets.MLP(2, 6, hidden=(5,)), "learned"),
        )
        x, steps = torch.randn(7, 6), []
        elbo = ImportanceWeightedELBO(4, gradient, chunk_size=chunk, max_plate_nesting=1)
        for _ in range(3):
            loss = elbo.differentiable_loss(vae.model, vae.guide, x)
            steps += [loss.detach(), *torch.autograd.grad(loss, [*vae.parameters()])]
            steps.append(vae.likelihood.running_error.clone())
        found.append(steps)
    for whole, chunks in zip(*found, strict=True):
        torch.testing.assert_close(chunks, whole)


class FirstRun(nn.Module):
    """A network that replaces a buffer by one of another shape when it first runs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 6)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, z):
        if len(self.seen) == 1:
            self.seen = torch.ones(3)
        return self.linear(z)


def test_buffers_that_a_first_run_makes_stay():
    network = FirstRun()
    vae = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=(5,))),
        likelihood=likelihoods.Bernoulli(network),
    )
    network.seen = torch.zeros(1)  # the parts were run when they were put together
    elbo = ImportanceWeightedELBO(4, chunk_size=2, max_plate_nesting=1)
    with pyro.validation_enabled(False):  # which runs new programs on copies before
        elbo.differentiable_loss(vae.model, vae.guide, torch.zeros(7, 6)).backward()
    assert len(network.seen) == 3


def test_chunks_count_a_batch_of_batch_normalisation_once():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5)
    vae = VAE(
        prior=priors.StandardNormal(2),
        posterior=posteriors.DiagonalNormal(nets.MLP(6, 4, hidden=(5,))),
        likelihood=likelihoods.Bernoulli(
            nets.KeepLeading(nn.Sequential(nn.Linear(2, 5), norm, nn.Linear(5, 6)), 1)
        ),
    )
    x = torch.randn(7, 6).sigmoid().round()
    elbo = ImportanceWeightedELBO(4, chunk_size=2, max_plate_nesting=1)
    torch.manual_seed(1)
    before = norm.running_mean.clone()
    seen = []
    norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    elbo.differentiable_loss(vae.model, vae.guide, x).backward()
    assert norm.num_batches_tracked == 1
    mean = torch.cat(seen[:2]).mean(0)  # of both chunks; they run again for the gradient
    torch.testing.assert_close(norm.running_mean, before.lerp(mean, norm.momentum))


def test_a_guide_whose_graph_is_cut_counts_a_batch_once():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5)
    encoder = nn.Sequential(nn.Linear(6, 5), norm, nn.Linear(5, 4))
    vae = HierarchicalVAE(
        prior=priors.StandardNormal(1),
        conditionals=[priors.ConditionalNormal(nets.MLP(1, 2 * 2, hidden=(3,)))],
        posteriors=[
            posteriors.DiagonalNormal(nets.KeepLeading(encoder, 1)),
            posteriors.DiagonalNormal(nets.MLP(2, 2, hidden=(3,))),
        ],
        likelihood=likelihoods.Bernoulli(nets.MLP(2, 6, hidden=(5,))),
    )
    x = torch.randn(7, 6).sigmoid().round()
    elbo = ImportanceWeightedELBO(3, "dreg", max_plate_nesting=1)
    elbo.differentiable_loss(vae.model, vae.guide, x).backward()
    assert norm.num_batches_tracked == 1


class OutsideThePlate(nn.Module):
    """A guide with batch normalisation and a latent outside of the plate."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x):
        pyro.sample("t", dist.Normal(0.0, 1.0))
        h = self.norm(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(h, 1.0).to_event(1))


def test_the_search_for_a_way_counts_a_batch_once():
    def model(x):
        t = pyro.sample("t", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + t, 1.0).to_event(1), obs=x)

    guide, x = OutsideThePlate(), 5 + torch.randn(8, 2)
    elbo = ImportanceWeightedELBO(1)
    for step in (1, 2):
        elbo.differentiable_loss(model, guide, x).backward()
        assert guide.norm.num_batches_tracked == step
        expected = (1 - 0.9**step) * x.mean(0)
        torch.testing.assert_close(guide.norm.running_mean, expected)
