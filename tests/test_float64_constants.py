"""A part in float64 is right to the rounding of float64, whatever the default dtype is and was.

The right values are formulas in numpy's float64, and for masses that are differences sums in 40
decimal digits. A new part is one line in the table.
"""

from decimal import Context, Decimal, localcontext

import numpy as np
import pytest
import torch
from pairs import D, Z, net
from scipy.special import log_softmax, logsumexp

from ppl_vae import likelihoods, nets, posteriors, priors
from tests.distributions.test_large_counts import negative_binomial, poisson

LEVELS = 256


def softplus(s):
    return np.log1p(np.exp(-abs(s))) + np.maximum(s, 0)


def scale(s):
    return softplus(s) + 1e-4


def normal(x, loc, sigma):
    return -0.5 * ((x - loc) / sigma) ** 2 - np.log(sigma) - 0.5 * np.log(2 * np.pi)


def laplace(x, loc, b):
    return -abs(x - loc) / b - np.log(2 * b)


def located(density, sigma):
    """Sum a density over elements; ``sigma(part, outputs)`` returns location and scale."""
    return lambda part, outputs, x: density(x, *sigma(part, outputs)).sum(-1)


def learned(part, outputs):
    best = of(part.running_error) or 1.0
    best = np.sqrt(best) if isinstance(part, likelihoods.Normal) else best
    return outputs, best * np.exp(of(part.log_ratio))


def parameter(part, outputs):
    return outputs, part.min_scale + np.exp(part.log_scale.item())


def per_pixel(part, outputs):
    loc, s = np.split(outputs, 2, -1)
    return loc, scale(s)


def fixed(value):
    return lambda part, outputs: (outputs, value)


def bernoulli(part, outputs, x):
    return (x * outputs - softplus(outputs)).sum(-1)


def continuous_bernoulli(part, outputs, x):
    return (x * outputs - np.log(np.expm1(outputs) / outputs)).sum(-1)


def categorical(part, outputs, x):
    log_mass = log_softmax(outputs.reshape(-1, LEVELS, D), 1)
    k = np.rint(x * (LEVELS - 1)).astype(int)
    return np.take_along_axis(log_mass, k[:, None], 1).sum((1, 2))


def sigmoid(t):
    return 1 / (1 + (-t).exp())


def logistic_mass(k, loc, s):
    """Return P(level k) of a discretised logistic."""
    last = LEVELS - 1
    low, high = (((2 * k + side) / Decimal(last) - 1 - loc) / s for side in (-1, 1))
    upper = sigmoid(high) if k < last else Decimal(1)
    return upper - (sigmoid(low) if k > 0 else 0)


def decimals(array):
    return [Decimal(float(v)) for v in array]


def logistics(part, outputs, x):
    parameters = outputs.reshape(len(x), 3, -1, D)
    total = []
    with localcontext(Context(prec=40)):
        for row, levels in zip(parameters, np.rint(x * (LEVELS - 1)), strict=True):
            log_p = Decimal(0)
            for d, k in enumerate(levels.astype(int).tolist()):
                logits, loc, s = row[..., d]
                log_p += log_mixture(
                    logits, [[(k, m, t)] for m, t in zip(loc, scale(s), strict=True)]
                )
            total.append(float(log_p))
    return np.array(total)


def log_mixture(logits, factors):
    """Return log Σ_m softmax(logits)_m Π P(k; loc, s), over the factors of m."""
    weights = [w.exp() for w in decimals(logits)]
    total = Decimal(0)
    for w, of_m in zip(weights, factors, strict=True):
        for k, loc, s in of_m:
            w *= logistic_mass(k, Decimal(float(loc)), Decimal(float(s)))
        total += w
    return (total / sum(weights)).ln()


def logistics_rgb(part, outputs, x):
    m = part.components
    total = []
    with localcontext(Context(prec=40)):
        for out, image in zip(outputs, x, strict=True):
            log_p = Decimal(0)
            for h, w in np.ndindex(image.shape[1:]):
                k = np.rint(image[:, h, w] * (LEVELS - 1)).astype(int).tolist()
                r, g, _ = (2 * Decimal(i) / (LEVELS - 1) - 1 for i in k)
                logits, *rest = np.split(out[:, h, w], [m, 4 * m, 7 * m])
                loc, s, c = (t.reshape(m, 3) for t in rest)
                s, c = scale(s), np.tanh(c)
                factors = []
                for i in range(m):
                    red, green, blue = decimals(loc[i])
                    a, b, e = decimals(c[i])
                    locs = (red, green + a * r, blue + b * r + e * g)
                    factors.append(list(zip(k, locs, s[i], strict=True)))
                log_p += log_mixture(logits, factors)
            total.append(float(log_p))
    return np.array(total)


