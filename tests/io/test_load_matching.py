"""Weights of one pair for another: what has the same name and shape, and nothing else."""

import pytest
import torch

from ppl_vae import VAE, io, likelihoods, nets, posteriors, priors


def pair(features=5, prior=None, hidden=(), latent=2):
    posterior = posteriors.DiagonalNormal(nets.MLP(features, 2 * latent, hidden=list(hidden)))
    made = priors.StandardNormal(latent) if prior is None else prior(posterior)
    return VAE(
        prior=made,
        posterior=posterior,
        likelihood=likelihoods.Bernoulli(nets.MLP(latent, features, hidden=list(hidden))),
    )


def state(vae):
    return {name: tensor.clone() for name, tensor in vae.state_dict().items()}


def test_another_prior_takes_networks_and_keeps_its_own(tmp_path):
    vae = pair()
    other = pair(prior=lambda _: priors.GaussianMixture(2, components=3))
    own = state(other)
    found = io.load_matching(other, io.save(vae, tmp_path))
    assert set(found.taken) == set(vae.state_dict())
    assert found.left == ()
    assert set(found.new) == set(own) - set(vae.state_dict())
    assert found.new
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, vae.state_dict().get(name, own[name])), name


def test_a_posterior_that_a_prior_holds_is_taken_under_all_its_names(tmp_path):
    vae = pair()
    other = pair(prior=lambda posterior: priors.VampPrior(posterior, 3, event_shape=(5,)))
    found = io.load_matching(other, io.save(vae, tmp_path))
    assert other.prior.posterior is other.posterior
    assert found.new == ("model.prior.unfolded_inputs", "model.prior.logits")
    assert found.left == ()
    assert "model.prior.posterior.net.layers.0.weight" in found.taken


def test_another_width_is_left_and_said(tmp_path):
    vae, other = pair(hidden=[6]), pair(features=7, hidden=[6])
    found = io.load_matching(other, io.save(vae, tmp_path))
    assert set(found.left) == set(found.new)
    assert 0 < len(found.taken) < len(state(other))


def test_numbers_are_taken_in_the_pair_s_own_dtype(tmp_path):
    vae, other = pair().double(), pair()
    io.load_matching(other, io.save(vae, tmp_path))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name].float())


def test_nothing_that_matches_is_an_error_and_changes_nothing(tmp_path):
    vae, other = pair(), pair(features=7, latent=3)
    before = state(other)
    folder = io.save(vae, tmp_path)
    with pytest.raises(io.MismatchError, match="nothing in it has the name and the shape"):
        io.load_matching(other, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(other).items())
