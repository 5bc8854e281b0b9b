"""Likelihoods of grey levels: the grid, masses and samples, flat and RGB."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from scipy.special import expit, logsumexp
from torch import nn

from ppl_vae import likelihoods
from ppl_vae.distributions.grey import GreyCategorical, GreyGrid, level_of
from ppl_vae.distributions.logistic import DiscretisedLogisticMixture


def width_options(cls, options):
    """Return the options on which the network's width depends."""
    taken = inspect.signature(cls.net_shape).parameters
    return {k: v for k, v in options.items() if k in taken}


def given(cls, outputs, event_dim=1, **options):
    """Return the likelihood whose network's output is ``outputs``."""
    return cls(nn.Identity(), event_dim=event_dim, **options).to(outputs.dtype)(outputs)


@pytest.mark.parametrize("levels", [2, 3, 17, 256, 1024])
def test_the_grid_holds_whatever_the_dtype_and_only_the_grid(levels):
    k = torch.arange(levels)
    for grid in (k.float() / (levels - 1), (k.double() / (levels - 1)), k / float(levels - 1)):
        for values in (grid, grid.double(), grid.float()):
            assert GreyGrid(levels).check(values).all()
            assert torch.equal(level_of(values, levels), k)
    off = (k.double() + torch.tensor([[0.02], [0.5], [-0.02]])) / (levels - 1)
    assert not GreyGrid(levels).check(off).any()
    # Without validation, values that are no level still make no index outside the table.
    wrong = level_of(torch.tensor([math.nan, math.inf, -math.inf, -3.0, 7.0]), levels)
    assert ((wrong >= 0) & (wrong < levels)).all()
    assert str(GreyGrid(levels)) == f"k / {levels - 1} for k = 0, ..., {levels - 1}"


def softplus(a):
    return np.logaddexp(0, a) + 1e-4


def reference_logistic(level, loc, scale, levels):
    """log P(level) of one discretised logistic, as the difference of two distribution functions."""
    y, half = 2 * level / (levels - 1) - 1, 1 / (levels - 1)
    upper = 1.0 if level == levels - 1 else expit((y + half - loc) / scale)
    lower = 0.0 if level == 0 else expit((y - half - loc) / scale)
    return np.log(upper - lower)


def test_logistic_mixture_of_flat_data(float64):
    levels, m, d = 5, 3, 4
    outputs, level = torch.randn(2, 3 * m * d), torch.randint(levels, (2, d))
    p = given(likelihoods.DiscretisedLogisticMixture, outputs, components=m, levels=levels)
    logits, loc, raw = outputs.reshape(2, 3, m, d).numpy().swapaxes(0, 1)
    expected = np.zeros(2)
    for b in range(2):
        for i in range(d):
            weights = logits[b, :, i] - logsumexp(logits[b, :, i])
            expected[b] += logsumexp(
                [
                    weights[c]
                    + reference_logistic(
                        level[b, i].item(), loc[b, c, i], softplus(raw[b, c, i]), levels
                    )
                    for c in range(m)
                ]
            )
    torch.testing.assert_close(p.log_prob(level / (levels - 1.0)), torch.tensor(expected))


def rgb(levels, m, h=2, w=3, batch=2):
    outputs = torch.randn(batch, 10 * m, h, w)
    outputs[:, 7 * m :] *= 3  # strong regressions
    p = given(
        likelihoods.DiscretisedLogisticMixture, outputs, event_dim=3, components=m, levels=levels
    )
    return outputs, p


def rgb_parameters(outputs, m):
    """Return log-weights (M,), and loc, scale, coefficients (M, 3), from a pixel's 10 M numbers."""
    logits, rest = outputs[:m], outputs[m:].reshape(3, m, 3)
    return logits - logsumexp(logits), rest[0], softplus(rest[1]), np.tanh(rest[2])


def reference_pixel(level, outputs, m, levels, channels=3):
    """log P of the first channels of one RGB pixel: Salimans et al. 2017, equations 1 to 3."""
    log_pi, mu, s, coefficients = rgb_parameters(outputs, m)
    alpha, beta, gamma = coefficients.T
    red, green = (2 * level[c] / (levels - 1) - 1 for c in (0, 1))
    terms = []
    for c in range(m):
        means = [mu[c, 0], mu[c, 1] + alpha[c] * red, mu[c, 2] + beta[c] * red + gamma[c] * green]
        terms.append(
            log_pi[c]
            + sum(reference_logistic(level[k], means[k], s[c, k], levels) for k in range(channels))
        )
    return logsumexp(terms)


def test_logistic_mixture_of_rgb_images(float64):
    levels, m = 6, 4
    outputs, p = rgb(levels, m)
    level = torch.randint(levels, (2, 3, 2, 3))
    expected = [
        sum(
            reference_pixel(level[b, :, i, j].tolist(), outputs[b, :, i, j].numpy(), m, levels)
            for i in range(2)
            for j in range(3)
        )
        for b in range(2)
    ]
    torch.testing.assert_close(p.log_prob(level / (levels - 1.0)), torch.tensor(expected))


