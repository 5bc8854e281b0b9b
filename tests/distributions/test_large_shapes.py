"""Gamma and Student's t: densities and gradients in float32, also where they are nearly normal."""

import math

import pytest
import torch

from ppl_vae import columns
from ppl_vae.distributions.gamma import Gamma
from ppl_vae.distributions.student_t import StudentT

LARGE = [0.05, 0.7, 3.0, 7.9, 8.1, 100.0, 1e4, 1e6, 1e8]


def student(shape, loc, theirs=False):
    make = torch.distributions.StudentT if theirs else StudentT
    return make(shape, loc, 2 * torch.ones_like(loc))


def gamma(shape, loc, theirs=False):
    if theirs:
        return torch.distributions.Gamma(shape, shape / loc)
    return Gamma(shape, mean=loc)


def evaluated(make, shape, x, dtype, theirs=False):
    """Return log-densities, and gradients in log shape, location and x, in float64."""
    log_shape = torch.tensor(math.log(shape), dtype=dtype, requires_grad=True)
    loc = torch.tensor(170.0, dtype=dtype, requires_grad=True)
    x = x.to(dtype).requires_grad_()
    log_prob = make(log_shape.exp(), loc, theirs).log_prob(x)
    gradients = torch.autograd.grad(log_prob.sum(), [log_shape, loc, x])
    return [t.double() for t in (log_prob.detach(), *gradients)]


@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("make", [student, gamma])
def test_densities_and_gradients_are_those_of_torch_in_float64(make, shape):
    mean = torch.tensor(170.0, dtype=torch.float64)
    x = make(torch.tensor(shape, dtype=torch.float64), mean, theirs=True).sample((200,))
    x = x.clamp(min=1e-30 if make is gamma else -1e6, max=1e6).float().double()
    ours, theirs = (evaluated(make, shape, x, torch.float64, t) for t in (False, True))
    # torch's own form cancels in proportion to the shape.
    rounding = 1e-13 * max(1.0, shape)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, rtol=1e-9 + 1e-16 * shape, atol=100 * rounding)
    single = evaluated(make, shape, x, torch.float32)
    assert torch.allclose(single[0], ours[0], rtol=3e-6, atol=3e-6)
    size = torch.autograd.functional.jacobian(
        lambda s: make(s.exp(), mean).log_prob(x), torch.tensor(math.log(shape), dtype=x.dtype)
    )
    assert (single[1] - ours[1]).abs() / len(x) < 5e-6 * (1 + size.abs().mean())
    assert torch.allclose(single[2], ours[2], rtol=1e-3, atol=1e-4 * math.sqrt(shape))
    assert torch.allclose(single[3], ours[3], rtol=1e-3, atol=1e-4 * math.sqrt(shape))


@pytest.mark.parametrize("make", [student, gamma])
@pytest.mark.parametrize("shape", [1e5, 1e7])
def test_densities_in_float32_integrate_to_one(make, shape):
    spread = 170 / math.sqrt(shape) if make is gamma else 2.0
    x = 170 + spread * torch.linspace(-9, 9, 20_001, dtype=torch.float64)
    density = make(torch.tensor(shape), torch.tensor(170.0)).log_prob(x.float()).double().exp()
    # x itself is rounded, to 8e-6, which the narrow density sees as noise.
    assert (density.sum() * spread * 18 / 20_000).item() == pytest.approx(1, abs=2e-3)


def test_expanded_distributions_and_moments():
    shape, mean = torch.tensor([2.0, 1e7]), torch.tensor([3.0, 4.0])
    p = Gamma(shape, mean=mean).expand([5, 2])
    assert torch.equal(p.mean, mean.expand(5, 2))  # not α / (α / m), which rounds
    assert torch.allclose(p.variance, mean.square() / shape)
    assert p.log_prob(p.sample()).shape == (5, 2)
    assert p.log_prob(p.rsample((3,))).isfinite().all()
    q = StudentT(shape, mean, mean).expand([5, 2])
    assert torch.equal(q.log_prob(mean)[0], StudentT(shape, mean, mean).log_prob(mean))
    assert type(p) is Gamma
    assert type(q) is StudentT


@pytest.mark.parametrize("make", [columns.Poisson, columns.NegativeBinomial, columns.Gamma])
def test_an_output_of_zero_is_the_typical_value(make):
    column = make(7.0)
    outputs = torch.zeros(1, column.num_outputs)
    assert column.distribution(outputs, mean=torch.tensor([7.0])).mean.item() == pytest.approx(7)
