"""What all likelihoods have in common: shapes, supports, samples, precision, errors."""

import contextlib
import math

import pyro
import pytest
import torch
from likelihood_cases import CASES, COUNTS, width_options
from torch import nn

from ppl_vae import likelihoods, nets
from ppl_vae.distributions.grey import GreyCategorical
from ppl_vae.evaluation.bits import bits_per_dim
from ppl_vae.evaluation.estimate import Estimate
from tests.estimators.test_no_synchronisation import Forbid

SHAPES = [(6,), (3,), (1, 2, 3), (3, 4, 2)]


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
    if cls in COUNTS:
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


def rgb(levels, m, h=2, w=3, batch=2):
    outputs = torch.randn(batch, 10 * m, h, w)
    outputs[:, 7 * m :] *= 3  # strong regressions
    p = given(
        likelihoods.DiscretisedLogisticMixture, outputs, event_dim=3, components=m, levels=levels
    )
    return outputs, p


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
        r"event_dim=3 dimensions for a datum, got an output of shape \(2, 8\); give event_dim=1",
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


@pytest.mark.parametrize("validate", [True, False])
def test_validation_is_kept_by_an_expansion(validate):
    p = GreyCategorical(torch.zeros(5), validate_args=validate).expand((3,))
    with pytest.raises(ValueError, match="k / 4") if validate else contextlib.nullcontext():
        p.log_prob(torch.tensor(0.3))


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
