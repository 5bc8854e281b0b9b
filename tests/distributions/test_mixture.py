"""Mixtures of arbitrary components."""

import pyro.distributions as dist
import pytest
import torch

from ppl_vae.distributions.mixture import Mixture


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_mixture_of_any_components():
    # Events of two dimensions, a batch besides the components'.
    loc = torch.randn(4, 3, 2, 5)
    logits = torch.randn(3)

    def of(loc):
        return dist.Laplace(loc, 1.0).to_event(2)

    mixture = Mixture(logits, of(loc), lambda k: of(loc[torch.arange(4), k]))
    reference = dist.MixtureSameFamily(dist.Categorical(logits=logits.expand(4, 3)), of(loc))
    value = torch.randn(6, 4, 2, 5)
    assert (mixture.batch_shape, mixture.event_shape) == ((4,), (2, 5))
    close(mixture.log_prob(value), reference.log_prob(value), 1e-5)
    close(mixture.mean, reference.mean, 1e-5)
    close(mixture.variance, reference.variance, 1e-5)
    assert mixture.sample((6,)).shape == (6, 4, 2, 5)
    assert mixture.expand((6, 4)).log_prob(value[0]).shape == (6, 4)


ERRORS = {
    "components that are not counted": (
        lambda: Mixture(torch.zeros(3), dist.Normal(torch.zeros(4), 1.0), lambda k: None),
        ValueError,
        r"must be the 3 of logits, got components of batch shape \(4,\)",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name, as_users_see_it):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