def counts(mass, r=lambda part, outputs: ()):
    def oracle(part, outputs, x):
        mean, rest = scale(outputs[..., :D]), r(part, outputs)
        with localcontext(Context(prec=60)):
            args = np.broadcast_arrays(x, mean, *rest)
            each = [
                float(mass(*row)) for row in zip(*(a.ravel().tolist() for a in args), strict=True)
            ]
        return np.array(each).reshape(x.shape).sum(-1)

    return oracle


def zero_inflated(x, mean, r, logit):
    gate = 1 / (1 + (-Decimal(logit)).exp())
    mass = (1 - gate) * negative_binomial(x, mean, r).exp()
    return (gate + mass if not x else mass).ln()


def grey(*shape):
    return torch.randint(LEVELS, shape).double() / (LEVELS - 1)


def real():
    return torch.randn(4, D, dtype=torch.float64)


def numbers():
    return torch.tensor([0.0, 3.0, 40.0, 1e5, 7.0, 12.0], dtype=torch.float64).expand(4, D)


def image_net(channels):
    return nets.ConvDecoder(Z, (channels, 2, 2), channels=(2,), hidden=())


# Each: the likelihood, data, log p(x | z) from the network's outputs.
LIKELIHOODS = {
    "bernoulli": (
        lambda: likelihoods.Bernoulli(net(Z, D)),
        lambda: torch.rand(4, D, dtype=torch.float64).round(),
        bernoulli,
    ),
    "continuous bernoulli": (
        lambda: likelihoods.ContinuousBernoulli(net(Z, D)),
        lambda: torch.rand(4, D, dtype=torch.float64),
        continuous_bernoulli,
    ),
    "normal": (lambda: likelihoods.Normal(net(Z, D)), real, located(normal, fixed(1))),
    "normal, 0.1": (lambda: likelihoods.Normal(net(Z, D), 0.1), real, located(normal, fixed(0.1))),
    "normal, 1/3": (
        lambda: likelihoods.Normal(net(Z, D), 1 / 3),
        real,
        located(normal, fixed(1 / 3)),
    ),
    "normal, learned": (
        lambda: likelihoods.Normal(net(Z, D), "learned"),
        real,
        located(normal, learned),
    ),
    "normal, parameter": (
        lambda: likelihoods.Normal(net(Z, D), "parameter", min_scale=1 / 3),
        real,
        located(normal, parameter),
    ),
    "normal, per pixel": (
        lambda: likelihoods.Normal(net(Z, 2 * D), "per-pixel"),
        real,
        located(normal, per_pixel),
    ),
    "laplace": (
        lambda: likelihoods.Laplace(net(Z, D), 0.7),
        real,
        located(laplace, fixed(0.7)),
    ),
    "laplace, learned": (
        lambda: likelihoods.Laplace(net(Z, D), "learned"),
        real,
        located(laplace, learned),
    ),
    "categorical": (
        lambda: likelihoods.Categorical(net(Z, LEVELS * D)),
        lambda: grey(4, D),
        categorical,
    ),
    "logistics": (
        lambda: likelihoods.DiscretisedLogisticMixture(net(Z, 3 * 2 * D), 2),
        lambda: grey(4, D),
        logistics,
    ),
    "logistics, RGB": (
        lambda: likelihoods.DiscretisedLogisticMixture(image_net(20), 2, event_dim=3),
        lambda: grey(4, 3, 2, 2),
        logistics_rgb,
    ),
    "poisson": (lambda: likelihoods.Poisson(net(Z, D)), numbers, counts(poisson)),
    "negative binomial, 0.3": (
        lambda: likelihoods.NegativeBinomial(net(Z, D), 0.3),
        numbers,
        counts(negative_binomial, lambda part, outputs: (0.3,)),
    ),
    "negative binomial, learned": (
        lambda: likelihoods.NegativeBinomial(net(Z, D)),
        numbers,
        counts(
            negative_binomial,
            lambda part, outputs: (np.exp(part.log_dispersion.item()),),
        ),
    ),
    "negative binomial, per pixel": (
        lambda: likelihoods.NegativeBinomial(net(Z, 2 * D), "per-pixel"),
        numbers,
        counts(negative_binomial, lambda part, outputs: (scale(outputs[..., D:]),)),
    ),
    "negative binomial, per element": (
        lambda: likelihoods.NegativeBinomial(net(Z, D), "per-element", elements=D),
        numbers,
        counts(negative_binomial, lambda part, outputs: (np.exp(of(part.log_dispersion)),)),
    ),
    "zero-inflated, 0.3": (
        lambda: likelihoods.ZeroInflatedNegativeBinomial(net(Z, 2 * D), 0.3),
        numbers,
        counts(zero_inflated, lambda part, outputs: (0.3, outputs[..., D:])),
    ),
    "zero-inflated, learned gate": (
        lambda: likelihoods.ZeroInflatedNegativeBinomial(net(Z, D), 0.3, "learned"),
        numbers,
        counts(zero_inflated, lambda part, outputs: (0.3, part.gate_logits.item())),
    ),
}


