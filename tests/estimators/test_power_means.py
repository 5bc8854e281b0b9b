"""Power means of weights for every exponent, in float32 and float64.

The truth is computed in Python's ``decimal`` with 40 digits, from the same inputs.
"""

import itertools
import math
from decimal import Decimal, localcontext

import pytest
import torch
from pyro import distributions as dist

from ppl_vae.estimators.objective import Objective
from ppl_vae.estimators.power_means import log_sum, normalised_powers
from ppl_vae.evaluation.weight_statistics import WeightStatistics

ALPHAS = [
    *(1 - 10.0**-n for n in (15, 12, 9, 8, 7, 6, 5, 4, 3, 2, 1)),
    *(0.999999, 0.7, 0.5, 0.2, 1e-9, 0.0, -1e-9, -0.5, -1.0, -7.3, -50.0),
]
SPREADS = [0.0, 1e-4, 1.0, 30.0, 1e4]
OFFSETS = [-95.3, 2000.0]


def exact(log_w, alpha):
    """The bound and its derivatives, with 40 digits."""
    with localcontext() as context:
        context.prec = 40
        x = [Decimal(float(v)) for v in log_w]
        power = 1 - Decimal(alpha)
        largest = max(x)
        w = [(power * (v - largest)).exp() for v in x]
        bound = largest + (sum(w) / len(w)).ln() / power
        return float(bound), torch.tensor([float(v / sum(w)) for v in w], dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_the_renyi_bound_is_exact(alpha, dtype):
    eps = torch.finfo(dtype).eps
    for k in (2, 60):
        for spread in SPREADS:
            for offset in OFFSETS:
                log_w = (offset + spread * torch.randn(k, 1)).to(dtype).requires_grad_()
                bound = Objective(1, alpha).bound(log_w, -2)
                (gradient,) = torch.autograd.grad(bound.sum(), log_w)
                value, nu = exact(log_w.detach()[:, 0], alpha)
                size = log_w.detach().abs().max().item() + 1
                # log K / (1 - α) is the largest number on the way from α = 0 down.
                size += math.log(k) / (1 - alpha) if alpha <= 0 else 0
                assert abs(bound.item() - value) < 8 * eps * size
                power = 1 - alpha
                slack = 20 * eps * (1 + power * log_w.detach().abs().max().item())
                error = (gradient[:, 0].double() - nu).abs()
                assert (error <= slack * nu + 2 * eps**2 * k).all()
                assert torch.equal(gradient, Objective(1, alpha).coefficients(log_w, -2)) or (
                    torch.allclose(
                        gradient, Objective(1, alpha).coefficients(log_w, -2), 50 * eps, 0
                    )
                )


def test_the_bound_decreases_with_alpha():
    """The power mean rises with its exponent (Li & Turner, theorem 1), to float32's last digits."""
    log_w = 3 * torch.randn(100, 1)
    bounds = [Objective(1, a).bound(log_w, -2).item() for a in sorted(ALPHAS)]
    assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(bounds))
    assert abs(bounds[-1] - log_w.mean().item()) < 1e-6


def test_mixed_bounds_may_be_infinite():
    """β (-∞) + (1 - β) L is -∞ for each β, also where lerp would subtract infinities."""
    log_w = torch.tensor([[0.0], [-math.inf], [1.0]])
    for beta in (0.1, 0.5, 0.9):
        assert Objective(1, 0.0, beta).bound(log_w, -2).item() == -math.inf
        assert Objective(1, 0.0, beta).bound(log_w - math.inf, -2).item() == -math.inf


@pytest.mark.parametrize("k", [10, 1000, 100_000])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.999, -2.0])
@pytest.mark.parametrize("t", [1.0, 0.3, torch.tensor(1.0)])
def test_dregs_coefficients_are_exact_for_many_particles(alpha, t, k):
    """ν - t (1-α) ν (1-ν) in float64 from the same float32 weights; ν² for α = 0, t = 1."""
    log_w = torch.randn(k, 1)
    found = Objective(1, alpha).doubly_reparameterised(log_w, -2, t)
    nu = ((1 - alpha) * log_w.double()).softmax(-2)
    c = (1 - alpha) * float(t)
    right = nu**2 if c == 1 else (1 - c) * nu + c * nu**2
    size = (abs(1 - c) * nu + abs(c) * nu**2) if c != 1 else nu**2
    assert ((found.double() - right).abs() <= 5e-6 * size).all()


