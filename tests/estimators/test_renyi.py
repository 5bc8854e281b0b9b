"""Where Pyro's RenyiELBO departs from the importance-weighted bound, so that a mend is noticed.

Seen with Pyro 1.9.2. A test that fails here after an upgrade is good news: update the docs.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO

from ppl_vae.estimators import ImportanceWeightedELBO
from ppl_vae.testing import DiscreteLinearGaussian, LinearGaussian, TwoLayerLinearGaussian
from tests.estimators.test_gradients import draws

D, B, K = 3, 5, 8


def losses(oracle, x):
    """Ours and Pyro's, on the same draws."""
    ours = ImportanceWeightedELBO(K, max_plate_nesting=1)
    renyi = RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    values = []
    for estimator in (ours, renyi):
        torch.manual_seed(1)
        values.append(estimator.loss(oracle.model, oracle.guide, x))
    return values


@pytest.mark.parametrize(
    "options", [{}, {"beta": 0.5}, {"mask": torch.arange(B) != 1}], ids=["plain", "beta", "mask"]
)
@pytest.mark.parametrize("make", [LinearGaussian, TwoLayerLinearGaussian])
def test_agrees_without_subsampling(make, options, float64):
    dims = (D, 2) if make is LinearGaussian else (D, 2, 2)
    ours, renyi = losses(make(*dims, **options), torch.randn(B, D))
    assert renyi == pytest.approx(ours, rel=1e-12)


def test_keeps_the_size_of_the_data_set_inside_the_exponent(float64):
    oracle, x = LinearGaussian(D, 2, size=500), torch.randn(B, D)
    log_w = oracle.log_weight(x, z=draws(oracle, x, K)["z"])
    scale = 500 / B
    ours, renyi = losses(oracle, x)

    def log_mean_exp(log_w):
        return (log_w.logsumexp(0) - math.log(K)).sum().item()

    assert ours == pytest.approx(-scale * log_mean_exp(log_w), rel=1e-12)
    assert renyi == pytest.approx(-log_mean_exp(scale * log_w), rel=1e-12)


def test_its_value_under_subsampling_is_no_bound(float64):
    oracle, x = LinearGaussian(D, 2, size=500), torch.randn(B, D)
    exact = -500 / B * oracle.log_px(x).sum().item()
    ours, renyi = torch.tensor([losses(oracle, x) for _ in range(2)]).mean(0)
    assert renyi < exact < ours


def test_silently_takes_one_weight_for_the_batch(float64):
    def program(x, observe):
        shift = pyro.sample("shift", dist.Normal(torch.zeros(()), 1.0))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(shift, 1.0))
            if observe:
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def model(x):
        program(x, observe=True)

    def guide(x):
        program(x, observe=False)

    x = torch.randn(B)
    RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True).loss(model, guide, x)
    with pytest.raises(ValueError, match="'shift' is outside the batch plate"):
        ImportanceWeightedELBO(K).loss(model, guide, x)


def test_samples_where_it_should_enumerate(float64):
    oracle, x = DiscreteLinearGaussian(D, 2, 3, enumerate="guide"), torch.randn(B, D)
    with pytest.warns(UserWarning, match="enumerat"):
        losses(oracle, x)


def test_has_no_module_route(float64):
    oracle, x = LinearGaussian(D, 2), torch.randn(B, D)
    renyi = RenyiELBO(alpha=0, num_particles=K, vectorize_particles=True, max_plate_nesting=1)
    with pytest.raises(AttributeError, match="differentiable_loss"):
        renyi(oracle.model, oracle.guide)(x)