def of(parameter):
    return parameter.detach().numpy()


def standard_normal(part, z):
    return normal(z, 0, 1).sum(-1)


def diagonal_normal(part, z):
    return normal(z, of(part.loc), scale(of(part.unconstrained_scale))).sum(-1)


def full_rank_normal(part, z):
    sigma, below = scale(of(part.unconstrained_scale)), of(part.below_diagonal) / np.sqrt(Z)
    factor = np.eye(Z)
    factor[np.tril_indices(Z, -1)] = below
    factor = sigma[:, None] * factor
    epsilon = np.linalg.solve(factor, (z - of(part.loc)).T).T
    return normal(epsilon, 0, 1).sum(-1) - np.log(sigma).sum()


def gaussian_mixture(part, z):
    each = normal(z[:, None], of(part.loc), scale(of(part.unconstrained_scale))).sum(-1)
    return logsumexp(log_softmax(of(part.logits)) + each, axis=-1)


def vamp(part, z):
    with torch.no_grad():
        loc, s = np.split(of(part.posterior.net(part.inputs())), 2, -1)
    if isinstance(part.bounds, tuple):
        low, high = part.bounds
        v = (of(part.unfolded_inputs) - low) % (2 * (high - low))
        u = low + np.minimum(v, 2 * (high - low) - v)
        np.testing.assert_allclose(of(part.inputs()), u, rtol=1e-13)
    each = normal(z[:, None], loc, scale(s)).sum(-1)
    return logsumexp(log_softmax(of(part.logits)) + each, axis=-1)


def posterior():
    return posteriors.DiagonalNormal(net(D, 2 * Z))


def bits():
    return torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=torch.float64)


def one_hot():
    return torch.eye(3, dtype=torch.float64)[
        torch.tensor([[0, 1], [2, 2], [1, 0], [1, 2]])
    ].flatten(1)


def binary_codes(part, z):
    return bernoulli(part, of(part.logits), z)


def one_hot_codes(part, z):
    return (z * log_softmax(of(part.logits), -1).ravel()).sum(-1)


def binary_mixture(part, z):
    each = bernoulli(part, of(part.component_logits), z[:, None])
    return logsumexp(log_softmax(of(part.logits)) + each, axis=-1)


def one_hot_mixture(part, z):
    each = (z.reshape(-1, 1, 2, 3) * log_softmax(of(part.component_logits), -1)).sum((-2, -1))
    return logsumexp(log_softmax(of(part.logits)) + each, axis=-1)


