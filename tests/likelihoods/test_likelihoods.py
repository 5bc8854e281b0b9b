"""Likelihoods: densities against formulas written out by hand, sums, integrals and samples."""

import contextlib
import inspect
import math
import re

import numpy as np
import pyro
import pytest
import scipy.stats
import torch
from scipy.special import expit, logsumexp
from torch import nn

from ppl_vae import likelihoods, nets
from ppl_vae.distributions.continuous_bernoulli import ContinuousBernoulli
from ppl_vae.distributions.grey import GreyCategorical, GreyGrid, level_of
from ppl_vae.distributions.negative_binomial import NegativeBinomial
from ppl_vae.evaluation.bits import bits_per_dim
from ppl_vae.evaluation.estimate import Estimate
from tests.estimators.test_no_synchronisation import Forbid

# Per likelihood its class, its options, and data in its support that reach the edges.
CASES = {
    "bernoulli": (likelihoods.Bernoulli, {}, [0.0, 1.0]),
    "continuous bernoulli": (likelihoods.ContinuousBernoulli, {}, [0.0, 0.3, 1.0]),
    "normal": (likelihoods.Normal, {"scale": 0.7}, [-2.0, 0.0, 3.0]),
    "normal, learned": (likelihoods.Normal, {"scale": "learned"}, [-2.0, 0.0, 3.0]),
    "normal, parameter": (likelihoods.Normal, {"scale": "parameter"}, [-2.0, 0.0, 3.0]),
    "normal, per pixel": (likelihoods.Normal, {"scale": "per-pixel"}, [-2.0, 0.0, 3.0]),
    "laplace": (likelihoods.Laplace, {"scale": 0.7}, [-2.0, 0.0, 3.0]),
    "laplace, learned": (likelihoods.Laplace, {"scale": "learned"}, [-2.0, 0.0, 3.0]),
    "laplace, per pixel": (likelihoods.Laplace, {"scale": "per-pixel"}, [-2.0, 0.0, 3.0]),
    "categorical": (likelihoods.Categorical, {"levels": 7}, [0.0, 2 / 6, 1.0]),
    "logistics": (
        likelihoods.DiscretisedLogisticMixture,
        {"components": 4, "levels": 256},
        [0.0, 1 / 255, 128 / 255, 254 / 255, 1.0],
    ),
    "poisson": (likelihoods.Poisson, {}, [0.0, 1.0, 30.0]),
    "negative binomial": (likelihoods.NegativeBinomial, {}, [0.0, 1.0, 30.0]),
    "negative binomial, fixed": (likelihoods.NegativeBinomial, {"dispersion": 60}, [0.0, 30.0]),
    "negative binomial, per pixel": (
        likelihoods.NegativeBinomial,
        {"dispersion": "per-pixel"},
        [0.0, 1.0, 30.0],
    ),
}
SHAPES = [(6,), (3,), (1, 2, 3), (3, 4, 2)]


def width_options(cls, options):
    """Return the options on which the network's width depends."""
    taken = inspect.signature(cls.net_shape).parameters
    return {k: v for k, v in options.items() if k in taken}


def given(cls, outputs, event_dim=1, **options):
    """Return the likelihood whose network's output is ``outputs``."""
    return cls(nn.Identity(), event_dim=event_dim, **options).to(outputs.dtype)(outputs)


def outputs_for(name, event_shape, leading=(2,), scale=2.0, dtype=None):
    cls, options, _ = CASES[name]
    shape = cls.net_shape(event_shape, **width_options(cls, options))
    return scale * torch.randn(*leading, *shape, dtype=dtype)


def data_for(name, shape, dtype=None):
    values = torch.tensor(CASES[name][2], dtype=dtype)
    return values[torch.randint(len(values), shape)]


# ------------------------------------------------------------------------------- shapes, supports