def test_masses_of_rgb_given_previous_channels_sum_to_one(float64):
    levels, m = 4, 3
    outputs, p = rgb(levels, m, 1, 1, batch=1)
    every = torch.cartesian_prod(*3 * [torch.arange(levels)])
    mass = p.log_prob(every[..., None, None] / (levels - 1.0)).exp().reshape(3 * (levels,))
    numbers = outputs.flatten().numpy()
    for r in range(levels):
        for g in range(levels):
            two = reference_pixel([r, g], numbers, m, levels, channels=2)
            assert mass[r, g].sum().log().item() == pytest.approx(two, abs=1e-12)
        one = reference_pixel([r, 0], numbers, m, levels, channels=1)
        assert mass[r].sum().log().item() == pytest.approx(one, abs=1e-12)
    assert mass.sum().item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("cls", [likelihoods.Categorical, likelihoods.DiscretisedLogisticMixture])
def test_masses_of_grey_levels_sum_to_one_with_their_moments(cls, levels, float64):
    options = {"levels": levels}
    if cls is likelihoods.DiscretisedLogisticMixture:
        options["components"] = 3
    shape = cls.net_shape((5,), **width_options(cls, options))
    p = given(cls, 2 * torch.randn(7, *shape), **options).base_dist
    x = torch.arange(levels) / (levels - 1.0)
    mass = p.log_prob(x[:, None, None]).exp()
    torch.testing.assert_close(mass.sum(0), torch.ones(7, 5))
    mean = (x[:, None, None] * mass).sum(0)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, ((x[:, None, None] - mean) ** 2 * mass).sum(0))


@pytest.mark.parametrize("scale", [1e-4, 1e-2, 1.0])
def test_variances_in_float32_do_not_cancel(scale):
    loc = torch.linspace(-1.1, 1.1, 150).reshape(50, 3)
    p = DiscretisedLogisticMixture(torch.randn(50, 3), loc, torch.full_like(loc, scale))
    narrow = DiscretisedLogisticMixture(
        torch.zeros(150, 1), loc.reshape(150, 1), p.scale.new_full((150, 1), scale)
    )
    for q in (p, narrow):
        exact = DiscretisedLogisticMixture(q.logits.double(), q.loc.double(), q.scale.double())
        x = torch.arange(256, dtype=torch.float64)[:, None] / 255
        mass = exact.log_prob(x).exp()
        variance = ((x - (x * mass).sum(0)).square() * mass).sum(0)
        torch.testing.assert_close(exact.variance, variance, rtol=1e-9, atol=1e-20)
        torch.testing.assert_close(q.variance.double(), variance, rtol=1e-3, atol=1e-20)
        assert q.stddev.isfinite().all()


def test_samples_of_grey_levels_have_the_masses(float64):
    n, levels = 20_000, 6
    for cls, options in (
        (likelihoods.Categorical, {}),
        (likelihoods.DiscretisedLogisticMixture, {"components": 2}),
    ):
        options["levels"] = levels
        shape = cls.net_shape((2,), **width_options(cls, options))
        p = given(cls, torch.randn(shape), **options).base_dist
        level = (p.sample((n,)) * (levels - 1)).round()
        for k in range(levels):
            mass = p.log_prob(torch.full((2,), k / (levels - 1))).exp()
            error = (mass * (1 - mass) / n).sqrt()
            assert (((level == k).double().mean(0) - mass).abs() <= 5 * error).all()


def test_samples_of_rgb_pixels_have_the_joint_masses(float64):
    n, levels = 20_000, 3
    outputs, p = rgb(levels, 2, 1, 2, batch=1)
    draws = (p.sample((n,))[:, 0] * (levels - 1)).round().long()  # (n, 3, 1, 2)
    every = torch.cartesian_prod(*3 * [torch.arange(levels)])
    for column in range(2):
        numbers = outputs[0, :, 0, column].numpy()
        for level in every:
            mass = math.exp(reference_pixel(level.tolist(), numbers, 2, levels))
            share = (draws[:, :, 0, column] == level).all(-1).double().mean().item()
            assert abs(share - mass) <= 5 * math.sqrt(mass * (1 - mass) / n)


def test_mean_of_rgb_is_exact_for_red_and_where_nothing_is_clipped(float64):
    levels, m = 256, 2
    outputs, p = rgb(levels, m, 2, 2)
    exact = given(  # red by itself is a mixture of its own
        likelihoods.DiscretisedLogisticMixture,
        torch.cat([outputs[:, :m], outputs[:, m : 4 * m : 3], outputs[:, 4 * m : 7 * m : 3]], 1),
        event_dim=3,
        components=m,
        levels=levels,
    )
    torch.testing.assert_close(p.mean[:, :1], exact.mean)
    # Narrow, away from the edges: the regression is linear, and so is its mean.
    outputs[:, m : 4 * m] = outputs[:, m : 4 * m].tanh() / 5
    outputs[:, 4 * m : 7 * m] = -4
    p = given(
        likelihoods.DiscretisedLogisticMixture, outputs, event_dim=3, components=m, levels=levels
    )
    draws = p.sample((4000,))
    assert ((draws.mean(0) - p.mean).abs() <= 5 * draws.std(0) / 4000**0.5).all()
    with pytest.raises(NotImplementedError):
        _ = p.variance


def test_validation_names_the_grid():
    p = GreyCategorical(torch.zeros(256))
    with pytest.raises(ValueError, match=re.escape("k / 255 for k = 0, ..., 255")):
        p.log_prob(torch.tensor(128.0))
