"""Weighted draws from a guide, against weights by hand."""

import pyro
import pyro.distributions as dist
import torch
from pairs import ssvae
from torch import nn

from ppl_vae.estimators.log_weights import weighted_particles
from ppl_vae.testing import DiscreteLinearGaussian, LinearGaussian, TwoLayerLinearGaussian


def test_weights_are_those_of_the_draws():
    oracle = LinearGaussian(3, 2, size=100, mask=torch.tensor([True, False, True, True]))
    x = torch.randn(4, 3, dtype=torch.float64)
    log_w, latents, _ = weighted_particles(oracle.model, oracle.guide, x, num_particles=5)
    assert list(latents) == ["z"]
    assert latents["z"].shape == (5, 4, 2)
    expected = oracle.log_weight(x, z=latents["z"]) * oracle.model.options.mask
    torch.testing.assert_close(log_w, expected)


def test_layers_and_a_given_plate_nesting():
    oracle = TwoLayerLinearGaussian(3, 2, 1)
    x = torch.randn(4, 3, dtype=torch.float64)
    runs = []
    oracle.guide.register_forward_hook(lambda *_: runs.append(1))
    for number in (5, 1):  # at first it is checked that programs keep particles apart
        runs.clear()
        log_w, latents, _ = weighted_particles(
            oracle.model, oracle.guide, x, num_particles=5, max_plate_nesting=1
        )
        assert len(runs) == number
    torch.testing.assert_close(log_w, oracle.log_weight(x, **latents))


def test_labels_of_the_guide_are_sampled_and_those_of_the_model_alone_summed_out():
    x = torch.randn(4, 3, dtype=torch.float64)
    oracle = DiscreteLinearGaussian(3, 2)
    log_w, latents, _ = weighted_particles(oracle.model, oracle.guide, x, num_particles=50)
    y, z = latents["y"], latents["z"]
    assert y.shape == (50, 4)
    assert z.shape == (50, 4, 2)
    assert y.unique().tolist() == [0, 1, 2]
    log_qy = oracle.log_qy(x).expand(50, 4, 3).gather(-1, y.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(log_w, oracle.log_weight(x, z=z, y=y) - log_qy)

    oracle = DiscreteLinearGaussian(3, 2, enumerate="model")
    log_w, latents, _ = weighted_particles(oracle.model, oracle.guide, x, num_particles=5)
    assert list(latents) == ["z"]
    torch.testing.assert_close(log_w, oracle.log_weight(x, z=latents["z"]))


def test_training_terms_are_left_out():
    class Guide(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x, 1.0))

    class Model(nn.Module):
        def forward(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)
                penalty = {"training_term": True}
                pyro.sample("penalty", dist.Normal(z, 0.1), obs=x, infer=penalty)

    x = torch.randn(4)
    log_w, latents, _ = weighted_particles(Model(), Guide(), x, num_particles=5)
    z, normal = latents["z"], torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(log_w, normal.log_prob(z), rtol=1e-5, atol=1e-5)


def test_missing_entries_are_left_out_by_name():
    pair, x = ssvae(), torch.ones(4, 6)
    mask = torch.rand(4, 6) < 0.5
    torch.manual_seed(0)
    log_w, latents, _ = weighted_particles(pair.model, pair.guide, x, num_particles=3, mask=mask)
    assert set(latents) == {"y", "z"}
    assert log_w.shape == (3, 4)
    torch.manual_seed(0)
    other = torch.where(mask, x, 0.0)
    again, _, _ = weighted_particles(pair.model, pair.guide, other, num_particles=3, mask=mask)
    assert torch.equal(log_w, again)
