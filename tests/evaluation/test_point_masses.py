"""Guides that are a point mass: what cannot be computed from their draws says so."""

import warnings

import pyro.distributions as dist
import pytest
import torch
from pairs import D, Z, binary, code_vae, net, vae

from ppl_vae import VAE, likelihoods, priors
from ppl_vae.conditional import NeuralConditional
from ppl_vae.evaluation import (
    ImportanceResampling,
    annealed_importance_sampling,
    bidirectional_monte_carlo,
    kl_decomposition,
    log_likelihood,
    posterior_draws,
)

SETTINGS = {"num_chains": 4, "num_temperatures": 3}


class Point(NeuralConditional):
    """q(z | x) at the network's output alone."""

    def forward(self, *context):
        return dist.Delta(self.outputs(*context), event_dim=1)


def deterministic():
    return VAE(
        prior=priors.StandardNormal(Z),
        posterior=Point(net(D, Z)),
        likelihood=likelihoods.Bernoulli(net(Z, D)),
    )


PAIRS = {"vectors": lambda: code_vae("vectors"), "deterministic": deterministic}


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_imputation_from_equal_particles_warns(name, mean):
    pair, x = PAIRS[name](), binary(5)
    mask = torch.rand(x.shape) > 0.4
    told = "the guide draws 'z' from a single point.*num_particles=7 are alike.*num_particles=1"
    with pytest.warns(UserWarning, match=told):
        pair.impute(x, mask, num_particles=7, mean=mean)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filled = pair.impute(x, mask, num_particles=1, mean=mean)
        vae().impute(x, mask, num_particles=7, mean=mean)
    assert torch.equal(filled[mask], x[mask])
    if mean:
        expected = pair.likelihood(pair.posterior(torch.where(mask, x, 0.0)).mean).mean
        torch.testing.assert_close(filled[~mask], expected[~mask])


ADVICE = {
    "vae": (
        vae,
        "take more than num_samples=30, or use annealed",
        "num_particles, or refine='hmc'",
    ),
    "binary": (code_vae, "take more than num_samples=30$", "take more num_particles$"),
    "deterministic": (deterministic, "there; use annealed_importance_sampling$", "do not help"),
    "vectors": (PAIRS["vectors"], "more draws do not help: the guide draws 'z'", "do not help"),
}


@pytest.mark.parametrize("name", ADVICE)
def test_warnings_of_heavy_tails_advise_what_works(name, monkeypatch, little_tuning):
    for module in ("pareto", "refined_draws"):
        monkeypatch.setattr(f"ppl_vae.evaluation.{module}.UNRELIABLE", -1.0)
    make, of_evidence, of_draws = ADVICE[name]
    pair, x = make(), binary(3)
    with pytest.warns(UserWarning, match=f"log_likelihood: Pareto .*{of_evidence}"):
        log_likelihood(pair, x, num_samples=30)
    with pytest.warns(UserWarning, match=f"posterior_draws: Pareto .*{of_draws}"):
        posterior_draws(pair, x, num_samples=8, refine=ImportanceResampling(30))
    if "annealed" in of_evidence:
        annealed_importance_sampling(pair, x, **SETTINGS)


def test_chains_cannot_start_from_a_point_mass(little_tuning):
    pair, x = deterministic(), binary(3)
    for call in (
        lambda: annealed_importance_sampling(pair, x, start="posterior", **SETTINGS),
        lambda: bidirectional_monte_carlo(pair, 3, start="posterior", **SETTINGS),
    ):
        with pytest.raises(NotImplementedError, match=r"'z' from a single point.*start='prior'"):
            call()
    assert annealed_importance_sampling(pair, x, **SETTINGS).log_px.isfinite().all()


def test_the_kl_of_a_point_mass_to_a_density_is_not_split():
    with pytest.raises(NotImplementedError, match=r"p\(z\) a density: the KL is infinite"):
        kl_decomposition(deterministic(), binary(9))
    found = kl_decomposition(code_vae("vectors"), binary(9))
    assert found.mutual_information.mean >= 0
