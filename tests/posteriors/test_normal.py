"""Normal posteriors: covariances, precision in many dimensions, errors."""

import math

import pytest
import torch
from torch import nn

from ppl_vae import posteriors


class Gives(nn.Module):
    """A network that returns what it is given."""

    def forward(self, x):
        return x


def close(got, expected, tolerance=1e-10):
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def softplus(s):
    return s.exp().log1p() + 1e-4


def same_as(q, loc, covariance):
    """Compare with torch's normal of the same mean and covariance matrix."""
    expected = torch.distributions.MultivariateNormal(loc, covariance_matrix=covariance)
    z = torch.randn(9, *loc.shape)
    close(q.mean, loc)
    close(q.covariance_matrix, covariance)
    close(q.variance, covariance.diagonal(dim1=-2, dim2=-1))
    close(q.log_prob(z), expected.log_prob(z))
    close(q.entropy(), expected.entropy())


@pytest.mark.parametrize("d", [1, 2, 3, 10])
def test_full_rank_is_the_normal_of_its_covariance(d, float64):
    features = posteriors.FullRankNormal.net_features(d)
    assert features == d + d * (d + 1) // 2
    outputs = torch.randn(2, 5, features)
    loc, diagonal = outputs[..., :d], outputs[..., d : 2 * d]
    L = torch.zeros(2, 5, d, d)
    position = 2 * d
    for i in range(d):
        L[..., i, i] = softplus(diagonal[..., i])
        for j in range(i):
            L[..., i, j] = L[..., i, i] * outputs[..., position] / math.sqrt(d)
            position += 1
    assert position == features
    same_as(posteriors.FullRankNormal(Gives())(outputs), loc, L @ L.mT)


@pytest.mark.parametrize(("d", "rank"), [(1, 1), (4, 1), (4, 2), (3, 5)])
def test_low_rank_is_the_normal_of_its_covariance(d, rank, float64):
    features = posteriors.LowRankNormal.net_features(d, rank=rank)
    assert features == (2 + rank) * d
    outputs = torch.randn(2, 5, features)
    loc, scale = outputs[..., :d], softplus(outputs[..., d : 2 * d])
    W = torch.stack(
        [outputs[..., 2 * d + i * rank : 2 * d + (i + 1) * rank] for i in range(d)], -2
    ) / math.sqrt(rank)
    W = scale.unsqueeze(-1) * W
    covariance = torch.diag_embed(scale.square()) + W @ W.mT
    same_as(posteriors.LowRankNormal(Gives(), rank)(outputs), loc, covariance)


def test_variances_stay_of_unit_size_in_many_dimensions():
    for d in (2, 64):
        full = torch.randn(500, posteriors.FullRankNormal.net_features(d))
        low = torch.randn(500, posteriors.LowRankNormal.net_features(d, rank=d))
        assert posteriors.FullRankNormal(Gives())(full).variance.mean() < 2
        assert posteriors.LowRankNormal(Gives(), d)(low).variance.mean() < 2


@pytest.mark.parametrize("shift", [0.0, -4.0, -9.0])
def test_normals_are_safe_in_float32_in_many_dimensions(shift):
    # The largest error of 500 densities of some 50 nats, at scales down to 2e-4.
    d, rank = 50, 10
    for q, features in [
        (posteriors.FullRankNormal(Gives()), posteriors.FullRankNormal.net_features(d)),
        (posteriors.LowRankNormal(Gives(), rank), (2 + rank) * d),
    ]:
        outputs = torch.randn(500, features)
        outputs[:, d : 2 * d] += shift
        z = q(outputs).sample()
        error = q(outputs).log_prob(z) - q(outputs.double()).log_prob(z.double())
        assert error.abs().max() < 1e-3


def test_net_features_are_what_the_parts_take():
    assert posteriors.DiagonalNormal.net_features(10) == 20
    assert posteriors.Categorical.net_features(10) == 10
    assert posteriors.GaussianMixture.net_features(10, components=3) == 63
    for part, features in [
        (posteriors.DiagonalNormal(Gives()), 20),
        (posteriors.FullRankNormal(Gives()), posteriors.FullRankNormal.net_features(10)),
        (posteriors.LowRankNormal(Gives(), 3), 50),
        (posteriors.GaussianMixture(Gives(), 3), 63),
    ]:
        assert part(torch.zeros(4, features)).event_shape == (10,)


ERRORS = {
    "a width of no full rank": (
        lambda: posteriors.FullRankNormal(Gives())(torch.zeros(3, 7)),
        ValueError,
        r"d \+ d \(d \+ 1\) / 2 features.*5 \(d = 2\) or 9 \(d = 3\).*\(3, 7\)",
    ),
    "a width below all": (
        lambda: posteriors.FullRankNormal(Gives())(torch.zeros(3, 1)),
        ValueError,
        r"2 \(d = 1\) or 5 \(d = 2\)",
    ),
    "a width of no low rank": (
        lambda: posteriors.LowRankNormal(Gives(), 2)(torch.zeros(3, 7)),
        ValueError,
        r"a multiple of 4 for rank 2, got an output of shape \(3, 7\)",
    ),
    "rank zero": (
        lambda: posteriors.LowRankNormal(Gives(), 0),
        ValueError,
        "rank must be 1 or more, got 0; DiagonalNormal",
    ),
    "a rank that is no number": (
        lambda: posteriors.LowRankNormal(Gives(), "2"),
        TypeError,
        "rank must be an integer",
    ),
    "a width that is no multiple": (
        lambda: posteriors.GaussianMixture(Gives(), 3)(torch.zeros(4, 16)),
        ValueError,
        r"components \* \(2 \* latent_dim \+ 1\).*9, 15, 21, \.\.\. for 3 components.*\(4, 16\)",
    ),
    "an odd width": (
        lambda: posteriors.DiagonalNormal(Gives())(torch.zeros(4, 3)),
        ValueError,
        r"DiagonalNormal: net must return location.*\(4, 3\)",
    ),
    "features of no dimension": (
        lambda: posteriors.FullRankNormal.net_features(0),
        ValueError,
        "latent_dim must be 1 or more",
    ),
    "a function": (
        lambda: posteriors.LowRankNormal(lambda x: x, 2),
        TypeError,
        "LowRankNormal: net must be a",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_bad_input(name, as_users_see_it):
    call, error, message = ERRORS[name]
    with pytest.raises(error, match=message):
        call()
