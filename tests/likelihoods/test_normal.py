"""Normal and Laplace likelihoods, against formulas by hand."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from ppl_vae import likelihoods


def softplus(a):
    return np.logaddexp(0, a) + 1e-4


@pytest.mark.parametrize("scale", [0.7, 2, "learned", "parameter", "per-pixel"])
@pytest.mark.parametrize("cls", [likelihoods.Normal, likelihoods.Laplace])
def test_location_and_scale(cls, scale, float64):
    event_shape, count = (2, 3, 4), 2 if scale == "per-pixel" else 1
    outputs, x = torch.randn(5, 2 * count, 3, 4), torch.randn(5, *event_shape)
    part = cls(nn.Identity(), scale, event_dim=3)
    sigma = 2.0 if scale == 2 else 0.7
    if scale == "learned":
        assert list(part.state_dict()) == ["log_ratio", "running_error"]
        assert part(outputs).base_dist.scale.unique().item() == 1.0
        nn.init.constant_(part.log_ratio, -0.3)
        nn.init.constant_(part.running_error, 0.09)
        sigma = math.exp(-0.3) * (0.3 if cls is likelihoods.Normal else 0.09)
    elif scale == "parameter":
        assert list(part.state_dict()) == ["log_scale"]
        assert part.log_scale.item() == 0
        nn.init.constant_(part.log_scale, -0.3)
        sigma = math.exp(-0.3) + 1e-4
    elif scale == "per-pixel":
        sigma = softplus(outputs[:, 2:].numpy())
    family = scipy.stats.norm if cls is likelihoods.Normal else scipy.stats.laplace
    expected = family.logpdf(x.numpy(), outputs[:, :2].numpy(), sigma).sum((1, 2, 3))
    torch.testing.assert_close(part(outputs).log_prob(x).detach(), torch.tensor(expected))
    torch.testing.assert_close(part(outputs).mean, outputs[:, :2])