# Of flows and autoregressive priors the right value is their own, built and run where float64 is
# the default. Values are normal draws unless given.
PRIORS = {
    "standard": (lambda: priors.StandardNormal(Z), standard_normal),
    "diagonal": (lambda: priors.DiagonalNormal(Z), diagonal_normal),
    "full rank": (lambda: priors.FullRankNormal(Z), full_rank_normal),
    "mixture": (lambda: priors.GaussianMixture(Z, 3), gaussian_mixture),
    "mixture, learned": (
        lambda: priors.GaussianMixture(Z, 3, learn_weights=True),
        gaussian_mixture,
    ),
    "vamp": (lambda: priors.VampPrior(posterior(), 3, event_shape=(D,)), vamp),
    "vamp, bounds": (
        lambda: priors.VampPrior(posterior(), 3, event_shape=(D,), bounds=(-0.1, 0.7)),
        vamp,
    ),
    **{
        f"flow, {kind}": (lambda kind=kind: priors.Flow(Z, kind, hidden=(8,)), None)
        for kind in ("spline", "realnvp", "maf", "iaf")
    },
    "binary": (lambda: priors.Bernoulli(Z), binary_codes, bits),
    "binary, learned": (lambda: priors.Bernoulli(Z, learn_logits=True), binary_codes, bits),
    "binary mixture": (lambda: priors.BernoulliMixture(Z, 3), binary_mixture, bits),
    "binary, autoregressive": (lambda: priors.Autoregressive(Z), None, bits),
    "one-hot": (lambda: priors.Categorical(Z, 3), one_hot_codes, one_hot),
    "one-hot, learned": (
        lambda: priors.Categorical(Z, 3, learn_logits=True),
        one_hot_codes,
        one_hot,
    ),
    "one-hot mixture": (lambda: priors.CategoricalMixture(Z, 3, 4), one_hot_mixture, one_hot),
    "one-hot, autoregressive": (lambda: priors.Autoregressive(Z, 3), None, one_hot),
}
# The default dtype when a part is built, and when it is run; it is in float64 in every case.
MODES = {
    "converted": (torch.float32, torch.float32),
    "converted, then float64 the default": (torch.float32, torch.float64),
    "float64 the default": (torch.float64, torch.float64),
    "float64 the default, then float32": (torch.float64, torch.float32),
}


def built(make, mode):
    """Return a part in float64, of the same parameters in every mode, ready to be run."""
    first, then = MODES[mode]
    torch.manual_seed(1)
    reference = make()  # in float32
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    torch.set_default_dtype(first)
    part = make().double()
    part.load_state_dict(reference.state_dict())
    torch.set_default_dtype(then)
    return part


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods(name, mode):
    make, data, oracle = LIKELIHOODS[name]
    part, x = built(make, mode), data()
    z = torch.randn(4, Z, dtype=torch.float64)
    with torch.no_grad():
        log_p, outputs = part(z).log_prob(x), part.net(z).numpy()
    assert log_p.dtype == torch.float64
    np.testing.assert_allclose(log_p, oracle(part, outputs, x.numpy()), rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PRIORS)
def test_priors(name, mode):
    make, oracle, *values = PRIORS[name]
    z = values[0]() if values else 2 * torch.randn(4, Z, dtype=torch.float64)
    right = None
    if oracle is None:
        right = built(make, "float64 the default")().log_prob(z).detach()
        torch.set_default_dtype(torch.float32)
    part = built(make, mode)
    log_p = part().log_prob(z).detach()
    assert log_p.dtype == torch.float64
    np.testing.assert_allclose(log_p, oracle(part, z.numpy()) if oracle else right, rtol=1e-12)


def test_the_link_is_softplus_for_large_outputs_too(float64):
    from ppl_vae.distributions.scale import positive_scale

    s = torch.tensor([-30.0, 0.0, 19.9, 20.1, 30.0, 39.9, 40.1, 1e5])
    np.testing.assert_allclose(positive_scale(s), scale(s.numpy()), rtol=1e-15)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_fixed_number_is_the_nearest_of_every_dtype(dtype):
    part = likelihoods.Normal(net(Z, D), 0.1)
    for there in (dtype, torch.float64, dtype):
        sigma = part.to(there)(torch.zeros(3, Z, dtype=there)).base_dist.scale
        assert sigma.dtype == there
        assert (sigma == torch.tensor(0.1, dtype=there)).all()


def test_levels_are_told_apart_in_bfloat16():
    # The scale is that of a level, and locations are on levels that bfloat16 has.
    k = torch.tensor([0, 64, 128, 254])
    outputs = torch.zeros(4, 3)
    outputs[:, 1] = (2 * k / 255.0 - 1).bfloat16().float()
    outputs[:, 2] = -5.0
    part = likelihoods.DiscretisedLogisticMixture(torch.nn.Identity(), 1)
    x = (k / 255.0)[:, None]
    low = part(outputs.bfloat16()).log_prob(x)
    torch.testing.assert_close(low.float(), part(outputs).log_prob(x), rtol=2e-2, atol=2e-2)
