"""Weights that match in name and shape are loaded into a pair of another kind."""

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


def test_with_another_prior_the_networks_are_loaded(tmp_path):
    vae = pair()
    other = pair(prior=lambda _: priors.GaussianMixture(2, components=3))
    own = state(other)
    found = io.load_matching(other, io.save(vae, tmp_path))
    assert set(found.taken) == set(vae.state_dict())
    assert found.left == ()
    assert set(found.new) == set(own) - set(vae.state_dict())
    assert found.new
    assert repr(found).startswith(f"Matched\n  taken  {len(found.taken)} tensors: ")
    assert f"<td>{len(found.new)} tensors: " in found._repr_html_()
    assert "0 tensors</td>" in found._repr_html_()
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, vae.state_dict().get(name, own[name])), name


def test_a_posterior_inside_a_prior_is_loaded_under_all_its_names(tmp_path):
    vae = pair()
    other = pair(prior=lambda posterior: priors.VampPrior(posterior, 3, event_shape=(5,)))
    found = io.load_matching(other, io.save(vae, tmp_path))
    assert other.prior.posterior is other.posterior
    own = ("unfolded_inputs", "logits", "_extra_state")
    assert found.new == tuple(f"model.prior.{name}" for name in own)
    assert found.left == ()
    assert "model.prior.posterior.net.layers.0.weight" in found.taken


def test_bounds_of_pseudo_inputs_are_loaded_with_them(tmp_path):
    def vamp(pseudo_inputs):
        return pair(prior=lambda q: priors.VampPrior(q, pseudo_inputs, event_shape=(5,)))

    vae, same, more = vamp(3), vamp(3), vamp(4)
    vae.initialise_from(torch.rand(9, 5))
    folder = io.save(vae, tmp_path)
    found = io.load_matching(same, folder)
    assert (same.prior.bounds, found.new) == ((0, 1), ())
    io.load_matching(more, folder)
    assert more.prior.bounds == "data"


def test_tensors_of_another_shape_are_reported(tmp_path):
    vae, other = pair(hidden=[6]), pair(features=7, hidden=[6])
    found = io.load_matching(other, io.save(vae, tmp_path))
    assert set(found.left) == set(found.new)
    assert 0 < len(found.taken) < len(state(other))


def test_values_are_converted_to_the_pairs_dtype(tmp_path):
    vae, other = pair().double(), pair()
    io.load_matching(other, io.save(vae, tmp_path))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name].float())


def test_no_match_is_an_error_and_changes_nothing(tmp_path):
    vae, other = pair(), pair(features=7, latent=3)
    before = state(other)
    folder = io.save(vae, tmp_path)
    with pytest.raises(io.MismatchError, match="nothing in it has the name and shape"):
        io.load_matching(other, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(other).items())