def test_log_sum_of_zeros():
    term = torch.tensor([[0.0, -math.inf], [-math.inf, -math.inf]], requires_grad=True)
    total = log_sum(term, 0)
    assert total.tolist() == [[0.0, -math.inf]]
    (gradient,) = torch.autograd.grad(total[0, 0] + total[0, 1], term)
    assert gradient.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert normalised_powers(term, 1.0, 0).tolist() == [[1.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("offset", [0.0, -1234.5, 1e5])
@pytest.mark.parametrize("spread", [1e-7, 1e-5, 1e-3, 0.1, 1.0, 3.0])
@pytest.mark.parametrize("size", [7, 100, 600])
def test_standard_errors_of_nearly_equal_weights(offset, spread, size):
    """√(Var w / S) / mean w with 35 digits, from the same weights."""
    samples = 600
    log_w = offset + spread * torch.randn(samples, 1, dtype=torch.float64)
    sums = WeightStatistics(samples)
    for part in log_w.split(size):
        sums.add(part)
        sums.log_sum  # noqa: B018 - sums up what waits
    with localcontext() as context:
        context.prec = 35
        x = [Decimal(float(v)) for v in log_w[:, 0]]
        largest = max(x)
        w = [(v - largest).exp() for v in x]
        mean = sum(w) / samples
        square = sum((v - mean) ** 2 for v in w) / (samples - 1) / samples / mean**2
        ess = samples / float(1 + square * (samples - 1))
        log_mean = float(mean.ln() + largest)
    torch.testing.assert_close(sums.standard_error.item(), math.sqrt(square), rtol=1e-7, atol=0)
    torch.testing.assert_close(sums.ess.item(), ess, rtol=1e-9, atol=0)
    torch.testing.assert_close(sums.log_mean.item(), log_mean, rtol=1e-12, atol=1e-12)


def test_sums_of_weights_that_are_zero_or_not_finite():
    one = torch.zeros(4, 5, dtype=torch.float64)
    one[:, 1] = -math.inf
    one[:2, 2] = -math.inf
    one[0, 3] = math.inf
    one[0, 4] = math.nan
    for parts in (1, 2, 4):
        sums = WeightStatistics(4)
        for part in one.split(4 // parts):
            sums.add(part)
            sums.log_sum  # noqa: B018 - sums up what waits
        log_mean = sums.log_mean
        assert log_mean[:3].tolist() == [0.0, -math.inf, pytest.approx(-math.log(2))]
        assert log_mean[3] == math.inf or log_mean[3].isnan()
        assert log_mean[4].isnan()
        assert sums.ess[0] == 4
        assert sums.ess[2] == pytest.approx(2)
        # Two weights of 1 and two of 0: their standard deviation is √(1/3), their mean 1/2.
        assert sums.standard_error[2] == pytest.approx(math.sqrt(1 / 3 / 4) / 0.5)
        assert sums.standard_error[0] == 0


def test_a_renyi_bound_of_a_program_near_one():
    """At the exact posterior each weight is p(x): every α gives log p(x), in float32."""
    from ppl_vae.testing import LinearGaussian

    oracle = LinearGaussian(3, 2, full_rank=True)
    oracle.set_exact_guide()
    x = dist.Normal(0.0, 1.0).sample((5, 3)).double()
    from ppl_vae.estimators import ImportanceWeightedELBO

    for alpha in ALPHAS:
        bound = ImportanceWeightedELBO(20, alpha=alpha).per_datum(oracle.model, oracle.guide, x)
        torch.testing.assert_close(bound, oracle.log_px(x))