@pytest.mark.parametrize("event_shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_a_network_of_net_shape_gives_the_event_shape(name, event_shape):
    cls, options, _ = CASES[name]

    class Reshaped(nn.Module):
        def __init__(self):
            super().__init__()
            self.shape = cls.net_shape(event_shape, **width_options(cls, options))
            self.flat = nets.MLP(2, math.prod(self.shape), hidden=(3,))

        def forward(self, z):
            return self.flat(z).unflatten(-1, self.shape)

    p_x = cls(Reshaped(), **options, event_dim=len(event_shape))
    for leading in [(), (7,), (2, 1, 7)]:
        p = p_x(torch.randn(*leading, 2))
        assert (p.batch_shape, p.event_shape) == (leading, event_shape)
        x = data_for(name, (*leading, *event_shape))
        assert p.log_prob(x).shape == leading
        assert p.mean.shape == (*leading, *event_shape)
        assert p.sample((5,)).shape == (5, *leading, *event_shape)
        expanded = p.expand((4, *leading))
        torch.testing.assert_close(expanded.log_prob(x)[2], p.log_prob(x))
        assert expanded.support.check(expanded.sample()).all()


@pytest.mark.parametrize("name", CASES)
def test_values_in_the_support_are_scored_and_others_refused(name):
    cls, options, _ = CASES[name]
    p = given(cls, outputs_for(name, (6,)), **options)
    outside = {"bernoulli": [0.5, 2.0], "continuous bernoulli": [-0.1, 1.1]}.get(name)
    if cls in (likelihoods.Categorical, likelihoods.DiscretisedLogisticMixture):
        last = options["levels"] - 1
        outside = [0.5 / last, 1 + 1 / last, -1 / last, 3.0]
    if cls in (likelihoods.Poisson, likelihoods.NegativeBinomial):
        outside = [0.5, -1.0]
    for values in (p.sample(), data_for(name, (2, 6)), data_for(name, (2, 6), torch.float64)):
        assert p.support.check(values).all()
        assert p.log_prob(values).isfinite().all()
    for value in [math.nan] if outside is None else outside:
        x = data_for(name, (2, 6))
        x[1, 4] = value
        assert p.support.check(x).tolist() == [True, False]
        with pytest.raises(ValueError, match="within the support"):
            p.log_prob(x)


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


# ------------------------------------------------------------------------ formulas written by hand


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
        assert list(part.state_dict()) == ["unconstrained_scale"]
        torch.testing.assert_close(part.unconstrained_scale.exp().log1p(), torch.ones(()))
        nn.init.constant_(part.unconstrained_scale, -0.3)
        sigma = softplus(-0.3)
    elif scale == "per-pixel":
        sigma = softplus(outputs[:, 2:].numpy())
    family = scipy.stats.norm if cls is likelihoods.Normal else scipy.stats.laplace
    expected = family.logpdf(x.numpy(), outputs[:, :2].numpy(), sigma).sum((1, 2, 3))
    torch.testing.assert_close(part(outputs).log_prob(x).detach(), torch.tensor(expected))
    torch.testing.assert_close(part(outputs).mean, outputs[:, :2])


def test_poisson(float64):
    outputs, x = 3 * torch.randn(50), torch.randint(20, (50,)).double()
    p = given(likelihoods.Poisson, outputs)
    mean = softplus(outputs.numpy())
    torch.testing.assert_close(
        p.log_prob(x), torch.tensor(scipy.stats.poisson.logpmf(x.numpy(), mean).sum())
    )
    torch.testing.assert_close(p.mean, torch.tensor(mean))


@pytest.mark.parametrize("dispersion", [0.5, 19, 21, 500, "learned", "per-pixel"])
def test_negative_binomial_has_variance_mean_plus_square_over_dispersion(dispersion, float64):
    mean_outputs, x = 3 * torch.randn(4, 6), torch.randint(60, (4, 6)).double()
    outputs, r = mean_outputs, dispersion
    part = likelihoods.NegativeBinomial(nn.Identity(), dispersion)
    if dispersion == "learned":
        nn.init.constant_(part.unconstrained_dispersion, 2.0)
        r = softplus(2.0)
    if dispersion == "per-pixel":
        outputs = torch.cat([mean_outputs, 30 * torch.rand(4, 6)], -1)
        r = softplus(outputs[:, 6:].numpy())
    p, mean = part(outputs), softplus(mean_outputs.numpy())
    expected = scipy.stats.nbinom.logpmf(x.numpy(), r, r / (r + mean)).sum(-1)
    close = {"rtol": 1e-10, "atol": 1e-9}
    torch.testing.assert_close(p.log_prob(x).detach(), torch.tensor(expected), **close)
    torch.testing.assert_close(p.mean.detach(), torch.tensor(mean), **close)
    torch.testing.assert_close(p.variance.detach(), torch.tensor(mean + mean**2 / r), **close)


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


# ------------------------------------------------------------------- integrals, sums and moments

LOGITS = [0.0, 1e-6, 1e-3, 0.02, 0.499, 0.501, 1.0, 5.0, 20.0, 50.0, 300.0]


def test_continuous_bernoulli_integrates_to_one_with_its_moments(float64):
    logits = torch.tensor([sign * v for v in LOGITS for sign in (1, -1)])
    nodes, weights = (torch.tensor(a) for a in np.polynomial.legendre.leggauss(400))
    x, weights = ((nodes + 1) / 2)[:, None], weights[:, None] / 2
    p = ContinuousBernoulli(logits)
    density = p.log_prob(x).exp()
    close = {"rtol": 1e-11, "atol": 0}
    torch.testing.assert_close((weights * density).sum(0), torch.ones(len(logits)), **close)
    torch.testing.assert_close((weights * x * density).sum(0), p.mean, **close)
    torch.testing.assert_close((weights * (x - p.mean) ** 2 * density).sum(0), p.variance, **close)


def test_continuous_bernoulli_samples_invert_the_distribution_function(float64):
    # F(x) = (e^(λx) - 1) / (e^λ - 1) of a draw from the uniform u is u, or 1 - u.
    logits = torch.tensor([sign * v for v in LOGITS[1:] for sign in (1, -1)])
    pyro.set_rng_seed(0)
    x = ContinuousBernoulli(logits).sample((1000,))
    pyro.set_rng_seed(0)
    u = torch.rand(1000, len(logits))
    small, size = torch.where(logits > 0, 1 - x, x), -logits.abs()
    torch.testing.assert_close(torch.expm1(size * small) / torch.expm1(size), u)
    pyro.set_rng_seed(0)
    x = ContinuousBernoulli(torch.zeros(1000)).sample()
    pyro.set_rng_seed(0)
    torch.testing.assert_close(x, torch.rand(1000))


def test_continuous_bernoulli_gradient_and_moments_keep_their_precision(float64):
    # The score is x - E[x]; near 0 and at large logits forms that are right in value lose it.
    # From 40 on, E[x] = 1 - 1 / logit and Var[x] = 1 / logit² to the rounding of float64.
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        values = [sign * v for v in [*LOGITS, 1e4] for sign in (1, -1)]
        logits = torch.tensor(values, dtype=dtype, requires_grad=True)
        p, exact = ContinuousBernoulli(logits), ContinuousBernoulli(logits.detach().double())
        for x in (0.0, 0.3, 1.0):
            (score,) = torch.autograd.grad(p.log_prob(torch.tensor(x, dtype=dtype)).sum(), logits)
            expected = torch.tensor(x, dtype=dtype).double() - exact.mean
            torch.testing.assert_close(score.double(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(p.mean.double(), exact.mean, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            p.variance.double(), exact.variance, rtol=10 * tolerance, atol=1e-15
        )
    large = torch.tensor([40.0, 1e4])
    torch.testing.assert_close(ContinuousBernoulli(large).mean, 1 - 1 / large)
    torch.testing.assert_close(ContinuousBernoulli(-large).variance, large**-2)


def test_continuous_bernoulli_is_the_cross_entropy_plus_the_constant(float64):
    logits, x = 3 * torch.randn(100), torch.rand(100)
    constant = (logits / (logits / 2).tanh()).log()
    expected = constant - nn.functional.binary_cross_entropy_with_logits(
        logits, x, reduction="none"
    )
    torch.testing.assert_close(ContinuousBernoulli(logits).log_prob(x), expected)


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


def test_masses_of_counts_sum_to_one(float64):
    x = torch.arange(4000.0)[:, None]
    for name in CASES:
        cls, options, _ = CASES[name]
        if cls in (likelihoods.Poisson, likelihoods.NegativeBinomial):
            outputs = outputs_for(name, (5,), leading=())
            p = given(cls, outputs + 2 * (dispersed := name.endswith("pixel")), **options).base_dist
            tail = 1e-6 if dispersed else 1e-9
            total = p.log_prob(x).exp().sum(0).detach()
            torch.testing.assert_close(total, torch.ones(5), rtol=0, atol=tail)


@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_mean_and_the_variance(name, float64):
    cls, options, _ = CASES[name]
    n = 4000
    with torch.no_grad():
        p = given(cls, outputs_for(name, (6,)), **options)
        draws = p.sample((n,))
        mean, variance = draws.mean(0), draws.var(0)
        # The standard error of the variance, from the fourth moment.
        error = ((draws - mean) ** 2).std(0) / n**0.5 + 1e-9
        assert ((mean - p.mean).abs() <= 5 * (p.variance / n).sqrt()).all()
        assert ((variance - p.variance).abs() <= 6 * error).all()


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


# ----------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("name", CASES)
def test_float32_agrees_with_float64(name):
    cls, options, _ = CASES[name]
    outputs, x = outputs_for(name, (6,), (50,)), data_for(name, (50, 6))
    results = []
    for dtype in (torch.float32, torch.float64):
        parameters = outputs.to(dtype).requires_grad_()
        log_prob = given(cls, parameters, **options).log_prob(x.to(dtype))
        assert log_prob.dtype == dtype
        (gradient,) = torch.autograd.grad(log_prob.sum(), parameters)
        results.append((log_prob.double().detach(), gradient.double()))
    (low, low_gradient), (high, high_gradient) = results
    torch.testing.assert_close(low, high, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(low_gradient, high_gradient, rtol=1e-3, atol=1e-3)


def extremes(count):
    values = torch.tensor([-1e4, -50.0, -1.0, 0.0, 50.0, 1e4])
    return values[torch.randint(len(values), (count,))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*CASES, "rgb"])
def test_extreme_outputs_give_finite_values_and_gradients(name, dtype):
    if name == "rgb":
        cls, options, shape = likelihoods.DiscretisedLogisticMixture, {"components": 2}, (20, 2, 2)
        values, event_shape = torch.tensor([0.0, 128 / 255, 1.0], dtype=dtype), (3, 2, 2)
        options["event_dim"] = 3
    else:
        cls, options, values = CASES[name]
        values, event_shape = torch.tensor(values, dtype=dtype), (10,)
        shape = cls.net_shape(event_shape, **width_options(cls, options))
    outputs = extremes(300 * math.prod(shape)).reshape(300, *shape).to(dtype).requires_grad_()
    x = values[torch.randint(len(values), (300, *event_shape))]
    p = given(cls, outputs, **options)
    log_prob = p.log_prob(x)
    (gradient,) = torch.autograd.grad(log_prob.sum(), outputs)
    for t in (log_prob, gradient, p.mean, p.sample()):
        assert t.isfinite().all()
    assert p.support.check(p.sample()).all()


@pytest.mark.parametrize("r", [1e2, 1e4, 1e6, 1e8])
def test_negative_binomial_with_large_dispersion_keeps_its_precision(r):
    x, mean = torch.tensor([0.0, 1.0, 7.0, 30.0, 90.0]), torch.tensor([[1e-3], [1.0], [40.0], [90]])
    p = NegativeBinomial(torch.tensor(r), logits=mean.log() - math.log(r))
    mean = torch.tensor(r).double() * (p.logits.double()).exp()
    expected = torch.tensor(scipy.stats.poisson.logpmf(x.double().numpy(), mean.numpy()))
    if r < 1e7:  # beyond, scipy's own is no better
        expected = torch.tensor(
            scipy.stats.nbinom.logpmf(x.double().numpy(), r, (r / (r + mean)).numpy())
        )
    torch.testing.assert_close(p.log_prob(x).double(), expected, rtol=3e-6, atol=3e-5)


def test_negative_binomial_with_a_mean_far_above_dispersion_keeps_its_precision():
    x, r = torch.tensor([0.0, 1.0, 90.0]), torch.tensor([[30.0], [300.0]])
    mean = torch.tensor([[[1e4]], [[1e8]]])
    p = NegativeBinomial(r, logits=(mean / r).log())
    mean = r.double() * p.logits.double().exp()
    expected = scipy.stats.nbinom.logpmf(x.numpy(), r.numpy(), (r / (r + mean)).numpy())
    torch.testing.assert_close(p.log_prob(x).double(), torch.tensor(expected), rtol=2e-6, atol=0)


def test_no_number_is_read_back():
    pyro.enable_validation(False)
    for name in CASES:
        cls, options, _ = CASES[name]
        part = cls(nn.Identity(), **options)
        outputs, x = outputs_for(name, (6,)), data_for(name, (2, 6))
        with Forbid():
            part(outputs).log_prob(x)
    outputs, p = rgb(5, 2)
    with Forbid():
        p.log_prob(torch.zeros(2, 3, 2, 3))


# -------------------------------------------------------------------------------------- errors

NET = nn.Identity()
ERRORS = {
    "a scale of zero": (
        lambda: likelihoods.Laplace(NET, 0.0),
        "Laplace: scale must be a positive number.*got 0.0",
    ),
    "a dispersion of infinity": (
        lambda: likelihoods.NegativeBinomial(NET, math.inf),
        "NegativeBinomial: dispersion must be a positive number.*'per-pixel'.*got inf",
    ),
    "one level": (
        lambda: likelihoods.Categorical(NET, levels=1),
        "Categorical: levels must be 2 or more, got 1; 8-bit grey values have 256",
    ),
    "no level": (lambda: likelihoods.DiscretisedLogisticMixture(NET, 3, 0), "levels must be 2"),
    "no component": (
        lambda: likelihoods.DiscretisedLogisticMixture(NET, 0),
        "components must be 1 or more",
    ),
    "an event of no dimension": (
        lambda: likelihoods.Poisson(NET, event_dim=0),
        "Poisson: event_dim must be 1 or more",
    ),
    "scales that are missing": (
        lambda: likelihoods.Laplace(NET, "per-pixel")(torch.zeros(2, 7)),
        "Laplace: net must return mean and unconstrained scale.*a multiple of 2 in dimension -1, "
        r"got an output of shape \(2, 7\); Laplace.net_shape",
    ),
    "dispersions that are missing": (
        lambda: likelihoods.NegativeBinomial(NET, "per-pixel", event_dim=3)(
            torch.zeros(2, 3, 4, 4)
        ),
        r"unconstrained dispersion .*a multiple of 2 in dimension -3, got.*\(2, 3, 4, 4\)",
    ),
    "levels that are missing": (
        lambda: likelihoods.Categorical(NET, levels=4)(torch.zeros(2, 7)),
        "Categorical: net must return a logit for each of levels=4, a multiple of 4",
    ),
    "a flat output for images": (
        lambda: likelihoods.Categorical(NET, levels=4, event_dim=3)(torch.zeros(2, 8)),
        r"a multiple of 4 in dimension -3, got an output of shape \(2, 8\)",
    ),
    "components that are missing": (
        lambda: likelihoods.DiscretisedLogisticMixture(NET, 4)(torch.zeros(2, 10)),
        "logits, locations and unconstrained scales of components=4, a multiple of 12",
    ),
    "channels that are neither": (
        lambda: likelihoods.DiscretisedLogisticMixture(NET, 4, event_dim=3)(
            torch.zeros(1, 13, 2, 2)
        ),
        r"components=4 net must return 40 channels for RGB images, or 12 .*got 13.*\(1, 13, 2, 2\)",
    ),
    "RGB without its regression": (
        lambda: likelihoods.DiscretisedLogisticMixture(NET, 4, event_dim=3)(
            torch.zeros(1, 36, 2, 2)
        ),
        "40 channels for RGB images.*got 36",
    ),
    "bits of nothing": (lambda: bits_per_dim(1.0, (3, 0)), "event_shape must be 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_validation_names_the_grid():
    p = GreyCategorical(torch.zeros(256))
    with pytest.raises(ValueError, match=re.escape("k / 255 for k = 0, ..., 255")):
        p.log_prob(torch.tensor(128.0))


@pytest.mark.parametrize("validate", [True, False])
def test_validation_is_kept_by_an_expansion(validate):
    p = GreyCategorical(torch.zeros(5), validate_args=validate).expand((3,))
    with pytest.raises(ValueError, match="k / 4") if validate else contextlib.nullcontext():
        p.log_prob(torch.tensor(0.3))


# ------------------------------------------------------------------------------ bits per dimension


def test_bits_per_dimension():
    shape, nats = (3, 8, 8), 1000.0
    expected = nats / (192 * math.log(2))
    assert bits_per_dim(nats, shape) == pytest.approx(expected, rel=1e-14)
    torch.testing.assert_close(
        bits_per_dim(torch.tensor([nats, 0.0]), shape), torch.tensor([expected, 0.0])
    )
    converted = bits_per_dim(Estimate(nats, 10.0), shape, dequantised_levels=256)
    assert converted.mean == pytest.approx(expected + 8, rel=1e-14)
    assert converted.standard_error == pytest.approx(expected / 100, rel=1e-14)


def test_a_uniform_mass_costs_the_bits_of_its_levels():
    levels = 16
    p = given(likelihoods.Categorical, torch.zeros(1, levels * 10), levels=levels)
    nats = -p.log_prob(torch.zeros(1, 10))
    torch.testing.assert_close(bits_per_dim(nats, (10,)), torch.tensor([4.0]))
    # and so does a uniform density of the dequantised data
    density = given(likelihoods.ContinuousBernoulli, torch.zeros(1, 10))
    nats = -density.log_prob(torch.rand(1, 10))
    bits = bits_per_dim(nats, (10,), dequantised_levels=levels)
    torch.testing.assert_close(bits, torch.tensor([4.0]))
